"""
What is said on the socket of a node (docs/json.md): lines of JSON, and streams in frames. It knows neither
sockets nor Twisted.

A connection begins with lines. The commands `open` and `accept-stream` make a stream of it: from the `result`
on (the program: from its command on) it carries the bytes of the stream, as they are or, with `framed`, in
frames: a length (4 bytes, big-endian) and as many bytes. Two lengths are marks without bytes: `END`, the last
byte of this direction has been sent, and `OVER`, the stream has ended in good order in both. A third one,
before a code of 4 bytes, says that the stream was given up with this code (`Abort`). A connection that closes
without them has lost the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from punch.link.events import RefusalCode
from punch.wire import strict_json

JSON = dict[str, Any]

MAX_LINE = 128 * 1024
"""The longest line in bytes. A message of the chat fits with every byte written as an escape."""
MAX_REQUEST = 128
"""How many characters of a `request` an answer repeats."""
MAX_FRAME = 1 << 20
"""How many bytes one frame is given by this side."""
NODE_TIME = 5.0
"""Seconds in which the process of a node has to answer at its socket."""

_LENGTH = struct.Struct(">I")
_END, _ABORT, _OVER = 0, 0xFFFFFFFE, 0xFFFFFFFF

REFUSALS = {
    RefusalCode.NO_SERVICE: "no-service",
    RefusalCode.FAILED: "service-failed",
    RefusalCode.NOT_ALLOWED: "not-allowed",
}
"""The reasons of streams that the other side refused."""


class CommandError(Exception):
    """
    What a program asked of the node can't be done; `str()` is a sentence for the user.

    :ivar reason: a code for programs.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def read_fields(line: bytes, longest: int = MAX_LINE) -> JSON:
    """
    Return the fields of a line.

    :param longest: bytes of the longest line; the answers of a node may be longer than commands.
    :raise CommandError: it is too long, or not a JSON object.
    """
    if len(line) > longest:
        raise too_long()
    try:
        value = strict_json.loads(line)
    except strict_json.JSONError as error:
        raise CommandError("malformed", f"A command must be one JSON object: {error}.") from None
    if not isinstance(value, dict):
        raise CommandError("malformed", 'A command must be a JSON object, such as {"command": "status"}.')
    return value


def node_timeout() -> CommandError:
    """Return the error of a program to which the process of the node does not answer."""
    return CommandError("node-timeout", "The process of the node does not answer: it is stopped, or hangs.")


def too_long() -> CommandError:
    """Return the error for a line that is longer than any may be."""
    return CommandError("too-long", f"A command has more than {MAX_LINE:,} bytes: send long texts in parts.")


def line(fields: JSON) -> bytes:
    """Return a line with its newline."""
    return strict_json.dumps(fields) + b"\n"


def request_fields(fields: JSON) -> JSON:
    """Return what an answer repeats of a command, so that it is known what it answers."""
    request = fields.get("request")
    if isinstance(request, str):
        return {"request": request[:MAX_REQUEST]}
    if isinstance(request, int) and not isinstance(request, bool) and abs(request) < 2**63:
        return {"request": request}
    return {}


class Mark(Enum):
    """A frame without bytes."""

    END = _LENGTH.pack(_END)
    """The last byte of this direction has been sent."""
    OVER = _LENGTH.pack(_OVER)
    """The stream has ended in good order."""


@dataclass(frozen=True)
class Abort:
    """
    A frame that says that the stream was given up.

    :ivar code: with which code (`punch.link.events`).
    """

    code: int

    def encode(self) -> bytes:
        """Return the frame. Codes of QUIC may be larger than it holds; nobody gives them a meaning."""
        return _LENGTH.pack(_ABORT) + _LENGTH.pack(min(self.code, 2**32 - 1))


def frames(data: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """Return bytes in frames."""
    for start in range(0, len(data), MAX_FRAME):
        part = data[start : start + MAX_FRAME]
        yield _LENGTH.pack(len(part)) + part


class StreamFrameReader:
    """Reads frames. It keeps at most seven bytes: the bytes of a frame are handed on as they come."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def receive(self, data: bytes) -> Iterator[bytes | Mark | Abort]:
        """Return the bytes and what else is in the next bytes of the connection."""
        at = 0
        while at < len(data):
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                yield part
                continue
            missing = -len(self._head) % _LENGTH.size or _LENGTH.size
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) % _LENGTH.size:
                continue
            length, *code = struct.unpack(f">{len(self._head) // _LENGTH.size}I", self._head)
            if length == _ABORT and not code:
                continue
            self._head = b""
            if length == _ABORT:
                yield Abort(code[0])
            elif length == _END:
                yield Mark.END
            elif length == _OVER:
                yield Mark.OVER
            else:
                self._left = length
