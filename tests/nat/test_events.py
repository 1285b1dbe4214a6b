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
from .profiles import PROFILES
from .transfer import Transfer
from .world import LEFT, RIGHT, Place, World

LIMIT = 5.0
"""Seconds within which a transfer goes on."""
BEFORE = 2.0
"""Seconds of transfer before something happens."""
AFTER = 9.0
"""Seconds of transfer after it: a pause that ends too late is still seen."""


@dataclass
class Scene:
    """A pair of peers in a world, and the places they are in."""

    world: World
    number: int
    left: Place
    right: Place
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
    event: Callable[[Scene], None]
    reversed: bool = False
    idle: float = 0.0


def _flush(scene: Scene) -> None:
    flush(scene.left)


def _renumber(scene: Scene) -> None:
    renumber(scene.world, scene.left)


def _swap(scene: Scene) -> None:
    swap(scene.world, scene.left, 200 + scene.number)


def _swap_both(scene: Scene) -> None:
    for place in (scene.left, scene.right):
        swap(scene.world, place, 200 + scene.number)


def _blackhole(scene: Scene) -> None:
    blackhole(scene.left, scene.right)


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
    "idle for 20 s, mappings last 15 s": Scenario(("short", "short"), lambda scene: None, idle=20.0),
}


@dataclass(frozen=True)
class Story:
    """How a transfer went: the longest pause after the event, and what else was told."""

    pause: float
    paths: list[str]
    broken: list[str]


_connecting = threading.Lock()


def link(scene: Scene) -> None:
    """Connect the two peers."""
    with _connecting:
        _, outcome = connect(scene.alice, scene.bob)
    assert outcome.seconds is not None, outcome.problem


def play(scene: Scene, scenario: Scenario) -> Story:
    """A transfer during which it happens."""
    sender, receiver = (scene.bob, scene.alice) if scenario.reversed else (scene.alice, scene.bob)
    with Transfer(sender, receiver, seed=scene.number) as transfer:
        time.sleep(BEFORE)
        moment = time.monotonic()
        scenario.event(scene)
        time.sleep(AFTER)
        transfer.finish(30.0)
    paths = [path for _, path in transfer.paths]
    return Story(transfer.pause(moment), paths, transfer.broken)


def link_and_play(scene: Scene, scenario: Scenario) -> Story:
    """Connect, and then a transfer."""
    link(scene)
    time.sleep(scenario.idle)
    return play(scene, scenario)


def judge(story: Story) -> None:
    """It went on in time, over the same link."""
    print(f"longest pause {story.pause:.2f} s, paths {story.paths}")
    assert story.broken == []
    assert story.pause < LIMIT


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Story]]]:
    """All scenarios side by side in one world, each with places and peers of its own."""
    need_namespaces()
    need("conntrack")
    programs = Programs(tmp_path_factory.mktemp("events"))
    with World() as world:
        try:
            _, address = start_rendezvous(programs, world)
            scenes: dict[str, Scene] = {}
            for number, (name, scenario) in enumerate(SCENARIOS.items(), 1):
                left, right = places(world, f"s{number}", number, scenario.sides)
                peers = [start_peer(programs, place, address) for place in (left, right)]
                for peer in peers:
                    peer.wait("registered", 60.0)
                scenes[name] = Scene(world, number, left, right, peers[0], peers[1])
            with ThreadPoolExecutor(len(scenes)) as pool:
                yield {
                    name: pool.submit(link_and_play, scene, SCENARIOS[name]) for name, scene in scenes.items()
                }
        finally:
            programs.close()


def places(world: World, label: str, number: int, sides: tuple[str, str]) -> tuple[Place, Place]:
    """New places of two profiles, one on the left and one on the right."""
    if sides[0] == sides[1]:
        left, right = PROFILES[sides[0]](world, label, number)
        return left, right
    found = [PROFILES[name](world, f"{label}{name}", number + 100 * side) for side, name in enumerate(sides)]
    return (
        next(place for place in found[0] if place.side == LEFT),
        next(place for place in found[1] if place.side == RIGHT),
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_transfer_goes_on(stories: dict[str, Future[Story]], name: str) -> None:
    """Within 5 s, intact, over the same link."""
    judge(stories[name].result())


def test_relay_killed(tmp_path: Path) -> None:
    """A relay that dies with its rendezvous, and is started again a second later."""
    need_namespaces()
    need("conntrack")
    programs = Programs(tmp_path)
    with World() as world:
        try:
            rendezvous, address = start_rendezvous(programs, world)
            left, right = places(world, "relayed", 1, ("fully-drop", "masq-drop"))
            alice, bob = (start_peer(programs, place, address) for place in (left, right))
            for peer in (alice, bob):
                peer.wait("registered", 60.0)
            scene = Scene(world, 1, left, right, alice, bob)
            link(scene)
            assert path_now(alice, bob) == "relay"

            def kill(scene: Scene) -> None:
                rendezvous.kill()
                rendezvous.process.wait()
                start_rendezvous(programs, world)

            scenario = Scenario(("fully-drop", "masq-drop"), kill)
            judge(play(scene, scenario))
        finally:
            programs.close()
