"""
One stream of a link: what is queued to send, what the other side may send, and the name at its beginning.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from punch.link.events import INITIAL_CREDIT
from punch.link.flow_control import ReceiveWindow

MAX_NAME: Final = 255
FULL_LEAST: Final = 64 * 1024
"""Bytes queued above which a stream is full, however little credit there is."""
FULL_MOST: Final = 512 * 1024


class StreamError(Exception):
    """The other side broke a rule on a stream; `str()` says which."""


def encode_name(name: str) -> bytes:
    """
    How a stream begins: length (1 byte) ‖ name (UTF-8).

    :raise ValueError: the name is empty, or longer than 255 bytes.
    """
    data = name.encode("utf-8")
    if not 1 <= len(data) <= MAX_NAME:
        raise ValueError("a stream's name has 1 to 255 bytes of UTF-8")
    return bytes([len(data)]) + data


class SendQueue:
    """The sending direction: bytes wait here until credit and the QUIC library's queue have room."""

    def __init__(self) -> None:
        self.queued = 0
        self.sent = 0
        self.limit = INITIAL_CREDIT
        self.fin_wanted = False
        self.finished = False
        self.full = False
        self._chunks: deque[bytes | memoryview] = deque()

    def put(self, data: bytes) -> None:
        self._chunks.append(data)
        self.queued += len(data)

    def capacity(self, ahead: int) -> int:
        """Bytes worth queueing: what could be sent with the credit there is, within bounds and `ahead`."""
        return min(max(self.limit - self.sent, FULL_LEAST), FULL_MOST, ahead)

    @property
    def credit(self) -> int:
        return self.limit - self.sent

    @property
    def ready(self) -> bool:
        """There is something that credit allows to send, or only the end is left to say."""
        if self.finished:
            return False
        return self.credit > 0 if self.queued else self.fin_wanted

    def take(self, room: int) -> bytes | memoryview:
        """The next bytes, at most `room` and never more than a chunk; they count as sent."""
        chunk = self._chunks[0]
        if len(chunk) > room:
            view = memoryview(chunk)
            self._chunks[0] = view[room:]
            chunk = view[:room]
        else:
            self._chunks.popleft()
        self.queued -= len(chunk)
        self.sent += len(chunk)
        return chunk

    def discard(self) -> None:
        """Nothing more will be sent."""
        self._chunks.clear()
        self.queued = 0
        self.finished = True
        self.full = False


class Stream:
    """Both directions of a stream, as one side sees them."""

    def __init__(self, stream_id: int, window: ReceiveWindow, *, local: bool, now: float) -> None:
        self.stream_id = stream_id
        self.local = local
        self.opened_at = now
        self.out = SendQueue()
        self.window = window
        self.name: str | None = None
        self.accepted = not local
        """The other side is known to have accepted this stream, which we opened."""
        self.given_up = False
        """Reset by us: what still arrives is dropped."""
        self.received_all = False
        self._header = bytearray()

    @property
    def over(self) -> bool:
        """Nothing can happen any more, in either direction."""
        return self.received_all and self.out.finished

    def read_name(self, data: bytes) -> bytes:
        """
        Take the name from the beginning of the other side's bytes, which may arrive in pieces.

        :return: what follows the name.
        :raise StreamError: this is no name.
        """
        self._header += data
        if not self._header:
            return b""
        length = self._header[0]
        if length == 0:
            raise StreamError("A stream came with no name.")
        if len(self._header) <= length:
            return b""
        try:
            self.name = self._header[1 : 1 + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise StreamError("The name of a stream is not UTF-8.") from error
        rest = bytes(self._header[1 + length :])
        self._header.clear()
        self.window.consumed += 1 + length
        return rest
