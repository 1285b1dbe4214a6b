"""The chat in a browser: a page on loopback, and the JSON interface over a WebSocket."""
