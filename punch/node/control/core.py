"""
One connection to the rendezvous, without sockets: it registers when TLS is up, pings, and knows why it ended.

A rendezvous that sends more than `LINE_RATE` is read more slowly.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from punch.net.token_bucket import TokenBucket
from punch.node.causes import ControlProblem, ProblemCode
from punch.wire.control import Error, ErrorCode, Ping, Pong, Register, Reply, Request, Welcome
from punch.wire.control_lines import MAX_LINE, ControlError, UnknownType, decode_reply, encode
from punch.wire.rendezvous_address import RendezvousAddress

WELCOME_TIME = 15.0
"""Seconds from the TCP connection to the `welcome`."""
LINE_RATE = 200.0
"""Lines of the rendezvous that are read each second…"""
LINE_BURST = 1000
"""…and at once after a pause."""
_HOLD_TIME = 0.1
"""Seconds for which nothing is read from a rendezvous that sends more."""
_SHORTEST_KEEPALIVE, _LONGEST_KEEPALIVE = 1.0, 120.0


class ControlCore:
    """
    The peer's side of one control connection, from the TCP connection on.

    Its events are the messages of the rendezvous, except those that no application needs: unknown types, a
    second `welcome`, and the error with which the rendezvous ends the connection.

    :param now: monotonic seconds, as in all methods.
    :ivar problem: why the connection has to be aborted, once all events are taken; None while it goes on.
    """

    def __init__(self, address: RendezvousAddress, register: Register, now: float) -> None:
        self.problem: ControlProblem | None = None
        self._address = address
        self._register = register
        self._secured = False
        self._welcome: Welcome | None = None
        self._last_error: Error | None = None
        self._buffer = bytearray()
        self._unsent: list[bytes] = []
        self._events: deque[Reply] = deque()
        self._lines = TokenBucket(LINE_RATE, LINE_BURST, now)
        self._heard = False
        self._ping_at: float | None = now + WELCOME_TIME
        self._held_until: float | None = None

    @property
    def held(self) -> bool:
        """Whether nothing is to be read now, since the rendezvous has sent too much."""
        return self._held_until is not None

    def secured(self, voucher: bytes = b"") -> None:
        """
        TLS is up on this side; the rendezvous may still refuse our certificate. Register.

        :param voucher: that of a member for this connection (`punch.wire.invitation`); empty: none.
        """
        self._secured = True
        self.send(replace(self._register, voucher=voucher))

    def send(self, request: Request) -> None:
        """Send a message to the rendezvous."""
        self._unsent.append(encode(request) + b"\n")

    def check(self, timeout: float, now: float) -> None:
        """Ping; the connection is lost if nothing is received within `timeout` seconds."""
        if self._welcome is not None and self.problem is None:
            self._ping(now + timeout)

    def silent(self) -> None:
        """The connection is known to be dead."""
        self._fail(ProblemCode.NO_WELCOME if self._welcome is None else ProblemCode.SILENT)

    def not_a_rendezvous(self) -> None:
        """TLS agreed on another protocol than ours."""
        self._fail(ProblemCode.NOT_A_RENDEZVOUS)

    def cause_of_loss(self, *, tls_failed: bool) -> ControlProblem:
        """
        Return why the connection has ended.

        :param tls_failed: it ended with an error of TLS.
        """
        if self.problem is not None:
            return self.problem
        if self._last_error is not None:
            error = self._last_error
            if error.code is ErrorCode.BAD_CERTIFICATE:
                return ControlProblem(ProblemCode.OUR_CERTIFICATE, self._address)
            return ControlProblem(
                ProblemCode.ERROR,
                self._address,
                error.code,
                error.text,
                refusal=error.refusal,
                contact=error.contact,
            )
        if self._welcome is not None:
            problem = ProblemCode.LOST
        elif not tls_failed:
            problem = ProblemCode.CLOSED
        else:
            # Under TLS 1.3 the server can refuse our certificate only after our side of the handshake is done
            problem = ProblemCode.OUR_CERTIFICATE if self._secured else ProblemCode.NOT_A_RENDEZVOUS
        return ControlProblem(problem, self._address)

    # The five calls of a core on a byte stream

    def receive_data(self, data: bytes, now: float) -> None:
        """Take what the rendezvous sent."""
        if self.problem is None:
            self._buffer += data
            self._read_lines(now)

    def data_to_send(self, now: float) -> bytes:
        """Return what to send, and forget it."""
        unsent, self._unsent = self._unsent, []
        return b"".join(unsent)

    def get_timer(self) -> float | None:
        """Return the time at which to call `handle_timer`; None: never."""
        if self.problem is not None:
            return None
        return min((time for time in (self._ping_at, self._held_until) if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Ping or give up a rendezvous that was silent for too long, and read on."""
        if self.problem is not None:
            return
        if self._held_until is not None and now >= self._held_until:
            self._held_until = None
            self._read_lines(now)
        if self._ping_at is not None and now >= self._ping_at:
            if self._welcome is None or not self._heard:
                self.silent()
            else:
                self._ping(now + self._keepalive(self._welcome))

    def next_event(self) -> Reply | None:
        """Return the next message of the rendezvous."""
        return self._events.popleft() if self._events else None

    # Inside

    def _read_lines(self, now: float) -> None:
        while self.problem is None and not self.held:
            end = self._buffer.find(b"\n")
            if (len(self._buffer) if end < 0 else end) > MAX_LINE:
                self._fail(ProblemCode.BAD_MESSAGE, "a line is too long")
                return
            if end < 0:
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._receive_line(line, now)

    def _receive_line(self, line: bytes, now: float) -> None:
        self._heard = True
        if self._lines.available(now) < 1:
            self._held_until = now + _HOLD_TIME
        self._lines.spend(1)
        try:
            reply = decode_reply(line)
        except UnknownType:
            return  # A newer rendezvous may send messages that are unknown here.
        except ControlError as reason:
            self._fail(ProblemCode.BAD_MESSAGE, str(reason))
            return
        self._last_error = reply if isinstance(reply, Error) and reply.call is None else None
        if self._last_error is not None:
            return
        if isinstance(reply, Welcome):
            if self._welcome is not None:
                return
            self._welcome = reply
            self._ping_at = now + self._keepalive(reply)
        elif self._welcome is None and not isinstance(reply, Pong):
            self._fail(ProblemCode.BAD_MESSAGE, f"{type(reply).__name__} before welcome")
            return
        self._events.append(reply)

    def _keepalive(self, welcome: Welcome) -> float:
        return min(max(welcome.keepalive, _SHORTEST_KEEPALIVE), _LONGEST_KEEPALIVE)

    def _ping(self, answer_by: float) -> None:
        self._heard = False
        self.send(Ping())
        self._ping_at = answer_by

    def _fail(self, code: ProblemCode, detail: str = "") -> None:
        if self.problem is None:
            self.problem = ControlProblem(code, self._address, detail=detail[:80])
