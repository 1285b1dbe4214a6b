"""
Spraying through kernel NATs, seen from outside: how many packets a second each side sends, and to whom.

A rule of nftables between the two sites counts what goes from one to the other. Nothing of that arrives, so
the attempt goes on to its end.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from punch.ice.punching.spraying import BURST, MAX_PACKETS, RATE, SOCKETS
from tests.needs import need, need_namespaces
from tests.netns import Host
from tests.processes import Programs

from .grid import connect, hang_up, start_peer, start_rendezvous
from .kernel_network import LEFT, RIGHT, KernelNetwork
from .profiles import build

COUNTERS = """
table bridge counted {
    counter left { }
    counter right { }
    chain forward {
        type filter hook forward priority 0;
        ip saddr %s ip daddr %s counter name left drop
        ip saddr %s ip daddr %s counter name right drop
    }
}
"""


def counted(switch: Host) -> dict[str, tuple[int, int]]:
    """Packets and bytes so far, by side."""
    objects = json.loads(switch.run("nft", "-j", "list", "counters", "table", "bridge", "counted"))[
        "nftables"
    ]
    counters = [each["counter"] for each in objects if "counter" in each]
    return {each["name"]: (each["packets"], each["bytes"]) for each in counters}


def public_address(router: Host) -> str:
    """The IPv4 address of a router's `wan`."""
    (link,) = json.loads(router.run("ip", "-j", "-4", "address", "show", "dev", "wan"))
    return str(link["addr_info"][0]["local"])


def test_the_rate(tmp_path: Path) -> None:
    """No second has more packets than docs/nat.md says, and one attempt has as many as it says."""
    need_namespaces()
    need("conntrack")
    programs = Programs(tmp_path)
    with KernelNetwork() as network:
        try:
            sites = build(network, ["masq-drop", "fully-drop"])
            left, right = sites["masq-drop", LEFT], sites["fully-drop", RIGHT]
            homes = public_address(left.routers[0]), public_address(right.routers[0])
            network.public.nft(COUNTERS % (*homes, *homes[::-1]))
            network.start()
            _, address = start_rendezvous(programs, network)
            peers = [start_peer(programs, site, address) for site in (left, right)]
            for peer in peers:
                peer.wait("registered", 60.0)
            _, outcome = connect(*peers)
            assert outcome.first == ("relay", "relay")
            samples = []
            deadline = time.monotonic() + 40.0
            while time.monotonic() < deadline:
                samples.append((time.monotonic(), counted(network.public)))
                if samples[-1][1]["left"][0] >= MAX_PACKETS and samples[-1][1]["right"][0] >= 2 * SOCKETS:
                    break
                time.sleep(0.1)
            hang_up(*peers)
        finally:
            programs.close()
    packets, size = samples[-1][1]["left"]
    # ICE's own checks besides
    assert MAX_PACKETS <= packets <= MAX_PACKETS + 40
    assert size <= 270_000
    packets, size = samples[-1][1]["right"]
    assert 2 * SOCKETS <= packets <= 2 * SOCKETS + 40
    assert size <= 80_000
    for side in ("left", "right"):
        for number, (began, first) in enumerate(samples):
            for ended, last in samples[number + 1 :]:
                if ended - began >= 1.0:
                    # What is counted between two samples took at least that time, less that of one sample
                    assert last[side][0] - first[side][0] <= RATE * (ended - began + 0.2) + BURST + 20
                    break
