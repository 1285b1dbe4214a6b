"""
The peer's side of the control channel: stay registered, carry control messages, notice a dead connection.

`ClientService` reconnects. Its endpoint here is "connected" only when the rendezvous has said `welcome`:
under TLS 1.3 a client's handshake completes before the server has refused its certificate, so the back-off is
reset by a welcome and by nothing less.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol as TypingProtocol
from typing import cast

from cryptography import x509
from OpenSSL import SSL
from twisted.application.internet import ClientService
from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import Identity, RandomBytes
from punch.peer.events import Reason
from punch.peer.problems import (
    ControlProblem,
    certificate_refused,
    not_a_rendezvous,
    place,
    problem_of_error,
    problem_of_failure,
)
from punch.peer.tls import ALPN, ControlConnectionCreator
from punch.wire.control import (
    MAX_LINE,
    ControlError,
    Error,
    ErrorCode,
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

CONNECT_TIME = 10.0
"""Seconds for one TCP connection attempt."""
WELCOME_TIME = 15.0
"""Seconds from the TCP connection to the `welcome`."""
_FIRST_DELAY, _LAST_DELAY, _FACTOR = 1.0, 30.0, 1.6
_SHORTEST_KEEPALIVE, _LONGEST_KEEPALIVE = 1.0, 120.0
_CLOSE_TIME = 0.5
_YOUNG = 2.0
"""Seconds for which a connection attempt is not given up for another one."""

_EXPECTED = (
    error.ConnectError,
    error.ConnectingCancelledError,
    error.DNSLookupError,
    CancelledError,
    OSError,
)


class ControlHandler(TypingProtocol):
    """Whoever uses a `ControlClient`."""

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """Registered, with the rendezvous at the IP address `host`."""

    def control_reply(self, reply: Reply) -> None:
        """Any message of the rendezvous but `welcome` and `pong`."""

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """Not registered (any more); the next try is in `retry_in` seconds (None: there is none)."""


def backoff(attempt: int, random: RandomBytes) -> float:
    """
    Seconds to wait before try number `attempt` + 1: growing from 1 to 30, times a factor from 0.5 to 1.5.

    The spread keeps the peers of a restarted rendezvous from returning all at once.
    """
    delay = min(_LAST_DELAY, _FIRST_DELAY * _FACTOR ** min(attempt - 1, 30))
    return delay * (0.5 + int.from_bytes(random(4), "big") / 2**32)


class _TLSTransport(TypingProtocol):
    """What is used of Twisted's TLS transport."""

    negotiatedProtocol: bytes | None

    def getHandle(self) -> SSL.Connection: ...

    def getPeer(self) -> IPv4Address | IPv6Address: ...

    def getHost(self) -> IPv4Address | IPv6Address: ...

    def write(self, data: bytes) -> None: ...

    def abortConnection(self) -> None: ...


class _Owner(TypingProtocol):
    """What a `ControlProtocol` reports to."""

    def welcomed(self, protocol: ControlProtocol, welcome: Welcome) -> None: ...

    def received(self, reply: Reply) -> None: ...

    def lost(self, problem: ControlProblem) -> None: ...


@implementer(IHandshakeListener)
class ControlProtocol(LineReceiver):
    """One control connection: registers when TLS is up, pings, and says why it ended."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(
        self,
        address: RendezvousAddress,
        register: Register,
        creator: ControlConnectionCreator,
        clock: IReactorTime,
        owner: _Owner,
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
        self._timer: IDelayedCall | None = None

    @property
    def _tls(self) -> _TLSTransport:
        return cast(_TLSTransport, self.transport)

    @property
    def host(self) -> str:
        """The IP address of the rendezvous."""
        return self._tls.getPeer().host

    @property
    def local_host(self) -> str:
        """The IP address of ours that it comes from."""
        return self._tls.getHost().host

    def check(self, patience: float) -> None:
        """Expect a sign of life within so many seconds; without one, the connection is lost."""
        if self._welcome is None or self._problem is not None:
            return
        self._heard = False
        self.send(Ping())
        self._schedule_ping(patience)

    def lose(self) -> None:
        """Whatever its end may look like, the connection is known to be dead."""
        self._silent()

    def abort(self) -> None:
        """Drop the connection without another word."""
        if self.transport is not None:
            self._tls.abortConnection()

    def connectionMade(self) -> None:
        """TCP is up; TLS follows."""
        self._connection = self._tls.getHandle()
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._timer = self._clock.callLater(WELCOME_TIME, self._silent)

    def handshakeCompleted(self) -> None:
        """TLS is up as far as we can see: the server may still refuse our certificate."""
        if self._tls.negotiatedProtocol != ALPN:
            self._abort(not_a_rendezvous(self._address))
            return
        self._secured = True
        self.send(self._register)

    def send(self, request: Request) -> None:
        """Send one control message."""
        self._tls.write(encode(request) + b"\n")

    def lineReceived(self, line: bytes) -> None:
        """One control message of the rendezvous."""
        if self._problem is not None:
            return
        self._heard = True
        try:
            reply = decode_reply(line)
        except UnknownType:
            return  # A newer rendezvous may say more than we know.
        except ControlError as reason:
            self._abort(self._nonsense(str(reason)))
            return
        self._last_error = reply if isinstance(reply, Error) and reply.call is None else None
        if isinstance(reply, Welcome):
            if self._welcome is None:
                self._welcome = reply
                self._schedule_ping()
                self._owner.welcomed(self, reply)
            return
        if self._last_error is not None or isinstance(reply, Pong):
            return
        if self._welcome is None:
            self._abort(self._nonsense(f"{type(reply).__name__} before welcome"))
            return
        self._owner.received(reply)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of more than 16 KiB is nobody's control message."""
        self._abort(self._nonsense("a line is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended: tell why."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._owner.lost(self._why(reason))

    def _why(self, reason: Failure) -> ControlProblem:
        found = None if self._connection is None else self._creator.problem(self._connection)
        if found is not None:
            return found
        if self._problem is not None:
            return self._problem
        if self._last_error is not None:
            return problem_of_error(self._address, self._last_error)
        where = place(self._address)
        if isinstance(reason.value, SSL.Error):
            if not self._secured:
                return not_a_rendezvous(self._address)
            if self._welcome is None:
                return certificate_refused(self._address)
        if self._welcome is None:
            return ControlProblem(
                Reason.RENDEZVOUS_UNREACHABLE,
                f"The rendezvous at {where} closed the connection at once; "
                "check that the address is right, or wait: it may be too busy.",
            )
        return ControlProblem(
            Reason.RENDEZVOUS_UNREACHABLE,
            f"The connection to the rendezvous at {where} was lost; it is tried again by itself.",
        )

    def _schedule_ping(self, within: float | None = None) -> None:
        assert self._welcome is not None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        interval = min(max(self._welcome.keepalive, _SHORTEST_KEEPALIVE), _LONGEST_KEEPALIVE)
        self._timer = self._clock.callLater(within or interval, self._keepalive)

    def _keepalive(self) -> None:
        if not self._heard:
            self._silent()
            return
        self._heard = False
        self.send(Ping())
        self._schedule_ping()

    def _silent(self) -> None:
        where = place(self._address)
        self._abort(
            ControlProblem(
                Reason.RENDEZVOUS_UNREACHABLE,
                f"The rendezvous at {where} does not answer any more; it is tried again by itself."
                if self._welcome is not None
                else f"What answers at {where} did not greet this peer; check the address of the rendezvous.",
            )
        )

    def _nonsense(self, what: str) -> ControlProblem:
        return ControlProblem(
            Reason.PROTOCOL,
            f"The rendezvous at {place(self._address)} sent what is no control message ({what[:80]}); "
            "check that both run the same version of Punch.",
        )

    def _abort(self, problem: ControlProblem) -> None:
        if self._problem is None:
            self._problem = problem
        self._tls.abortConnection()


def _failure(problem: ControlProblem) -> Failure:
    return Failure(problem)  # type: ignore[no-untyped-call]


class _Attempt:
    """One connection attempt and the connection it becomes, as `ClientService` sees them."""

    _log = Logger()

    def __init__(
        self, client: ControlClient, factory: IProtocolFactory, endpoint: IStreamClientEndpoint
    ) -> None:
        self._client = client
        self._factory = factory
        self._watched: IProtocol | None = None
        self._protocol: ControlProtocol | None = None
        self.result: Deferred[IProtocol] = Deferred(self._cancel)
        self.began = client.clock.seconds()
        client.attempt = self
        self._connecting = endpoint.connect(Factory.forProtocol(self._build))
        self._connecting.addCallbacks(lambda _: None, self._unconnected)

    def _build(self) -> ControlProtocol:
        client = self._client
        self._protocol = ControlProtocol(client.address, client.register, client.creator, client.clock, self)
        return self._protocol

    def _unconnected(self, failure: Failure) -> None:
        if not isinstance(failure.value, _EXPECTED):
            self._log.failure("Connecting to the rendezvous failed.", failure)
        self.lost(problem_of_failure(self._client.address, failure))

    def give_up(self) -> None:
        """Another attempt has better prospects; nothing happens once it was welcomed."""
        if not self.result.called:
            self._cancel(self.result)

    def _cancel(self, result: Deferred[IProtocol]) -> None:
        self._connecting.cancel()
        if self._protocol is not None:
            self._protocol.abort()

    def welcomed(self, protocol: ControlProtocol, welcome: Welcome) -> None:
        if self.result.called:
            return
        assert protocol.transport is not None
        self._watched = self._factory.buildProtocol(protocol.transport.getPeer())
        assert self._watched is not None
        self._watched.makeConnection(protocol.transport)
        self.result.callback(self._watched)
        self._client.connected(protocol, welcome)

    def received(self, reply: Reply) -> None:
        self._client.received(reply)

    def lost(self, problem: ControlProblem) -> None:
        self._client.disconnected(problem)
        if self._watched is not None:
            self._watched.connectionLost(_failure(problem))
        elif not self.result.called:
            self.result.errback(problem)


@implementer(IStreamClientEndpoint)
class _WelcomeEndpoint:
    """An endpoint whose connections count from the `welcome` on."""

    def __init__(self, client: ControlClient, endpoint: IStreamClientEndpoint) -> None:
        self._client = client
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return _Attempt(self._client, protocolFactory, self._endpoint).result

    def __repr__(self) -> str:
        return f"<rendezvous {place(self._client.address)}>"


class ControlClient:
    """
    Keeps one peer registered with one rendezvous.

    A problem that only a person can mend ends it: at the first connection any fatal `ControlProblem`, later
    only those that are certain (`replaced`, another protocol version), because a running peer should survive,
    say, an hour behind a hotel's login page.
    """

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        address: RendezvousAddress,
        identity: Identity,
        register: Register,
        handler: ControlHandler,
        random: RandomBytes,
        roots: Sequence[x509.Certificate] | None = None,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        """
        :param reactor: connects TCP, resolves names, and is the clock of everything here.
        :param roots: see `ControlConnectionCreator`.
        :param endpoint: where to connect instead of the address' host and port (TLS is put on top of it).
        """
        self.address = address
        self.register = register
        self.clock = reactor
        self._handler = handler
        self._random = random
        self._protocol: ControlProtocol | None = None
        self._problem: ControlProblem | None = None
        self._was_registered = False
        self._stopped = False
        self._notice: IDelayedCall | None = None
        self._at_once_until = 0.0
        self.attempt: _Attempt | None = None
        """The newest connection or attempt; None while the next one is waited for."""
        tcp = endpoint or HostnameEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIME)
        self.creator = ControlConnectionCreator(address, identity, roots)
        self._service = ClientService(
            _WelcomeEndpoint(self, wrapClientTLS(self.creator, tcp, clock=reactor)),
            Factory.forProtocol(Protocol),
            retryPolicy=self._retry_in,
            clock=reactor,
        )

    @property
    def registered(self) -> bool:
        """Whether the rendezvous has welcomed us on a connection that still stands."""
        return self._protocol is not None

    def start(self) -> None:
        """Connect, and keep connected."""
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """
        Close the connection and never connect again.

        :return: fires when everything is closed: at once, or within half a second.
        """
        self._stopped = True
        if self._notice is not None and self._notice.active():
            self._notice.cancel()
        if not self._service.running:
            return succeed(None)
        protocol = self._protocol
        stopped = self._service.stopService()
        if protocol is not None and not stopped.called:
            # A dead rendezvous would never answer our TLS close.
            late = self.clock.callLater(_CLOSE_TIME, protocol.abort)

            def in_time(result: None) -> None:
                if late.active():
                    late.cancel()

            stopped.addCallback(in_time)
        return stopped

    def check(self, patience: float, addresses: Collection[str] | None = None) -> None:
        """
        The network may have changed: make sure that the connection lives, or connect at once.

        :param patience: seconds within which a connection must show that it is alive.
        :param addresses: those of this machine now: a connection from another one is dead for sure.
        """
        if self._stopped or not self._service.running:
            return
        self._at_once_until = self.clock.seconds() + patience + 1.0
        protocol = self._protocol
        if protocol is None:
            self._connect_now()
        elif addresses is not None and protocol.local_host not in addresses:
            protocol.lose()
        else:
            protocol.check(patience)

    def _connect_now(self) -> None:
        """Whatever is waited for, it is waited for no longer."""
        attempt = self.attempt
        if attempt is None:
            self._service.stopService()
            self._service.startService()
        elif self.clock.seconds() > attempt.began + _YOUNG:
            attempt.give_up()

    def send(self, request: Request) -> bool:
        """Send one control message; False where there is nobody to send it to now."""
        if self._protocol is None:
            return False
        self._protocol.send(request)
        return True

    # What the attempts tell us.

    def connected(self, protocol: ControlProtocol, welcome: Welcome) -> None:
        """An attempt got its welcome."""
        self._protocol = protocol
        self._was_registered = True
        self._handler.control_welcome(welcome, protocol.host)

    def received(self, reply: Reply) -> None:
        """A control message came."""
        if not self._stopped:
            self._handler.control_reply(reply)

    def disconnected(self, problem: ControlProblem) -> None:
        """An attempt failed, or its connection ended."""
        self._protocol = None
        self._problem = problem

    def _retry_in(self, attempt: int) -> float:
        # ClientService asks in the middle of its own transition: nobody may be called within it.
        self.attempt = None
        soon = self.clock.seconds() < self._at_once_until
        self._at_once_until = 0.0
        delay = 0.0 if soon else backoff(attempt, self._random)
        problem = self._problem
        if problem is not None and not self._stopped:
            self._notice = self.clock.callLater(0, self._tell, problem, delay)
        return delay

    def _tell(self, problem: ControlProblem, delay: float) -> None:
        certain = problem.reason in (ErrorCode.REPLACED.value, ErrorCode.VERSION.value)
        if problem.fatal and (certain or not self._was_registered):
            self._stopped = True
            self._service.stopService()
            self._handler.control_lost(problem, None)
        else:
            self._handler.control_lost(problem, delay)
