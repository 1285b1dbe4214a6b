"""Ports and sockets of one peer, reached from another one, and pipes between peers (docs/forward.md)."""
