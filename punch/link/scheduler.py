"""
Which bytes of streams the QUIC library is given next, and how many.

Streams with something to send have turns, a part of each. No more is given to the library than may be sent
now, so that what is written later on another stream, or in a control frame, waits behind little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from punch.link.events import INITIAL_CREDIT
from punch.link.quic.interface import QuicConnection
from punch.link.stream import FULL_MOST, SendAllowance, Stream
from punch.net.send_window import Flight, SendWindow


class StreamScheduler:
    """
    The streams of a link that have something to send, and those that have enough queued.

    :param early_bytes: how much may be sent until the other side has accepted the proof; None if it has.
    :param allowance: counts what is sent, which the other side may answer with control frames.
    :param sent_all: called with a stream of which all was sent that could be.
    :ivar room: how many bytes of streams the path takes now, which sending counts down; None for any number.
    :ivar early_left: how much of `early_bytes` is left; None when the other side has accepted the proof.
    """

    def __init__(
        self,
        quic: QuicConnection,
        *,
        early_bytes: int | None,
        allowance: SendAllowance,
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
        """The other side has accepted the proof of this one, so that all of these streams may send."""
        self.early_left = None
        self._busy.update((stream.stream_id, stream) for stream in streams if stream.out.ready)

    def discard(self, stream: Stream) -> None:
        """Drop what is queued on a stream: nothing more is sent on it."""
        stream.out.discard()
        self._full.pop(stream.stream_id, None)

    def forget(self, stream: Stream) -> None:
        """A stream is over."""
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
        """Return the streams that were full and have room again."""
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
