"""
The relay of the rendezvous: a TURN server (RFC 8656) for peers that have no direct path.

`punch.turn.server.core.RelayCore` is the server without sockets. `relay.Relay` gives it the reflector's UDP
port, the TCP connections of the service's port, and a socket for each allocation.
"""
