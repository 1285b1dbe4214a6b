"""What the routers of the grid do to packets: exactly what the profiles say, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.needs import need_namespaces

from .events import public_address
from .kernel_network import LEFT, RIGHT, SERVICE4, KernelNetwork, Site
from .profiles import build

PORT = 4000

# Sends one datagram outwards, and tells where each that comes in seems to come from.
LISTEN = """
import socket, sys
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("0.0.0.0", int(sys.argv[2])))
here.sendto(b"out", (sys.argv[1], 9))
here.settimeout(20)
print("up", flush=True)
while True:
    data, address = here.recvfrom(2000)
    print(f"{data.decode()} from {address[0]}:{address[1]}", flush=True)
"""
SEND = """
import socket, sys
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("0.0.0.0", int(sys.argv[3])))
here.sendto(sys.argv[4].encode(), (sys.argv[1], int(sys.argv[2])))
"""


def heard(listener: Site, count: int, senders: list[tuple[Site, int, str]]) -> list[str]:
    """What a host hears at its mapped port when others, each from a port of its own, send it a word."""
    command = [*listener.host.prefix, sys.executable, "-c", LISTEN, SERVICE4, str(PORT)]
    listening = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "up\n"
        target = public_address(listener)
        for site, port, word in senders:
            site.host.run(sys.executable, "-c", SEND, target, str(PORT), str(port), word)
        return [listening.stdout.readline().strip() for _ in range(count)]
    finally:
        listening.kill()
        listening.wait()


def test_a_cone_leaves_the_source_of_what_comes_in() -> None:
    """A peer sees where a check really comes from; a relay must not look like the own NAT."""
    need_namespaces()
    with KernelNetwork() as network:
        sites = build(network, ["cone", "open"])
        network.start()
        stranger = sites["open", RIGHT]
        words = heard(sites["cone", LEFT], 1, [(stranger, 5000, "hello")])
        assert words == [f"hello from {public_address(stranger)}:5000"]


def test_hairpinning_shows_the_public_address() -> None:
    """What a host sends to its own public address comes back from there (RFC 4787, REQ-9)."""
    need_namespaces()
    with KernelNetwork() as network:
        sites = build(network, ["cone"])
        network.start()
        site = sites["cone", LEFT]
        words = heard(site, 1, [(site, 5000, "hello")])
        assert words == [f"hello from {public_address(site)}:5000"]


def test_ports_in_sequence() -> None:
    """Each flow of UDP has the port after that of the flow before."""
    need_namespaces()
    with KernelNetwork() as network:
        sites = build(network, ["sequential", "open"])
        network.start()
        listener = sites["open", RIGHT]
        senders = [(sites["sequential", LEFT], port, "hello") for port in (5000, 5001, 5002)]
        words = heard(listener, 3, senders)
        ports = [int(word.rpartition(":")[2]) for word in words]
        assert ports == [ports[0], ports[0] + 1, ports[0] + 2]


def test_a_mapping_lives_while_it_is_used() -> None:
    """Also by a flow that is older than it: a peer says something to its rendezvous every now and then."""
    need_namespaces()
    with KernelNetwork() as network:
        sites = build(network, ["cone"])
        network.start()
        site = sites["cone", LEFT]
        site.host.run(sys.executable, "-c", SEND, SERVICE4, "3478", str(PORT), "first")
        time.sleep(3.0)
        began = time.monotonic()
        site.host.run(sys.executable, "-c", SEND, SERVICE4, "3478", str(PORT), "again")
        shown = json.loads(site.routers[0].run("nft", "-j", "list", "map", "ip", "nat", "owner"))
        ((element, inside),) = next(each["map"]["elem"] for each in shown["nftables"] if "map" in each)
        assert (element["elem"]["val"], inside["concat"][1]) == (PORT, PORT)
        # Seconds, rounded down: the first packet alone would have left three fewer
        assert element["elem"]["expires"] > 299 - (time.monotonic() - began)
