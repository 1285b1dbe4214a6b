"""The client: registers, calls, answers, and holds links."""
