"""The TURN client (RFC 8656), without sockets and without a clock."""
