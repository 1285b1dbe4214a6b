"""
Tunnels whose ICMP is lost. On one of 1,220 bytes, connectivity checks pass, QUIC's handshake does not. TCP is
told by the routers (MSS), so the relay over TCP works. One of 1,280 bytes is the smallest that IPv6 allows.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests import system_call_filter
from tests.netns import Host, Namespaces
from tests.processes import Programs

SERVICE = "198.51.100.1"
MTU = 1220
SERVICE_IPV6 = "2001:db8:1::1"
MTU_IPV6 = 1280


def small_line(namespaces: Namespaces) -> tuple[Host, Host, Host]:
    """The service and alice, who are public, and bob behind a tunnel between two routers."""
    public, home = namespaces.switch("public"), namespaces.switch("home")
    service, alice, bob = namespaces.host("service"), namespaces.host("alice"), namespaces.host("bob")
    namespaces.plug(service, public, "eth0", f"{SERVICE}/24")
    namespaces.plug(alice, public, "eth0", "198.51.100.10/24")
    far, near = namespaces.host("far"), namespaces.host("near")
    namespaces.plug(far, public, "wan", "198.51.100.20/24")
    namespaces.join(far, "tunnel", near, "tunnel")
    namespaces.plug(near, home, "lan", "192.168.5.1/24")
    namespaces.plug(bob, home, "eth0", "192.168.5.2/24")
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


def smallest_ipv6_line(namespaces: Namespaces, *, direct: bool) -> tuple[Host, Host, Host]:
    """The same with IPv6 only; the two peers reach each other directly, or only the service."""
    public, home = namespaces.switch("public"), namespaces.switch("home")
    service, alice, bob = namespaces.host("service"), namespaces.host("alice"), namespaces.host("bob")
    far, near = namespaces.host("far"), namespaces.host("near")
    namespaces.plug(service, public, "eth0", f"{SERVICE_IPV6}/64")
    namespaces.plug(alice, public, "eth0", "2001:db8:1::10/64")
    namespaces.plug(far, public, "wan", "2001:db8:1::20/64")
    namespaces.join(far, "tunnel", near, "tunnel")
    namespaces.plug(near, home, "lan", "2001:db8:2::1/64")
    namespaces.plug(bob, home, "eth0", "2001:db8:2::2/64")
    far.run("ip", "address", "add", "2001:db8:9::1/64", "dev", "tunnel", "nodad")
    near.run("ip", "address", "add", "2001:db8:9::2/64", "dev", "tunnel", "nodad")
    for router in (far, near):
        router.run("ip", "link", "set", "tunnel", "mtu", str(MTU_IPV6))
        router.sysctl("net.ipv6.conf.all.forwarding=1")
        blocked = "" if direct else "ip6 saddr 2001:db8:1::10 drop; ip6 daddr 2001:db8:1::10 drop;"
        router.nft(
            f"""
            table ip6 small {{
                chain output {{ type filter hook output priority 0; icmpv6 type packet-too-big drop; }}
                chain forward {{
                    type filter hook forward priority 0;
                    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
                    {blocked}
                }}
            }}
            """
        )
    far.run("ip", "-6", "route", "add", "2001:db8:2::/64", "via", "2001:db8:9::2")
    near.run("ip", "-6", "route", "add", "default", "via", "2001:db8:9::1")
    bob.run("ip", "-6", "route", "add", "default", "via", "2001:db8:2::1")
    for host in (service, alice):
        host.run("ip", "-6", "route", "add", "default", "via", "2001:db8:1::20")
    for host in (service, alice, bob, far, near):
        host.settle()
    return service, alice, bob


def call(running: Programs, hosts: Sequence[Host], host: str, calling: str, kind: str) -> str:
    """A call in which a long message arrives; the kind of its path."""
    service, *sites = hosts
    rendezvous = running.rendezvous("--host", host, prefix=service.prefix)
    address = rendezvous.wait("listening")["address"]
    wrapper: Sequence[str] = system_call_filter.WITHOUT_SEGMENTATION if kind == "portable" else ()
    peers = {}
    for name, site in zip(("alice", "bob"), sites, strict=True):
        options = ["--rendezvous", address, "--accept", "anyone"]
        peers[name] = running.peer(name, *options, state=name, prefix=[*site.prefix, *wrapper])
    for peer in peers.values():
        peer.wait("registered")
    caller = peers.pop(calling)
    (callee,) = peers.values()
    caller.command("call", peer=callee.events[0]["id"])
    connected = caller.wait(("connected", "failed"))
    assert connected["event"] == "connected"
    caller.command("send", peer=callee.events[0]["id"], text="x" * 5000)
    assert len(callee.wait("message")["text"]) == 5000
    assert caller.wait("delivered")
    return str(connected["path"])


@pytest.mark.parametrize("calling", ["alice", "bob"])
@pytest.mark.parametrize("kind", ["batched", "portable"])
def test_a_call(namespaces: Namespaces, running: Programs, kind: str, calling: str) -> None:
    call(running, small_line(namespaces), SERVICE, calling, kind)


@pytest.mark.parametrize("path", ["host", "relay"])
@pytest.mark.parametrize("kind", ["batched", "portable"])
def test_the_smallest_line_of_ipv6(namespaces: Namespaces, running: Programs, kind: str, path: str) -> None:
    """Datagrams of the link, and those that a relay forwards, fit into 1,280 bytes."""
    hosts = smallest_ipv6_line(namespaces, direct=path == "host")
    assert call(running, hosts, SERVICE_IPV6, "bob", kind) == path
