"""
Limits on what one peer can make us send to addresses that have not answered.

Connectivity checks are sent before anybody at the remote address has agreed, so a peer could signal a
stranger's addresses as its candidates. Every packet to an address that has not answered a check of ours
counts here: checks, answers to checks that seem to come from there, and what is sent there through relays. A
packet counts for `WINDOW` seconds, over all calls and ICE restarts with that peer. When an address answers,
the packets that were sent to it no longer count.

A relay sees the checks that it passes on. So if it works together with a peer that we accepted, it can answer
them in the name of any address. So an answer that came through a relay validates only the route through this
relay (`Route`). An answer to one of our own sockets validates all routes to the address.

What goes through a relay of ours to another port of the same relay has a separate limit, for a minute: such
a packet goes to the relay, which has answered us, and leaves it only if its client has permitted that. So two
peers that use the same relay find this route even if one of them restarts often, with a new port there each
time, and even if the other limits are used up. A relay's ports are those at the IP address where it says that
it relays, which may be an IPv4 address although we reach it over IPv6. Ports below 1024 belong to other
services of that host (relayed ports begin at 49152, RFC 8656, section 7.2). Packets to ports of a relay that
leave our own sockets, or go through another relay, count like packets to any other address.

There are also limits for all peers together (`punch.ice.limits`), since a peer that has used up its own may
come back under another identity.

An honest peer needs few packets, because its addresses of at least one kind answer. Where many packets are
lost, these few must suffice. So the limit is divided:

- a part is reserved for checks and answers that an authenticated check triggers;
- a part is for later checks, so that two peers without a path find one as soon as there is one;
- no address gets the whole limit;
- direct and relayed addresses have separate parts;
- checks of a direct address through our relays, or from an address of ours that probably can't reach it, are
  counted apart from its other checks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple
from weakref import WeakValueDictionary

from punch.ice.limits import (
    HEADERS,
    IP_HEADERS,
    KEPT_FOR_FAMILIAR,
    KEPT_FOR_HEARD,
    MAX_SPRAYED,
    MAX_SPRAYED_BYTES,
    SEGMENT_SIZE,
    SYN_SIZE,
    UDP_HEADER,
    WINDOW,
    EarlyBudget,
    NodeLimits,
    OpeningBudget,
    SentPackets,
)
from punch.identity import PeerID
from punch.wire.address import FIRST_PORT, Address

MAX_PACKETS = 20
"""How many packets may be sent in `WINDOW`."""
MAX_BYTES = 3000
"""How many bytes they may have, with IP and UDP headers."""
RELAY_WINDOW = 60.0
"""
Seconds for which a packet counts that goes through a relay to the same relay. Such packets are counted apart,
and also limited by `MAX_PACKETS` and `MAX_BYTES`.
"""
MAX_DIRECT = 8
"""How many checks may go to direct candidates from which no authenticated check has come."""
MAX_UNLIKELY = 3
"""How many of these may go to candidates that are probably unreachable."""
MAX_RELAYED = 7
"""How many checks may go to relayed candidates, which work wherever both sides reach a relay."""
MAX_DIRECT_TO_ONE = 4
"""How many of the checks of direct candidates may go to one address from our own sockets."""
MAX_DIRECT_THROUGH_RELAYS = 2
"""How many packets of each kind may go to one direct address through our relays."""
MAX_RELAYED_TO_ONE = 3
"""
How many of the checks of relayed candidates may go to one address from our own sockets. As many more may go
there through our relays: if one of these routes is blocked, the checks on it do not use up those on the
other.
"""
MAX_PROOFS_TO_ONE = 2
"""
How many further checks may go to one relayed candidate from our own sockets, to prove where we receive
(`punch.ice.checks.CallBudget.prove`).
"""
PROOF_GAP = 4.0
"""
The least seconds between two of these: the request by which the peer has its relay let them in may be lost.
"""
MAX_PROOFS = 4
"""How many of these may be sent to all relayed candidates together."""
MAX_TRIGGERED_TO_ONE = 4
"""
How many triggered checks may go to one address from our own sockets. As many answers may go there, and as
many packets of each kind to one port of a relay through the same relay.
"""
MAX_SPACED = 2
"""How many further triggered checks may go to one address, each `SPACED_GAP` after the one before."""
SPACED_GAP = 1.0
"""Seconds between two of these."""
MAX_TRIGGERED_THROUGH_RELAY = 2
"""
How many checks may go from our own sockets to one address because an authenticated check came from there
through our relay. They count as triggered checks. They are needed where a router has mapped the peer's port
only after the checks of direct candidates were used up.
"""
MAX_CONNECTS = 5
"""
How many SYNs of TCP connections may be sent in `WINDOW` (`Budget.allows_connect`), and how many checks on
these connections (`Budget.allows_first_check`).
"""
RESERVED = 5
"""
How many of `MAX_PACKETS` are reserved for relayed candidates, and for answers and triggered checks through
our relays, by which the two sides prove at which addresses they receive.
"""
RESERVED_FOR_RELAYED = 2
"""
How many of the `RESERVED` packets are for relayed candidates alone. If proofs used up all of them, two peers
could not even use a relay.
"""
MAX_ROUNDS = 4
"""How many rounds of further checks may be sent after one of these limits was reached."""
LATER_GAP = 15.0
"""Seconds before the first of these rounds. The wait doubles with each of them."""
ROUND = 2.5
"""Seconds that a round lasts: a check that is repeated every two seconds comes once in this time."""
MAX_IN_ROUND = 2
"""
How many checks a round has, each to another address. Both sides have to check the same address at about the
same time, and each may have one over IPv4 and one over IPv6.
"""
MAX_ANSWERED = 64
"""How many addresses of one peer are remembered as having answered."""
MAX_PEERS = 256
"""For how many peers a budget is kept, including those of current calls and links."""


class Route(NamedTuple):
    """Where packets go, and through which relay."""

    remote: Address
    relayed: Address | None = None
    """The relayed address that they are sent from; None: one of our own sockets, whichever."""

    def validates(self, other: Route) -> bool:
        """Whether a check that was sent on this route and answered validates the other route."""
        return self == other or (self.relayed is None and self.remote == other.remote)


class PacketKind(Enum):
    """Why a packet is sent."""

    UNLIKELY = "unlikely"
    """A check of an address that is probably unreachable, and from which no check has come."""
    DIRECT = "direct"
    """A check of another direct address from which no check has come."""
    RELAYED = "relayed"
    """A check of a relayed candidate from an address of our own."""
    PROOF = "proof"
    """A further such check on a link that works over a relay: it shows the peer where we receive."""
    RELAYED_TWICE = "relayed twice"
    """A check of a relayed candidate through our relay."""
    ANSWER = "answer"
    """An answer to a check that came from there."""
    TRIGGERED = "triggered"
    """A triggered check. When it is answered, later packets do not count."""
    CONNECT = "connect"
    """The SYN of a TCP connection."""
    FIRST_CHECK = "first check"
    """A check on a TCP connection that we have made. An accepted connection does not validate an address."""


_RELAYED = (PacketKind.RELAYED, PacketKind.RELAYED_TWICE)
_SHARES = {PacketKind.ANSWER: MAX_PACKETS - 1, PacketKind.TRIGGERED: MAX_PACKETS}
"""
How many packets of all kinds may have been sent before one of this kind. Other checks have limits of their
own.
"""


_LATER = (*_RELAYED, PacketKind.DIRECT, PacketKind.TRIGGERED)
"""The kinds of which further packets may be sent in `MAX_ROUNDS` rounds."""


class _Counted(NamedTuple):
    time: float
    route: Route
    size: int
    kind: PacketKind
    later: bool
    relayed: bool
    """Whether it goes to a relayed candidate, and may use all of the `RESERVED` packets."""
    proof: bool
    """Whether it is a proof, and may use the `RESERVED` packets that are not `RESERVED_FOR_RELAYED`."""


class Budget:
    """
    The budget of one peer, over all calls and ICE restarts with it.

    :param limits: what all peers together can make us send; None: there are no other peers.
    :ivar openings: what may be sent to ports that the peer names for attempts.
    :ivar early: what may be sent of handshakes before a check was answered.
    :ivar sprays: what may be sent for spraying.
    :ivar sent: what was sent to addresses that had not answered, by technique.
    """

    def __init__(self, limits: NodeLimits | None = None) -> None:
        limits = limits or NodeLimits()
        self.openings = OpeningBudget(limits=limits.openings)
        self.early = EarlyBudget()
        self.sprays = OpeningBudget(MAX_SPRAYED, MAX_SPRAYED_BYTES, limits.sprays)
        self.sent = SentPackets()
        self._checks = limits.checks
        self._counted: deque[_Counted] = deque()
        self._within_relays: deque[_Counted] = deque()
        self._answered: dict[Route, float] = {}
        # Those of `_answered` that lead to the host of a relay, not of the peer
        self._to_relays: set[Route] = set()

    def use(self, limits: NodeLimits) -> None:
        """
        Count what is sent from now on in these limits, because the peer has become a contact or is no longer
        one.
        """
        self._checks = limits.checks
        self.openings.use(limits.openings)
        self.sprays.use(limits.sprays)

    def allows(
        self,
        route: Route,
        size: int,
        kind: PacketKind,
        now: float,
        *,
        relayed: bool = False,
        opening: bool = False,
        familiar: bool = False,
    ) -> bool:
        """
        Whether a datagram of `size` bytes may be sent on this route now. If so, it is counted as sent.

        :param relayed: the address is a relayed candidate of the peer.
        :param opening: it is sent from a socket of an attempt.
        :param familiar: the peer answered at this host on an earlier direct path.
        """
        self._forget(now)
        if self.is_validated(route, now):
            return True
        address = route.remote
        if opening and any(answered.remote.host == address.host for answered in self._answered):
            return self.openings.allows(address, size, now)
        size += HEADERS[address.is_ipv6]
        within_relay = route.relayed is not None and route.relayed.host == address.host
        sent = self._within_relays if within_relay and address.port >= FIRST_PORT else self._counted
        if sum(each.size for each in sent) + size > MAX_BYTES:
            return False
        if sent is self._within_relays:
            alike = sum(each.route.remote == address and each.kind is kind for each in sent)
            if len(sent) >= MAX_PACKETS or alike >= MAX_TRIGGERED_TO_ONE:
                return False
            sent.append(_Counted(now, route, size, kind, False, True, False))
            return True
        relayed = relayed or kind in _RELAYED
        proof = kind is PacketKind.PROOF or (kind in _SHARES and route.relayed is not None and not relayed)
        later = not self._allows_first(route, kind, now, relayed)
        if later and not (kind in _LATER and self._allows_later(address, now)):
            return False
        kept = 0 if relayed else self._kept
        if proof:
            kept = self._kept_for_relayed
        elif not relayed and (later or kind in _SHARES) and self._may_use_reserved(later):
            kept = self._kept_for_relayed + later
        if len(sent) + kept >= MAX_PACKETS:
            return False
        return self._count(_Counted(now, route, size, kind, later, relayed and not proof, proof), familiar)

    def allows_connect(self, remote: Address, now: float) -> bool:
        """
        Whether the SYN of a TCP connection may be sent now. If so, it is counted: among all packets to
        addresses that have not answered, or with `openings` if the peer has answered us directly at this IP
        address, and not through a relay there.
        """
        self._forget(now)
        return self._allows_tcp(remote, SYN_SIZE, PacketKind.CONNECT, now, self._kept)

    def allows_first_check(self, remote: Address, size: int, now: float) -> bool:
        """
        Whether a check of `size` bytes may be sent now on a TCP connection that we have made. If so, it is
        counted like the SYN, unless a check to this address was answered. It may use the part of the limit
        that is reserved for relayed candidates; otherwise the SYN could have been in vain.
        """
        self._forget(now)
        if self.is_validated(Route(remote), now):
            return True
        return self._allows_tcp(remote, SEGMENT_SIZE + size, PacketKind.FIRST_CHECK, now, 0)

    def _allows_tcp(self, remote: Address, size: int, kind: PacketKind, now: float, kept: int) -> bool:
        """
        Whether a TCP segment may be sent now. If so, it is counted.

        :param size: its bytes, without the IP header.
        :param kept: how many packets are reserved for others.
        """
        direct = (each for each in self._answered if each.relayed is None and each not in self._to_relays)
        if any(each.remote.host == remote.host for each in direct):
            return self.openings.allows(remote, size - UDP_HEADER, now)
        size += IP_HEADERS[remote.is_ipv6]
        alike = sum(each.kind is kind for each in self._counted)
        total = size + sum(each.size for each in self._counted)
        full = len(self._counted) + kept >= MAX_PACKETS or total > MAX_BYTES
        if full or alike >= MAX_CONNECTS:
            return False
        return self._count(_Counted(now, Route(remote), size, kind, False, False, False))

    @property
    def _kept(self) -> int:
        """How many packets are kept for relayed candidates and proofs."""
        used = sum(each.relayed or each.proof for each in self._counted)
        return max(RESERVED - used, self._kept_for_relayed)

    @property
    def _kept_for_relayed(self) -> int:
        """How many packets are kept for relayed candidates alone."""
        return max(0, RESERVED_FOR_RELAYED - sum(each.relayed for each in self._counted))

    def _may_use_reserved(self, later: bool) -> bool:
        """
        Whether a packet for a direct path may use the `RESERVED` packets that are not `RESERVED_FOR_RELAYED`.
        It may once a check through a relay was answered and further checks have begun, since the proofs for
        which they were kept have been sent by then. Further checks leave one packet for an answer.

        :param later: whether it is one of the further checks.
        """
        if not later and not any(each.later for each in self._counted):
            return False
        return any(each.relayed is not None or each in self._to_relays for each in self._answered)

    def _count(self, sent: _Counted, familiar: bool = False) -> bool:
        """Count a packet, unless all peers together have had us send too many to this host."""
        host = sent.route.remote.host
        kept = 0 if familiar else KEPT_FOR_FAMILIAR
        if not familiar and (sent.kind not in _SHARES or sent.route.relayed is not None):
            kept += KEPT_FOR_HEARD
        if not self._checks.has(1, host, sent.time, kept):
            return False
        self._checks.charge(host, sent.time)
        self._counted.append(sent)
        return True

    def answered(self, route: Route, now: float, *, to_relay: bool = False) -> None:
        """
        A check on this route was answered: forget what was sent on the routes that this validates.

        :param to_relay: whether the route leads to the host of a relay, of which only one port is the peer's.
        """
        if route.relayed is None:
            self.early.answered(route.remote)
        self._answered.pop(route, None)
        self._answered[route] = now
        if to_relay:
            self._to_relays.add(route)
        if len(self._answered) > MAX_ANSWERED:
            self._forget_oldest()
        self._drop(self._counted, route.remote.host, route.validates)
        self._drop(self._within_relays, None, route.validates)

    def path_found(self, host: str) -> None:
        """
        A technique has found a direct path to a port of this IP address. What was sent in vain to its other
        ports no longer counts; otherwise two peers that need techniques could call each other only a few
        times. What was sent to other addresses still counts, since nothing says that the peer is there.
        """
        self._drop(self._counted, host, lambda route: route.remote.host == host)
        self.openings.path_found(host)
        self.sprays.path_found(host)

    def _drop(self, sent: deque[_Counted], host: str | None, drops: Callable[[Route], bool]) -> None:
        """
        Forget the packets that were sent on some routes.

        :param host: where they were counted for all peers.
        """
        kept = [each for each in sent if not drops(each.route)]
        if len(kept) < len(sent):
            if host is not None:
                self._checks.give_back(len(sent) - len(kept), host)
            sent.clear()
            sent.extend(kept)

    def is_validated(self, route: Route, now: float) -> bool:
        """Whether a check was answered that validates this route, so that everything may be sent on it."""
        newest = max(self._answered.get(each, -WINDOW) for each in (route, Route(route.remote)))
        return now < newest + WINDOW

    def is_idle(self, now: float) -> bool:
        """Whether nothing counts any more."""
        self._forget(now)
        counted = self._counted or self._within_relays or self._answered
        spare = (self.openings, self.sprays, self.early)
        return not counted and all(each.is_idle(now) for each in spare)

    def _allows_first(self, route: Route, kind: PacketKind, now: float, relayed: bool) -> bool:
        """Whether a packet is within the limits of its kind, and of its kind at its address."""
        sent = [each for each in self._counted if not each.later]
        kinds = [each.kind for each in sent]
        times = [each.time for each in sent if each.kind is kind and _share_limits(each.route, route)]
        through_relay = route.relayed is not None and not relayed
        if kind in _RELAYED:
            return len(times) < MAX_RELAYED_TO_ONE and sum(map(kinds.count, _RELAYED)) < MAX_RELAYED
        if kind in _SHARES:
            limit = MAX_DIRECT_THROUGH_RELAYS if through_relay else MAX_TRIGGERED_TO_ONE
            if kind is PacketKind.TRIGGERED and times and now >= times[-1] + SPACED_GAP:
                limit += MAX_SPACED
            return len(times) < limit and len(self._counted) < _SHARES[kind]
        if kind is PacketKind.PROOF:
            spaced = not times or now >= times[-1] + PROOF_GAP
            return spaced and len(times) < MAX_PROOFS_TO_ONE and kinds.count(kind) < MAX_PROOFS
        if kind is PacketKind.UNLIKELY and kinds.count(kind) >= MAX_UNLIKELY:
            return False
        checks = kinds.count(PacketKind.DIRECT) + kinds.count(PacketKind.UNLIKELY)
        most = MAX_DIRECT_THROUGH_RELAYS if through_relay else MAX_DIRECT_TO_ONE
        return len(times) < most and checks < MAX_DIRECT

    def _allows_later(self, address: Address, now: float) -> bool:
        """Whether a further check may go to this address: in the present round, or in a new one."""
        rounds: list[list[_Counted]] = []
        for each in self._counted:
            if each.later and (not rounds or each.time >= rounds[-1][0].time + ROUND):
                rounds.append([each])
            elif each.later:
                rounds[-1].append(each)
        if rounds and now < rounds[-1][0].time + ROUND:
            others = [each.route.remote for each in rounds[-1]]
            return len(others) < MAX_IN_ROUND and address not in others
        newest = max((each.time for each in self._counted if each.kind in _LATER), default=-WINDOW)
        return len(rounds) < MAX_ROUNDS and now >= newest + LATER_GAP * 2 ** len(rounds)

    def _forget(self, now: float) -> None:
        for sent, window in ((self._counted, WINDOW), (self._within_relays, RELAY_WINDOW)):
            while sent and now >= sent[0].time + window:
                sent.popleft()
        while self._answered:
            oldest = next(iter(self._answered))
            if now < self._answered[oldest] + WINDOW:
                break
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._answered))
        del self._answered[oldest]
        self._to_relays.discard(oldest)


def _share_limits(one: Route, other: Route) -> bool:
    """Whether packets on these routes count together: both to one address, both through relays or neither."""
    return one.remote == other.remote and (one.relayed is None) == (other.relayed is None)


class Budgets:
    """
    The budgets of all peers that have used something in the last ten minutes.

    :param is_contact: returns whether the user has called or accepted a peer.
    """

    def __init__(self, is_contact: Callable[[PeerID], bool] = lambda peer: False) -> None:
        self._is_contact = is_contact
        self._budgets: dict[PeerID, Budget] = {}
        # Also those that were dropped from the table and are still used: all ICE sessions of a link share one
        self._in_use: WeakValueDictionary[PeerID, Budget] = WeakValueDictionary()
        self._limits = NodeLimits()
        self._limits_for_contacts = NodeLimits.for_contacts()

    def of(self, peer: PeerID, now: float) -> Budget:
        """Return the budget of a peer; made if there is none."""
        budget = self._budgets.pop(peer, None) or self._in_use.get(peer) or Budget(self._limits)
        budget.use(self._limits_for_contacts if self._is_contact(peer) else self._limits)
        if len(self._budgets) >= MAX_PEERS:
            idle = (other for other, budget in self._budgets.items() if budget.is_idle(now))
            del self._budgets[next(idle, next(iter(self._budgets)))]
        self._budgets[peer] = self._in_use[peer] = budget
        return budget
