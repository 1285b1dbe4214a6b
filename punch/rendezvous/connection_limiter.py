"""
Which connections to the TCP port may stay. Pure: connections are numbers, `now` is monotonic seconds.

Until its handshake is over a connection waits, for `RendezvousLimits.handshake_time` seconds at most. There
are `RendezvousLimits.handshakes` places for those whose ClientHello is not answered yet, and as many for
those that are to go on after the answer; an address has a share of both (`SourceTable`). When a source has
its share, its own oldest makes room for its newest: those that are honest are through in a moment. When all
places are taken, the source with the most makes room, or, if all have the same, whoever has been silent
longest.

One connection in `RESERVE` is kept for those that wait. Without it, those whose handshakes are over could
have all, and each connection that comes would end the handshake of the one before it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from punch.net.rate_limits import (
    NoRoom,
    Shares,
    Source,
    SourceTable,
    source_of,
)
from punch.rendezvous.config import RendezvousLimits

RESERVE = 8
"""One connection in so many is kept for those in their handshake, at most as many as there are places."""

UNKNOWN: Source = ("a header",)
"""The source of connections whose address comes with a header (PROXY protocol) that is not there yet."""


@dataclass
class _Waiting:
    """:ivar table: in which of the two tables it has its place."""

    source: Source
    since: float
    table: SourceTable[int]


class ConnectionLimiter:
    """Counts connections and says which are to be closed."""

    def __init__(self, limits: RendezvousLimits) -> None:
        self._limits = limits
        shares = Shares.growing(limits.handshakes_per_address)
        self._arrived: SourceTable[int] = SourceTable(limits.handshakes, shares)
        self._answered: SourceTable[int] = SourceTable(limits.handshakes, shares)
        reserve = min(2 * limits.handshakes, limits.connections // RESERVE)
        self._connections: SourceTable[int] = SourceTable(
            limits.connections - reserve, Shares.growing(limits.connections_per_address)
        )
        self._open: dict[int, Source] = {}
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        """In the order of arrival, which is that of their deadlines."""
        self._silent: OrderedDict[int, None] = OrderedDict()
        """Of these, those that have not sent a byte."""
        self._next = 0

    @property
    def waiting(self) -> int:
        """Connections that have not finished their handshake."""
        return len(self._waiting)

    def __len__(self) -> int:
        """All connections."""
        return len(self._open)

    def is_waiting(self, connection: int) -> bool:
        """Whether its handshake is not over."""
        return connection in self._waiting

    def source(self, connection: int) -> Source:
        """
        Where it comes from.

        :raise KeyError: it is closed.
        """
        return self._open[connection]

    def admit(self, host: str | None, now: float) -> tuple[int | None, int | None]:
        """
        A connection came.

        :param host: where from; None if that is only known later (`seen_from`).
        :return: its number, or None if it is to be closed; and the number of another one to close for it.
        """
        source = UNKNOWN if host is None else source_of(host)
        try:
            evicted = self._make_room(self._arrived, source) or self._make_room_in_all(source)
        except NoRoom:
            return None, None
        self._next += 1
        self._open[self._next] = source
        self._waiting[self._next] = _Waiting(source, now, self._arrived)
        self._silent[self._next] = None
        self._arrived.enter(source, self._next)
        return self._next, evicted

    def seen_from(self, connection: int, host: str) -> tuple[bool, int | None]:
        """
        A connection that was admitted without an address has one now.

        :return: whether it may stay, and the number of another one to close for it.
        """
        source = source_of(host)
        stays, evicted = self._move(connection, self._arrived, source)
        if stays:
            self._open[connection] = self._waiting[connection].source = source
        return stays, evicted

    def spoke(self, connection: int) -> None:
        """Its first byte came."""
        self._silent.pop(connection, None)

    def answered(self, connection: int) -> tuple[bool, int | None]:
        """
        Its ClientHello is to be answered.

        :return: whether it may stay, and the number of another one to close for it.
        """
        return self._move(connection, self._answered, self._open[connection])

    def established(self, connection: int) -> tuple[bool, int | None]:
        """
        Its handshake is over.

        :return: whether it may stay: if its address has its share, it waits on, to be told so; and the number
            of another one to close for it.
        """
        waiting = self._waiting.get(connection)
        if waiting is None:
            return connection in self._open, None
        try:
            evicted = self._connections.room(waiting.source)
        except NoRoom:
            return False, None
        if evicted is not None:
            self.closed(evicted)
        self._leave(connection)
        self._connections.enter(waiting.source, connection)
        return True, evicted

    def closed(self, connection: int) -> None:
        """It is no more."""
        if self._open.pop(connection, None) is None:
            return
        if connection in self._waiting:
            self._leave(connection)
        else:
            self._connections.leave(connection)

    def get_timer(self) -> float | None:
        """When `overdue` will have one."""
        first = next(iter(self._waiting.values()), None)
        return None if first is None else first.since + self._limits.handshake_time

    def overdue(self, now: float) -> list[int]:
        """The connections whose time is up; they count as closed."""
        late = []
        for connection, waiting in self._waiting.items():
            if waiting.since + self._limits.handshake_time > now:
                break
            late.append(connection)
        for connection in late:
            self.closed(connection)
        return late

    # -- within --

    def _move(self, connection: int, table: SourceTable[int], source: Source) -> tuple[bool, int | None]:
        """Give a waiting connection a place in a table for the one that it has."""
        waiting = self._waiting[connection]
        waiting.table.leave(connection)
        try:
            evicted = self._make_room(table, source)
        except NoRoom:
            self.closed(connection)
            return False, None
        table.enter(source, connection)
        waiting.table = table
        return True, evicted

    def _make_room(self, table: SourceTable[int], source: Source) -> int | None:
        """
        Close a waiting connection if one more of `source` would be too many.

        :raise NoRoom: there is none to close.
        """
        try:
            evicted = table.room(source)
            if evicted is not None:
                # The table names the newest of a source: of a flood, that may be the one that is honest.
                evicted = table.oldest(self._open[evicted])
        except NoRoom as no_room:
            evicted = table.oldest(source)
            if evicted is None and no_room.shared:
                evicted = next((each for each in (*self._silent, *self._waiting) if each in table), None)
            if evicted is None:
                raise
        if evicted is not None:
            self.closed(evicted)
        return evicted

    def _make_room_in_all(self, source: Source) -> int | None:
        """
        Close a connection if there are too many in all.

        :raise NoRoom: there is none to close.
        """
        if len(self._open) < self._limits.connections:
            return None
        evicted = next(iter(self._waiting), None) or self._connections.room(source)
        if evicted is not None:
            self.closed(evicted)
        return evicted

    def _leave(self, connection: int) -> None:
        self._silent.pop(connection, None)
        self._waiting.pop(connection).table.leave(connection)
