"""
Flows of datagrams: how many of them share a stream, and for how long each is kept. Pure.

A flow is what one program sends from one port, and the answers to it. On the stream, each datagram follows a
head of the number of its flow (4 bytes) and its length (2 bytes).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

IDLE_TIME = 300.0
"""Seconds after which a flow is over in which nothing is sent (RFC 4787, REQ-5, recommends so many)."""
MAX_FLOWS = 512
"""
Flows of one port, or of one peer at an exposed port, at once. For a further one, that which was silent
longest ends.
"""
MAX_DATAGRAM = 65535
"""Bytes of the longest datagram."""
_HEAD = struct.Struct(">IH")


def encode_datagram(flow: int, data: bytes) -> bytes:
    """Return a datagram of a flow as it is sent."""
    return _HEAD.pack(flow, len(data)) + data


class DatagramReader:
    """Reads datagrams from a stream. Any bytes are some; at most one datagram is kept."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Return the datagrams that are complete, each with its flow."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEAD.size:
            flow, length = _HEAD.unpack_from(buffer, start)
            end = start + _HEAD.size + length
            if len(buffer) < end:
                break
            yield flow, bytes(buffer[start + _HEAD.size : end])
            start = end
        del buffer[:start]


class FlowTable(Generic[K, V]):
    """
    Flows by a key. One ends when it has been idle for `IDLE_TIME`, or when the place is needed.

    :param ended: is told the key and the value of a flow that has ended.
    """

    def __init__(self, ended: Callable[[K, V], object]) -> None:
        self._ended = ended
        # The one that was used last is the last
        self._flows: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def use(self, key: K, now: float) -> V | None:
        """Return the value of a flow in which something is sent; None if there is no such flow."""
        found = self._flows.get(key)
        if found is None:
            return None
        self._flows[key] = (found[0], now)
        self._flows.move_to_end(key)
        return found[0]

    def add(self, key: K, value: V, now: float) -> None:
        """Add a flow that is not there yet."""
        while len(self._flows) >= MAX_FLOWS:
            self.end_oldest()
        self._flows[key] = (value, now)

    def end_oldest(self) -> bool:
        """End the flow that was silent longest; False if there is none."""
        if not self._flows:
            return False
        key, (value, _) = self._flows.popitem(last=False)
        self._ended(key, value)
        return True

    def end(self, key: K) -> None:
        """End a flow, if it is there."""
        found = self._flows.pop(key, None)
        if found is not None:
            self._ended(key, found[0])

    def end_all(self) -> None:
        """End all flows."""
        while self.end_oldest():
            pass

    def get_timer(self) -> float | None:
        """When the next flow is over, if nothing is sent; None if there is none."""
        oldest = next(iter(self._flows.values()), None)
        return None if oldest is None else oldest[1] + IDLE_TIME

    def handle_timer(self, now: float) -> None:
        """End what is over."""
        while (due := self.get_timer()) is not None and due <= now:
            self.end_oldest()
