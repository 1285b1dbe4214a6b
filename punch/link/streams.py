"""
The streams of a link: how their names are read, what is queued to send, and what is given to the QUIC library
next.

Both QUIC libraries renew their flow control when bytes arrive, not when an application reads them, so what a
paused reader does not take would gather in memory. So each direction of each stream has a limit of its own,
in bytes since its beginning: its credit. It starts at `INITIAL_CREDIT`, the receiver raises it as its
application reads, and a sender never exceeds it.

Streams that have something to send take turns: in each turn, a part of what a stream has queued is sent. The
library is given no more than it may send now, so that what is written later on another stream, or in a
control frame, waits behind little. The same holds for the unreliable messages of a link (RFC 9221,
`DatagramQueue`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from punch.link.control_stream import FrameAllowance
from punch.link.events import INITIAL_CREDIT, MAX_DATAGRAM
from punch.link.quic.interface import QuicConnection
from punch.link.quic.receive_limits import ReceiveAllowance
from punch.net.send_window import Flight, SendWindow

FULL_LEAST: Final = 64 * 1024
"""Bytes queued above which a stream is full, however little credit there is."""
FULL_MOST: Final = 512 * 1024
"""The same, however much credit there is."""
FALLBACK_RTT: Final = 0.1
"""Seconds that are taken for the round-trip time while it is not known."""
SHORTEST_RTT: Final = 0.025
"""Shorter round trips do not tell how fast an application reads, because its process has to be scheduled."""


class StreamError(Exception):
    """The other side broke a rule on a stream; `str()` says which."""


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
        """Whether the sender has sent more than it was allowed."""
        return self.received > self.limit

    @property
    def due(self) -> bool:
        """Whether enough was read for a new limit to be worth a frame."""
        return self.limit - self.consumed <= self.window // 2

    def grant(self, now: float, rtt: float | None) -> int:
        """Raise the limit, and return it; it is to be sent to the other side at once."""
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
        :raise StreamError: the name is empty, or not UTF-8.
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


class StreamScheduler:
    """
    The streams of a link that have something to send, and those that have enough queued.

    :param early_bytes: how much may be sent until the other side has accepted the proof; None if it has.
    :param allowance: counts what is sent, which the other side may answer with control frames.
    :param sent_all: called with a stream when all of it was sent that its credit allows.
    :ivar room: how many bytes of streams the path takes now, which sending counts down; None for any number.
    :ivar early_left: how much of `early_bytes` is left; None when the other side has accepted the proof.
    """

    def __init__(
        self,
        quic: QuicConnection,
        *,
        early_bytes: int | None,
        allowance: FrameAllowance,
        sent_all: Callable[[Stream], None],
    ) -> None:
        self.room: int | None = None
        self.early_left = early_bytes
        self._quic = quic
        self._allowance = allowance
        self._sent_all = sent_all
        # Streams with something to send, in turn; a dict, because it has an order
        self._busy: dict[int, Stream] = {}
        self._full: dict[int, Stream] = {}
        # Of the full streams, those that may have room again
        self._drained: dict[int, Stream] = {}
        self._window = SendWindow()
        self._ahead = INITIAL_CREDIT

    def put(self, stream: Stream, data: bytes | bytearray | memoryview, fin: bool = False) -> None:
        """Queue bytes on a stream, and its end if `fin`."""
        out = stream.out
        if data:
            out.put(data)
            if out.queued > out.capacity(self._ahead):
                out.full = True
                self._full[stream.stream_id] = stream
        out.fin_wanted = fin
        self._busy[stream.stream_id] = stream

    def credit_raised(self, stream: Stream) -> None:
        """The other side takes more of a stream than before."""
        if stream.out.full:
            self._drained[stream.stream_id] = stream
        if stream.out.ready:
            self._busy[stream.stream_id] = stream

    def proof_accepted(self, streams: Iterable[Stream]) -> None:
        """The other side has accepted the proof of this side, so that all of these streams may send."""
        self.early_left = None
        self._busy.update((stream.stream_id, stream) for stream in streams if stream.out.ready)

    def discard(self, stream: Stream) -> None:
        """Drop what is queued on a stream: nothing more is sent on it."""
        stream.out.discard()
        self._full.pop(stream.stream_id, None)

    def forget(self, stream: Stream) -> None:
        """Forget a stream that is over."""
        self._busy.pop(stream.stream_id, None)
        self._full.pop(stream.stream_id, None)

    def path_changed(self) -> None:
        """The path may be another one, so that what was measured counts no longer."""
        self._window.remeasure()

    @property
    def waits_for_room(self) -> bool:
        """Whether data is held back only because the path takes no more now."""
        if not self._busy or self.room is None or self.room > 0:
            return False
        return self._window.room(self._quic.flight()) > 0

    @property
    def busy(self) -> bool:
        """Whether any stream has something to send."""
        return bool(self._busy)

    def begin(self, now: float) -> Flight:
        """Take note of what was acknowledged since the last time, and return what is in flight now."""
        flight = self._quic.flight()
        self._window.received(now, flight)
        ahead, self._ahead = self._ahead, self._window.ahead(flight)
        if min(ahead, FULL_MOST) < min(self._ahead, FULL_MOST):
            self._drained.update(self._full)
        return flight

    def sent(self) -> Flight:
        """Take note of what was sent, and return what is in flight now."""
        flight = self._quic.flight()
        self._window.sent(flight.in_flight)
        return flight

    def take_drained(self) -> list[int]:
        """Return the IDs of streams that were full and have room again, each once."""
        drained, self._drained = self._drained, {}
        found = []
        for stream_id, stream in drained.items():
            if stream_id in self._full and stream.out.queued <= stream.out.capacity(self._ahead) // 2:
                stream.out.full = False
                del self._full[stream_id]
                found.append(stream_id)
        return found

    def feed(self, flight: Flight) -> bool:
        """
        Give the QUIC library what may be sent, a part of each stream in turn, as far as credit goes.

        :return: whether there was anything.
        """
        room, progress = self._window.room(flight), False
        if self.room is not None:
            room = min(room, self.room)
        while room > 0:
            count = len(self._busy)
            turn = self._window.turn(flight, count) if count > 1 else room
            fed = 0
            for stream_id, stream in list(self._busy.items()):
                if fed >= room:
                    break
                size = self._feed(stream, min(room - fed, turn))
                fed += size
                if not stream.out.ready:
                    self._busy.pop(stream_id, None)
                    self._sent_all(stream)
                elif size:
                    self._busy[stream_id] = self._busy.pop(stream_id)
            room -= fed
            if self.room is not None:
                self.room -= fed
            progress = progress or fed > 0
            if not fed:
                break
        return progress

    def _feed(self, stream: Stream, room: int) -> int:
        out, before = stream.out, stream.out.sent
        if not out.ready:
            return 0
        room = min(out.credit, room)
        if self.early_left is not None:
            room = min(room, self.early_left)
        while out.queued and room > 0:
            chunk = out.take(room)
            room -= len(chunk)
            out.finished = out.fin_wanted and not out.queued
            self._quic.send(stream.stream_id, chunk, out.finished)
        if out.fin_wanted and not out.queued and not out.finished:
            out.finished = True
            self._quic.send(stream.stream_id, b"", True)
        sent = out.sent - before
        if sent and out.full:
            self._drained[stream.stream_id] = stream
        self._allowance.sent(sent)
        if self.early_left is not None:
            self.early_left -= sent
        return sent


DATAGRAM_QUEUE: Final = 128
"""How many messages may wait for the congestion controller. If there are more, the oldest is dropped."""


class DatagramQueue:
    """Messages in order. If there are too many, the newest are kept."""

    def __init__(self, quic: QuicConnection) -> None:
        self._quic = quic
        self._waiting: deque[bytes] = deque()
        # Less than the receiver allows, since what was sent in time may arrive at once
        self._allowance = ReceiveAllowance(4096, 2000)

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._waiting)

    def put(self, data: bytes) -> None:
        """
        Queue a message. If too many wait, the oldest is dropped.

        :raise ValueError: it is longer than `MAX_DATAGRAM`.
        """
        if len(data) > MAX_DATAGRAM:
            raise ValueError(f"a datagram of a link has at most {MAX_DATAGRAM} bytes, this one {len(data)}")
        if len(self._waiting) >= DATAGRAM_QUEUE:
            self._waiting.popleft()
        self._waiting.append(data)

    def collect_datagrams(self, now: float, out: list[bytes], most: int | None) -> int:
        """
        Append what may be sent now, as QUIC's datagrams. Messages are handed over one packet's worth at a
        time, until no datagram comes out: the library would queue them without bound, and an unreliable
        message that waits is worth less than the next one.

        :param most: how many bytes of messages may be sent; None for any number. The first message that is
            too large, and all behind it, are dropped.
        :return: how many bytes were handed over.
        :raise QuicError: the QUIC library failed.
        """
        sent = 0
        while self._waiting:
            size = 0
            while self._waiting and size + len(self._waiting[0]) <= MAX_DATAGRAM:
                if most is not None and sent + len(self._waiting[0]) > most:
                    self._waiting.clear()
                    break
                data = self._waiting.popleft()
                if self._allowance.left(now) < 1:
                    # More small messages than the other side accepts: this one is dropped
                    continue
                self._allowance.spend(now)
                self._allowance.earn(len(data) / 128)
                size += len(data) + 3
                sent += len(data)
                self._quic.send_datagram(data)
            datagrams = self._quic.datagrams_to_send(now)
            out += datagrams
            if not datagrams:
                break
        return sent
