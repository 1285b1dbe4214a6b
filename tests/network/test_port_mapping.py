"""
Ports that a real daemon (Debian's miniupnpd) maps. Except in one of the tests of netcheck, its NAT gives each
destination another port.
"""

from __future__ import annotations

import ipaddress
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import need, need_namespaces
from tests.netns import Host, Namespaces, run
from tests.network.miniupnpd import PCP, PCP_READY, RULES, UPNP, UPNP_READY, miniupnpd, wait_for
from tests.network.test_namespaces import RendezvousAndPeers
from tests.processes import PUNCH, Programs

# miniupnpd maps no ports behind an address that is private or reserved for documentation
SERVICE, ALICE, BOB = "11.0.0.1", "11.0.0.11", "11.0.0.12"
TCP = " 0x6 "
"""How the daemon's rules name the protocol."""
NO_UDP = """
table inet no_udp {
    chain forward { type filter hook forward priority -10; meta l4proto udp drop; }
}
"""
NO_PCP = """
table inet no_pcp {
    chain input { type filter hook input priority -10; iifname "lan" udp dport 5351 @th,64,8 2 counter drop; }
}
"""
"""Drops requests of version 2."""
MASQUERADE = 'oifname "wan" masquerade'
"""The NAT of a usual router: it keeps ports."""
ANSWERS_ALONE = """
table inet answers_alone {
    chain prerouting { type filter hook prerouting priority -150; iifname "wan" ct state new drop; }
}
"""
"""Drops what nobody inside has asked for, before the daemon's rules."""
ALICE6 = "2001:db8:1::2"


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    need_namespaces()
    need("miniupnpd")
    with Namespaces() as namespaces:
        yield namespaces


def home(namespaces: Namespaces, public: Host, name: str, address: str, network: str) -> tuple[Host, Host]:
    """A router with the strictest NAT, and a host behind it."""
    router, host = namespaces.host(f"{name}-router"), namespaces.host(name)
    namespaces.plug(router, public, "wan", f"{address}/24")
    namespaces.join(router, "lan", host, "eth0")
    router.run("ip", "address", "add", f"{network}.1/24", "dev", "lan")
    host.run("ip", "address", "add", f"{network}.2/24", "dev", "eth0")
    host.route(f"{network}.1")
    router.sysctl("net.ipv4.ip_forward=1")
    router.nft(RULES)
    return router, host


def two_homes(namespaces: Namespaces) -> tuple[Host, Host, Host, Host, Host]:
    """The service; alice's router and alice; bob's router and bob."""
    public = namespaces.switch("public")
    service = namespaces.host("service")
    namespaces.plug(service, public, "eth0", f"{SERVICE}/24")
    return (
        service,
        *home(namespaces, public, "alice", ALICE, "10.1.0"),
        *home(namespaces, public, "bob", BOB, "10.2.0"),
    )


def rules(router: Host, chain: str, word: str) -> list[str]:
    """The rules with this word that the daemon has made."""
    lines = router.run("nft", "list", "chain", "inet", "filter", chain).splitlines()
    return [line.strip() for line in lines if word in line]


def mapped(router: Host, protocol: str = "") -> list[str]:
    """Which ports lead where."""
    return [rule for rule in rules(router, "prerouting_miniupnpd", "dnat") if protocol in rule]


def opened(router: Host) -> list[str]:
    """What is let through, of both families."""
    return rules(router, "miniupnpd", "accept")


def call_through_mapped_port(meeting: RendezvousAndPeers, router: Host, state: Path, protocol: str) -> None:
    """A call uses the one port that alice's router maps, and her status names it and the protocol."""
    at_alice, at_bob = meeting.call("srflx", "prflx")
    (rule,) = mapped(router)
    port = at_bob["remote"].removeprefix(f"{ALICE}:")
    assert f"dport {port} " in rule
    assert at_alice["local"] == at_bob["remote"]
    said = run(PUNCH, "status", "--name", "alice", "--state-dir", str(state))
    assert f"The router passes {ALICE}:{port} on to 10.1.0.2:" in said
    assert f"({protocol})" in said


def test_strict_nats_connect_directly(namespaces: Namespaces, running: Programs, tmp_path: Path) -> None:
    """One router maps a port, and opens one for IPv6. Both are given back when the peer ends."""
    public = namespaces.switch("public")
    service = namespaces.host("service")
    namespaces.plug(service, public, "eth0", f"{SERVICE}/24")
    router, alice = home(namespaces, public, "alice", ALICE, "10.1.0")
    # Its IPv6 router is at a link-local address, as usual
    router.run("ip", "address", "add", "fe80::1/64", "dev", "lan", "nodad")
    router.run("ip", "address", "add", "2001:db8:1::1/64", "dev", "lan", "nodad")
    router.run("ip", "address", "add", "2001:db8::11/64", "dev", "wan", "nodad")
    router.sysctl("net.ipv6.conf.all.forwarding=1")
    alice.run("ip", "address", "add", f"{ALICE6}/64", "dev", "eth0", "nodad")
    alice.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
    router.settle()
    alice.settle()
    _, bob = home(namespaces, public, "bob", BOB, "10.2.0")
    with miniupnpd(router, tmp_path, PCP, PCP_READY) as log:
        meeting = RendezvousAndPeers(running, service, alice, bob, host=SERVICE)
        at_alice, at_bob = meeting.call("srflx", "prflx")
        (rule,) = mapped(router)
        wait_for(lambda: len(opened(router)) == 2, log)
        address = ipaddress.ip_address(ALICE6).packed.hex()
        assert any(f"0x{address}" in line for line in opened(router)), opened(router)
        port = at_bob["remote"].removeprefix(f"{ALICE}:")
        assert f"dport {port} " in rule
        assert at_alice["local"] == at_bob["remote"]
        said = run(PUNCH, "status", "--name", "alice", "--state-dir", str(tmp_path / "state-alice"))
        assert f"The router passes {ALICE}:{port} on to 10.1.0.2:" in said
        meeting.say(meeting.bob, meeting.alice, meeting.ids()[0], "through the mapped port")
        meeting.alice.kill(signal.SIGTERM)
        wait_for(lambda: not mapped(router) and not opened(router), log)


def test_nat_pmp_alone(namespaces: Namespaces, running: Programs, tmp_path: Path) -> None:
    """The router is silent about PCP. The port is mapped, and given back when the peer ends, by NAT-PMP."""
    service, router, alice, _, bob = two_homes(namespaces)
    router.nft(NO_PCP)
    with miniupnpd(router, tmp_path, PCP, PCP_READY) as log:
        meeting = RendezvousAndPeers(running, service, alice, bob, host=SERVICE)
        wait_for(lambda: bool(mapped(router)), log)
        call_through_mapped_port(meeting, router, tmp_path / "state-alice", "nat-pmp")
        meeting.say(meeting.bob, meeting.alice, meeting.ids()[0], "through the mapped port")
        meeting.alice.kill(signal.SIGTERM)
        wait_for(lambda: not mapped(router), log)
        # Nothing else than the filter kept it from being PCP
        assert "packets 0 " not in router.run("nft", "list", "table", "inet", "no_pcp")


def test_upnp_alone(namespaces: Namespaces, running: Programs, tmp_path: Path) -> None:
    """The router has UPnP and nothing else. The port is given back when the peer ends."""
    service, router, alice, _, bob = two_homes(namespaces)
    with miniupnpd(router, tmp_path, UPNP, UPNP_READY) as log:
        meeting = RendezvousAndPeers(running, service, alice, bob, host=SERVICE)
        wait_for(lambda: bool(mapped(router)), log)
        call_through_mapped_port(meeting, router, tmp_path / "state-alice", "upnp")
        meeting.alice.kill(signal.SIGTERM)
        wait_for(lambda: not mapped(router), log)
        assert_switched_off(running, router, alice, meeting.address, tmp_path)


@pytest.mark.parametrize(("options", "ready"), [(PCP, PCP_READY), (UPNP, UPNP_READY)], ids=["PCP", "UPnP"])
def test_a_tcp_port(
    namespaces: Namespaces, running: Programs, tmp_path: Path, options: str, ready: str
) -> None:
    """No UDP gets out at bob's: he connects to a TCP port that alice's router maps while it is used."""
    service, router, alice, outside, bob = two_homes(namespaces)
    outside.nft(NO_UDP)
    with miniupnpd(router, tmp_path, options, ready) as log:
        meeting = RendezvousAndPeers(running, service, alice, bob, host=SERVICE)
        wait_for(lambda: bool(mapped(router)), log)
        assert not mapped(router, TCP)
        at_alice, at_bob = meeting.call("prflx")
        assert (at_alice["protocol"], at_bob["protocol"]) == ("tcp", "tcp")
        (rule,) = mapped(router, TCP)
        port = at_bob["remote"].removeprefix(f"{ALICE}:")
        assert f"dport {port} " in rule
        said = run(PUNCH, "status", "--name", "alice", "--state-dir", str(tmp_path / "state-alice"))
        assert f"The router passes TCP connections to {ALICE}:{port} on to 10.1.0.2:" in said
        meeting.say(meeting.bob, meeting.alice, meeting.ids()[0], "through the mapped port")
        meeting.alice.kill(signal.SIGTERM)
        wait_for(lambda: not mapped(router), log)


def assert_switched_off(running: Programs, router: Host, alice: Host, address: str, tmp_path: Path) -> None:
    """With `--port-mapping never`, a command that has the node itself asks the router nothing."""
    router.nft(
        "table ip counted { chain input { type filter hook input priority -10; "
        'iifname "lan" udp dport { 1900, 5351 } counter\n}\n}\n'
    )

    def asked() -> bool:
        return "packets 0 " not in router.run("nft", "list", "table", "ip", "counted")

    where = ["--rendezvous", address, "--state-dir", str(tmp_path / "state-carol"), "--name", "carol"]
    for options in (["--port-mapping", "never"], []):
        receiving = running.start(
            [PUNCH, "receive", "--json", "--output", str(tmp_path), *where, *options], prefix=alice.prefix
        )
        receiving.wait("ready")
        if options:
            arguments = [PUNCH, "netcheck", "--json", *where, *options]
            report = json.loads(alice.run(*arguments))
            assert report["ipv4"]["port_mapping"] is None
            assert not asked()
        else:
            wait_for(asked, tmp_path / "miniupnpd.log")
        running.end(receiving)


@pytest.mark.parametrize("random", [False, True], ids=["preserving", "random"])
def test_netcheck(namespaces: Namespaces, running: Programs, tmp_path: Path, random: bool) -> None:
    """
    Netcheck tries the mapped port if what its socket sends comes from there. Then something arrives, unless
    a firewall in front of the router lets in nothing but answers.
    """
    service, router, alice, _, _ = two_homes(namespaces)
    if not random:
        router.nft(f"flush chain ip nat post\nadd rule ip nat post {MASQUERADE}\n")
    rendezvous = running.rendezvous("--host", SERVICE, state="state-service", prefix=service.prefix)
    where = ["--rendezvous", rendezvous.wait("listening")["address"], "--state-dir", str(tmp_path / "state")]
    with miniupnpd(router, tmp_path, PCP, PCP_READY):
        for firewall in (False, True):
            if firewall:
                router.nft(ANSWERS_ALONE)
            found = json.loads(alice.run(PUNCH, "netcheck", "--json", *where))["ipv4"]["port_mapping"]
            assert (found["method"], found["external_address"]) == ("pcp", ALICE)
            assert found["reached"] is (None if random else not firewall)
        assert not mapped(router)
