"""Text for people: sentences, and which characters of other peers are shown."""
