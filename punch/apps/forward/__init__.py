"""Ports and sockets of one peer, reached from another one (docs/forward.md)."""
