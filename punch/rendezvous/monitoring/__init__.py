"""What an operator sees of a running service: figures, health, their history, and where they are read."""
