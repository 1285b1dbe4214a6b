"""
Which TLS handshake begins next. To answer a ClientHello costs half a millisecond of signing and key
agreement, and to send one costs nothing, so all handshakes together get a share of the processor, the sources
take turns, and a hello that was there before is not answered at all. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from punch.net.rate_limits import Source

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
