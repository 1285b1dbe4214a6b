"""
How attempts by each technique are made, on the side that aims and on the side that opens: `Prediction`,
`SimultaneousOpen` and `Spraying`. For each, a module of `punch.ice.punching` says to which ports packets go,
how many, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from itertools import product

from punch.ice.agent import Agent
from punch.ice.limits import OpeningBudget
from punch.ice.punching import prediction, simultaneous_open, spraying
from punch.ice.punching.spraying import Guesses, Pace, PortRange
from punch.ice.punching.techniques import Technique, port_of_socket
from punch.net.udp.sockets import Reach
from punch.node.punching.attempt import ANSWER_TIME, REQUEST_SIZE, Attempt, may_send
from punch.node.punching.schedule import wait_after
from punch.wire.address import Address
from punch.wire.peers.link_frames import First, Opened, Targets

# -- prediction --

OPEN_TIME = 8.0
"""Seconds that the side that opens waits for packets of the one that aims."""
GAP = 0.005
"""Seconds between two packets of an attempt. Other hosts take ports meanwhile, so it is short."""
ROUND_TIME = 0.1
"""
The packets of the side that aims are sent again after this many seconds, or one round-trip time of the link
if that is longer, if none was answered.
"""
PREDICTION_REQUESTS = 2
"""How often the side that opens asks a reflector in one attempt."""


class Prediction:
    """
    Makes attempts by prediction: each side sends to the ports that the other side's NAT allocates next.

        aims:   observe its own NAT, send TARGETS, await OPENED, observe again, send to what is open
        opens:  receive TARGETS, send to all targets while observing its own NAT, send OPENED

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
        packets = len(targets.ports) + PREDICTION_REQUESTS
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
        for _ in range(PREDICTION_REQUESTS):
            self._budget.charge(reflector, REQUEST_SIZE, transactions.now)
        # Without waiting for the answer: other hosts have little time to take ports in between
        asked = transactions.spawn(transactions.ask(base, reflector))
        turn, self._opened = self._opened % len(prediction.LOW_TTLS), self._opened + 1
        sent = await self._send_to(attempt, base, targets.host, targets.ports, _reach_of_prediction(turn))
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


def _reach_of_prediction(turn: int) -> Reach | None:
    """Return how far the packets of the side that opens may get."""
    ttl = prediction.LOW_TTLS[turn]
    return None if ttl is None else Reach(ttl, prediction.ROUTERS[turn])


# -- simultaneous open --

SIMULTANEOUS_OPEN_REQUESTS = 1
"""How often the side that opens asks a reflector in one attempt."""


class SimultaneousOpen:
    """
    Makes attempts by simultaneous open: both sides first send a packet that opens only their own NAT.

        aims:   open a socket, send TARGETS with its port and who is first, await OPENED with the other port
        opens:  receive TARGETS, open a socket, send OPENED

    The side that is first sends its packet before it sends OPENED or BEGIN, and the other one sends checks
    when that has come. If both send first, BEGIN tells the other side to send at once.

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
        return self._budget.may_begin_at(simultaneous_open.MAX_PACKETS, host, now)

    def can_open(self, agent: Agent, local: str, targets: Targets, now: float) -> bool:
        """Whether we can send to the target, and ask a reflector."""
        one = len(targets.ports) == 1 and targets.first is not None
        packets = simultaneous_open.MAX_PACKETS + SIMULTANEOUS_OPEN_REQUESTS
        return one and may_send(self._budget, packets, agent, local, targets, now)

    async def aim(self, attempt: Attempt) -> bool:
        """
        Make an attempt, on the side that aims. Returns True: the wait for the next attempt is the same if
        this one was refused.
        """
        if not attempt.may_aim_at(attempt.theirs.host):
            return True
        turn, self._made = self._made % simultaneous_open.TURNS, self._made + 1
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
            attempt.send(base, remote, self._budget, _reach_of_simultaneous_open(turn))
            attempt.begin()
            # Meanwhile, the first checks of the other side arrive, unless they are lost
            await transactions.sleep(rtt + simultaneous_open.SPACE)
        elif first is First.BOTH:
            attempt.begin()
            await transactions.sleep(rtt / 2)
            attempt.send(base, remote, self._budget, _reach_of_simultaneous_open(turn))
            await transactions.sleep(max(simultaneous_open.SPACE, rtt))
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
            attempt.send(base, remote, self._budget, _reach_of_simultaneous_open(targets.turn))
        attempt.answer(Opened(targets.attempt, mapped.host, ((mapped.port,),)))
        # Attempts with other peers do no harm
        attempt.release()
        if first:
            await transactions.sleep(rtt + simultaneous_open.SPACE)
        elif not await transactions.within(attempt.begun, ANSWER_TIME):
            return True
        if targets.first is First.BOTH:
            attempt.send(base, remote, self._budget, _reach_of_simultaneous_open(targets.turn))
            await transactions.sleep(max(simultaneous_open.SPACE, rtt))
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
        for gap in simultaneous_open.CHECK_GAPS:
            if attempt.transport.openings.has_received_check({base}) or not attempt.relayed():
                break
            if not attempt.send(base, remote, self._budget):
                break
            await attempt.transactions.sleep(gap)
        await attempt.await_path({base}, max(simultaneous_open.WAIT, 3 * attempt.rtt))


def _reach_of_simultaneous_open(turn: int) -> Reach:
    """Return how far the first packet may get."""
    return Reach(simultaneous_open.LOW_TTLS[turn], simultaneous_open.ROUTERS[turn])


# -- spraying --

PROBE_TIME = 2 * spraying.MAX_PACKETS / spraying.RATE
"""Seconds that the side that opens waits for BEGIN: twice as long as the probes take."""


class Spraying:
    """
    Makes attempts by spraying: many sockets on the side with random ports, many guessed ports on the other.

        aims:   open two sockets, send TARGETS with their ports, await OPENED, probe random ports, send BEGIN
        opens:  receive TARGETS, send OPENED, send from many sockets to both targets, await BEGIN, send to the
                second target again

    On the side that aims, the first check that arrives ends all of this. On the side that opens, the first
    answer to a check does, or another path of the link.

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
        return self._budget.may_begin_at(spraying.MAX_PACKETS, host, now)

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
        seconds = opened.count / spraying.RATE + attempt.rtt
        await self._await_check(attempt, bases, seconds)
        await attempt.await_path(bases)
        return True

    async def _probe(self, attempt: Attempt, bases: Set[Address], opened: Opened) -> None:
        """Send to random ports from these sockets, until a check arrives."""
        pace = Pace(attempt.transactions.now)
        near = spraying.range_near(opened.near, attempt.proven_ports(opened.host))
        guesses = [(base, Guesses(attempt.random, near, opened.count)) for base in bases]
        for number in spraying.probes(opened.count):
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
        routers = spraying.ROUTERS[self._opened % len(spraying.ROUTERS)]
        self._opened += 1
        nearly = [(first, Reach(spraying.LOW_TTL)), (second, Reach(spraying.LOW_TTL, routers))]
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
        return spraying.sockets_for(self._descriptors(), self._held(), self._ports(local))

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
