"""Views of the chat: a terminal, plain lines, JSON lines and the browser."""
