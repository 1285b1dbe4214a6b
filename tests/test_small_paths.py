"""
A line of 1,220 bytes whose ICMP is lost, as behind a tunnel: connectivity checks pass, QUIC's handshake does
not. TCP is told by the routers (MSS), so the relay over TCP works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from . import without_segmentation
from .needs import need_namespaces
from .netns import Host, Lab
from .processes import Programs, programs

SERVICE = "198.51.100.1"
MTU = 1220


@pytest.fixture
def lab() -> Iterator[Lab]:
    need_namespaces()
    with Lab() as lab:
        yield lab


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Programs]:
    with programs(tmp_path) as running:
        yield running


def small_line(lab: Lab) -> tuple[Host, Host, Host]:
    """The service and alice, who are public, and bob behind a tunnel between two routers."""
    public, home = lab.switch("public"), lab.switch("home")
    service, alice, bob = lab.host("service"), lab.host("alice"), lab.host("bob")
    lab.plug(service, public, "eth0", f"{SERVICE}/24")
    lab.plug(alice, public, "eth0", "198.51.100.10/24")
    far, near = lab.host("far"), lab.host("near")
    lab.plug(far, public, "wan", "198.51.100.20/24")
    lab.join(far, "tunnel", near, "tunnel")
    lab.plug(near, home, "lan", "192.168.5.1/24")
    lab.plug(bob, home, "eth0", "192.168.5.2/24")
    far.run("ip", "address", "add", "10.9.0.1/30", "dev", "tunnel")
    near.run("ip", "address", "add", "10.9.0.2/30", "dev", "tunnel")
    near.route("10.9.0.1")
    bob.route("192.168.5.1")
    far.run("ip", "route", "add", "192.168.5.0/24", "via", "10.9.0.2")
    for router in (far, near):
        router.run("ip", "link", "set", "tunnel", "mtu", str(MTU))
        router.sysctl("net.ipv4.ip_forward=1")
        router.nft(
            """
            table ip small {
                chain output { type filter hook output priority 0; icmp type destination-unreachable drop; }
                chain forward {
                    type filter hook forward priority 0;
                    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
                }
                chain post { type nat hook postrouting priority 100; oifname "wan" masquerade; }
            }
            """
        )
    return service, alice, bob


@pytest.mark.parametrize("calling", ["alice", "bob"])
@pytest.mark.parametrize("kind", ["batched", "portable"])
def test_a_call(lab: Lab, running: Programs, kind: str, calling: str) -> None:
    service, *hosts = small_line(lab)
    rendezvous = running.rendezvous("--host", SERVICE, prefix=service.prefix)
    address = rendezvous.wait("listening")["address"]
    wrapper: Sequence[str] = without_segmentation.COMMAND if kind == "portable" else ()
    peers = {}
    for name, host in zip(("alice", "bob"), hosts, strict=True):
        options = ["--rendezvous", address, "--accept", "anyone"]
        peers[name] = running.peer(name, *options, state=name, prefix=[*host.prefix, *wrapper])
    for peer in peers.values():
        peer.wait("registered")
    caller = peers.pop(calling)
    (callee,) = peers.values()
    caller.command("call", peer=callee.events[0]["id"])
    assert caller.wait(("connected", "failed"))["event"] == "connected"
    caller.command("send", peer=callee.events[0]["id"], text="x" * 5000)
    assert len(callee.wait("message")["text"]) == 5000
    assert caller.wait("delivered")
