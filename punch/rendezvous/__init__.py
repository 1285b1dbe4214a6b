"""The public service that introduces peers: control channel, registry, reflector."""
