"""TURN (RFC 8656) without I/O: the client, and the server in `punch.turn.server`."""
