"""
Networks that change during a transfer, on kernel NATs with the real programs.

Whatever happens, the transfer goes on within 5 s, all of it arrives, once and in order, and the link is the
same one: no other event than a change of path is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import need, need_namespaces
from tests.processes import JSONProcess, Programs

from .events import blackhole, flush, renumber, swap
from .grid import connect, path_now, start_peer, start_rendezvous
from .kernel_network import LEFT, RIGHT, KernelNetwork, Site
from .profiles import PROFILES
from .transfer import MessageTransfer

LIMIT = 5.0
"""Seconds within which a transfer goes on."""
BEFORE = 2.0
"""Seconds of transfer before something happens."""
AFTER = 9.0
"""Seconds of transfer after it: a pause that ends too late is still seen."""


@dataclass
class ConnectedPair:
    """A pair of peers in a network, and the sites they are at."""

    network: KernelNetwork
    number: int
    left: Site
    right: Site
    alice: JSONProcess
    bob: JSONProcess


@dataclass(frozen=True)
class Scenario:
    """
    What happens between whom.

    :ivar sides: the profiles on the left and on the right.
    :ivar event: does it.
    :ivar reversed: the transfer goes from right to left.
    :ivar idle: seconds in which nobody says anything, before the transfer.
    """

    sides: tuple[str, str]
    event: Callable[[ConnectedPair], None]
    reversed: bool = False
    idle: float = 0.0


def _flush(pair: ConnectedPair) -> None:
    flush(pair.left)


def _renumber(pair: ConnectedPair) -> None:
    renumber(pair.network, pair.left)


def _swap(pair: ConnectedPair) -> None:
    swap(pair.network, pair.left, 200 + pair.number)


def _swap_both(pair: ConnectedPair) -> None:
    for site in (pair.left, pair.right):
        swap(pair.network, site, 200 + pair.number)


def _blackhole(pair: ConnectedPair) -> None:
    blackhole(pair.left, pair.right)


HOMES = ("masq-drop", "masq-drop")

SCENARIOS = {
    "NAT flushed, ports preserved": Scenario(HOMES, _flush),
    "NAT flushed, ports random": Scenario(("fully-drop", "open"), _flush),
    "NAT flushed, ports random, towards it": Scenario(("fully-drop", "open"), _flush, reversed=True),
    "NAT flushed, on the relay": Scenario(("fully-drop", "masq-drop"), _flush),
    "public address changed": Scenario(HOMES, _renumber),
    "public address changed, towards it": Scenario(HOMES, _renumber, reversed=True),
    "interface swapped": Scenario(HOMES, _swap),
    "interface swapped, towards it": Scenario(HOMES, _swap, reversed=True),
    "both ends moved": Scenario(HOMES, _swap_both),
    "direct path blackholed": Scenario(HOMES, _blackhole),
    "idle for 20 s, mappings last 15 s": Scenario(("short", "short"), lambda pair: None, idle=20.0),
}


@dataclass(frozen=True)
class TransferResult:
    """How a transfer went: the longest pause after the event, and what else was told."""

    pause: float
    paths: list[str]
    broken: list[str]


_connecting = threading.Lock()


def link(pair: ConnectedPair) -> None:
    """Connect the two peers."""
    with _connecting:
        _, outcome = connect(pair.alice, pair.bob)
    assert outcome.seconds is not None, outcome.problem


def transfer_during(pair: ConnectedPair, scenario: Scenario) -> TransferResult:
    """A transfer during which it happens."""
    sender, receiver = (pair.bob, pair.alice) if scenario.reversed else (pair.alice, pair.bob)
    with MessageTransfer(sender, receiver, seed=pair.number) as transfer:
        time.sleep(BEFORE)
        moment = time.monotonic()
        scenario.event(pair)
        time.sleep(AFTER)
        transfer.finish(30.0)
    paths = [path for _, path in transfer.paths]
    return TransferResult(transfer.pause(moment), paths, transfer.broken)


def run_scenario(pair: ConnectedPair, scenario: Scenario) -> TransferResult:
    """Connect, and then a transfer."""
    link(pair)
    time.sleep(scenario.idle)
    return transfer_during(pair, scenario)


def assert_continued(result: TransferResult) -> None:
    """It went on in time, over the same link."""
    print(f"longest pause {result.pause:.2f} s, paths {result.paths}")
    assert result.broken == []
    assert result.pause < LIMIT


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[TransferResult]]]:
    """All scenarios side by side in one network, each with sites and peers of its own."""
    need_namespaces()
    need("conntrack")
    programs = Programs(tmp_path_factory.mktemp("events"))
    with KernelNetwork() as network:
        try:
            _, address = start_rendezvous(programs, network)
            pairs: dict[str, ConnectedPair] = {}
            for number, (name, scenario) in enumerate(SCENARIOS.items(), 1):
                left, right = sites(network, f"s{number}", number, scenario.sides)
                # A link on the relay is to stay there
                options = ["--spray", "never"]
                peers = [start_peer(programs, site, address, options) for site in (left, right)]
                for peer in peers:
                    peer.wait("registered", 60.0)
                pairs[name] = ConnectedPair(network, number, left, right, peers[0], peers[1])
            with ThreadPoolExecutor(len(pairs)) as pool:
                yield {name: pool.submit(run_scenario, pair, SCENARIOS[name]) for name, pair in pairs.items()}
        finally:
            programs.close()


def sites(network: KernelNetwork, label: str, number: int, sides: tuple[str, str]) -> tuple[Site, Site]:
    """New sites of two profiles, one on the left and one on the right."""
    if sides[0] == sides[1]:
        left, right = PROFILES[sides[0]](network, label, number)
        return left, right
    found = [
        PROFILES[name](network, f"{label}{name}", number + 100 * side) for side, name in enumerate(sides)
    ]
    return (
        next(site for site in found[0] if site.side == LEFT),
        next(site for site in found[1] if site.side == RIGHT),
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_transfer_goes_on(results: dict[str, Future[TransferResult]], name: str) -> None:
    """Within 5 s, intact, over the same link."""
    assert_continued(results[name].result())


def test_relay_killed(tmp_path: Path) -> None:
    """A relay that dies with its rendezvous, and is started again a second later."""
    need_namespaces()
    need("conntrack")
    programs = Programs(tmp_path)
    with KernelNetwork() as network:
        try:
            rendezvous, address = start_rendezvous(programs, network)
            left, right = sites(network, "relayed", 1, ("fully-drop", "masq-drop"))
            # The link is to stay on the relay
            options = ["--spray", "never"]
            alice, bob = (start_peer(programs, site, address, options) for site in (left, right))
            for peer in (alice, bob):
                peer.wait("registered", 60.0)
            pair = ConnectedPair(network, 1, left, right, alice, bob)
            link(pair)
            assert path_now(alice, bob) == "relay"

            def kill(pair: ConnectedPair) -> None:
                rendezvous.kill()
                rendezvous.process.wait()
                start_rendezvous(programs, network)

            scenario = Scenario(("fully-drop", "masq-drop"), kill)
            assert_continued(transfer_during(pair, scenario))
        finally:
            programs.close()
