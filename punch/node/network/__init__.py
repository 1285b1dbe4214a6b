"""The network side of a node: sockets, relays, NATs and ports that routers have mapped."""
