"""Sockets and the machine: UDP, addresses, name look-ups, timers, and how much a stranger may use."""
