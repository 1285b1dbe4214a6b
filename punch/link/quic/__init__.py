"""QUIC: the interface that a link uses, one adapter for each library, and limits on what they take."""
