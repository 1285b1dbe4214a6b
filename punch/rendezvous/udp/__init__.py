"""The UDP ports: the reflector, and probes of NATs."""
