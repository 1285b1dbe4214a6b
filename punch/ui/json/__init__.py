"""The interface for scripts: JSON lines."""
