"""Many processes as one service: which process a peer is at, and what the processes tell each other."""
