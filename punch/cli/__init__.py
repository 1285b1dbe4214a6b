"""Composition roots: where a process is put together. Only here is the global reactor named."""
