"""
Peers behind kernel NATs whose packets to each other are counted, and dropped, between the two networks.

A link stays on the relay, so every attempt at a direct path goes on to its end, and all that it sends is seen
from outside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.netns import Host
from tests.processes import JSONProcess, Programs

from .events import public_address
from .grid import Pair, start_peer, start_rendezvous
from .kernel_network import LEFT, RIGHT, KernelNetwork, Site
from .profiles import build

Counts = dict[tuple[Pair, int], tuple[int, int]]
"""Packets and bytes so far that left the home of a side of a pair, towards the other one."""


@dataclass(frozen=True)
class CountedPeers:
    """
    Pairs of registered peers.

    :ivar peers: the peers of each pair, that on the left first.
    """

    peers: dict[Pair, tuple[JSONProcess, JSONProcess]]
    _switch: Host

    def counts(self) -> Counts:
        """What was counted so far."""
        said = json.loads(self._switch.run("nft", "-j", "list", "counters", "table", "bridge", "counted"))
        counters = {
            each["counter"]["name"]: (each["counter"]["packets"], each["counter"]["bytes"])
            for each in said["nftables"]
            if "counter" in each
        }
        return {
            (pair, side): counters[_name(number, side)]
            for number, pair in enumerate(self.peers)
            for side in (LEFT, RIGHT)
        }

    def sample(self, seconds: float, every: float = 0.1) -> list[tuple[float, Counts]]:
        """What was counted at each of so many moments, by our clock."""
        samples = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            samples.append((time.monotonic(), self.counts()))
            time.sleep(every)
        return samples


@contextmanager
def counted_peers(
    directory: Path, pairs: Sequence[Pair], options: Callable[[Site], Sequence[str]] = lambda site: ()
) -> Iterator[CountedPeers]:
    """
    A network with a rendezvous, and a peer at both sites of each pair; all pairs have different profiles.

    :param options: returns the options of the peer at a site.
    """
    programs = Programs(directory)
    with KernelNetwork() as network:
        try:
            sites = build(network, list(dict.fromkeys(name for pair in pairs for name in pair)))
            ends = {pair: (sites[pair[0], LEFT], sites[pair[1], RIGHT]) for pair in pairs}
            network.public.nft(_rules(list(ends.values())))
            network.start()
            _, address = start_rendezvous(programs, network)
            peers = {
                pair: tuple(start_peer(programs, site, address, options(site)) for site in both)
                for pair, both in ends.items()
            }
            for both in peers.values():
                for peer in both:
                    peer.wait("registered", 60.0)
            yield CountedPeers({pair: (here, there) for pair, (here, there) in peers.items()}, network.public)
        finally:
            programs.close()


def _name(number: int, side: int) -> str:
    return f"pair{number}side{side}"


def _rules(pairs: Sequence[tuple[Site, Site]]) -> str:
    """Rules of the switch between all networks that count what goes from one home of a pair to the other."""
    counters, rules = [], []
    for number, both in enumerate(pairs):
        left, right = map(public_address, both)
        for side, source, destination in ((LEFT, left, right), (RIGHT, right, left)):
            name = _name(number, side)
            counters.append(f"counter {name} {{ }}")
            rules.append(f"ip saddr {source} ip daddr {destination} counter name {name} drop")
    chain = ["chain forward {", "type filter hook forward priority 0;", *rules, "}"]
    return "\n".join(["table bridge counted {", *counters, *chain, "}", ""])
