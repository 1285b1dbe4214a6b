"""One node, many programs: the socket of a node, and the programs of the same user that share it."""
