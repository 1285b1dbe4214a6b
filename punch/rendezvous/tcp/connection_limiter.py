"""
Which connections to the TCP port may stay, and which TLS handshake begins next. Pure: connections are
numbers, `now` is monotonic seconds.

Until its handshake is over a connection waits, for `RendezvousLimits.handshake_time` seconds at most. There
are `RendezvousLimits.handshakes` places for connections whose ClientHello is not answered yet, and as many
for connections that continue after the answer; a source has a share of both (`SourceTable`). When a source
has used up its share, its oldest connection is closed for its newest: the handshakes of honest clients are
over in a moment. When all places are taken, the source with the most connections gives one up; if all have
the same number, the connection that has been silent longest is closed.

One connection in `RESERVE` is kept for those that wait. Without it, connections whose handshakes are over
could take all places, and each new connection would end the handshake of the one before it. One in `EARLIER`
is kept for peers that were registered before; at the end of its handshake it is known who a client is.
Connections that have been open for a while make no room for newer ones (`SegmentedTable`).

To answer a ClientHello costs half a millisecond of signing and key agreement, and to send one costs nothing.
So all handshakes together get a share of the processor, the sources take turns (`HandshakeQueue`), and a
ClientHello that was seen before is not answered at all (`SeenHellos`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from punch.net.fairness import SourceTurns
from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.segmented_table import SegmentedTable
from punch.net.sources import Shares, Source, source_of
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.places import room_in

_HEADER = 5
_RANDOM = slice(11, 43)
_LARGEST_RECORD = 16_384
_LONGEST_HANDSHAKE = 0.05
"""Seconds of a handshake that count at most, beyond what it used of the processor."""


class NotTLS(ValueError):
    """The bytes are not the beginning of a TLS connection."""


def first_record(data: bytes | bytearray) -> int | None:
    """
    The size in bytes of a TLS client's first record (RFC 8446, sections 4.1.2 and 5.1).

    :return: None if the record is not complete yet.
    :raise NotTLS: it is not a ClientHello.
    """
    if data[:1] != b"\x16"[: len(data)] or data[1:2] != b"\x03"[: len(data[1:2])]:
        raise NotTLS("no handshake record")
    if len(data) < _HEADER:
        return None
    length = int.from_bytes(data[3:5], "big")
    if not 4 <= length <= _LARGEST_RECORD:
        raise NotTLS("a record of a size that no ClientHello has")
    if data[_HEADER : _HEADER + 1] not in (b"", b"\x01"):
        raise NotTLS("no ClientHello")
    return _HEADER + length if len(data) >= _HEADER + length else None


def random_of(hello: bytes | bytearray) -> bytes:
    """The random bytes of a ClientHello, which no honest client uses twice."""
    return bytes(hello[_RANDOM])


class SeenHellos:
    """
    The most recent ClientHellos, to recognize replayed ones (as RFC 8446, section 8.2 does for early data).

    :param capacity: hellos that are remembered at least; at most twice as many are.
    :param time: seconds that they are remembered at least, if there are not more of them.
    """

    def __init__(self, capacity: int, time: float) -> None:
        self._capacity = capacity
        self._time = time
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._since = 0.0

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._young) + len(self._old)

    def is_new(self, random: bytes, now: float) -> bool:
        """Whether no ClientHello with these random bytes was seen before. It is remembered from now on."""
        if len(self._young) >= self._capacity or now - self._since >= self._time:
            self._young, self._old = set(), self._young
            self._since = now
        if random in self._young or random in self._old:
            return False
        self._young.add(random)
        return True


class HandshakeQueue:
    """
    The connections whose ClientHello is not answered yet, which take turns (`SourceTurns`).

    :param share: how much of the time handshakes may take; between 0 and 1.
    :param burst: seconds that they may take at once.
    """

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = burst
        self._free_at = 0.0
        self._turns: SourceTurns[int] = SourceTurns()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._turns)

    def add(self, connection: int, source: Source) -> None:
        """The ClientHello of a connection is complete."""
        self._turns.add(source, connection)

    def remove(self, connection: int) -> None:
        """A connection is gone. It need not have been in the queue."""
        self._turns.remove(connection)

    def next(self, now: float) -> int | None:
        """
        The connection whose handshake begins now; None if none waits or handshakes have used up their share.
        """
        return self._turns.pop(now) if len(self._turns) and self._has_time(now) else None

    def spent(self, processor: float, elapsed: float, now: float) -> None:
        """
        A handshake is over.

        Other programs use the processor, too, so the time that passed counts, and not only that of the
        processor; but no more than `_LONGEST_HANDSHAKE` of it, since the process or the machine may have been
        stopped.

        :param processor: seconds of the processor that it took.
        :param elapsed: seconds that passed.
        """
        seconds = max(processor, min(elapsed, _LONGEST_HANDSHAKE))
        self._free_at = max(self._free_at, now) + seconds / self._share

    def get_timer(self) -> float | None:
        """When `next` is to be called again; None if nothing waits."""
        return self._free_at - self._burst / self._share if len(self._turns) else None

    def handle_timer(self, now: float) -> None:
        """Do nothing: `next` is given the time."""

    def _has_time(self, now: float) -> bool:
        # The same expression as in get_timer, so that rounding does not make them differ.
        return self._free_at - self._burst / self._share <= now


RESERVE = 8
"""One connection in this many is kept for handshakes, up to the number of places for handshakes."""
EARLIER = 24
"""One connection in this many is kept for peers that were registered before."""
_EARLIER_SHARE = 8
"""What an address may have of these is its share of all connections, divided by this."""

UNKNOWN: Source = ("a header",)
"""The source of connections whose address comes in a header (PROXY protocol) that has not arrived yet."""


@dataclass
class _Waiting:
    """
    A connection in its handshake.

    :ivar since: when it came, in monotonic seconds.
    :ivar table: the one of the two tables in which it has its place.
    """

    source: Source
    since: float
    table: SourceTable[int]


class ConnectionLimiter:
    """Counts connections and says which ones are to be closed."""

    def __init__(self, limits: RendezvousLimits) -> None:
        self._limits = limits
        shares = Shares.growing(limits.handshakes_per_address)
        self._arrived: SourceTable[int] = SourceTable(limits.handshakes, shares)
        self._answered: SourceTable[int] = SourceTable(limits.handshakes, shares)
        reserve = min(2 * limits.handshakes, limits.connections // RESERVE)
        earlier = limits.connections // EARLIER
        share = limits.connections_per_address
        self._places: list[SegmentedTable[int]] = [
            SegmentedTable(limits.connections - reserve - earlier, Shares.growing(share))
        ]
        """Connections after their handshake: of all clients, and of peers that were registered before."""
        if earlier:
            self._places.append(SegmentedTable(earlier, Shares.growing(-(-share // _EARLIER_SHARE))))
        self._open: dict[int, Source] = {}
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        """In the order of arrival, which is also the order of their deadlines."""
        self._silent: OrderedDict[int, None] = OrderedDict()
        """The waiting connections that have not sent a byte."""
        self._overdue: deque[int] = deque()
        self._next = 0

    @property
    def waiting(self) -> int:
        """Connections that have not finished their handshake."""
        return len(self._waiting)

    def __len__(self) -> int:
        """The number of all connections."""
        return len(self._open)

    def is_waiting(self, connection: int) -> bool:
        """Whether the handshake of a connection is not over."""
        return connection in self._waiting

    def source(self, connection: int) -> Source:
        """
        The source of a connection.

        :raise KeyError: it is closed.
        """
        return self._open[connection]

    def admit(self, host: str | None, now: float) -> tuple[int | None, int | None]:
        """
        A connection came.

        :param host: its IP address; None if it is known only later (`seen_from`).
        :return: its number, or None if it is to be closed; and the number of another connection to close for
            it.
        """
        source = UNKNOWN if host is None else source_of(host)
        try:
            evicted = self._make_room(self._arrived, source) or self._make_room_in_all(source, now)
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
        The address of a connection that was admitted without one is known.

        :return: whether it may stay, and the number of another connection to close for it.
        """
        source = source_of(host)
        stays, evicted = self._move(connection, self._arrived, source)
        if stays:
            self._open[connection] = self._waiting[connection].source = source
        return stays, evicted

    def spoke(self, connection: int) -> None:
        """The first byte of a connection came."""
        self._silent.pop(connection, None)

    def answered(self, connection: int) -> tuple[bool, int | None]:
        """
        The ClientHello of a connection is about to be answered.

        :return: whether it may stay, and the number of another connection to close for it.
        """
        return self._move(connection, self._answered, self._open[connection])

    def established(self, connection: int, now: float, *, earlier: bool = False) -> tuple[bool, int | None]:
        """
        The handshake of a connection is over.

        :param earlier: whether the client is a peer that was registered before.
        :return: whether it is open, and the number of another connection to close for it.
        :raise NoRoom: it may not stay, because its source has used up its share or no place is left. It keeps
            the place that it has until it has been told so.
        """
        waiting = self._waiting.get(connection)
        if waiting is None:
            return connection in self._open, None
        tables = self._places if earlier else self._places[:1]
        table, evicted = room_in(tables, lambda table: table.room(waiting.source, now))
        if evicted is not None:
            self.closed(evicted)
        self._leave(connection)
        table.enter(waiting.source, connection, now)
        return True, evicted

    def closed(self, connection: int) -> None:
        """A connection is closed."""
        if self._open.pop(connection, None) is None:
            return
        if connection in self._waiting:
            self._leave(connection)
        else:
            for table in self._places:
                table.leave(connection)

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called; None if no connection waits."""
        first = next(iter(self._waiting.values()), None)
        return None if first is None else first.since + self._limits.handshake_time

    def handle_timer(self, now: float) -> None:
        """End the connections whose handshake took too long. They count as closed."""
        while (deadline := self.get_timer()) is not None and deadline <= now:
            connection = next(iter(self._waiting))
            self._overdue.append(connection)
            self.closed(connection)

    def next_event(self) -> int | None:
        """Remove and return a connection whose handshake took too long; None if there is none."""
        return self._overdue.popleft() if self._overdue else None

    # -- within --

    def _move(self, connection: int, table: SourceTable[int], source: Source) -> tuple[bool, int | None]:
        """Move a waiting connection to a place in another table."""
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
        Close a waiting connection if one more of `source` would exceed a limit.

        :raise NoRoom: no connection may be closed for it.
        """
        try:
            evicted = table.room(source)
            if evicted is not None:
                # The table names the newest of a source, which may be the honest one in a flood.
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

    def _make_room_in_all(self, source: Source, now: float) -> int | None:
        """
        Close a connection if the service has as many as it takes.

        :raise NoRoom: no connection may be closed for it.
        """
        if len(self._open) < self._limits.connections:
            return None
        table = max(self._arrived, self._answered, key=len)
        if not len(table):
            evicted = self._places[0].room(source, now)
        else:
            # As in a table that is full: the oldest of the source that has most, also if that is a network
            # with one at each address.
            largest = self._open[table.newest(())]
            many = table.count(largest[:1]) > 1
            evicted = table.oldest(largest) if many else next(iter(self._waiting))
        if evicted is not None:
            self.closed(evicted)
        return evicted

    def _leave(self, connection: int) -> None:
        self._silent.pop(connection, None)
        self._waiting.pop(connection).table.leave(connection)
