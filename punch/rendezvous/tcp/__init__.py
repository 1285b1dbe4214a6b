"""The TCP port: listening, what each connection speaks, how many there may be, and TLS."""
