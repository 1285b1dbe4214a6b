"""Three rendezvous processes behind one Redis, from which one is cut off, and peers behind kernel NATs."""

from __future__ import annotations

import time
from pathlib import Path

from punch.identity import Identity
from tests.netns import Namespaces
from tests.network.test_namespaces import two_homes
from tests.processes import JSONProcess, Programs
from tests.service_processes import Redis, with_key

REDIS = "10.9.0.9"


def said(sender: JSONProcess, receiver: JSONProcess, peer: str, text: str, seconds: float = 10.0) -> float:
    """A message arrives within so many seconds; returns how many it took."""
    begun = time.monotonic()
    sender.command("send", peer=peer, text=text)
    receiver.wait("message", seconds, lambda event: event["text"] == text)
    return time.monotonic() - begun


def test_cut_off_from_redis(namespaces: Namespaces, running: Programs, tmp_path: Path) -> None:
    """
    The peers of the other processes meet meanwhile, a live link notices nothing, and calls to the peers of
    this process are back within 10 s of the cable.
    """
    first, home_a, home_b, (public, _, _) = two_homes(namespaces)
    private = namespaces.switch("private")
    redis_host = namespaces.host("redis")
    namespaces.plug(redis_host, private, "eth0", f"{REDIS}/24")
    hosts = [first, namespaces.host("second"), namespaces.host("third")]
    addresses = ["198.51.100.1", "198.51.100.3", "198.51.100.4"]
    for number, host in enumerate(hosts, 1):
        if host is not first:
            namespaces.plug(host, public, "eth0", f"{addresses[number - 1]}/24")
        namespaces.plug(host, private, "eth1", f"10.9.0.{number}/24")
    redis = Redis(tmp_path, REDIS, 6379, redis_host.prefix)
    try:
        key = Identity.generate().to_pem()
        services = [
            running.rendezvous(
                *("--host", address, "--registry", f"redis://{REDIS}"),
                state=with_key(tmp_path / f"service-{number}", key).name,
                prefix=host.prefix,
            )
            for number, (host, address) in enumerate(zip(hosts, addresses, strict=True))
        ]
        for service in services:
            service.wait("registry")
        urls = [
            str(next(each for each in service.events if each["event"] == "listening")["address"])
            for service in services
        ]
        places = {"alice": (0, home_a), "bob": (1, home_b), "carol": (2, home_b), "dave": (2, home_a)}
        peers = {
            name: running.peer(
                name,
                *("--rendezvous", urls[service], "--accept", "anyone", "--no-history"),
                state=f"peer-{name}",
                prefix=host.prefix,
            )
            for name, (service, host) in places.items()
        }
        for peer in peers.values():
            peer.wait("registered")
        ids = {name: str(peer.events[0]["id"]) for name, peer in peers.items()}
        alice, bob, carol, dave = peers.values()
        said(alice, bob, ids["bob"], "through both NATs")

        # Packets between the second process and Redis vanish; nobody is told.
        hosts[1].nft('table ip cut { chain in { type filter hook input priority 0; iifname "eth1" drop; }; }')
        said(alice, carol, ids["carol"], "past the process that is cut off")
        services[1].wait("registry-failed", 10.0)
        said(bob, alice, ids["alice"], "on the link of before")
        dave.command("call", peer=ids["bob"])
        assert dave.wait("failed", 10.0)["reason"] == "not-registered"

        hosts[1].run("nft", "delete", "table", "ip", "cut")
        begun = time.monotonic()
        services[1].wait("registry", 10.0)
        said(carol, bob, ids["bob"], "once the cable is back", 10.0 - (time.monotonic() - begun))
        said(alice, bob, ids["bob"], "still on the link of before")
        for name, peer in peers.items():
            lost = [event for event in peer.settle() if event["event"] in ("disconnected", "path-lost")]
            assert lost == [], name
        assert all(service.process.poll() is None for service in services)
    finally:
        redis.stop()
