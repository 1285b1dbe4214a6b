"""Front ends: terminal chat, JSON lines."""
