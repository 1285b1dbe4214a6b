"""End to end: processes of peers."""
