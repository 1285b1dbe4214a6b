"""
The public service that introduces peers: control channel, registry, reflector, relay.

`service` puts it together. The control channel, on which each registered peer has a connection with lines
over TLS, is in `control_protocol`, `control_session` and `control_sessions`. `udp_server` has the UDP ports
of `reflector` and `relay`; `relay_service` is what the rendezvous adds to the relay.
"""
