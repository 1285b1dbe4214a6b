"""
One TCP connection (RFC 9293) as a kernel keeps it.

Retransmission (RFC 6298) with timestamps (RFC 7323), by which a time-out that came too early is noticed (RFC
3522), fast retransmission, flow control with window probes, half-close, resets and time-outs and simultaneous
open are simulated. Congestion control, delayed acknowledgements, Nagle's algorithm
and TIME-WAIT are not.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from punch.test.internet.clock import Timer
from punch.test.internet.packet import Endpoint, Packet, header_size

if TYPE_CHECKING:
    from punch.test.internet.host import Host

SEND_BUFFER = 128 * 1024
RECEIVE_BUFFER = 128 * 1024

_FIRST_RTO, _MIN_RTO, _MAX_RTO = 1.0, 0.2, 120.0
_SYN_RETRIES, _DATA_RETRIES = 6, 15
_FIN_WAIT = 60.0


class Segment:
    """A TCP segment; sequence numbers do not wrap."""

    __slots__ = ("ack", "data", "echo", "fin", "rst", "sent_at", "seq", "syn", "window")

    def __init__(
        self,
        seq: int,
        ack: int | None,
        window: int = 0,
        data: bytes = b"",
        *,
        syn: bool = False,
        fin: bool = False,
        rst: bool = False,
    ) -> None:
        self.seq = seq
        self.ack = ack
        self.window = window
        self.data = data
        self.syn = syn
        self.fin = fin
        self.rst = rst
        self.sent_at = 0.0
        self.echo: float | None = None
        """When the segment was sent that this one acknowledges."""

    def reset_for(self) -> Segment | None:
        """The reset that answers this segment where there is no connection (RFC 9293 §3.10.7.1)."""
        if self.rst:
            return None
        if self.ack is not None:
            return Segment(self.ack, None, rst=True)
        return Segment(0, self.seq + len(self.data) + self.syn + self.fin, rst=True)

    def __repr__(self) -> str:
        flags = "".join(name[0] for name in ("syn", "fin", "rst") if getattr(self, name))
        return f"[{flags or '.'} {self.seq}+{len(self.data)} ack {self.ack} win {self.window}]"


class State(Enum):
    """The state of a connection. Once it is open, its sequence numbers say how far each direction is."""

    NEW = auto()
    LISTENING = auto()
    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    OPEN = auto()
    DEAD = auto()


def _nobody() -> None:
    """Called when a socket is ready and no reactor watches it; does nothing."""


class Connection:
    """Sequence numbers, buffers and timers; `TCPSocket` adds what applications call."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.stack = host.tcp
        self.state = State.NEW
        self.local: Endpoint = ("", 0)
        self.remote: Endpoint = ("", 0)
        self.on_ready: Callable[[], None] = _nobody
        self.error = 0
        self.closed = False
        """Whether the application has closed the socket, so that nothing will read from it."""
        self._timer: Timer | None = None
        self._retries = 0
        self._rto = _FIRST_RTO
        self._smoothed: tuple[float, float] | None = None
        self._timed_out_at: float | None = None
        self._echo: float | None = None
        # Sending: `outgoing` starts with the byte numbered `_unacknowledged`.
        self._initial = host.net.initial_sequence()
        self._unacknowledged = self._next = self._highest = self._initial
        self.outgoing = bytearray()
        self._fin: int | None = None
        self._window = 0
        self._duplicates = 0
        self._recovering_to = 0
        # Receiving.
        self._expected = 0
        self.incoming = bytearray()
        self._early: dict[int, Segment] = {}
        self.ended = False
        """Whether the other side has sent its FIN."""
        self._owes_ack = False
        self._advertised = RECEIVE_BUFFER

    # -- opening and ending --

    def open(self) -> None:
        """Send a SYN, or a SYN with an acknowledgement."""
        self.stack.flows[self.local, self.remote] = self
        self._next = self._highest = self._initial + 1
        self._send_syn()

    def _send_syn(self) -> None:
        ack = self._expected if self.state is State.SYN_RECEIVED else None
        self._emit(Segment(self._initial, ack, RECEIVE_BUFFER, syn=True))
        self._set_timer(self._rto)

    def answer(self, packet: Packet) -> None:
        """Begin a connection for which the other side has sent a SYN."""
        self.local, self.remote = packet.destination, packet.source
        self.state = State.SYN_RECEIVED
        self._expected = packet.payload.seq + 1
        self._window = packet.payload.window
        self.open()

    def opened(self) -> None:
        """Enter the established state."""

    def finish(self) -> None:
        """Send a FIN after all data."""
        if self._fin is None:
            self._fin = self._unacknowledged + len(self.outgoing)
            self.transmit()

    def reset(self) -> None:
        """End the connection at once with a reset."""
        self._emit(Segment(self._highest, self._expected, rst=True))
        self.die(0)

    def die(self, error: int) -> None:
        """End the connection on this side only; the application gets `error` (an errno, or 0)."""
        if self.state is State.DEAD:
            return
        self.state = State.DEAD
        self.error = error
        self._stop_timer()
        self.stack.remove(self)
        self.on_ready()

    def _forget_if_over(self) -> None:
        """Once the application has closed and all data is acknowledged, wait a while for the other FIN."""
        if (
            self.closed
            and self.state is State.OPEN
            and self._fin is not None
            and self._unacknowledged > self._fin
        ):
            if self.ended:
                self.die(0)
            else:
                self._set_timer(_FIN_WAIT)

    # -- timers --

    def _set_timer(self, delay: float) -> None:
        if self._timer is None:
            self._timer = self.host.kernel_clock.callLater(delay, self._timed_out)
        else:
            self._timer.reset(delay)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        self._timer = None
        opening = self.state is not State.OPEN
        if not opening and self._fin is not None and self._unacknowledged > self._fin:
            self.die(0)
            return
        self._retries += 1
        if self._retries > (_SYN_RETRIES if opening else _DATA_RETRIES):
            self.die(errno.ETIMEDOUT)
            return
        self._rto = min(self._rto * 2, _MAX_RTO)
        if opening:
            self._send_syn()
        elif self._window == 0 and self._unacknowledged == self._next:
            # A probe of a closed window (RFC 9293 §3.8.6.1).
            self._emit(self._segment(self._next, 1))
            self._highest = max(self._highest, self._next + 1)
            self._set_timer(self._rto)
        else:
            if self._timed_out_at is None:
                self._timed_out_at = self.host.net.scheduler.now
            self._recovering_to = 0
            self._retransmit_first()
            self._set_timer(self._rto)

    def _measured(self, rtt: float) -> None:
        if self._smoothed is None:
            mean, deviation = rtt, rtt / 2
        else:
            mean, deviation = self._smoothed
            deviation += (abs(mean - rtt) - deviation) / 4
            mean += (rtt - mean) / 8
        self._smoothed = (mean, deviation)

    def _reset_rto(self) -> None:
        if self._smoothed is None:
            self._rto = _FIRST_RTO
        else:
            mean, deviation = self._smoothed
            self._rto = min(_MAX_RTO, max(_MIN_RTO, mean + 4 * deviation))

    # -- sending --

    def _emit(self, segment: Segment) -> None:
        if segment.ack is not None and not segment.rst:
            self._owes_ack = False
            self._advertised = segment.window
        segment.sent_at, segment.echo = self.host.net.scheduler.now, self._echo
        self.stack.send(self.local, self.remote, segment)

    def _segment(self, start: int, length: int) -> Segment:
        offset = start - self._unacknowledged
        data = bytes(self.outgoing[offset : offset + length])
        return Segment(
            start,
            self._expected,
            self.receive_window,
            data,
            fin=self._fin is not None and start + len(data) == self._fin,
        )

    @property
    def _segment_size(self) -> int:
        return self.host.mtu_towards(self.remote[0]) - header_size("tcp", self.remote[0])

    def transmit(self) -> None:
        """Send as much as the other side's window allows."""
        if self.state is not State.OPEN:
            return
        size = self._segment_size
        limit = self._unacknowledged + self._window
        end = self._unacknowledged + len(self.outgoing)
        while self._next < min(end, limit):
            segment = self._segment(self._next, min(size, limit - self._next))
            self._launch(segment)
        if self._fin is not None and self._next == self._fin:
            self._launch(self._segment(self._next, 0))
        if self._owes_ack:
            self._emit(Segment(self._next, self._expected, self.receive_window))
        if self._timer is None and (self._next > self._unacknowledged or self.outgoing):
            self._set_timer(self._rto)

    def _launch(self, segment: Segment) -> None:
        self._next = segment.seq + len(segment.data) + segment.fin
        self._highest = max(self._highest, self._next)
        self._emit(segment)

    def _acknowledge_soon(self) -> None:
        """Acknowledge at the end of this instant, unless a segment with data does so before."""
        if not self._owes_ack:
            self._owes_ack = True
            scheduler = self.host.net.scheduler
            scheduler.at(scheduler.now, self._acknowledge)

    def _acknowledge(self) -> None:
        if self._owes_ack:
            self.transmit()

    # -- receiving --

    @property
    def receive_window(self) -> int:
        """The receive window in bytes."""
        return max(0, RECEIVE_BUFFER - len(self.incoming))

    def window_grew(self) -> None:
        """
        Note that the application has read; send a window update if the other side needs one. As with Linux,
        it needs none when it has ended: its socket may be gone, and answer with a reset.
        """
        if self.ended:
            return
        if self.state is State.OPEN and self.receive_window - self._advertised >= RECEIVE_BUFFER // 4:
            self._acknowledge_soon()

    def receive(self, segment: Segment) -> None:
        """Process a segment."""
        if self.state is State.SYN_SENT:
            self._receive_in_syn_sent(segment)
        elif segment.rst:
            # Only a reset that is in the window is believed (RFC 9293 §3.10.7.4).
            if self._expected <= segment.seq <= self._expected + RECEIVE_BUFFER:
                self.die(errno.ECONNRESET)
        elif segment.syn:
            if self.state is State.SYN_RECEIVED and segment.ack is None:
                self._send_syn()
            else:
                self._emit(Segment(self._highest, self._expected, self.receive_window))
        elif segment.ack is None or segment.ack > self._highest:
            self._emit(Segment(self._highest, self._expected, self.receive_window))
        else:
            if self.state is State.SYN_RECEIVED:
                if segment.ack != self._highest:
                    return
                self._become_open(segment)
            if self.state is State.OPEN:
                self._receive_ack(segment, segment.ack)
            if self.state is State.OPEN and (segment.data or segment.fin):
                self._receive_data(segment)

    def _receive_in_syn_sent(self, segment: Segment) -> None:
        if segment.syn and segment.ack is None and not segment.rst:
            # Simultaneous open (RFC 9293 §3.5): our SYN again, now with an acknowledgement
            self.state = State.SYN_RECEIVED
            self._expected = segment.seq + 1
            self._window = segment.window
            self._send_syn()
        elif segment.ack != self._highest:
            reset = segment.reset_for()
            if segment.ack is not None and reset is not None:
                self._emit(reset)
        elif segment.rst:
            self.die(errno.ECONNREFUSED)
        elif segment.syn:
            self._expected = segment.seq + 1
            self._become_open(segment)
            self._emit(Segment(self._next, self._expected, self.receive_window))

    def _become_open(self, segment: Segment) -> None:
        self.state = State.OPEN
        self._unacknowledged = self._initial + 1
        self._window = segment.window
        if self._retries == 0:
            self._rto = _FIRST_RTO
        self._retries = 0
        self._stop_timer()
        self.opened()
        self.on_ready()

    def _receive_ack(self, segment: Segment, ack: int) -> None:
        if ack < self._unacknowledged:
            return
        opened_window = segment.window > self._window
        unchanged = segment.window == self._window
        self._window = segment.window
        if self._window == 0:
            self._retries = 0
        if ack > self._unacknowledged:
            del self.outgoing[: ack - self._unacknowledged]
            self._unacknowledged = ack
            self._next = max(self._next, ack)
            self._progressed(ack, segment.echo)
        elif unchanged and not segment.data and not segment.fin and self._highest > ack:
            self._duplicates += 1
            if self._duplicates == 3:
                self._recovering_to = self._highest
                self._retransmit_first()
            return
        elif not opened_window:
            return
        self._forget_if_over()
        self.transmit()

    def _progressed(self, ack: int, echo: float | None) -> None:
        self._retries = 0
        self._duplicates = 0
        if echo is not None:
            self._measured(self.host.net.scheduler.now - echo)
        self._reset_rto()
        timed_out_at, self._timed_out_at = self._timed_out_at, None
        if timed_out_at is not None and (echo is None or echo >= timed_out_at):
            # The segment was lost, and not only late: so are those after it
            self._next = ack
        if self._highest > ack or self.outgoing:
            self._set_timer(self._rto)
        else:
            self._stop_timer()
        if ack < self._recovering_to:
            self._retransmit_first()
        self.on_ready()

    def _retransmit_first(self) -> None:
        self._emit(self._segment(self._unacknowledged, self._segment_size))

    def _receive_data(self, segment: Segment) -> None:
        end = segment.seq + len(segment.data)
        if self.closed and end > self._expected:
            # Data that nobody will read (RFC 9293 §3.10.7.4 in the closing states; so does Linux).
            self.reset()
            return
        self._acknowledge_soon()
        if segment.seq > self._expected:
            if segment.seq < self._expected + RECEIVE_BUFFER:
                self._early[segment.seq] = segment
                # At once, and not together with others: three of these ask for a fast retransmission.
                self._emit(Segment(self._next, self._expected, self.receive_window))
            return
        before = self._expected
        self._echo = segment.sent_at
        self._take(segment)
        while self._early:
            following = min(self._early)
            if following > self._expected:
                break
            self._take(self._early.pop(following))
        if self._expected > before:
            self.on_ready()
            self._forget_if_over()

    def _take(self, segment: Segment) -> None:
        """Append the bytes of a segment that are new and fit into the buffer."""
        end = segment.seq + len(segment.data)
        if end >= self._expected and not self.ended:
            data = segment.data[self._expected - segment.seq :][: self.receive_window]
            self.incoming += data
            self._expected += len(data)
            if segment.fin and self._expected == end:
                self._expected += 1
                self.ended = True
