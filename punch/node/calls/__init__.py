"""Calls: from an offer to a proved link, and what a call has while its link lasts."""
