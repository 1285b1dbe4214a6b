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
could take all places, and each new connection would end the handshake of the one before it.

To answer a ClientHello costs half a millisecond of signing and key agreement, and to send one costs nothing.
So all handshakes together get a share of the processor, the sources take turns (`HandshakeQueue`), and a
ClientHello that was seen before is not answered at all (`SeenHellos`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from punch.net.rate_limits import (
    NoRoom,
    Shares,
    Source,
    SourceTable,
    source_of,
)
from punch.rendezvous.config import RendezvousLimits

_HEADER = 5
_RANDOM = slice(11, 43)
_LARGEST_RECORD = 16_384


class NotTLS(ValueError):
    """What came is no beginning of a TLS connection."""


def first_record(data: bytes | bytearray) -> int | None:
    """
    How many bytes the record has with which a TLS client begins (RFC 8446, sections 4.1.2 and 5.1).

    :return: None if it is not complete yet.
    :raise NotTLS: it is no ClientHello.
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
    The ClientHellos of late, to tell those that are replayed (RFC 8446, section 8.2, for another purpose).

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
        """Whether a hello with these random bytes was not there before; from now on it was."""
        if len(self._young) >= self._capacity or now - self._since >= self._time:
            self._young, self._old = set(), self._young
            self._since = now
        if random in self._young or random in self._old:
            return False
        self._young.add(random)
        return True


class _Turns:
    """Connections of one network, by address."""

    def __init__(self) -> None:
        self.addresses: OrderedDict[Source, list[int]] = OrderedDict()

    def pop(self) -> int:
        """The newest of the address whose turn it is."""
        source, waiting = self.addresses.popitem(last=False)
        connection = waiting.pop()
        if waiting:
            self.addresses[source] = waiting
        return connection


class HandshakeQueue:
    """
    The connections whose ClientHello waits for an answer.

    Networks take turns, and within a network its addresses. Within an address the newest comes first: when
    more come than can be answered, most of those that wait have given up.

    :param share: how much of the time handshakes may take; between 0 and 1.
    :param burst: seconds that they may take at once.
    """

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = burst
        self._free_at = 0.0
        self._networks: OrderedDict[Hashable, _Turns] = OrderedDict()
        self._source_of: dict[int, Source] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._source_of)

    def add(self, connection: int, source: Source) -> None:
        """The hello of a connection is complete."""
        self._source_of[connection] = source
        turns = self._networks.setdefault(source[0], _Turns())
        turns.addresses.setdefault(source, []).append(connection)

    def remove(self, connection: int) -> None:
        """A connection is gone; it may have waited or not."""
        source = self._source_of.pop(connection, None)
        if source is None:
            return
        turns = self._networks[source[0]]
        turns.addresses[source].remove(connection)
        if not turns.addresses[source]:
            del turns.addresses[source]
        if not turns.addresses:
            del self._networks[source[0]]

    def next(self, now: float) -> int | None:
        """The connection whose handshake is to begin now, if there is one and there is time for it."""
        if not self._networks or not self._has_time(now):
            return None
        network, turns = self._networks.popitem(last=False)
        connection = turns.pop()
        del self._source_of[connection]
        if turns.addresses:
            self._networks[network] = turns
        return connection

    def spent(self, seconds: float, now: float) -> None:
        """A handshake took so much time of the processor."""
        self._free_at = max(self._free_at, now) + seconds / self._share

    def get_timer(self) -> float | None:
        """When `next` will have one."""
        return self._free_at - self._burst / self._share if self._networks else None

    def _has_time(self, now: float) -> bool:
        # The same sum as in get_timer, so that what is due then is due here, whatever is rounded.
        return self._free_at - self._burst / self._share <= now


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
