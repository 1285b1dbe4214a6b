"""TURN (RFC 8656) without I/O: `punch.turn.client` and `punch.turn.server`."""
