"""What is distributed, and the release before this one."""
