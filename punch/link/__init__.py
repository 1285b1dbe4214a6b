"""Securing a path: the QUIC link (RFC 9000) and its streams as Twisted transports."""
