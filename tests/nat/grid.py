"""Calls of the real programs between pairs of sites, several side by side, and what came of each."""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from punch.test.scenarios.pages import SentBySide
from tests import system_call_filter
from tests.processes import Event, JSONProcess, ProcessFailed, Programs

from .kernel_network import (
    CONTROL_PORT,
    LEFT,
    REFLECTOR_PORT,
    RIGHT,
    SERVICE4,
    SERVICE6,
    KernelNetwork,
    LinkConditions,
    Site,
)
from .plain_ice import TIMEOUT as PLAIN_TIMEOUT
from .profiles import PROFILES, build
from .table import LATE, MOSTLY, RELAY, expected

Pair = tuple[str, str]

CALL_TIMEOUT = 12.0
"""Seconds after which a call has failed."""
SETTLED = 5.0
"""Seconds after `connected` at which the best path must have been found…"""
LATER = 25.0
"""…but for pairs that take spraying or several attempts, and where packets get lost: so many."""
WITHIN = 20.0
"""Seconds from the call within which spraying has found a path in nearly all calls."""
KEPT = 5.0
"""
Seconds for which a path that was found in this time is watched, unless they are over before. An ICE restart
takes three to give up a path.
"""
AT_ONCE = 16
"""Calls side by side; most of them wait for `SETTLED`."""
CONNECTING = 2
"""Calls that connect at the same moment: more would measure the machine."""
SPRAYING = 3
"""Calls side by side that may take spraying, for the same reason."""


def all_pairs(names: Iterable[str] = PROFILES) -> list[Pair]:
    """Every pair of the profiles, each once, in the order of `PROFILES`."""
    wanted = set(names)
    ordered = [name for name in PROFILES if name in wanted]
    return [(one, other) for index, one in enumerate(ordered) for other in ordered[index:]]


@dataclass(frozen=True)
class CallOutcome:
    """
    One call.

    :ivar seconds: from the call to `connected` on the caller's side; None if that never came.
    :ivar first: the paths on both sides when they were connected.
    :ivar settled: the paths `SETTLED` seconds after that, on each side by its own clock.
    :ivar problem: what went wrong, "" if nothing did.
    :ivar later: the paths `LATER` seconds after that, or when none was relayed for `KEPT` seconds; those of
        `settled` if that was not waited for.
    :ivar direct: seconds from the call until both sides had the direct paths of `later`; None if they have
        none.
    :ivar sent: what each side sent for a direct path, by technique, and to its router for ports, by protocol,
        until the link was ended.
    """

    seconds: float | None
    first: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    problem: str = ""
    later: tuple[str, ...] = ()
    direct: float | None = None
    sent: tuple[SentBySide, ...] = ()

    @property
    def relayed(self) -> bool:
        """Whether either side was on the relay after `SETTLED` seconds."""
        return "relay" in self.settled

    @property
    def relayed_later(self) -> bool:
        """Whether either side was on the relay in the end."""
        return "relay" in (self.later or self.settled)


@dataclass
class Results:
    """
    All outcomes of a grid, run by run.

    :ivar plain: whether plain ICE connected a pair, for those where that was tried.
    """

    conditions: LinkConditions
    runs: int
    pairs: list[Pair]
    outcomes: dict[Pair, list[CallOutcome]] = field(default_factory=dict)
    plain: dict[Pair, bool] = field(default_factory=dict)

    def seconds(self) -> list[float]:
        """All times to connect."""
        return [
            outcome.seconds
            for outcomes in self.outcomes.values()
            for outcome in outcomes
            if outcome.seconds is not None
        ]

    @property
    def worst(self) -> float:
        return max(self.seconds(), default=0.0)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds() or [0.0])


class Grid:
    """A network with a rendezvous and a peer at every site that the pairs need."""

    def __init__(
        self, programs: Programs, network: KernelNetwork, pairs: Sequence[Pair], options: Sequence[str] = ()
    ):
        self.network = network
        self.pairs = list(pairs)
        names = [name for name in PROFILES if any(name in pair for pair in pairs)]
        self.sites = build(network, names)
        network.start()
        self._programs = programs
        self._options = list(options)
        self.rendezvous, self.address = start_rendezvous(programs, network)
        self._peers: dict[str, JSONProcess] = {}
        self._connecting = threading.Semaphore(CONNECTING)
        self._spraying = threading.Semaphore(SPRAYING)
        needed = {name for one, other in pairs for name in ((one, LEFT), (other, RIGHT))}
        starting = [site for key, site in self.sites.items() if key in needed]
        for first in range(0, len(starting), 4):
            batch = starting[first : first + 4]
            for site in batch:
                self._peers[site.name] = start_peer(programs, site, self.address, self._options)
            for site in batch:
                self._peers[site.name].wait("registered", 60.0)

    def run(self, runs: int, tell: Callable[[Pair, int, CallOutcome], None] = lambda *_: None) -> Results:
        """Call every pair so many times; `tell` is called with each outcome, from any thread."""
        results = Results(self.network.conditions, runs, self.pairs, {pair: [] for pair in self.pairs})
        for number in range(runs):
            self._run(number, results, tell)
        return results

    def run_plain_ice(self, tell: Callable[[Pair, bool], None] = lambda *_: None) -> dict[Pair, bool]:
        """Whether plain ICE (aioice) connects each pair; `tell` is called with each, from any thread."""
        sides: dict[str, JSONProcess] = {}
        found: dict[Pair, bool] = {}
        sites = {site.name: site for pair in self.pairs for site in self._sides(pair)}
        for site in sites.values():
            sides[site.name] = self._programs.start(
                [sys.executable, "-m", "tests.nat.plain_ice", SERVICE4, str(REFLECTOR_PORT)],
                prefix=site.host.prefix,
            )
        for side in sides.values():
            side.wait("ready", 60.0)

        def call(pair: Pair) -> None:
            here, there = self._sides(pair)
            for site in (here, there):
                site.forget()
            descriptions = gather(sides[here.name], sides[there.name])
            found[pair] = connect_plainly(sides[here.name], sides[there.name], descriptions)
            tell(pair, found[pair])

        self._side_by_side(call)
        for side in sides.values():
            self._programs.end(side)
        return found

    def _run(self, number: int, results: Results, tell: Callable[[Pair, int, CallOutcome], None]) -> None:
        def call(pair: Pair) -> None:
            with self._spraying if expected()[pair] in (LATE, MOSTLY) else contextlib.nullcontext():
                outcome = self._call(pair, number)
            results.outcomes[pair].append(outcome)
            tell(pair, number, outcome)

        self._side_by_side(call)

    def _side_by_side(self, call: Callable[[Pair], None]) -> None:
        """Do this for each pair, for several at once of which no two share a site or router."""
        left = list(self.pairs)
        busy: set[str] = set()
        changed = threading.Condition()
        problems: list[BaseException] = []

        def do(pair: Pair, needs: set[str]) -> None:
            try:
                call(pair)
            except BaseException as problem:
                problems.append(problem)
            finally:
                with changed:
                    busy.difference_update(needs)
                    changed.notify()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            running: list[Future[None]] = []
            while left and not problems:
                with changed:
                    pair = self._next(left, busy)
                    if pair is None or sum(not each.done() for each in running) >= AT_ONCE:
                        changed.wait(0.5)
                        continue
                    left.remove(pair)
                    needs = self._needs(pair)
                    busy |= needs
                running.append(pool.submit(do, pair, needs))
        if problems:
            raise problems[0]

    def _next(self, left: Sequence[Pair], busy: set[str]) -> Pair | None:
        """A pair whose sites and routers nobody uses; first those whose sites have most to do."""
        work: dict[str, int] = {}
        for pair in left:
            for name in self._needs(pair):
                work[name] = work.get(name, 0) + 1
        free = [pair for pair in left if not self._needs(pair) & busy]
        return max(free, key=lambda pair: max(work[name] for name in self._needs(pair)), default=None)

    def _sides(self, pair: Pair) -> tuple[Site, Site]:
        return self.sites[pair[0], LEFT], self.sites[pair[1], RIGHT]

    def _needs(self, pair: Pair) -> set[str]:
        """What no other call may use at the same time: both hosts and all routers before them."""
        hosts = [host.name for site in self._sides(pair) for host in (site.host, *site.routers)]
        return set(hosts)

    def _call(self, pair: Pair, number: int) -> CallOutcome:
        sites = self._sides(pair)
        caller, callee = (self._peers[site.name] for site in (sites if number % 2 == 0 else sites[::-1]))
        with self._connecting:
            for site in sites:
                site.forget()
            before = [asked_for_ports(each) for each in (caller, callee)]
            _, outcome = connect(caller, callee)
        if outcome.seconds is None:
            hang_up(caller, callee)
            return outcome
        time.sleep(SETTLED)
        both = (caller, callee), (callee, caller)
        settled = tuple(path_settled(one, other) for one, other in both)
        later = settled
        if expected()[pair] != RELAY and "relay" in settled:
            later = paths_later(both)
        direct = time_to_direct(caller, callee, outcome.seconds)
        sent = tuple(sent_by(*sides, asked) for sides, asked in zip(both, before, strict=True))
        hang_up(caller, callee)
        problem = "the link was lost" if "" in settled + later else ""
        return CallOutcome(outcome.seconds, outcome.first, settled, problem, later, direct, sent)


def start_rendezvous(
    programs: Programs, network: KernelNetwork, options: Sequence[str] = ()
) -> tuple[JSONProcess, str]:
    """The rendezvous of a network, and its address."""
    rendezvous = programs.rendezvous(
        *("--host", SERVICE4, "--reflector-port", str(REFLECTOR_PORT)),
        *("--control", f"tcp:{CONTROL_PORT}"),  # both families
        *options,
        state="state-rendezvous",
        prefix=network.service.prefix,
    )
    return rendezvous, str(rendezvous.wait("listening", 60.0)["address"])


def start_peer(programs: Programs, site: Site, address: str, options: Sequence[str] = ()) -> JSONProcess:
    """
    A peer at a site, which accepts all calls.

    Peers on the left have batched sockets, those on the right portable ones, as on a kernel without
    UDP_SEGMENT: so each pair of NATs sees both kinds.
    """
    if site.sees6:
        address = address.replace(SERVICE4, f"[{SERVICE6}]")
    return programs.peer(
        site.name,
        *("--rendezvous", address, "--accept", "anyone", *options),
        state=f"state-{site.name}",
        prefix=[*site.host.prefix, *(system_call_filter.WITHOUT_SEGMENTATION if site.side == RIGHT else [])],
    )


def peer_id(process: JSONProcess) -> str:
    """The ID of a peer that is ready."""
    return str(process.events[0]["id"])


def connect(caller: JSONProcess, callee: JSONProcess) -> tuple[float, CallOutcome]:
    """Call, and wait for both sides; also when the call was made, by our clock."""
    here, there = peer_id(caller), peer_id(callee)
    for process in (caller, callee):
        process.settle()
    started = time.monotonic()
    caller.command("call", peer=there)
    calling = caller.wait("calling", CALL_TIMEOUT, lambda event: event["peer"] == there)
    ended = None
    try:
        ended = caller.wait(("connected", "failed"), CALL_TIMEOUT, lambda event: event.get("peer") == there)
        if ended["event"] == "failed":
            return started, CallOutcome(None, problem=f"{ended['reason']}: {ended['text']}")
        seconds = float(ended["time"] - calling["time"])
        other = callee.wait("connected", CALL_TIMEOUT, lambda event: event["peer"] == here)
    except ProcessFailed as problem:
        if caller.process.poll() is not None or callee.process.poll() is not None:
            raise
        return started, CallOutcome(None, problem=str(problem).partition("\n")[0])
    return started, CallOutcome(seconds, (ended["path"], other["path"]))


def hang_up(caller: JSONProcess, callee: JSONProcess) -> None:
    """End the link or the call between two peers, and wait until both sides know."""
    if not any(_linked_or_calling(one, other) for one, other in ((caller, callee), (callee, caller))):
        return
    caller.command("hangup", peer=peer_id(callee))
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        if not any(_linked_or_calling(one, other) for one, other in ((caller, callee), (callee, caller))):
            return
        time.sleep(0.02)


def _about(process: JSONProcess, other: JSONProcess) -> list[Event]:
    there = peer_id(other)
    return [event for event in process.settle() if event.get("peer") == there]


def _linked_or_calling(process: JSONProcess, other: JSONProcess) -> bool:
    """Whether a process has a link or a call to the other, by its own events."""
    last = [
        event["event"]
        for event in _about(process, other)
        if event["event"] in ("calling", "call", "checking", "connected", "disconnected", "failed", "refused")
    ]
    return bool(last) and last[-1] not in ("disconnected", "failed", "refused")


def path_now(process: JSONProcess, other: JSONProcess) -> str:
    """The path that a link has now, "" if there is no link."""
    path: Any = ""
    for event in _about(process, other):
        if event["event"] in ("connected", "path"):
            path = event["path"]
        elif event["event"] == "disconnected":
            path = ""
    return str(path)


def paths_later(both: Sequence[tuple[JSONProcess, JSONProcess]]) -> tuple[str, ...]:
    """The paths of both sides in the end: `CallOutcome.later`."""
    now = time.monotonic()
    deadline = now + LATER - SETTLED
    direct_at: float | None = None
    while True:
        paths = tuple(path_now(one, other) for one, other in both)
        if "relay" in paths:
            direct_at = None
        elif direct_at is None:
            direct_at = now
        if now >= deadline or (direct_at is not None and now >= direct_at + KEPT):
            return paths
        time.sleep(0.25)
        now = time.monotonic()


def asked_for_ports(process: JSONProcess, status: Event | None = None) -> SentBySide:
    """What a peer has sent to its router for ports, by protocol, since it was started."""
    said = (status or _status(process))["port_mapping_requests"]
    return {method: (sent["packets"], sent["bytes"]) for method, sent in said.items()}


def sent_by(process: JSONProcess, other: JSONProcess, before: SentBySide) -> SentBySide:
    """
    What one side of a link has sent for a direct path, by technique, and to its router, by protocol.

    :param before: what it had sent to its router before the call.
    """
    status = _status(process)
    links = [link for link in status["links"] if link["peer"] == peer_id(other)]
    found = {
        technique: (done["packets"], done["bytes"])
        for link in links
        for technique, done in link["techniques"].items()
    }
    for method, (packets, size) in asked_for_ports(process, status).items():
        old = before.get(method, (0, 0))
        if packets > old[0]:
            found[method] = packets - old[0], size - old[1]
    return found


def _status(process: JSONProcess) -> Event:
    process.command("status")
    return process.wait("result", 10.0, lambda event: event["command"] == "status")


def time_to_direct(caller: JSONProcess, callee: JSONProcess, seconds: float) -> float | None:
    """
    Seconds from the call until both sides had the direct paths that they have now, None if they don't.

    :param seconds: from the call until the link was connected.
    """
    # Each process has a clock of its own
    times = [_direct_after(one, other) for one, other in ((caller, callee), (callee, caller))]
    found = [time for time in times if time is not None]
    return seconds + max(found) if len(found) == len(times) else None


def _direct_after(process: JSONProcess, other: JSONProcess) -> float | None:
    """Seconds after which a link got the direct paths that it has had since then; None if it has none."""
    began, since = 0.0, None
    for event in _about(process, other):
        if event["event"] == "connected":
            began, since = event["time"], None
        if event["event"] in ("connected", "path"):
            since = None if event["path"] == "relay" else event["time"] if since is None else since
    return None if since is None else since - began


def gather(*sides: JSONProcess) -> list[Any]:
    """Have both sides of plain ICE gather candidates; the first one is controlling."""
    for number, side in enumerate(sides):
        side.command("gather", controlling=not number)
    return [side.wait("gathered", 30.0)["description"] for side in sides]


def connect_plainly(here: JSONProcess, there: JSONProcess, descriptions: Sequence[Any]) -> bool:
    """Whether both sides of plain ICE hear each other."""
    sides = here, there
    for side, other in zip(sides, descriptions[::-1], strict=True):
        side.command("connect", description=other)
    ended = [side.wait(("connected", "failed"), PLAIN_TIMEOUT + 20.0) for side in sides]
    return all(event["event"] == "connected" for event in ended)


def path_settled(process: JSONProcess, other: JSONProcess) -> str:
    """The path that a link had `SETTLED` seconds after it came up, "" if it was over then."""
    since, path = 0.0, ""
    for event in _about(process, other):
        if event["event"] == "connected":
            since, path = event["time"], event["path"]
        elif event["event"] == "path" and event["time"] <= since + SETTLED:
            path = event["path"]
        elif event["event"] == "disconnected" and event["time"] <= since + SETTLED:
            path = ""
    return path


def run_grid(
    directory: Path,
    pairs: Sequence[Pair],
    *,
    runs: int = 1,
    conditions: LinkConditions | None = None,
    options: Sequence[str] = (),
    tell: Callable[[Pair, int, CallOutcome], None] = lambda *_: None,
    plain: bool = False,
    tell_plain: Callable[[Pair, bool], None] = lambda *_: None,
) -> Results:
    """
    Build a network, run the pairs in it, and remove everything again.

    :param plain: run them also with plain ICE.
    """
    programs = Programs(directory)
    with KernelNetwork(conditions) as network:
        try:
            grid = Grid(programs, network, pairs, options)
            found = grid.run_plain_ice(tell_plain) if plain else {}
            results = grid.run(runs, tell)
            results.plain = found
            return results
        finally:
            programs.close()
