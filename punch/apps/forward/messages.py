"""
The messages on the streams of ports and pipes (docs/protocol.md, section 13): the codes with which a stream
is reset, datagrams and their flows, and the pieces of a pipe. Pure.

A flow is what one program sends from one port, and the answers to it. On the stream, each datagram follows a
head of the number of its flow (4 bytes) and its length (2 bytes).

On a pipe, each side first sends `HELLO`. Bytes are sent in pieces; after their end follows the exit
status of the side that sends it.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from punch.link.events import FIRST_APPLICATION_CODE
from punch.link.transport import StreamAborted


class ForwardFailure(IntEnum):
    """
    Why an exposed port can't be reached, or is given up. The number goes over the wire, as the code of the
    stream's reset.
    """

    CONNECTION_REFUSED = FIRST_APPLICATION_CODE + 1
    """Nobody listens there."""
    UNREACHABLE = FIRST_APPLICATION_CODE + 2
    """It did not answer in time, or there is no way to it."""
    NO_HOST = FIRST_APPLICATION_CODE + 3
    """There is no host of this name."""
    NOT_PERMITTED = FIRST_APPLICATION_CODE + 4
    """The exposing user may not connect to it."""
    BUSY = FIRST_APPLICATION_CODE + 5
    """Too many connections are open."""
    FAILED = FIRST_APPLICATION_CODE + 6
    """Anything else."""
    RESET = FIRST_APPLICATION_CODE + 7
    """The connection was there, and was reset."""
    NOT_LISTENING = FIRST_APPLICATION_CODE + 8
    """The port that was asked for can't be listened at."""

    @property
    def reason(self) -> str:
        """The code for programs, as docs/json.md lists it."""
        return self.name.lower().replace("_", "-")


def failure_of(error: Exception) -> ForwardFailure | None:
    """Return why the other side reset a stream; None if it did not, or for another reason."""
    if not isinstance(error, StreamAborted) or error.code not in ForwardFailure.__members__.values():
        return None
    return ForwardFailure(error.code)


K = TypeVar("K")
V = TypeVar("V")
IDLE_TIME = 300.0
"""Seconds after which a flow ends if nothing is sent in it (RFC 4787, REQ-5, recommends so many)."""
MAX_FLOWS = 512
"""
Flows of one port, or of one peer at an exposed port, at once. Before another is added, the one that
was silent longest is ended.
"""
MAX_DATAGRAM = 65535
"""Bytes of the longest datagram."""
_HEAD = struct.Struct(">IH")


def encode_datagram(flow: int, data: bytes) -> bytes:
    """Return a datagram of a flow as it is sent."""
    return _HEAD.pack(flow, len(data)) + data


class DatagramReader:
    """Reads datagrams from a stream. Any bytes are valid. It keeps at most one incomplete datagram."""

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
    Flows by a key. One ends when it has been idle for `IDLE_TIME`, or to make room for another.

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


SERVICE = "pipe/1"
"""The name of the service of pipes."""
MAX_PIECE = 64 * 1024
"""Bytes of one piece."""
HELLO = b"\x01"
"""What each side says first."""
_LENGTH = struct.Struct(">I")
_END, _STATUS = 0, 0xFFFFFFFF


class PipeError(Exception):
    """The other side does not keep to the protocol."""


@dataclass(frozen=True)
class End:
    """The other side has sent its last byte."""


@dataclass(frozen=True)
class PipeStatus:
    """
    The other side has done all that it will do.

    :ivar code: 0: it has sent all, and all that it was sent was written. Else an exit status, from 1 to 255.
    """

    code: int


def encode_piece(data: bytes) -> Iterator[bytes]:
    """Return bytes as pieces."""
    for start in range(0, len(data), MAX_PIECE):
        piece = data[start : start + MAX_PIECE]
        yield _LENGTH.pack(len(piece)) + piece


def encode_end() -> bytes:
    """Return the end of the bytes."""
    return _LENGTH.pack(_END)


def encode_status(code: int) -> bytes:
    """Return an exit status."""
    return _LENGTH.pack(_STATUS) + bytes([code])


class PipeReader:
    """Reads what the other side says. Of a piece it keeps nothing: bytes are handed on as they come."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._ended = False
        self._over = False

    def receive(self, data: bytes) -> Iterator[bytes | End | PipeStatus]:
        """
        Return what is in the next bytes of the stream.

        :raise PipeError: the other side does not keep to the protocol.
        """
        at = 0
        while at < len(data):
            if self._over:
                raise PipeError("it goes on after its status")
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                yield part
                continue
            self._head += data[at : at + 1]
            at += 1
            message = self._message()
            if message is not None:
                yield message

    def _message(self) -> End | PipeStatus | None:
        if len(self._head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._head)
        if length == _STATUS and len(self._head) == _LENGTH.size:
            return None
        code, self._head = self._head[_LENGTH.size :], b""
        if length == _STATUS:
            self._over = True
            return PipeStatus(code[0])
        if self._ended:
            raise PipeError("it goes on after its end")
        if length == _END:
            self._ended = True
            return End()
        if length > MAX_PIECE:
            raise PipeError(f"a piece of {length:,} bytes")
        self._left = length
        return None
