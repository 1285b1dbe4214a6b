"""
One attempt at a direct path: what a technique may use to make it, on either side.

The coordinator (`Punching`) makes an `Attempt` when it is time for one, or when the other side asks for one,
and gives it to the technique of both NATs (`AttemptMaker`).
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

from punch.ice.agent import Agent
from punch.ice.punching import spraying
from punch.ice.punching.opening_budget import OpeningBudget
from punch.ice.punching.techniques import Technique
from punch.ice.reach import may_pair
from punch.ice.target_limits import WINDOW
from punch.identity import RandomBytes
from punch.natcheck.transactions import Future, Transactions
from punch.net.udp.sockets import Reach
from punch.node.network.network import Network
from punch.node.paths.ice_transport import IceTransport
from punch.node.punching.sockets import AttemptSockets
from punch.wire.address import Address
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.peers.punching import Opened, Targets

ANSWER_TIME = 3.0
"""Seconds that the other side has to answer TARGETS."""
ARRIVAL_TIME = 1.0
"""Seconds that packets have to arrive, and the checks that follow them to be answered."""
REPEATS = 4
"""
If something has arrived, but the link does not take the new path yet, `ARRIVAL_TIME` is added so many times,
or one and a half round-trip times if that is longer.
"""
LONGEST_RTT = 2.0
"""
Round-trip times of a link count as so many seconds at most: the other side can make them longer, and an
attempt that waits keeps those with others from being made.
"""
MAX_HOSTS = 4
"""For how many IP addresses of the other side the attempts are counted separately."""
ROUND = 1.0
"""The least seconds from the beginning of one attempt of a few packets to that of the next…"""
QUICK = 4
"""…for the first few attempts; after that, it is `LATER` seconds, doubled each time."""
LATER = 15.0, 300.0
"""The wait after the quick attempts, and the longest one, in seconds."""
REQUEST_SIZE = 20
"""How many bytes a request to a reflector has: the header of RFC 8489, section 5."""


class Tries:
    """
    How many attempts were made on a link, and when the next one may be.

    Each technique is counted for itself, and so is each IP address of the other side. If the other side is at
    another address, attempts that failed before say nothing, but the waits at the address before are not
    shortened. A peer may have any number of addresses, so all beyond a few are counted together.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Technique, str], tuple[int, float]] = {}
        # How many there were when the last path was found
        self._found: dict[tuple[Technique, str], int] = {}

    def add(self, technique: Technique, host: str, now: float) -> int:
        """An attempt has begun at `now`; returns how many there were, of those that count."""
        key = self._key(technique, host)
        tries = self._made.get(key, (0, now))[0] + 1
        self._made[key] = tries, now
        return self._counted(key)

    def next_at(
        self, technique: Technique, host: str, wait_after: Callable[[int], float], part: float = 1.0
    ) -> float:
        """
        Return when the next attempt may begin.

        :param wait_after: returns the least seconds from the beginning of an attempt to that of the next.
        :param part: which part of this wait has to be over.
        """
        key = self._key(technique, host)
        made = self._made.get(key)
        return float("-inf") if made is None else made[1] + part * wait_after(self._counted(key))

    def found(self, technique: Technique, host: str) -> None:
        """The newest attempt has found the path that the link takes."""
        key = self._key(technique, host)
        if key in self._made:
            self._found[key] = self._made[key][0]

    def path_found(self, now: float) -> None:
        """There is a direct path: attempts that were made some time ago no longer count."""
        self._made = {key: made for key, made in self._made.items() if now < made[1] + WINDOW}
        self._found = {key: tries for key, tries in self._found.items() if key in self._made}

    def clear(self) -> None:
        """We are in another network: nothing counts any more."""
        self._made.clear()
        self._found.clear()

    def _counted(self, key: tuple[Technique, str]) -> int:
        tries = self._made[key][0]
        if key[0] is not Technique.SPRAYING:
            return tries
        return spraying.counted(tries, tries - self._found.get(key, 0))

    def _key(self, technique: Technique, host: str) -> tuple[Technique, str]:
        key = technique, host
        others = sum(each[0] is technique for each in self._made)
        return key if key in self._made or others < MAX_HOSTS else (technique, "")


@dataclass(frozen=True)
class Attempt:
    """
    One attempt.

    :ivar number: its number; it is greater than that of any attempt before on this link.
    :ivar local: the local IP address whose NAT `ours` describes.
    :ivar reflector: a reflector that can be asked from there.
    :ivar ours: what is known about our NAT.
    :ivar theirs: what the other side knows about its NAT.
    :ivar transactions: asks reflectors, waits, and sends.
    :ivar rtt: the round-trip time of the link, in seconds; `LONGEST_RTT` at most.
    :ivar random: draws random bytes.
    :ivar relayed: returns whether the link still takes a relayed path.
    :ivar propose: sends TARGETS; returns the answer, which may never come.
    :ivar answer: sends OPENED.
    :ivar begin: sends BEGIN.
    :ivar begun: the other side has sent BEGIN.
    :ivar sent: called with the local and the remote address and the size of a packet that was sent to the
        other side.
    :ivar release: lets this node make attempts with others: this one sends a few packets at most from now on.
    """

    number: int
    local: str
    reflector: Address
    ours: NatProfile
    theirs: NatProfile
    transactions: Transactions
    network: Network
    transport: IceTransport
    sockets: AttemptSockets
    rtt: float
    random: RandomBytes
    relayed: Callable[[], bool]
    propose: Callable[[Targets], Future[Opened]]
    answer: Callable[[Opened], None]
    begin: Callable[[], None]
    begun: Future[None]
    sent: Callable[[Address, Address, int], None]
    release: Callable[[], None]

    @property
    def agent(self) -> Agent:
        """The ICE agent in use."""
        return self.transport.generations.use

    def may_aim_at(self, host: str) -> bool:
        """Whether the other side has proved that it receives at this address."""
        return host in self.agent.openings.proven_hosts

    def proven_ports(self, host: str) -> set[int]:
        """Return the ports at this address at which the other side has proved to receive."""
        return {each.port for each in self.agent.openings.proven_addresses if each.host == host}

    def open_socket(self) -> Address | None:
        """Open a socket, and close those of earlier attempts that are not in use; None: impossible."""
        self.sockets.close_unused()
        return self.sockets.open(self.local)

    async def ask_other_side(self, targets: Targets) -> Opened | None:
        """
        Ask the other side to open for these ports of ours; returns what it has opened, or None if it refuses,
        or names an address at which it has not proved to receive.
        """
        answered = self.propose(targets)
        if not await self.transactions.within(answered, ANSWER_TIME):
            return None
        opened = answered.value
        return None if opened.refused or not self.may_aim_at(opened.host) else opened

    def send(self, base: Address, remote: Address, budget: OpeningBudget, reach: Reach | None = None) -> bool:
        """
        Send a check from a socket of this attempt; returns False if that is impossible, or too much.

        :param budget: counts it.
        :param reach: how far it may get; None: as far as usual.
        """
        opening, now = self.agent.openings.check(base, remote), self.transactions.now
        if opening is None or not budget.has(1, len(opening.data), remote, now):
            return False
        if reach is None:
            # In order with requests to reflectors
            self.transactions.send(opening)
        else:
            self.sockets.flush()
            if not self.network.sockets.send_limited(opening, reach):
                # It was not sent: it is lost, as it may be on the way, and does not count
                return True
        budget.charge(remote, len(opening.data), now)
        self.sent(base, remote, len(opening.data))
        return True

    async def await_path(self, bases: Set[Address], arrival: float = ARRIVAL_TIME) -> None:
        """
        Wait until packets have arrived at one of these sockets and the link has taken the new path, if it
        does. Meanwhile this node may make attempts with others, since the other side decides how long this
        takes.

        :param arrival: the least seconds that packets have to arrive; with long round trips they have one and
            a half of these.
        """
        self.release()
        round_trip = 1.5 * self.rtt
        await self.transactions.sleep(max(arrival, round_trip))
        if self.transport.openings.has_got_through(bases):
            # The NATs are open: whatever was lost is sent again
            for _ in range(REPEATS):
                if self.relayed():
                    await self.transactions.sleep(max(ARRIVAL_TIME, round_trip))


def wait_after(tries: int) -> float:
    """
    Return the least seconds from the beginning of an attempt of a few packets to that of the next, after so
    many.
    """
    if tries < QUICK:
        return ROUND
    return doubled(LATER, tries - QUICK)


def doubled(waits: tuple[float, float], times: int) -> float:
    """
    Return a wait that has been doubled so many times.

    :param waits: the first one and the longest one, in seconds.
    """
    return min(waits[0] * 2.0 ** min(times, 10), waits[1])


def may_send(
    budget: OpeningBudget, packets: int, agent: Agent, local: str, targets: Targets, now: float
) -> bool:
    """Whether so many checks may go from a local IP address to the first target, and the budget is enough."""
    remote = Address(targets.host, targets.ports[0])
    return may_pair(Address(local, 1), remote) and budget.has(packets, agent.openings.check_size, remote, now)


class AttemptMaker(Protocol):
    """How attempts by one technique are made, for one link."""

    def wait_after(self, tries: int) -> float:
        """Return the least seconds from the beginning of an attempt to that of the next, after so many."""

    def can_aim_at(self, host: str, now: float) -> float:
        """Return from when on the budget is enough to aim at this IP address in an attempt."""

    def can_open(self, agent: Agent, local: str, targets: Targets, now: float) -> bool:
        """Whether we can send to all targets from a local IP address, and the budget is enough for that."""

    async def aim(self, attempt: Attempt) -> bool:
        """Make an attempt, on the side that aims; returns False if it could not be made, or was refused."""

    async def open(self, attempt: Attempt, targets: Targets) -> bool:
        """Make an attempt that the other side asks for; returns False if it is to be refused."""
