"""The commands of `punch` that are no plugins of twistd, each with what it has in common with others."""
