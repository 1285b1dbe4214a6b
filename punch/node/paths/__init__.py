"""The paths of a call: its ICE transport, ICE restarts, and what is remembered of paths that worked."""
