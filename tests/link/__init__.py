"""End to end: floods of a peer on a link."""
