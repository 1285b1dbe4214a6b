"""
Tables whose places are shared between the sources of peers: for registrations, for keys that were seen
before, and for callers who are to be told when a peer is back. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from punch.identity import PeerID
from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.segmented_table import SegmentedTable
from punch.net.sources import Shares, Source
from punch.rendezvous.config import RendezvousLimits

RESERVE = 8
"""One place in this many is reserved for peers that were here before."""
_CALLEE_SHARE = 8
"""One address has at most one in this many of the places at one callee."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_Notice = tuple[PeerID, PeerID]
"""The callee and the caller."""


class EarlierSources(Generic[K]):
    """
    Keys that were seen before, each counted for the source that it first came from.

    A stranger cannot get into the table by a claim: a peer has proved its key, and of two peers the called
    one has answered. The table is empty when the service starts.

    When there is no room, the source with the most keys loses its newest one, but keys that were seen first
    some time ago are protected (`SegmentedTable`); a source that has used up its share loses its own oldest
    one.

    :param capacity: keys in all.
    :param shares: keys of one source.
    """

    def __init__(self, capacity: int, shares: Shares) -> None:
        self._table: SegmentedTable[K] = SegmentedTable(capacity, shares)

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._table)

    def __contains__(self, key: object) -> bool:
        """Whether this key is remembered."""
        return key in self._table

    def add(self, source: Source, key: K, now: float) -> None:
        """
        Remember `key`, which was seen just now. It is not remembered if other sources have all places. A key
        that is remembered already keeps its place and its age.
        """
        table = self._table
        if key in table:
            return
        try:
            forgotten = table.room(source, now)
        except NoRoom:
            forgotten = table.oldest(source)
            if forgotten is None:
                return
        if forgotten is not None:
            table.leave(forgotten)
        table.enter(source, key, now)


def room_in(tables: Sequence[T], room: Callable[[T], K | None]) -> tuple[T, K | None]:
    """
    The first table with room for an entry, and the entry that has to leave it first.

    :param room: asks a table which entry that is.
    :raise NoRoom: no table has room; the exception is that of the last table.
    """
    for table in tables[:-1]:
        try:
            return table, room(table)
        except NoRoom:
            continue
    return tables[-1], room(tables[-1])


class RegistrationPlaces:
    """
    The places of all registrations, which sources share, and those reserved for peers that were registered
    before.

    :param displace: removes the registration of a peer that makes room for another one, with `leave`.
    :ivar tables: the places of all, and those that are reserved if there are any.
    """

    def __init__(self, limits: RendezvousLimits, displace: Callable[[PeerID, float], None]) -> None:
        shares = Shares.growing(limits.registrations_per_address)
        reserve = limits.registrations // RESERVE
        self.tables = [SegmentedTable[PeerID](limits.registrations - reserve, shares)]
        if reserve:
            self.tables.append(SegmentedTable(reserve, Shares.growing(-(-shares.address // RESERVE))))
        self._earlier = EarlierSources[PeerID](2 * limits.registrations, Shares.growing(2 * shares.address))
        self._displace = displace

    def was_registered(self, peer: PeerID) -> bool:
        """Whether a peer was registered here before, as far as that is remembered."""
        return peer in self._earlier

    def take(self, peer: PeerID, source: Source, before: Source | None, now: float) -> None:
        """
        Give a peer a place, for which another peer may have to leave.

        :param before: the source that it is registered from; None if it is not.
        :raise NoRoom: no place is left for this peer; a place that it has remains its own.
        """
        if before is None or (before != source and not self._move(peer, source)):
            if before is not None:
                # It keeps its place until there is another one: else another peer could be protected instead
                self._check_room(source, peer, now)
                self.leave(peer)
            self._enter(source, peer, now)
        self._earlier.add(source, peer, now)

    def leave(self, peer: PeerID) -> None:
        """Free the place of a peer, if it has one."""
        for table in self.tables:
            table.leave(peer)

    def _tables(self, peer: PeerID) -> list[SegmentedTable[PeerID]]:
        """:return: the tables in which a peer may have a place."""
        return self.tables if self.was_registered(peer) else self.tables[:1]

    def _check_room(self, source: Source, peer: PeerID, now: float) -> None:
        """
        Check that there is a place from this source for a peer that gives up its own.

        :raise NoRoom: there is none.
        """

        def room(table: SegmentedTable[PeerID]) -> PeerID | None:
            try:
                return table.room(source, now)
            except NoRoom as refused:
                if refused.shared and peer in table:
                    return None  # Its own place will be free
                raise

        room_in(self._tables(peer), room)

    def _enter(self, source: Source, peer: PeerID, now: float) -> None:
        table, displaced = room_in(self._tables(peer), lambda table: table.room(source, now))
        if displaced is not None:
            self._displace(displaced, now)
        table.enter(source, peer, now)

    def _move(self, peer: PeerID, source: Source) -> bool:
        """
        :return: whether a peer keeps its place at another address. In another network it begins anew.
            Otherwise, identities that are kept in a few networks could come from many at once, as if all had
            been there before.
        """
        return any(peer in table and table.move(peer, source) for table in self.tables)


class _CallersOf:
    """The callers that wait for one peer."""

    def __init__(self, places: int) -> None:
        self.table: SourceTable[_Notice] = SourceTable(
            places, Shares.growing(max(1, places // _CALLEE_SHARE))
        )
        self.callers: dict[PeerID, None] = {}
        """The one that asked first is the first."""


class ReturnNotices:
    """
    The callers that are to be told when a peer that was away registers again, so that a message that waits
    leaves at once. All times are monotonic seconds.

    A caller asks with its call, and is told once. It is told nothing that another call would not tell:
    whether a peer of this ID is registered now. The table has a fixed size, which the sources of the callers
    share. When there is no room, the newest notice of the source that has most makes room for a source that
    has at least two fewer; otherwise, a source loses its own oldest one.
    """

    def __init__(self, limits: RendezvousLimits) -> None:
        self._time = limits.return_notice_time
        self._per_callee = limits.return_notices_per_callee
        self._table: SourceTable[_Notice] = SourceTable(
            limits.return_notices, Shares.growing(limits.return_notices_per_address)
        )
        self._callees: dict[PeerID, _CallersOf] = {}
        self._ends: dict[_Notice, float] = {}
        """When each notice is forgotten, the earliest first."""

    def __len__(self) -> int:
        """The number of notices."""
        return len(self._ends)

    @property
    def callees(self) -> list[PeerID]:
        """The peers that callers wait for."""
        return list(self._callees)

    def ask(self, caller: PeerID, source: Source, callee: PeerID, now: float) -> bool:
        """
        Tell `caller`, which called from `source`, when `callee` registers within
        `RendezvousLimits.return_notice_time`.

        :return: whether there is room for that.
        """
        self._forget_old(now)
        notice = (callee, caller)
        self._forget(notice)
        at_callee = self._callees.get(callee) or _CallersOf(self._per_callee)
        leaving = set()
        for table in (self._table, at_callee.table):
            try:
                leaving.add(table.room(source))
            except NoRoom:
                own = table.oldest(source)
                if own is None:
                    return False
                leaving.add(own)
        for each in leaving:
            if each is not None:
                self._forget(each)
        self._callees[callee] = at_callee
        at_callee.table.enter(source, notice)
        at_callee.callers[caller] = None
        self._table.enter(source, notice)
        self._ends[notice] = now + self._time
        return True

    def returned(self, callee: PeerID, now: float) -> list[PeerID]:
        """`callee` has registered. Return the callers to tell, and forget them."""
        self._forget_old(now)
        at_callee = self._callees.get(callee)
        callers = [] if at_callee is None else list(at_callee.callers)
        for caller in callers:
            self._forget((callee, caller))
        return callers

    def _forget_old(self, now: float) -> None:
        while self._ends:
            notice, end = next(iter(self._ends.items()))
            if end > now:
                return
            self._forget(notice)

    def _forget(self, notice: _Notice) -> None:
        if self._ends.pop(notice, None) is None:
            return
        callee, caller = notice
        self._table.leave(notice)
        at_callee = self._callees[callee]
        at_callee.table.leave(notice)
        del at_callee.callers[caller]
        if not at_callee.callers:
            del self._callees[callee]
