"""Finding a path between two peers (ICE, RFC 8445), without sockets and without a clock."""
