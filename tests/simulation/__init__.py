"""Simulations that take longer than those of `trial punch`."""
