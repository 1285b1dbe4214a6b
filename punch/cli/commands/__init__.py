"""The commands of `punch` that are not plugins of twistd, and what several of them share."""
