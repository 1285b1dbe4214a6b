"""What the pages of `docs/` say is so."""
