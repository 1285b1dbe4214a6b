"""
One connection to the rendezvous: registers when TLS is up, pings, and says why it ended.

A rendezvous that sends more than `LINE_RATE` is read more slowly. One that does not read what it is sent is
not read from until it does, since most of what is sent is an answer to its own messages.
"""

from __future__ import annotations

from typing import Protocol as TypingProtocol
from typing import cast

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IConsumer,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.driver import Timer
from punch.net.token_bucket import TokenBucket
from punch.node.causes import ControlProblem, ProblemCode
from punch.node.control.problems import problem_of_error
from punch.node.control.tls import ALPN, ControlConnectionCreator
from punch.wire.control import (
    MAX_LINE,
    ControlError,
    Error,
    Ping,
    Pong,
    Register,
    Reply,
    Request,
    UnknownType,
    Welcome,
    decode_reply,
    encode,
)
from punch.wire.rendezvous_address import RendezvousAddress

WELCOME_TIME = 15.0
"""Seconds from the TCP connection to the `welcome`."""
LINE_RATE = 200.0
"""Lines of the rendezvous that are read each second…"""
LINE_BURST = 1000
"""…and at once after a while of silence."""
_HOLD_TIME = 0.1
"""Seconds for which nothing is read from a rendezvous that sends more."""
_SHORTEST_KEEPALIVE, _LONGEST_KEEPALIVE = 1.0, 120.0


class _TLSTransport(TypingProtocol):
    """What is used of Twisted's TLS transport."""

    negotiatedProtocol: bytes | None

    def getHandle(self) -> SSL.Connection: ...

    def getPeer(self) -> IPv4Address | IPv6Address: ...

    def getHost(self) -> IPv4Address | IPv6Address: ...

    def write(self, data: bytes) -> None: ...

    def abortConnection(self) -> None: ...


class ControlClientOwner(TypingProtocol):
    """What a `ControlClientProtocol` reports to."""

    def welcomed(self, protocol: ControlClientProtocol, welcome: Welcome) -> None: ...

    def answered(self, pong: Pong) -> None: ...

    def received(self, reply: Reply) -> None: ...

    def lost(self, problem: ControlProblem) -> None: ...


@implementer(IHandshakeListener, IPushProducer)
class ControlClientProtocol(LineReceiver):
    """One control connection: registers when TLS is up, pings, and says why it ended."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(
        self,
        address: RendezvousAddress,
        register: Register,
        creator: ControlConnectionCreator,
        clock: IReactorTime,
        owner: ControlClientOwner,
    ) -> None:
        self._creator = creator
        self._address = address
        self._register = register
        self._clock = clock
        self._owner = owner
        self._connection: SSL.Connection | None = None
        self._problem: ControlProblem | None = None
        self._last_error: Error | None = None
        self._secured = False
        self._welcome: Welcome | None = None
        self._heard = False
        self._timer = Timer(clock)
        self._lines = TokenBucket(LINE_RATE, LINE_BURST, clock.seconds())
        self._held = Timer(clock)
        self._unread = False

    @property
    def _tls(self) -> _TLSTransport:
        return cast(_TLSTransport, self.transport)

    @property
    def host(self) -> str:
        """The IP address of the rendezvous."""
        return self._tls.getPeer().host

    @property
    def local_host(self) -> str:
        """The local IP address of the connection."""
        return self._tls.getHost().host

    def check(self, patience: float) -> None:
        """Ping; the connection is lost if nothing is received within so many seconds."""
        if self._welcome is None or self._problem is not None:
            return
        self._heard = False
        self.send(Ping())
        self._schedule_ping(patience)

    def lose(self) -> None:
        """Abort the connection, which is known to be dead, and report it as silent."""
        self._silent()

    def abort(self) -> None:
        """Abort the connection."""
        if self.transport is not None:
            self._tls.abortConnection()

    def finish(self) -> None:
        """Prepare an orderly close, which would wait for a registered producer."""
        if self._secured:
            cast(IConsumer, self.transport).unregisterProducer()

    def connectionMade(self) -> None:
        """TCP is up; TLS follows."""
        self._connection = self._tls.getHandle()
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._timer.start(WELCOME_TIME, self._silent)

    def handshakeCompleted(self) -> None:
        """TLS is up on this side. The server may still refuse the client certificate."""
        if self._tls.negotiatedProtocol != ALPN:
            self._abort(self._make_problem(ProblemCode.NOT_A_RENDEZVOUS))
            return
        self._secured = True
        cast(IConsumer, self.transport).registerProducer(self, True)
        self.send(self._register)

    def send(self, request: Request) -> None:
        """Send one control message."""
        self._tls.write(encode(request) + b"\n")

    def lineReceived(self, line: bytes) -> None:
        """Take one control message of the rendezvous."""
        if self._problem is not None:
            return
        self._heard = True
        self._count_line()
        try:
            reply = decode_reply(line)
        except UnknownType:
            return  # A newer rendezvous may send messages that are unknown here.
        except ControlError as reason:
            self._abort(self._make_problem(ProblemCode.BAD_MESSAGE, str(reason)))
            return
        self._last_error = reply if isinstance(reply, Error) and reply.call is None else None
        if isinstance(reply, Welcome):
            if self._welcome is None:
                self._welcome = reply
                self._schedule_ping()
                self._owner.welcomed(self, reply)
            return
        if isinstance(reply, Pong):
            self._owner.answered(reply)
            return
        if self._last_error is not None:
            return
        if self._welcome is None:
            self._abort(self._make_problem(ProblemCode.BAD_MESSAGE, f"{type(reply).__name__} before welcome"))
            return
        self._owner.received(reply)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of more than 16 KiB is no control message."""
        self._abort(self._make_problem(ProblemCode.BAD_MESSAGE, "a line is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended: report why."""
        self._timer.cancel()
        self._held.cancel()
        self._owner.lost(self._why(reason))

    # IPushProducer, to its own transport; LineReceiver stops and resumes reading

    def pauseProducing(self) -> None:
        """The rendezvous does not read what it is sent: stop reading from it."""
        self._unread = True
        super().pauseProducing()  # type: ignore[no-untyped-call]

    def resumeProducing(self) -> None:
        """The rendezvous has read what it was sent."""
        self._unread = False
        self._read_on()

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` follows."""

    def _count_line(self) -> None:
        available = self._lines.available(self._clock.seconds())
        self._lines.spend(1)
        if available < 1 and not self._held.running:
            self._held.start(_HOLD_TIME, self._read_on)
            super().pauseProducing()  # type: ignore[no-untyped-call]

    def _read_on(self) -> None:
        if not self._unread and not self._held.running:
            super().resumeProducing()  # type: ignore[no-untyped-call]

    def _why(self, reason: Failure) -> ControlProblem:
        found = None if self._connection is None else self._creator.problem(self._connection)
        if found is not None:
            return found
        if self._problem is not None:
            return self._problem
        if self._last_error is not None:
            return problem_of_error(self._address, self._last_error)
        if self._welcome is not None:
            code = ProblemCode.LOST
        elif not isinstance(reason.value, SSL.Error):
            code = ProblemCode.CLOSED
        else:
            # Under TLS 1.3 the server refuses our certificate only after our handshake is done
            code = ProblemCode.OUR_CERTIFICATE if self._secured else ProblemCode.NOT_A_RENDEZVOUS
        return self._make_problem(code)

    def _schedule_ping(self, within: float | None = None) -> None:
        assert self._welcome is not None
        interval = min(max(self._welcome.keepalive, _SHORTEST_KEEPALIVE), _LONGEST_KEEPALIVE)
        self._timer.start(within or interval, self._keepalive)

    def _keepalive(self) -> None:
        if not self._heard:
            self._silent()
            return
        self._heard = False
        self.send(Ping())
        self._schedule_ping()

    def _silent(self) -> None:
        code = ProblemCode.NO_WELCOME if self._welcome is None else ProblemCode.SILENT
        self._abort(self._make_problem(code))

    def _make_problem(self, code: ProblemCode, detail: str = "") -> ControlProblem:
        return ControlProblem(code, self._address, detail=detail[:80])

    def _abort(self, problem: ControlProblem) -> None:
        if self._problem is None:
            self._problem = problem
        self._tls.abortConnection()
