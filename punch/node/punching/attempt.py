"""
One attempt at a direct path: what a technique may use to make it, on either side (`Attempt`), and the sockets
that it opens (`AttemptSockets`).

The coordinator (`Punching`) makes an `Attempt` when it is time for one, or when the other side asks for one,
and gives it to the technique of both NATs (`AttemptMaker`). The sockets belong to the link: one that has led
to a path outlives its attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from punch.ice.agent import Agent
from punch.ice.limits import OpeningBudget, SentPackets
from punch.ice.punching.techniques import Technique
from punch.ice.reach import may_pair
from punch.identity import RandomBytes
from punch.natcheck.transactions import Future, Transactions
from punch.net.udp.sockets import DatagramSocket, Reach
from punch.node.network.nat_profiles import TransactionSockets
from punch.node.network.network import Network
from punch.node.paths.ice_transport import IceTransport
from punch.wire.address import Address
from punch.wire.peers.link_frames import Opened, Targets
from punch.wire.peers.nat_profile import NatProfile

UNUSED_TIME = 15.0
"""
Seconds after which the socket of a path that the link has left is closed. If the path answers again before,
it is selected again; to find another one would take many packets.
"""
CHECK_GAP = 1.0
"""Seconds between two checks by which ICE sessions that are newer than such a path learn that it works."""
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
REQUEST_SIZE = 20
"""How many bytes a request to a reflector has: the header of RFC 8489, section 5."""


@dataclass(frozen=True)
class AttemptBasis:
    """
    The technique and the profiles by which an attempt is made. What is known about the NATs may change before
    a path is remembered.

    :ivar technique: its technique.
    :ivar ours: the profile of our NAT then; None if it is not known.
    :ivar theirs: the same of the other side.
    """

    technique: Technique
    ours: NatProfile | None
    theirs: NatProfile | None


class AttemptSockets:
    """
    Opens sockets from which attempts send, and closes all but the one of the selected pair, and that of the
    pair before for a while.

    :param sent: is told which sockets these are.
    :param received: called after the answer of a reflector.
    :param changed: called when the ICE sessions may have something to send or to tell, outside of a call.
    :ivar observing: the sockets and transactions of the attempt that is made now; None between attempts.
    """

    def __init__(
        self,
        network: Network,
        transport: IceTransport,
        sent: SentPackets,
        monotonic: Callable[[], float],
        received: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.observing: TransactionSockets | None = None
        self._network = network
        self._transport = transport
        self._sent = sent
        self._monotonic = monotonic
        self._received = received
        self._changed = changed
        self._basis: AttemptBasis | None = None
        self._bases: dict[Address, AttemptBasis | None] = {}
        # The local and remote address of the path that is, or was last, from one of these sockets
        self._path: tuple[Address, Address] | None = None
        self._left_at: float | None = None
        self._check_at = 0.0

    @property
    def selected(self) -> Address | None:
        """The remote address of the selected pair, if that is one of a socket of an attempt."""
        path = self._selected
        return None if path is None else path[1]

    @property
    def selected_basis(self) -> AttemptBasis | None:
        """The basis of the attempt that has found the selected pair, if one has."""
        path = self._selected
        return None if path is None else self.basis(path[0])

    def basis(self, base: Address) -> AttemptBasis | None:
        """Return the basis of the attempt that opened this socket; None if none did, or it is closed."""
        return self._bases.get(base)

    @property
    def left(self) -> Address | None:
        """The remote address of the path that the link has left, if its socket is still open."""
        return None if self._path is None or self._left_at is None else self._path[1]

    @property
    def _selected(self) -> tuple[Address, Address] | None:
        selected = self._transport.generations.selected
        own = selected is not None and selected.local_base in self._bases
        return (selected.local_base, selected.remote_address) if selected is not None and own else None

    def path_changed(self, now: float) -> None:
        """The link takes another path, or has one again."""
        self._note_path(now)
        if self.observing is None:
            self._close_unused()

    def network_changed(self) -> None:
        """We are behind another NAT: a path that the link has left won't return."""
        if self._left_at is not None:
            self._path = self._left_at = None

    def begin(self, basis: AttemptBasis) -> TransactionSockets:
        """Return the transactions of an attempt that begins."""
        self._basis = basis
        self.observing = self._network.nat_observer.open_sockets(
            self._received,
            lambda transmit: self._network.sockets.send([transmit.data], transmit.remote, transmit.local),
        )
        return self.observing

    def flush(self) -> None:
        """Send what is queued, so that what is sent at once is in order."""
        if self.observing is not None:
            self.observing.send()

    def end(self) -> None:
        """The attempt is over: close its sockets."""
        if self.observing is not None:
            self.observing.close()
            self.observing = None
            self.close_unused()

    def open(self, local: str) -> Address | None:
        """Open a socket at a local IP address; None if that is not possible."""
        base = self._network.sockets.open_extra(local, self._take)
        if base is not None:
            self._bases[base] = self._basis
            if self._basis is not None:
                self._sent.opened(base, self._basis.technique)
        return base

    def close_unused(self) -> None:
        """Close all sockets but that of the path in use, or of the last one for `UNUSED_TIME`."""
        self._note_path(self._monotonic())
        self._close_unused()

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        if self._left_at is None:
            return None
        return min(self._check_at, self._left_at + UNUSED_TIME)

    def handle_timer(self, now: float) -> None:
        """Check a path that the link has left, and close its socket if that was some time ago."""
        if self._path is None or self._left_at is None:
            return
        if now >= self._left_at + UNUSED_TIME:
            self._close(self._path[0])
            self._path = self._left_at = None
            self._changed()
        elif now >= self._check_at:
            self._check_at = now + CHECK_GAP
            self._transport.openings.check_path(*self._path, now)
            self._changed()

    def _note_path(self, now: float) -> None:
        path = self._selected
        if path is not None:
            self._path, self._left_at = path, None
        elif self._path is not None and self._left_at is None:
            self._left_at = self._check_at = now

    def _close_unused(self) -> None:
        hosts = {base.host for base in self._network.sockets.bases}
        if self._path is not None and self._left_at is not None and self._path[0].host not in hosts:
            self._path = self._left_at = None
        kept = None if self._path is None else self._path[0]
        for base in [base for base in self._bases if base != kept]:
            self._close(base)

    def _close(self, base: Address) -> None:
        del self._bases[base]
        self._sent.closed(base)
        self._transport.openings.remove(base)
        self._network.sockets.close_extra(base)

    def close(self) -> None:
        """Close all sockets: the link is over."""
        self.end()
        for base in self._bases:
            self._sent.closed(base)
            self._network.sockets.close_extra(base)
        self._bases.clear()
        self._path = self._left_at = None

    def _take(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        """Take what arrives at a socket of an attempt: answers of the reflector, and all else for calls."""
        sockets = self.observing
        if sockets is not None:
            others = [data for data in datagrams if not sockets.transactions.expects(data, socket.local)]
            if len(others) < len(datagrams):
                now = self._monotonic()
                for data in datagrams:
                    sockets.transactions.receive_datagram(data, remote, socket.local, now)
                self._received()
            datagrams = others
        if datagrams:
            self._network.router.receive_from_socket(datagrams, remote, socket)


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
    :ivar network: the network side of this node.
    :ivar transport: the ICE transport of the link.
    :ivar sockets: opens sockets for the attempts of the link.
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
        return self.transport.generations.current

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
