"""
A host that has IPv6 alone behind a real NAT64 (tayga, and the kernel's NAT for IPv4), with the real programs.

The rendezvous is on the IPv4 internet, and its address is written down, so that no DNS64 helps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import missing, need, need_namespaces
from tests.netns import Host, Namespaces
from tests.processes import PUNCH, JSONProcess, Programs, programs

from .kernel_network import source_nat

ROOT = Path(__file__).parents[2]
SERVICE, BOB, PUBLIC = "198.51.100.1", "198.51.100.20", "198.51.100.5"
PREFIX = "2001:db8:64:64::"
"""One of the network's own: the well-known one is not for private addresses (RFC 6052, section 3.1)."""
ROUTER, ALICE = "2001:db8:64::1", "2001:db8:64::2"
POOL = "192.168.255.0/24"
"""What tayga gives hosts inside for their IPv6 addresses; the kernel's NAT makes `PUBLIC` of it."""

LEFT_OF_IPV4 = {
    # "No route to host", after some seconds
    "a link-local address": [
        ["ip", "address", "add", "169.254.7.7/16", "dev", "lan"],
        ["ip", "route", "add", "default", "dev", "lan"],
    ],
    # Silence
    "a translator that is dead": [
        ["ip", "tuntap", "add", "dev", "clat", "mode", "tun"],
        ["ip", "address", "add", "192.0.0.1/32", "dev", "clat"],
        ["ip", "link", "set", "clat", "up"],
        ["ip", "route", "add", "default", "dev", "clat", "src", "192.0.0.1"],
    ],
    # No address to connect from, or a local refusal
    "a route that says no": [["ip", "route", "add", "prohibit", "default"]],
}
"""What a host on such a network may have besides: for each a list of commands."""


class NAT64Network:
    """The networks, the rendezvous, a host behind the NAT64, and one of IPv4 alone behind an ordinary NAT."""

    def __init__(self, namespaces: Namespaces, running: Programs) -> None:
        self._running = running
        self._directory = running.directory
        public, lan = namespaces.switch("public"), namespaces.switch("lan")
        self.service, self.bob, self.router, self.alice = map(
            namespaces.host, ("service", "bob", "router", "alice")
        )
        namespaces.plug(self.service, public, "eth0", f"{SERVICE}/24")
        home = namespaces.switch("home")
        gateway = namespaces.host("gateway")
        namespaces.plug(gateway, public, "wan", f"{BOB}/24")
        namespaces.plug(gateway, home, "lan", "192.168.7.1/24")
        namespaces.plug(self.bob, home, "eth0", "192.168.7.2/24")
        self.bob.route("192.168.7.1")
        gateway.sysctl("net.ipv4.ip_forward=1")
        gateway.nft(source_nat())
        namespaces.plug(self.router, public, "wan", f"{PUBLIC}/24")
        namespaces.plug(self.router, lan, "lan", f"{ROUTER}/64")
        namespaces.plug(self.alice, lan, "lan", f"{ALICE}/64")
        self.alice.run("ip", "-6", "route", "add", "default", "via", ROUTER)
        self._translate(self.router)
        configuration = self._directory / "resolv.conf"
        configuration.write_text(f"nameserver {ROUTER}\n")
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        self.prefix = [*self.alice.prefix, "unshare", "-m", "sh", "-c", mount, str(configuration)]
        rendezvous = running.rendezvous("--host", SERVICE, prefix=self.service.prefix)
        self.address = str(rendezvous.wait("listening")["address"])

    def _translate(self, router: Host) -> None:
        """Start tayga and the name server."""
        configuration = self._directory / "tayga.conf"
        configuration.write_text(
            "tun-device nat64\n"
            "ipv4-addr 192.168.255.1\n"
            "ipv6-addr 2001:db8:64:1::1\n"
            f"prefix {PREFIX}/96\n"
            f"dynamic-pool {POOL}\n"
            f"data-dir {self._directory}\n"
        )
        tayga = ["tayga", "--config", str(configuration)]
        router.run(*tayga, "--mktun")
        router.run("ip", "link", "set", "nat64", "up")
        router.run("ip", "route", "add", POOL, "dev", "nat64")
        router.run("ip", "-6", "route", "add", f"{PREFIX}/96", "dev", "nat64")
        router.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        router.nft(source_nat())
        self._background(router, *tayga, "--nodetach")
        names = self._background(router, sys.executable, "-m", "tests.nat.dns64", PREFIX, ROUTER)
        assert names.stdout is not None
        assert names.stdout.readline() == b"ready\n"

    def _background(self, host: Host, *command: str) -> subprocess.Popen[bytes]:
        """It ends with its namespace."""
        return subprocess.Popen([*host.prefix, *command], cwd=ROOT, stdout=subprocess.PIPE)

    def peer(self, name: str) -> JSONProcess:
        """A peer: Alice's, behind the NAT64, or another one, on the internet."""
        prefix = self.prefix if name == "alice" else self.bob.prefix
        options = ("--rendezvous", self.address, "--accept", "anyone")
        return self._running.peer(name, *options, prefix=prefix)

    def netcheck(self, *options: str) -> str:
        """What `punch netcheck` says behind the NAT64."""
        state = ("--state-dir", str(self._directory / "netcheck"))
        done = subprocess.run(
            [*self.prefix, PUNCH, "netcheck", "--rendezvous", self.address, *state, *options],
            env={key: value for key, value in os.environ.items() if not key.startswith("PUNCH_")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        print(done.stdout)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def network(tmp_path: Path) -> Iterator[NAT64Network]:
    """One for each test."""
    need_namespaces()
    need("tayga")
    if not os.path.exists("/dev/net/tun"):
        missing("this kernel or container has no /dev/net/tun, which tayga needs")
    with Namespaces() as namespaces, programs(tmp_path) as running:
        yield NAT64Network(namespaces, running)


def test_a_call(network: NAT64Network) -> None:
    """
    It registers at an address that was written down, and reaches a peer directly that has IPv4 alone, behind
    an ordinary NAT.
    """
    alice, bob = network.peer("alice"), network.peer("bob")
    alice_id, bob_id = (str(peer.wait("ready")["id"]) for peer in (alice, bob))
    for peer in (alice, bob):
        peer.wait("registered", 60.0)
    alice.command("call", peer=bob_id)
    connected = alice.wait("connected", 60.0)
    if "relay" in connected["path"]:
        # Perhaps on a machine that is busy; scenarios/test_nat64.py says how soon it is direct
        alice.wait("path", 60.0, lambda event: "relay" not in event["path"])
    for here, there, to in ((alice, bob, bob_id), (bob, alice, alice_id)):
        here.command("send", peer=to, text="hello")
        assert there.wait("message", where=lambda event: event["text"] == "hello")


@pytest.mark.parametrize("left", LEFT_OF_IPV4)
def test_whatever_is_left_of_ipv4(network: NAT64Network, left: str) -> None:
    """The host has no way to the IPv4 internet, but not every system says so at once."""
    for command in LEFT_OF_IPV4[left]:
        network.alice.run(*command)
    alice = network.peer("alice")
    begin = float(alice.wait("ready")["time"])
    took = float(alice.wait("registered", 60.0)["time"]) - begin
    print(f"{left}: registered after {took:.1f} s")
    assert not [event for event in alice.events if event["event"] == "unregistered"]


def test_netcheck(network: NAT64Network) -> None:
    """It says what kind of network this is, and that the relay works."""
    report, text = (network.netcheck(*options) for options in (["--json"], []))
    assert "NAT64" in text
    told = json.loads(report)
    assert told["ipv4"]["public_addresses"] == [PUBLIC]
    assert told["ipv4"]["port_allocation"] == "preserving"
    assert told["ipv4"]["techniques"]
    assert "through a NAT64" in text
    assert told["direct"] == "most"
    assert all(told["transports"].values()), report
