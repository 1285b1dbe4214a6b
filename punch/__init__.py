"""Direct, private links between machines behind NATs, on Twisted."""

__version__ = "0.1.0"
