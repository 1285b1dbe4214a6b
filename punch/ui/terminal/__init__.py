"""The front end in a terminal with a line editor."""
