"""Ports that routers map to our sockets when they are asked: PCP, NAT-PMP and UPnP."""
