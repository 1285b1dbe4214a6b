"""
What one peer can make us send to addresses at which nobody has answered.

Connectivity checks go out before anybody at the other end has agreed, so a peer could name a stranger's
addresses as its candidates. Everything that leaves for an address which has not answered a check of ours
counts here: checks, answers to checks that seem to come from there, and all that is sent through relays. It
counts for `WINDOW` seconds, over all calls and restarts of that peer; what an address that answers had got is
given back.

What leaves for another port of a host that has answered counts apart, and it may be more: a peer that starts
again has other ports, at its NAT and at its relay, and those that it had before answer no more. A relay of
ours is such a host: it has answered us.

An honest peer needs few packets: its addresses answer, or those of one kind at least. So a part is kept for
checks and answers that an authenticated check asks for, and a part for later, so that two peers that had no
way to each other find one as soon as there is one. Where most packets get lost, no single address may use up
all of that, and the direct ones not what the relayed ones need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from enum import Enum
from typing import NamedTuple
from weakref import WeakValueDictionary

from punch.ice.candidates import LocalCandidates, RemoteCandidates, is_unlikely
from punch.ice.pairs import CandidatePair
from punch.identity import PeerID
from punch.wire.address import Address
from punch.wire.candidate import CandidateType

WINDOW = 600.0
"""Seconds for which a packet counts."""
MAX_PACKETS = 20
MAX_BYTES = 3000
"""With IP and UDP headers."""
NEAR_WINDOW = 60.0
MAX_NEAR = 200
MAX_NEAR_BYTES = 30_000
"""Towards other ports of hosts that have answered, besides those, and in so many seconds: two NATs that give
each destination another port take some fifty for a call."""
DIRECT = 8
"""Checks of addresses that nothing came from, one after the other…"""
UNLIKELY = 3
"""…so many of these where the check probably leads nowhere…"""
RELAYED = 7
"""…besides so many of relayed candidates, which lead there wherever both sides reach a relay…"""
OF_ONE = {False: 4, True: 3}
"""…of these, of one address, direct or relayed, so that something is left for those of the next call…"""
OF_ONE_HEARD = 4
"""…and so many triggered checks of one address, and as many answers to it; heavy loss takes no more…"""
RESERVED = 5
"""…nor what is left for relayed candidates, whatever is sent to others…"""
LATER = 2
"""…and further ones of all these…"""
GAP = 15.0
"""…the first after so many seconds, the next ones after twice as many each."""
MAX_ANSWERED = 64
"""Addresses of one peer that are known to have answered."""
MAX_PEERS = 256
"""Peers that an account is kept of, those of calls and links under way among them."""

_HEADERS = {False: 28, True: 48}


class PacketKind(Enum):
    """Why something is sent."""

    UNLIKELY = "unlikely"
    """A check of an address that nothing came from, which probably leads nowhere."""
    DIRECT = "direct"
    """Another one."""
    RELAYED = "relayed"
    """One of a relayed candidate."""
    ANSWER = "answer"
    """An answer to a check that came from there."""
    TRIGGERED = "triggered"
    """A check because one came from there: its answer frees all that follows."""


_SHARES = {PacketKind.ANSWER: MAX_PACKETS - 1, PacketKind.TRIGGERED: MAX_PACKETS}
"""How many packets of all kinds may have gone before; of checks, that follows from their number."""


class _Sent(NamedTuple):
    time: float
    address: Address
    size: int
    kind: PacketKind
    later: bool
    relayed: bool


class Budget:
    """The account of one peer, whatever calls and restarts there are with it."""

    def __init__(self) -> None:
        self._sent: deque[_Sent] = deque()
        self._near: deque[_Sent] = deque()
        self._answered: dict[Address, float] = {}

    def allows(
        self,
        address: Address,
        size: int,
        kind: PacketKind,
        now: float,
        relays: Container[str] = (),
        *,
        relayed: bool = False,
    ) -> bool:
        """
        Whether a datagram of `size` bytes may leave for `address` now; if so, it is taken to have left.

        :param relays: hosts of relays of ours, which have answered us.
        :param relayed: it is a relayed candidate of the peer.
        """
        self._forget(now)
        if address in self._answered:
            return True
        size += _HEADERS[address.is_ipv6]
        if address.host in relays or any(each.host == address.host for each in self._answered):
            near = self._near
            if len(near) >= MAX_NEAR or sum(each.size for each in near) + size > MAX_NEAR_BYTES:
                return False
            near.append(_Sent(now, address, size, kind, False, relayed))
            return True
        sent = self._sent
        if sum(each.size for each in sent) + size > MAX_BYTES:
            return False
        relayed = relayed or kind is PacketKind.RELAYED
        kept = 0 if relayed else max(0, RESERVED - sum(each.relayed for each in sent))
        if len(sent) + kept >= MAX_PACKETS:
            return False
        later = False
        if kind in _SHARES:
            if not self._allows_heard(address, kind):
                return False
        elif not self._allows_check(address, kind):
            later = kind is not PacketKind.UNLIKELY and self._allows_later(now)
            if not later:
                return False
        sent.append(_Sent(now, address, size, kind, later, relayed))
        return True

    def answered(self, address: Address, now: float) -> None:
        """A check of ours was answered from there; what other ports of that host had got counts apart now."""
        self._answered.pop(address, None)
        self._answered[address] = now
        if len(self._answered) > MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]
        host = address.host
        if any(each.address.host == host for each in (*self._sent, *self._near)):
            near = [*self._near, *(each for each in self._sent if each.address.host == host)]
            near.sort(key=lambda each: each.time)
            self._near = deque(each for each in near if each.address != address)
            self._sent = deque(each for each in self._sent if each.address.host != host)

    def is_open(self, address: Address, now: float) -> bool:
        """Whether anything may be sent there, because it has answered."""
        return now < self._answered.get(address, -WINDOW) + WINDOW

    def is_idle(self, now: float) -> bool:
        """Whether nothing is left to be remembered."""
        self._forget(now)
        return not self._sent and not self._near and not self._answered

    def _allows_heard(self, address: Address, kind: PacketKind) -> bool:
        """Whether an authenticated check that came from there may be answered, or checked in return."""
        sent = self._sent
        alike = sum(each.address == address and each.kind is kind for each in sent)
        return len(sent) < _SHARES[kind] and alike < OF_ONE_HEARD

    def _allows_check(self, address: Address, kind: PacketKind) -> bool:
        sent = [each for each in self._sent if not each.later and each.kind not in _SHARES]
        if sum(each.address == address for each in sent) >= OF_ONE[kind is PacketKind.RELAYED]:
            return False
        kinds = [each.kind for each in sent]
        if kind is PacketKind.RELAYED:
            return kinds.count(kind) < RELAYED
        if kind is PacketKind.UNLIKELY and kinds.count(kind) >= UNLIKELY:
            return False
        return kinds.count(PacketKind.DIRECT) + kinds.count(PacketKind.UNLIKELY) < DIRECT

    def _allows_later(self, now: float) -> bool:
        checks = [each for each in self._sent if each.kind not in _SHARES]
        later = sum(each.later for each in checks)
        return later < LATER and now >= checks[-1].time + GAP * 2**later

    def _forget(self, now: float) -> None:
        for sent, window in ((self._sent, WINDOW), (self._near, NEAR_WINDOW)):
            while sent and now >= sent[0].time + window:
                sent.popleft()
        while self._answered:
            oldest = next(iter(self._answered))
            if now < self._answered[oldest] + WINDOW:
                break
            del self._answered[oldest]


class Budgets:
    """The accounts of all peers; with one of each peer that has used something in the last ten minutes."""

    def __init__(self) -> None:
        self._budgets: dict[PeerID, Budget] = {}
        # Also those that made room and are still used: a link and its restarts must have the same one.
        self._in_use: WeakValueDictionary[PeerID, Budget] = WeakValueDictionary()

    def of(self, peer: PeerID, now: float) -> Budget:
        """The account of one peer."""
        budget = self._budgets.pop(peer, None) or self._in_use.get(peer) or Budget()
        if len(self._budgets) >= MAX_PEERS:
            idle = (other for other, account in self._budgets.items() if account.is_idle(now))
            del self._budgets[next(idle, next(iter(self._budgets)))]
        self._budgets[peer] = self._in_use[peer] = budget
        return budget


class CallBudget:
    """
    Decides what may be sent, by what kind of packet it is.

    :param budget: of the peer; None: there is no limit.
    """

    def __init__(
        self, budget: Budget | None, local_candidates: LocalCandidates, remote_candidates: RemoteCandidates
    ) -> None:
        self._budget = budget
        self._locals = local_candidates
        self._remotes = remote_candidates

    def may_check(self, pair: CandidatePair, request: bytes, now: float) -> bool:
        """Whether a check on this pair may leave."""
        if pair.received_check is not None:
            kind = PacketKind.TRIGGERED
        elif pair.remote.type is CandidateType.RELAY:
            kind = PacketKind.RELAYED
        else:
            kind = PacketKind.UNLIKELY if self.is_unlikely(pair) else PacketKind.DIRECT
        return self._may_send(pair.remote.address, request, kind, now)

    def may_answer(self, remote: Address, answer: bytes, now: float) -> bool:
        """Whether a check that came from `remote` may be answered."""
        return self._may_send(remote, answer, PacketKind.ANSWER, now)

    def may_be_large(self, remote: Address, now: float) -> bool:
        """Whether full-size checks from `remote` may be answered: not before a check of ours was."""
        return self._budget is None or self._budget.is_open(remote, now)

    def answered(self, remote: Address, now: float) -> None:
        """A check of ours was answered from there."""
        if self._budget is not None:
            self._budget.answered(remote, now)

    def is_unlikely(self, pair: CandidatePair) -> bool:
        """Whether this pair is to be tried after all others."""
        return is_unlikely(pair.base, pair.remote, self._locals, self._remotes)

    def _may_send(self, remote: Address, data: bytes, kind: PacketKind, now: float) -> bool:
        if self._budget is None:
            return True
        candidate = self._remotes.get(remote)
        relayed = candidate is not None and candidate.type is CandidateType.RELAY
        return self._budget.allows(remote, len(data), kind, now, self._locals.relay_hosts, relayed=relayed)
