"""End to end: the files of `deploy/`, and what a deployment needs."""
