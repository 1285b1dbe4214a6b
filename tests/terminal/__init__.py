"""End to end: peers in terminals."""
