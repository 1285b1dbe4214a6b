"""
Which callers are to be told when a peer that was away registers again, so that a message that waits leaves at
once. Pure.

A caller asks with its call, and is told once. It is told nothing that another call would not tell: whether a
peer of this ID is registered now. The table has a fixed size, which the sources of the callers share.
"""

from __future__ import annotations

from punch.identity import PeerID
from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.sources import Shares, Source
from punch.rendezvous.config import RendezvousLimits

_Notice = tuple[PeerID, PeerID]
"""The callee and the caller."""
_SHARE = 8
"""One address has at most one in this many of the places at one callee."""


class _CallersOf:
    """The callers that wait for one peer."""

    def __init__(self, places: int) -> None:
        self.table: SourceTable[_Notice] = SourceTable(places, Shares.growing(max(1, places // _SHARE)))
        self.callers: dict[PeerID, None] = {}
        """The one that asked first is the first."""


class ReturnNotices:
    """
    The callers that wait for peers that are away. All times are monotonic seconds.

    When there is no room, the newest notice of the source that has most makes room for a source that has at
    least two fewer; otherwise, a source loses its own oldest one.
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
        Tell `caller`, which called from `source`, when `callee` registers within the next hour.

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
