"""End to end: the page in browsers."""
