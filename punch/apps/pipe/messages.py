"""
What is said on a stream of the service "pipe/1" (docs/protocol.md, section 13): bytes in pieces, their end,
and the exit status of the side that sends it. Each side says first that it is there. It knows
neither Twisted nor files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SERVICE = "pipe/1"
"""The name of the service."""
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
    """The last byte was sent before."""


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
