"""The control channel: registered peers, each on a connection with lines over TLS."""
