"""
One attempt to register, for `ClientService`: it tries the servers of the rendezvous one after the other.

An attempt has succeeded when a server has sent its `welcome`: under TLS 1.3, the handshake is complete for
the client before the server has refused its certificate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.driver import Timer
from punch.node.causes import ControlProblem, ProblemCode, ProxyProblem
from punch.node.control.protocol import ControlClientProtocol
from punch.node.control.servers import Server
from punch.wire.control import Reply, Welcome
from punch.wire.proxy import ProxyError, ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress

if TYPE_CHECKING:
    from punch.node.control.client import ControlClient

NEXT_SERVER_AFTER = 4.0
"""Seconds that a server has for its welcome if there is another one to try."""

_EXPECTED = (
    error.ConnectError,
    error.ConnectingCancelledError,
    error.DNSLookupError,
    CancelledError,
    OSError,
    ProxyError,
)


def problem_of_failure(
    address: RendezvousAddress, failure: Failure, proxy: ProxySettings | None = None
) -> ControlProblem:
    """
    Return the problem for a TCP connection that could not be made.

    :param proxy: the proxy that may have been used.
    """
    reason = failure.value
    if isinstance(reason, ControlProblem):
        return reason
    if isinstance(reason, ProxyError) and proxy is not None:
        return ControlProblem(ProblemCode.PROXY, address, proxy=ProxyProblem(proxy, reason))
    if isinstance(failure.value, (error.DNSLookupError, ValueError)):
        code = ProblemCode.NAME_UNKNOWN
    elif isinstance(failure.value, error.ConnectionRefusedError):
        code = ProblemCode.REFUSED
    elif isinstance(failure.value, error.TimeoutError):
        code = ProblemCode.TIMEOUT
    else:
        code = ProblemCode.UNREACHABLE
    return ControlProblem(code, address)


def _failure(problem: ControlProblem) -> Failure:
    return Failure(problem)  # type: ignore[no-untyped-call]


class _ServerAttempt:
    """One connection to one server, and how it ends."""

    _log = Logger()

    def __init__(self, attempt: ConnectAttempt, client: ControlClient, server: Server) -> None:
        self._attempt = attempt
        self._client = client
        self._server = server
        self._protocol: ControlClientProtocol | None = None
        self._over = False
        self._again = False
        """Whether to register with the same server again."""
        endpoint, self._creator = client.endpoint_for(server)
        self._connecting = endpoint.connect(Factory.forProtocol(self._build))
        self._connecting.addCallbacks(lambda _: None, self._unconnected)

    def cancel(self) -> None:
        self._connecting.cancel()
        if self._protocol is not None:
            self._protocol.abort()

    def _build(self) -> ControlClientProtocol:
        client = self._client
        self._attempt.reached = True
        self._protocol = ControlClientProtocol(
            self._server.address,
            client.register,
            self._creator,
            client.clock,
            self._received,
            self._lost,
            client.vouch if client.vouches else None,
        )
        return self._protocol

    def _unconnected(self, failure: Failure) -> None:
        if not isinstance(failure.value, _EXPECTED):
            self._log.failure("Connecting to the rendezvous failed.", failure)
        self._lost(problem_of_failure(self._server.address, failure, self._client.proxy))

    def _received(self, protocol: ControlClientProtocol, reply: Reply) -> None:
        if not isinstance(reply, Welcome):
            self._client.received(reply)
        elif not self._over:
            self._again = self._client.vouch_for_relays(reply)
            if self._again:
                protocol.abort()
            else:
                self._attempt.welcomed(self._server, protocol, reply)

    def _lost(self, problem: ControlProblem) -> None:
        if self._over:
            return
        self._over = True
        if self._again:
            self._attempt.try_again(self._server, problem)
        else:
            self._client.server_failed(self._server)
            self._attempt.lost(problem)


class ConnectAttempt:
    """
    One attempt, and the connection that it becomes.

    :ivar result: fires when a server has sent its `welcome`; fails with a `ControlProblem`.
    :ivar began: when the attempt at the present server began, in monotonic seconds.
    :ivar welcomed_at: when the welcome came.
    :ivar reached: whether a TCP connection was made.
    """

    def __init__(self, client: ControlClient, factory: IProtocolFactory) -> None:
        self._client = client
        self._factory = factory
        self._watched: IProtocol | None = None
        self._left: list[Server] = []
        self._current: _ServerAttempt | None = None
        self._problems: list[ControlProblem] = []
        self._welcome_timer = Timer(client.clock)
        self._ended = False
        self.result: Deferred[IProtocol] = Deferred(lambda _: self._give_up())
        self.began = client.clock.seconds()
        self.welcomed_at: float | None = None
        self.reached = False
        client.attempt = self
        self._looking_up = client.ordered_servers()
        self._looking_up.addCallback(self._begin)

    def give_up(self) -> None:
        """Cancel the attempt. Nothing happens once it was welcomed."""
        if not self.result.called:
            self._give_up()

    def welcomed(self, server: Server, protocol: ControlClientProtocol, welcome: Welcome) -> None:
        """A server has sent its `welcome`."""
        if self.result.called:
            return
        self._welcome_timer.cancel()
        assert protocol.transport is not None
        self.welcomed_at = self._client.clock.seconds()
        self._watched = self._factory.buildProtocol(protocol.transport.getPeer())
        assert self._watched is not None
        self._watched.makeConnection(protocol.transport)
        self.result.callback(self._watched)
        self._client.connected(server, protocol, welcome)

    def try_again(self, server: Server, problem: ControlProblem) -> None:
        """The connection to this server was ended to register with it again."""
        if self._ended:
            self.lost(problem)
            return
        self._left.insert(0, server)
        self._next()

    def lost(self, problem: ControlProblem) -> None:
        """The server that was tried, or the connection, is lost."""
        self._welcome_timer.cancel()
        self._problems.append(problem)
        if self._watched is not None:
            self._client.disconnected(problem, hopeless=problem.fatal)
            self._watched.connectionLost(_failure(problem))
        elif self._left and not self._ended:
            self._next()
        elif not self.result.called:
            # If every server has a problem that only a person can solve, there is no other attempt. An error
            # message of a server is reported rather than that another server can't be reached.
            said = [each for each in self._problems if each.error is not None]
            passing = [each for each in self._problems if not each.fatal]
            shown = next(iter([*said, *passing]), problem)
            self._client.disconnected(shown, hopeless=all(each.fatal for each in self._problems))
            self.result.errback(shown)

    def _begin(self, servers: list[Server]) -> None:
        if self.result.called or self._ended:
            return
        self._left = servers
        if not servers:
            self.lost(ControlProblem(ProblemCode.NAME_UNKNOWN, self._client.address))
        else:
            self._next()

    def _next(self) -> None:
        server = self._left.pop(0)
        self.began = self._client.clock.seconds()
        if self._left:
            self._welcome_timer.start(NEXT_SERVER_AFTER, self._welcome_timed_out)
        self._current = _ServerAttempt(self, self._client, server)

    def _welcome_timed_out(self) -> None:
        if self._current is not None:
            self._current.cancel()

    def _give_up(self) -> None:
        self._ended = True
        self._welcome_timer.cancel()
        if self._current is None:
            # The look-up goes on: the next attempt may need what it finds.
            self.lost(ControlProblem(ProblemCode.UNREACHABLE, self._client.address))
        else:
            self._current.cancel()


@implementer(IStreamClientEndpoint)
class RendezvousEndpoint:
    """An endpoint whose connections count as made when a server has sent its `welcome`."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Begin an attempt."""
        return ConnectAttempt(self._client, protocolFactory).result

    def __repr__(self) -> str:
        return f"<rendezvous {self._client.address.location}>"
