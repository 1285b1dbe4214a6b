"""
Attempts by prediction: each side sends to the ports that the other side's NAT allocates next.

    aims:   observe its own NAT, send TARGETS, await OPENED, observe again, send to what is open
    opens:  receive TARGETS, send to all targets while observing its own NAT, send OPENED

`punch.ice.punching.prediction` says which ports these are.
"""

from __future__ import annotations

from collections.abc import Sequence

from punch.ice.agent import Agent
from punch.ice.punching import prediction
from punch.ice.punching.opening_budget import OpeningBudget
from punch.ice.punching.prediction import LOW_TTLS, ROUTERS
from punch.ice.punching.techniques import Technique
from punch.net.udp.sockets import Reach
from punch.node.punching.attempt import REQUEST_SIZE, Attempt, may_send, wait_after
from punch.wire.address import Address
from punch.wire.peers.punching import Opened, Targets

OPEN_TIME = 8.0
"""Seconds that the side that opens waits for packets of the one that aims."""
GAP = 0.005
"""Seconds between two packets of an attempt. Other hosts take ports meanwhile, so it is short."""
ROUND_TIME = 0.1
"""
The packets of the side that aims are sent again after this many seconds, or one round-trip time of the link
if that is longer, if none was answered.
"""
REFLECTOR_REQUESTS = 2
"""How often the side that opens asks a reflector in one attempt."""


class Prediction:
    """
    Makes attempts by prediction.

    :param budget: what may be sent to predicted ports of the other side.
    """

    def __init__(self, budget: OpeningBudget) -> None:
        self._budget = budget
        # How many ports others have taken during our last attempt
        self._taken = 1
        self._opened = 0

    def wait_after(self, tries: int) -> float:
        """Return the least seconds from the beginning of an attempt to that of the next, after so many."""
        return wait_after(tries)

    def can_aim_at(self, host: str, now: float) -> float:
        """Return from when on the budget is enough for all packets of the side that aims."""
        return self._budget.may_begin_at(prediction.MAX_AIMS, host, now)

    def can_open(self, agent: Agent, local: str, targets: Targets, now: float) -> bool:
        """Whether we can send to all targets, and ask a reflector twice."""
        packets = len(targets.ports) + REFLECTOR_REQUESTS
        return bool(targets.ports) and may_send(self._budget, packets, agent, local, targets, now)

    async def aim(self, attempt: Attempt) -> bool:
        """
        Make an attempt, on the side that aims. Returns True: the wait for the next attempt is the same
        whether this one was made or refused.
        """
        await self._aim(attempt)
        return True

    async def _aim(self, attempt: Attempt) -> None:
        profile, transactions = attempt.ours, attempt.transactions
        if not attempt.may_aim_at(attempt.theirs.host):
            return
        base = attempt.open_socket()
        if base is None or (seen := await transactions.ask(base, attempt.reflector)) is None:
            return
        attempt.transport.openings.add(base, seen.mapped)
        ports = prediction.targets(profile, seen.mapped.port, self._taken)
        technique = Technique.PREDICTION.value
        opened = await attempt.ask_other_side(
            Targets(attempt.number, technique, seen.mapped.host, tuple(ports))
        )
        if opened is None:
            return
        newest = None
        if prediction.needs_second_observation(profile):
            again = transactions.bind(attempt.local)
            seen_again = None if again is None else await transactions.ask(again, attempt.reflector)
            if seen_again is None:
                return
            newest = seen_again.mapped.port
            attempt.network.nat_observer.add_ports(attempt.local, [seen.mapped.port, newest])
            steps = prediction.steps_between(profile, seen.mapped.port, newest)
            self._taken = max(1, (steps or 1) - 2)
        aims = prediction.aims(profile, ports, opened.ports, newest)
        for likeliest in prediction.rounds(aims):
            await self._send_to(attempt, base, opened.host, likeliest)
            await transactions.sleep(max(ROUND_TIME, attempt.rtt))
            if attempt.transport.openings.has_got_through({base}) or not attempt.relayed():
                break
        await attempt.await_path({base})

    async def open(self, attempt: Attempt, targets: Targets) -> bool:
        """Open our NAT for an attempt of the other side."""
        opened = await self._open_ports(attempt, targets)
        if opened is None:
            return False
        attempt.answer(opened)
        # We only wait from now on: attempts with other peers do no harm
        attempt.release()
        await attempt.transactions.sleep(OPEN_TIME)
        return True

    async def _open_ports(self, attempt: Attempt, targets: Targets) -> Opened | None:
        transactions, reflector = attempt.transactions, attempt.reflector
        base = attempt.open_socket()
        if base is None:
            return None
        attempt.transport.openings.add(base)
        for _ in range(REFLECTOR_REQUESTS):
            self._budget.charge(reflector, REQUEST_SIZE, transactions.now)
        # Without waiting for the answer: other hosts have little time to take ports in between
        asked = transactions.spawn(transactions.ask(base, reflector))
        turn, self._opened = self._opened % len(LOW_TTLS), self._opened + 1
        sent = await self._send_to(attempt, base, targets.host, targets.ports, _reach(turn))
        after = transactions.bind(attempt.local)
        seen_again = None if after is None else await transactions.ask(after, reflector)
        seen = await asked
        if seen is None:
            return None
        attempt.transport.openings.add(base, seen.mapped)
        last = None if seen_again is None else seen_again.mapped.port
        rows = prediction.opened(attempt.ours, seen.mapped.port, last, sent)
        return Opened(targets.attempt, seen.mapped.host, tuple(map(tuple, rows)))

    async def _send_to(
        self, attempt: Attempt, base: Address, host: str, ports: Sequence[int], reach: Reach | None = None
    ) -> int:
        """Send a check to these ports in order, as far as the limit allows; returns to how many."""
        for number, port in enumerate(ports):
            if not attempt.send(base, Address(host, port), self._budget, reach):
                return number
            await attempt.transactions.sleep(GAP)
        return len(ports)


def _reach(turn: int) -> Reach | None:
    """Return how far the packets of the side that opens come."""
    ttl = LOW_TTLS[turn]
    return None if ttl is None else Reach(ttl, ROUTERS[turn])
