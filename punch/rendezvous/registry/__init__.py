"""Who is registered, and who is introduced to whom. Pure."""
