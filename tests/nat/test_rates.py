"""
Attempts at direct paths through kernel NATs, seen from outside: how many packets each side sends, and when.

With `--nat=whole`, packets are counted for ten minutes, to which the limits for one peer apply; otherwise
during the first attempts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from punch.ice.budget import (
    MAX_BYTES,
    MAX_CONNECTS,
    MAX_IN_ROUND,
    MAX_PACKETS,
)
from punch.ice.limits import MAX_OPENING_BYTES, MAX_OPENINGS, MAX_SPRAYED, MAX_SPRAYED_BYTES, SYN_SIZE
from punch.ice.punching import simultaneous_open, spraying
from punch.ice.punching.prediction import MAX_AIMS, TARGETS
from tests.needs import need, need_namespaces

from .counted import Counts, counted_peers
from .grid import SETTLED, Pair, connect, hang_up, sent_by
from .kernel_network import LEFT, RIGHT

SECONDS = 17.0
"""An attempt of spraying takes 16, the first four of the other techniques less."""
TEN_MINUTES = 595.0
EVERY = 0.1
"""Seconds between two looks at the counters."""


@dataclass(frozen=True)
class Limits:
    """
    What docs/nat.md says that a technique sends at most, on each side.

    :ivar once: packets in one attempt, on the side that sends more.
    :ivar attempts: how many attempts there are in `SECONDS`; what that makes is reached at least by half.
    :ivar packets: packets to one peer in ten minutes.
    :ivar bytes: bytes of these.
    :ivar second: packets in one second.
    """

    once: int
    attempts: int
    packets: int
    bytes: int
    second: int


CHECKS, CHECK_BYTES = MAX_PACKETS, MAX_BYTES
"""What ICE's own checks may send to addresses that have not answered, besides."""
PREDICTION: Pair = ("sequential", "sequential")
SIMULTANEOUS_OPEN: Pair = ("masq-accept", "masq-reject")
SPRAYING: Pair = ("masq-drop", "fully-drop")
TCP: Pair = ("no-udp", "lan")
LIMITS = {
    PREDICTION: Limits(max(TARGETS, MAX_AIMS), 4, MAX_OPENINGS, MAX_OPENING_BYTES, max(TARGETS, MAX_AIMS)),
    SIMULTANEOUS_OPEN: Limits(
        simultaneous_open.MAX_PACKETS, 4, MAX_OPENINGS, MAX_OPENING_BYTES, simultaneous_open.MAX_PACKETS
    ),
    SPRAYING: Limits(
        spraying.MAX_PACKETS,
        1,
        MAX_SPRAYED,
        MAX_SPRAYED_BYTES,
        round(spraying.RATE) + spraying.BURST,
    ),
    # 60 bytes each; the 14 of Ethernet are not counted
    TCP: Limits(3, 3, MAX_CONNECTS, MAX_CONNECTS * (SYN_SIZE + 20), 3),
}


TECHNIQUES = {
    PREDICTION: "prediction",
    SIMULTANEOUS_OPEN: "simultaneous-open",
    SPRAYING: "spraying",
    TCP: "tcp",
}
"""The name of each pair's technique in the status of a peer."""
SYNS = 3
"""How many SYNs go to one address in an attempt over TCP, which follows the others."""
LARGEST = 150
"""Bytes that a packet of an attempt has at most, with headers."""


def most_in(samples: list[tuple[float, Counts]], key: tuple[Pair, int], seconds: float) -> int:
    """The most packets that were counted within so many seconds, and those of the looks around."""
    most = 0
    last = 0
    for began, first in samples:
        while last + 1 < len(samples) and samples[last + 1][0] <= began + seconds:
            last += 1
        most = max(most, samples[last][1][key][0] - first[key][0])
    return most


def test_rates(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """No technique sends more than docs/nat.md says, in a second, in an attempt, or in ten minutes."""
    need_namespaces()
    need("conntrack")
    whole = pytestconfig.getoption("--nat") == "whole"
    with counted_peers(tmp_path, list(LIMITS)) as counted:
        with ThreadPoolExecutor() as pool:
            for pair, (_, outcome) in zip(
                counted.peers, pool.map(lambda both: connect(*both), counted.peers.values()), strict=True
            ):
                assert outcome.first == ("relay", "relay"), pair
        samples = counted.sample(TEN_MINUTES if whole else SECONDS, EVERY)
        said = {}
        for pair, (here, there) in counted.peers.items():
            said[pair, LEFT], said[pair, RIGHT] = sent_by(here, there, {}), sent_by(there, here, {})
        counted_now = counted.counts()
        for both in counted.peers.values():
            hang_up(*both)
    for pair, limits in LIMITS.items():
        sent = {side: samples[-1][1][pair, side] for side in (LEFT, RIGHT)}
        print(pair, sent, {side: most_in(samples, (pair, side), 1.0) for side in (LEFT, RIGHT)})
        for side, (packets, size) in sent.items():
            allowed = limits.packets if whole else min(limits.packets, limits.attempts * limits.once)
            assert packets <= allowed + CHECKS, (pair, side, packets)
            assert size <= limits.bytes + CHECK_BYTES, (pair, side, size)
            # All that was sent is in the count of some technique, and each technique keeps its own limits
            mine = {name: said[pair, side].get(name, (0, 0)) for name in ("ice", "tcp", TECHNIQUES[pair])}
            print(pair, side, mine)
            in_all = counted_now[pair, side][0]
            assert packets <= in_all <= sum(each[0] for each in mine.values()), (pair, side)
            if pair is not TCP:
                # Packets that were sent after the last sample
                late = in_all - packets
                assert mine[TECHNIQUES[pair]][0] <= allowed + late, (pair, side)
                assert mine[TECHNIQUES[pair]][1] <= limits.bytes + late * LARGEST, (pair, side)
            # The switch counts what goes directly between the two homes. ICE also counts checks through the
            # relay, which have a limit of their own, and those to relayed candidates before they answer
            others = sum(packets for name, (packets, _) in mine.items() if name != "ice")
            assert in_all - others <= CHECKS, (pair, side)
            assert mine["ice"][0] <= 2 * CHECKS, (pair, side)
            assert mine["tcp"][0] <= MAX_CONNECTS, (pair, side)
            if pair is not SPRAYING:
                # Of ICE's checks, few are left by then, and TCP follows
                later = [each for each in samples if each[0] >= samples[0][0] + SETTLED]
                assert most_in(later, (pair, side), 1.0) <= limits.second + MAX_IN_ROUND + SYNS, (pair, side)
            assert most_in(samples, (pair, side), 1.0) <= limits.second + CHECKS, (pair, side)
        # Something was sent at all
        assert max(packets for packets, _ in sent.values()) >= min(limits.packets, limits.once)
    packets, _ = samples[-1][1][SPRAYING, RIGHT]
    assert packets >= spraying.TARGETS * spraying.SOCKETS
