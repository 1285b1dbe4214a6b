"""
A proved connection, and what it carries: streams with credits, datagrams, and the control stream.

A `StreamMultiplexer` queues what is to be sent until `collect_datagrams`, so that everything of one turn goes
out in as few datagrams as possible. The QUIC library is then given all control frames, and of streams what
may be sent now (`StreamScheduler`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from punch.link.control_stream import (
    ABOVE,
    CONTROL_STREAM,
    OPTIONAL,
    ControlFrameType,
    ControlStream,
    FrameError,
    decode_close,
    decode_credit,
    encode_credit,
    explain,
    explain_failure,
)
from punch.link.events import (
    CloseCode,
    ControlFrame,
    Datagram,
    Event,
    LinkError,
    LinkLimits,
    LinkRole,
    PingAnswered,
    StreamAccepted,
    StreamData,
    StreamLimitError,
    StreamOpened,
    StreamReset,
    StreamSendable,
    encode_name,
)
from punch.link.quic.interface import QuicConnection, QuicError, QuicStreamLimit
from punch.link.quic.receive_limits import LimitExceeded, ReceiveAllowance
from punch.link.streams import (
    DatagramQueue,
    ReceiveWindow,
    Stream,
    StreamError,
    StreamScheduler,
    WindowBudget,
)

NOT_CONNECTED: Final = "The link is not connected."
"""What a `LinkError` says before the proof, and after the end."""


class StreamMultiplexer:
    """
    The streams of a proved link.

    :param emit: takes events for the layer above.
    :param end: ends the link: code, reason, whether the other side said so.
    :param connection_id: told of connection IDs that come into use (True), or are no longer used (False).
    :ivar over: whether the connection has ended.
    """

    def __init__(
        self,
        quic: QuicConnection,
        *,
        role: LinkRole,
        limits: LinkLimits,
        emit: Callable[[Event], None],
        end: Callable[[CloseCode, str, bool], None],
        connection_id: Callable[[bytes, bool], None],
        now: float,
    ) -> None:
        self.now = now
        self.over = False
        self._quic = quic
        self._limits = limits
        self._emit = emit
        self._end = end
        self.on_connection_id = connection_id
        self._local_parity = 0 if role is LinkRole.CALLER else 1
        self._budget = WindowBudget(limits.total_window)
        self._streams: dict[int, Stream] = {}
        self._remote_count = 0
        self._remote_opened = 0 if role is LinkRole.CALLER else 1
        self._unnamed: dict[int, Stream] = {}
        self._due: dict[int, Stream] = {}
        self._control = ControlStream(quic, role, now)
        # A caller's streams may arrive ahead of its proof, and then wait in the callee's memory: until the
        # callee has accepted the proof, the caller sends little.
        self._scheduler = StreamScheduler(
            quic,
            early_bytes=limits.early_bytes if role is LinkRole.CALLER else None,
            allowance=self._control.allowance,
            sent_all=self._forget_if_over,
        )
        # The sender keeps within less than the receiver allows, since what was sent in time may arrive at
        # once.
        self._remote_streams = ReceiveAllowance(2048, 500)
        self._local_streams = ReceiveAllowance(1536, 400)
        self._datagrams = DatagramQueue(quic)

    @property
    def windows(self) -> dict[int, int]:
        """The size in bytes of each open stream's receive window, by stream ID."""
        return {stream_id: stream.window.window for stream_id, stream in self._streams.items()}

    @property
    def window_budget(self) -> int:
        """How many bytes the windows may still grow by in all."""
        return self._budget.left

    # Methods of the layer above

    def open_stream(self, name: str) -> int:
        """
        Open a stream to the service `name`, and return its ID.

        :raise LinkError: the link has ended.
        :raise StreamLimitError: too many are open, or were opened in a short time.
        :raise ValueError: the name is empty, or longer than 255 bytes of UTF-8.
        """
        self._check_open()
        header = encode_name(name)
        if len(self._streams) - self._remote_count >= self._limits.streams:
            raise StreamLimitError(f"This link has {self._limits.streams} streams open: close one first.")
        if self._local_streams.left(self.now) < 1:
            raise StreamLimitError("Streams are opened on this link too fast: wait a moment.")
        try:
            stream_id = self._quic.open_stream()
        except QuicStreamLimit as error:
            raise StreamLimitError(
                "The other side allows no more streams on this link now: close one first."
            ) from error
        self._local_streams.spend(self.now)
        self._control.allowance.opened()
        stream = self._new_stream(stream_id, local=True)
        stream.name = name
        self._scheduler.put(stream, header)
        return stream_id

    def accept(self, stream_id: int) -> None:
        """
        Tell the other side that a service answers the stream that it opened. A CREDIT frame says so, because
        older peers understand it; they do not wait for it.
        """
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.given_up:
            self._control.put(encode_credit(stream_id, stream.window.accept()))

    def send(self, stream_id: int, data: bytes | bytearray | memoryview, fin: bool = False) -> None:
        """Queue bytes on a stream, and its end if `fin`. This has no effect on a stream that is over."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.out.finished or stream.out.fin_wanted:
            return
        self._scheduler.put(stream, data, fin)

    def is_full(self, stream_id: int) -> bool:
        """Whether enough is queued on a stream. `StreamSendable` follows when there is room."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.out.full

    def queued(self, stream_id: int) -> int:
        """Bytes that wait on this side, in our queue and in the QUIC library's."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.out.queued + self._quic.unsent(stream_id)

    def delivered(self) -> bool:
        """Whether the other side has acknowledged all that was written."""
        flight = self._quic.flight()
        return not (flight.in_flight or flight.unsent or any(s.out.queued for s in self._streams.values()))

    def consumed(self, stream_id: int, size: int) -> None:
        """The application has used so many bytes, and the other side may send as many again."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.window.consumed += size
        if not stream.received_all and stream.window.due:
            self._due[stream_id] = stream

    def reset(self, stream_id: int, code: int) -> None:
        """Give up a stream in both directions."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.given_up:
            return
        stream.given_up = True
        self._scheduler.discard(stream)
        self._unnamed.pop(stream_id, None)
        self._quic.reset(stream_id, code)
        self._forget_if_over(stream)

    def send_datagram(self, data: bytes) -> None:
        """
        Queue an unreliable message; of too many, the oldest is dropped.

        :raise LinkError: the link has ended.
        :raise ValueError: it is longer than `MAX_DATAGRAM`.
        """
        self._check_open()
        self._datagrams.put(data)

    def send_control(self, frame_type: int, payload: bytes) -> None:
        """
        Send a control frame of a layer above: `ControlFrameType.CANDIDATES`, `ControlFrameType.RESTART`, or
        an optional type.

        :raise LinkError: the link has ended.
        :raise ValueError: the type is one of the link's own, or out of range; or the payload is longer than
            16,384 bytes.
        """
        self._check_open()
        self._control.put_above(frame_type, payload)

    def send_close(self, code: CloseCode, reason: str) -> None:
        """Tell the other side that the link ends, once."""
        self._control.put_close(code, reason)

    def _check_open(self) -> None:
        if self.over:
            raise LinkError(NOT_CONNECTED)

    def close(self, code: CloseCode, reason: str) -> list[bytes]:
        """Do nothing more, and return the last datagrams, which tell the other side that the link ends."""
        self.over = True
        last: list[bytes] = []
        with suppress(QuicError, LimitExceeded):
            self.send_close(code, reason)
            self._collect(self.now, last)
        return last

    def _failed(self, error: QuicError | LimitExceeded) -> None:
        """End the link: the library failed, or the other side exceeded a limit."""
        if not self.over:
            self._end(*explain_failure(error), False)

    # Sending

    def collect_datagrams(self, now: float, out: list[bytes]) -> None:
        """Append everything that may be sent now, as datagrams."""
        self.now = now
        try:
            self._collect(now, out)
        except (QuicError, LimitExceeded) as error:
            self._failed(error)

    def _collect(self, now: float, out: list[bytes]) -> None:
        scheduler = self._scheduler
        flight = scheduler.begin(now)
        while True:
            self._grant(now)
            if not self._control.flush():
                self._violation("The other side takes no control frames.")
                return
            progress = scheduler.busy and scheduler.feed(flight)
            datagrams = self._quic.datagrams_to_send(now)
            if not datagrams:
                break
            out += datagrams
            flight = scheduler.sent()
            if not (progress and scheduler.busy):
                break
        if self._datagrams:
            sent = self._datagrams.collect_datagrams(now, out, scheduler.early_left)
            if scheduler.early_left is not None:
                scheduler.early_left -= sent
            scheduler.sent()
        for stream_id in scheduler.take_drained():
            self._emit(StreamSendable(stream_id))

    def set_room(self, room: int | None) -> None:
        """Learn how many bytes of streams the path takes now; None for any number."""
        self._scheduler.room = room

    def waits_for_room(self) -> bool:
        """Whether data of streams is held back only because the path takes no more now."""
        return not self.over and self._scheduler.waits_for_room

    def path_changed(self) -> None:
        """The path may be another one, so that what was measured counts no longer."""
        self._scheduler.path_changed()

    def _grant(self, now: float) -> None:
        """Allow the other side what is due."""
        due, self._due = self._due, {}
        for stream_id, stream in due.items():
            window = stream.window
            if window.due and not stream.received_all and not stream.given_up:
                self._control.put(encode_credit(stream_id, window.grant(now, self._quic.rtt)))

    # Receiving

    def receive_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        """Process datagrams."""
        self.now = now
        try:
            self._quic.receive(datagrams, now)
        except (QuicError, LimitExceeded) as error:
            self._failed(error)
        try:
            self._quic.deliver(self)
        except (QuicError, LimitExceeded) as error:
            self._failed(error)

    # Events of the QUIC library (QuicSink)

    def on_handshake(self, alpn: str | None, resumed: bool) -> None:
        """Do nothing: the connection is proved."""

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if self.over:
            return
        if stream_id == CONTROL_STREAM:
            self._control_data(data, fin)
            return
        stream = self._streams.get(stream_id) or self._accept(stream_id)
        if stream is None:
            return
        if stream.given_up:
            self._note_end(stream, fin)
            return
        stream.window.received += len(data)
        if stream.window.exceeded:
            self._violation("The other side sent more on a stream than it was allowed.")
            return
        if stream.name is None:
            data = self._read_name(stream, data, fin)
            if stream.name is None:
                return
        self._accepted(stream)
        if data or fin:
            self._emit(StreamData(stream_id, data, fin))
        self._note_end(stream, fin)

    def _read_name(self, stream: Stream, data: bytes, fin: bool) -> bytes:
        try:
            rest = stream.read_name(data)
        except StreamError as error:
            self._violation(str(error))
            return b""
        if stream.name is not None:
            self._unnamed.pop(stream.stream_id, None)
            self._emit(StreamOpened(stream.stream_id, stream.name))
        elif fin:
            self._violation("A stream ended within its name.")
        return rest

    def _accept(self, stream_id: int) -> Stream | None:
        if stream_id & 2:
            self._violation("The other side opened a one-way stream.")
            return None
        if stream_id & 1 == self._local_parity:
            # Ours, and over. The library reports nothing more on it but its end
            return None
        if self._remote_count >= self._limits.streams:
            self._violation(f"The other side has more than {self._limits.streams} streams open.")
            return None
        if not self._count_opened(stream_id):
            return None
        stream = self._new_stream(stream_id, local=False)
        self._unnamed[stream_id] = stream
        return stream

    def _count_opened(self, stream_id: int) -> bool:
        """
        Count the streams that the other side has opened: a stream opens all that have smaller numbers (RFC
        9000, section 3.2). Return False if there are too many, which ends the link.
        """
        number = (stream_id >> 2) + 1
        opened, self._remote_opened = self._remote_opened, max(number, self._remote_opened)
        if self._remote_streams.spend(self.now, self._remote_opened - opened):
            return True
        self._violation("The other side opens streams too fast.")
        return False

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        if self.over:
            return
        if stream_id == CONTROL_STREAM:
            self._violation("The other side gave up the control stream.")
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id & 1 == self._local_parity:
                return
            if stream_id & 2:
                self._violation("The other side opened a one-way stream.")
            elif self._count_opened(stream_id):
                # It was opened and reset before its first byte arrived. The other direction is open until it
                # is reset too
                self._quic.reset(stream_id, code)
            return
        stream.received_all = True
        stream.window.close()
        known = stream.name is not None and not stream.given_up
        self.reset(stream_id, code)
        self._forget_if_over(stream)
        if known:
            self._emit(StreamReset(stream_id, code))

    def on_datagram(self, data: bytes) -> None:
        if not self.over:
            self._emit(Datagram(data))

    def on_ping_answered(self) -> None:
        if not self.over:
            self._emit(PingAnswered())

    def on_terminated(self, code: int, application: bool, reason: str) -> None:
        if not self.over:
            self.over = True
            self._end(*explain(code, application, reason))

    def _control_data(self, data: bytes, fin: bool) -> None:
        try:
            for frame_type, payload in self._control.receive(data, self.now):
                self._control_frame(frame_type, payload)
        except FrameError as error:
            self._violation(f"The other side's control frames are wrong: {error}.")
            return
        if fin:
            self._violation("The other side ended the control stream.")

    def _control_frame(self, frame_type: int, payload: bytes) -> None:
        if frame_type == ControlFrameType.CREDIT:
            self._credit(*decode_credit(payload))
        elif frame_type == ControlFrameType.CLOSE:
            self._end(*decode_close(payload), True)
        elif frame_type == ControlFrameType.ACCEPTED:
            if self._scheduler.early_left is None or payload:
                raise FrameError("ACCEPTED is out of place")
            self._scheduler.proof_accepted(self._streams.values())
        elif frame_type in ABOVE or frame_type & OPTIONAL:
            self._emit(ControlFrame(frame_type, payload))
        else:
            raise FrameError(f"type {frame_type:#04x} is unknown")

    def _credit(self, stream_id: int, limit: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            # The stream ended while the frame was on its way.
            return
        if limit <= stream.out.limit:
            raise FrameError("a limit did not grow")
        stream.out.limit = limit
        self._scheduler.credit_raised(stream)
        self._accepted(stream)

    def _accepted(self, stream: Stream) -> None:
        if not stream.accepted:
            stream.accepted = True
            self._emit(StreamAccepted(stream.stream_id))

    # Common

    def get_timer(self) -> float | None:
        """When a stream without a name has waited too long."""
        oldest = next(iter(self._unnamed.values()), None)
        return None if oldest is None else oldest.opened_at + self._limits.header_seconds

    def handle_timer(self, now: float) -> None:
        """End the link if a stream's name has not arrived in time."""
        deadline = self.get_timer()
        if deadline is not None and now >= deadline:
            self._violation("The other side opened a stream and never said its name.")

    def _new_stream(self, stream_id: int, *, local: bool) -> Stream:
        window = ReceiveWindow(self._budget, self._limits.max_window, self.now)
        stream = self._streams[stream_id] = Stream(stream_id, window, local=local, now=self.now)
        self._remote_count += not local
        return stream

    def _note_end(self, stream: Stream, fin: bool) -> None:
        if fin:
            stream.received_all = True
            stream.window.close()
            self._forget_if_over(stream)

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.over and self._streams.pop(stream.stream_id, None) is not None:
            self._remote_count -= not stream.local
            self._scheduler.forget(stream)
            self._due.pop(stream.stream_id, None)
            self._unnamed.pop(stream.stream_id, None)

    def _violation(self, reason: str) -> None:
        self._end(CloseCode.PROTOCOL, reason, False)
