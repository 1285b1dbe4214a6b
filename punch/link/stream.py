"""
The streams of a link: the name at the beginning of each, what is queued to send, and credits, which limit how
much a sender may have on the way to an application that has not read it.

Both QUIC libraries renew their flow control when bytes arrive, not when they are read, so what a paused
reader does not take would gather in memory. So each direction of each stream has a limit of its own, in bytes
since its beginning. It starts at `INITIAL_CREDIT`, the receiver raises it as its application consumes, and a
sender never exceeds it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from punch.link.events import INITIAL_CREDIT

MAX_NAME: Final = 255
FULL_LEAST: Final = 64 * 1024
"""Bytes queued above which a stream is full, however little credit there is."""
FULL_MOST: Final = 512 * 1024
FALLBACK_RTT: Final = 0.1
"""Seconds, while the round-trip time is not known."""
SHORTEST_RTT: Final = 0.025
"""Shorter round trips do not tell how fast an application reads, because its process has to be scheduled."""


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


class SendBuffer:
    """The sending direction: bytes wait here until credit and the QUIC library's queue have room."""

    def __init__(self) -> None:
        self.queued = 0
        self.sent = 0
        self.limit = INITIAL_CREDIT
        self.fin_wanted = False
        self.finished = False
        self.full = False
        self._chunks: deque[bytes | bytearray | memoryview] = deque()

    def put(self, data: bytes | bytearray | memoryview) -> None:
        self._chunks.append(data)
        self.queued += len(data)

    def capacity(self, ahead: int) -> int:
        """How many bytes to queue: what credit allows to send, within bounds, and at most `ahead`."""
        return min(max(self.limit - self.sent, FULL_LEAST), FULL_MOST, ahead)

    @property
    def credit(self) -> int:
        return self.limit - self.sent

    @property
    def ready(self) -> bool:
        """Whether credit allows to send something, or only the end of the stream is left to send."""
        if self.finished:
            return False
        return self.credit > 0 if self.queued else self.fin_wanted

    def take(self, room: int) -> bytes | bytearray | memoryview:
        """Remove and return the next bytes, at most `room` and at most one chunk. They count as sent."""
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


class WindowBudget:
    """
    By how many bytes the windows of all streams of a link may grow, beyond the initial credit of each.

    :ivar left: how many of these bytes no window has taken.
    """

    def __init__(self, total: int) -> None:
        self.left = total

    def take(self, size: int) -> int:
        """Take `size` bytes or as many as are left; returns how many."""
        granted = min(size, self.left)
        self.left -= granted
        return granted

    def give_back(self, size: int) -> None:
        self.left += size


class ReceiveWindow:
    """
    The receiver's side of one direction of a stream.

    The window doubles whenever half of it was read in less than two round trips (it, not the reader, was then
    what limited the transfer), up to `maximum` and as far as the link's budget goes.
    """

    def __init__(self, budget: WindowBudget, maximum: int, now: float) -> None:
        self.limit = INITIAL_CREDIT
        self.received = 0
        self.consumed = 0
        self.window = INITIAL_CREDIT
        self._budget = budget
        self._maximum = maximum
        self._granted_at = now

    @property
    def exceeded(self) -> bool:
        """The sender has sent more than it was allowed."""
        return self.received > self.limit

    @property
    def due(self) -> bool:
        """Enough has been read for a new limit to be worth a frame."""
        return self.limit - self.consumed <= self.window // 2

    def grant(self, now: float, rtt: float | None) -> int:
        """The new limit, to be sent to the other side at once."""
        reference = max(FALLBACK_RTT if rtt is None else rtt, SHORTEST_RTT)
        if now - self._granted_at < 2 * reference and self.window < self._maximum:
            self.window += self._budget.take(min(self.window, self._maximum - self.window))
        self._granted_at = now
        self.limit = self.consumed + self.window
        return self.limit

    def accept(self) -> int:
        """
        Return the limit that tells the other side that the stream was accepted. It has grown by the length of
        the name.
        """
        self.limit = self.consumed + self.window
        return self.limit

    def close(self) -> None:
        """Nothing more is received. The bytes by which the window grew are given back, for other streams."""
        self._budget.give_back(self.window - INITIAL_CREDIT)
        self.window = INITIAL_CREDIT


class Stream:
    """Both directions of a stream, as one side sees them."""

    def __init__(self, stream_id: int, window: ReceiveWindow, *, local: bool, now: float) -> None:
        self.stream_id = stream_id
        self.local = local
        self.opened_at = now
        self.out = SendBuffer()
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
        """Whether both directions have ended."""
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


class SendAllowance:
    """
    How many control frames the other side may send: a burst, then a steady rate, plus one for every 4 KiB
    that we sent it (an honest receiver grants credit at most once for every 8 KiB). What sends more is
    flooding.
    """

    BURST: Final = 4096.0
    PER_SECOND: Final = 100.0
    BYTES_PER_FRAME: Final = 4096

    def __init__(self, now: float) -> None:
        self._left = self.BURST
        self._at = now

    def sent(self, size: int) -> None:
        """We sent so many bytes on streams, which the other side may answer with credit."""
        self._left += size / self.BYTES_PER_FRAME

    def opened(self) -> None:
        """We opened a stream, which the other side accepts with one frame."""
        self._left += 1

    def spend(self, now: float) -> bool:
        """Account for one frame; False if it is one too many."""
        if now > self._at:
            if self._left < self.BURST:
                self._left = min(self.BURST, self._left + (now - self._at) * self.PER_SECOND)
            self._at = now
        self._left -= 1
        return self._left >= 0
