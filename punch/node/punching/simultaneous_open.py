"""
Attempts by simultaneous open: both sides first send a packet that opens only their own NAT.

    aims:   open a socket, send TARGETS with its port and who is first, await OPENED with the other port
    opens:  receive TARGETS, open a socket, send OPENED

The side that is first sends its packet before it sends OPENED or BEGIN, and the other one sends checks when
that has come. If both send first, BEGIN tells the other side to send at once.
`punch.ice.punching.simultaneous_open` says who is first, and why.
"""

from __future__ import annotations

from punch.ice.agent import Agent
from punch.ice.punching import simultaneous_open
from punch.ice.punching.opening_budget import OpeningBudget
from punch.ice.punching.simultaneous_open import CHECK_GAPS, LOW_TTLS, MAX_PACKETS, ROUTERS, SPACE, TURNS
from punch.ice.punching.techniques import Technique, port_of_socket
from punch.net.udp.sockets import Reach
from punch.node.punching.attempt import ANSWER_TIME, REQUEST_SIZE, Attempt, may_send, wait_after
from punch.wire.address import Address
from punch.wire.peers.punching import First, Opened, Targets

REQUESTS = 1
"""How often the side that opens asks a reflector in one attempt."""


class SimultaneousOpen:
    """
    Makes attempts by simultaneous open.

    :param budget: what may be sent to ports that the other side names.
    """

    def __init__(self, budget: OpeningBudget) -> None:
        self._budget = budget
        self._made = 0

    def wait_after(self, tries: int) -> float:
        """Return the least seconds from the beginning of an attempt to that of the next, after so many."""
        return wait_after(tries)

    def can_aim_at(self, host: str, now: float) -> float:
        """Return from when on the budget is enough for all packets of the side that aims."""
        return self._budget.may_begin_at(MAX_PACKETS, host, now)

    def can_open(self, agent: Agent, local: str, targets: Targets, now: float) -> bool:
        """Whether we can send to the target, and ask a reflector."""
        one = len(targets.ports) == 1 and targets.first is not None
        return one and may_send(self._budget, MAX_PACKETS + REQUESTS, agent, local, targets, now)

    async def aim(self, attempt: Attempt) -> bool:
        """
        Make an attempt, on the side that aims. Returns True: the wait for the next attempt is the same if
        this one was refused.
        """
        if not attempt.may_aim_at(attempt.theirs.host):
            return True
        turn, self._made = self._made % TURNS, self._made + 1
        opened_socket = await self._open_socket(attempt)
        if opened_socket is None:
            return True
        base, mapped = opened_socket
        first = simultaneous_open.order_of(turn, attempt.rtt)
        opened = await attempt.ask_other_side(
            Targets(
                attempt.number, Technique.SIMULTANEOUS_OPEN.value, mapped.host, (mapped.port,), first, turn
            )
        )
        if opened is None or not opened.ports or not opened.ports[0]:
            return True
        remote = Address(opened.host, opened.ports[0][0])
        transactions, rtt = attempt.transactions, attempt.rtt
        if first is First.AIMS:
            attempt.send(base, remote, self._budget, _reach(turn))
            attempt.begin()
            # Theirs come first, or they were lost
            await transactions.sleep(rtt + SPACE)
        elif first is First.BOTH:
            attempt.begin()
            await transactions.sleep(rtt / 2)
            attempt.send(base, remote, self._budget, _reach(turn))
            await transactions.sleep(max(SPACE, rtt))
        await self._check(attempt, base, remote)
        return True

    async def open(self, attempt: Attempt, targets: Targets) -> bool:
        """Make an attempt that the other side asks for; returns False if it is to be refused."""
        opened_socket = await self._open_socket(attempt, charged=True)
        if opened_socket is None:
            return False
        base, mapped = opened_socket
        remote = Address(targets.host, targets.ports[0])
        transactions, rtt = attempt.transactions, attempt.rtt
        first = targets.first is First.OPENS
        if first:
            attempt.send(base, remote, self._budget, _reach(targets.turn))
        attempt.answer(Opened(targets.attempt, mapped.host, ((mapped.port,),)))
        # Attempts with other peers do no harm
        attempt.release()
        if first:
            await transactions.sleep(rtt + SPACE)
        elif not await transactions.within(attempt.begun, ANSWER_TIME):
            return True
        if targets.first is First.BOTH:
            attempt.send(base, remote, self._budget, _reach(targets.turn))
            await transactions.sleep(max(SPACE, rtt))
        await self._check(attempt, base, remote)
        return True

    async def _open_socket(
        self, attempt: Attempt, *, charged: bool = False
    ) -> tuple[Address, Address] | None:
        """
        Open a socket; returns its local address and the public one, or None if that is not possible.

        :param charged: whether a request to a reflector counts in the budget, because the other side causes
            it.
        """
        base = attempt.open_socket()
        if base is None:
            return None
        port, host = port_of_socket(attempt.ours, base.port, None), attempt.ours.host
        if port is None:
            if charged:
                self._budget.charge(attempt.reflector, REQUEST_SIZE, attempt.transactions.now)
            seen = await attempt.transactions.ask(base, attempt.reflector)
            if seen is None:
                return None
            port, host = seen.mapped.port, seen.mapped.host
        mapped = Address(host, port)
        attempt.transport.openings.add(base, mapped)
        return base, mapped

    async def _check(self, attempt: Attempt, base: Address, remote: Address) -> None:
        """Send checks until one has arrived, and wait for the path."""
        for gap in CHECK_GAPS:
            if attempt.transport.openings.has_received_check({base}) or not attempt.relayed():
                break
            if not attempt.send(base, remote, self._budget):
                break
            await attempt.transactions.sleep(gap)
        await attempt.await_path({base}, max(simultaneous_open.WAIT, 3 * attempt.rtt))


def _reach(turn: int) -> Reach:
    """Return how far the first packet comes."""
    return Reach(LOW_TTLS[turn], ROUTERS[turn])
