"""Finding a path between two peers: candidates, connectivity checks, consent (ICE, RFC 8445)."""
