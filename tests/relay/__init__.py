"""End to end: relays, ours and coturn."""
