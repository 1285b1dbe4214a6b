"""The peer as a plugin of twistd: its options, and what it is put together from."""
