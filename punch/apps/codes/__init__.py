"""Codes that one side prints and the other one types: how two peers meet that have never met."""
