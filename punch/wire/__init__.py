"""From bytes to values and back: STUN, control messages, sealed envelopes, demultiplexing."""
