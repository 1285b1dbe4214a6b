"""End to end: real processes, real sockets, kernel NATs in network namespaces."""
