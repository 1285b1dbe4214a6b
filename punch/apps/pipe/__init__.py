"""The pipe between two peers: what one reads, the other writes (docs/forward.md)."""
