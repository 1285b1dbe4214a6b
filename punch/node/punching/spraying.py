"""
Attempts by spraying: many sockets on the side with random ports, many guessed ports on the other one.

    aims:   open two sockets, send TARGETS with their ports, await OPENED, probe random ports, send BEGIN
    opens:  receive TARGETS, send OPENED, send from many sockets to both targets, await BEGIN, send to the
            second target again

`punch.ice.punching.spraying` says how many, and why. On the side that aims, the first check that arrives ends
all of this. On the side that opens, the first answer to a check does, or another path of the link.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from itertools import product

from punch.ice.agent import Agent
from punch.ice.punching import spraying
from punch.ice.punching.opening_budget import OpeningBudget
from punch.ice.punching.spraying import (
    LOW_TTL,
    MAX_PACKETS,
    RATE,
    ROUTERS,
    Guesses,
    Pace,
    PortRange,
    probes,
    range_near,
    sockets_for,
)
from punch.ice.punching.techniques import Technique, port_of_socket
from punch.net.udp.sockets import Reach
from punch.node.punching.attempt import Attempt, may_send
from punch.wire.address import Address
from punch.wire.peers.punching import Opened, Targets

PROBE_TIME = 2 * MAX_PACKETS / RATE
"""Seconds that the side that opens waits for BEGIN: twice as long as the probes take."""


class Spraying:
    """
    Makes attempts by spraying.

    :param budget: what may be sent for it.
    :param descriptors: returns how many more sockets this process may open.
    :param held: returns how many sockets the attempts of this node hold, with all peers.
    :param ports: returns between which external ports a local IP address was seen; None if that is not known.
    """

    def __init__(
        self,
        budget: OpeningBudget,
        descriptors: Callable[[], int],
        held: Callable[[], int],
        ports: Callable[[str], PortRange | None],
    ) -> None:
        self._budget = budget
        self._descriptors = descriptors
        self._held = held
        self._ports = ports
        self._opened = 0

    def wait_after(self, tries: int) -> float:
        """Return the least seconds from the beginning of an attempt to that of the next, after so many."""
        return spraying.wait_after(tries)

    def can_aim_at(self, host: str, now: float) -> float:
        """Return from when on the budget is enough for all probes of an attempt."""
        return self._budget.may_begin_at(MAX_PACKETS, host, now)

    def can_open(self, agent: Agent, local: str, targets: Targets, now: float) -> bool:
        """Whether we can send to the targets from enough sockets."""
        if len(targets.ports) != spraying.TARGETS:
            return False
        sockets = self._sockets_at(local)
        packets = sockets * spraying.OPENED
        return bool(sockets) and may_send(self._budget, packets, agent, local, targets, now)

    async def aim(self, attempt: Attempt) -> bool:
        """Make an attempt, on the side that aims; returns False if it could not be made, or was refused."""
        if not attempt.may_aim_at(attempt.theirs.host):
            return False
        attempt.sockets.close_unused()
        ports: dict[Address, int] = {}
        host = attempt.ours.host
        for _ in range(spraying.TARGETS):
            base = attempt.sockets.open(attempt.local)
            if base is None:
                return False
            port = port_of_socket(attempt.ours, base.port, None)
            if port is None:
                seen = await attempt.transactions.ask(base, attempt.reflector)
                if seen is None:
                    return False
                port, host = seen.mapped.port, seen.mapped.host
            attempt.transport.openings.add(base, Address(host, port))
            ports[base] = port
        opened = await attempt.ask_other_side(
            Targets(attempt.number, Technique.SPRAYING.value, host, tuple(ports.values()))
        )
        if opened is None or opened.count < spraying.MIN_SOCKETS:
            return False
        bases = ports.keys()
        await self._probe(attempt, bases, opened)
        attempt.begin()
        attempt.release()
        seconds = opened.count / RATE + attempt.rtt
        await self._await_check(attempt, bases, seconds)
        await attempt.await_path(bases)
        return True

    async def _probe(self, attempt: Attempt, bases: Set[Address], opened: Opened) -> None:
        """Send to random ports from these sockets, until a check arrives."""
        pace = Pace(attempt.transactions.now)
        near = range_near(opened.near, attempt.proven_ports(opened.host))
        guesses = [(base, Guesses(attempt.random, near, opened.count)) for base in bases]
        for number in probes(opened.count):
            base, guessed = guesses[number]
            if self._is_over(attempt, bases):
                return
            if not attempt.send(base, Address(opened.host, guessed.take()), self._budget):
                return
            await attempt.transactions.sleep(pace.wait(attempt.transactions.now))

    async def open(self, attempt: Attempt, targets: Targets) -> bool:
        """Open many ports for an attempt of the other side; returns False if it is to be refused."""
        attempt.sockets.close_unused()
        wanted = self._sockets_at(attempt.local)
        opened: dict[Address, None] = {}
        while len(opened) < wanted and (base := attempt.sockets.open(attempt.local)) is not None:
            attempt.transport.openings.add(base)
            opened[base] = None
        bases = opened.keys()
        if len(bases) < spraying.MIN_SOCKETS:
            return False
        near = self._ports(attempt.local)
        attempt.answer(Opened(targets.attempt, attempt.ours.host, (), len(bases), near))
        first, second = (Address(targets.host, port) for port in targets.ports)
        routers = ROUTERS[self._opened % len(ROUTERS)]
        self._opened += 1
        nearly = [(first, Reach(LOW_TTL)), (second, Reach(LOW_TTL, routers))]
        deadline = attempt.transactions.now + PROBE_TIME
        await self._open_all(attempt, bases, nearly)
        while not attempt.begun.done and not self._is_open(attempt, bases):
            if attempt.transactions.now >= deadline:
                return True
            await attempt.transactions.within(attempt.begun, 0.1)
        await self._open_all(attempt, bases, [(second, None)])
        await attempt.await_path(bases)
        return True

    def _sockets_at(self, local: str) -> int:
        """Return how many sockets to open at a local IP address; 0: too few."""
        return sockets_for(self._descriptors(), self._held(), self._ports(local))

    async def _open_all(
        self, attempt: Attempt, bases: Set[Address], remotes: Sequence[tuple[Address, Reach | None]]
    ) -> None:
        """Send from all of these sockets to these addresses, until one of them is known to be open."""
        pace = Pace(attempt.transactions.now)
        for (remote, reach), base in product(remotes, bases):
            if self._is_open(attempt, bases) or not attempt.send(base, remote, self._budget, reach):
                return
            await attempt.transactions.sleep(pace.wait(attempt.transactions.now))

    async def _await_check(self, attempt: Attempt, bases: Set[Address], seconds: float) -> None:
        until = attempt.transactions.now + seconds
        while attempt.transactions.now < until and not self._is_over(attempt, bases):
            await attempt.transactions.sleep(0.1)

    def _is_over(self, attempt: Attempt, bases: Set[Address]) -> bool:
        """Whether a check has arrived, or the link has another path."""
        return not attempt.relayed() or attempt.transport.openings.has_received_check(bases)

    def _is_open(self, attempt: Attempt, bases: Set[Address]) -> bool:
        """
        Whether a check of ours was answered, or the link has another path. If our NAT does not filter by
        port, a check may arrive at a port that is open for the other target. That ends nothing: the answer
        leaves from another port, which the other side does not let in.
        """
        return not attempt.relayed() or attempt.transport.openings.was_answered(bases)
