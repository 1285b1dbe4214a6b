"""The client side of TURN (RFC 8656), without sockets and without a clock."""
