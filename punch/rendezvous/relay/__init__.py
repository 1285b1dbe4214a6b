"""
The relay of the rendezvous: a TURN server (RFC 8656) for peers that no direct path joins.

`core.RelayCore` is the server without sockets; `shell.Relay` gives it those it needs: the reflector's UDP
port, the control listener's TCP connections, and a socket for each allocation.
"""
