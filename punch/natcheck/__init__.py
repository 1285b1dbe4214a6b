"""What the networks between here and a rendezvous do to UDP: RFC 5780's experiments, and what follows."""
