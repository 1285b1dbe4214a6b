"""Finds out whether a captive portal answers in place of a host."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from punch.natcheck.captive_portal import (
    LONGEST,
    needs_look_up,
    portal_request,
    redirects_to,
    requires_sign_in,
)
from punch.net.driver import Timer
from punch.net.reactor import look_up

HTTP = 80
TIME = 3.0
"""Seconds that the connection and the answer may take together, and a look-up after that."""


def answers_as_portal(reactor: Any, name: str, host: str) -> Deferred[bool]:
    """
    Ask the web server of a host.

    :param name: what the user calls it.
    :param host: its IP address.
    :return: whether a portal answers; False as well if nobody does.
    """
    endpoint_class: Any = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    request = _PortalRequest(reactor, name, host)
    endpoint = endpoint_class(reactor, host, HTTP, timeout=TIME)
    endpoint.connect(Factory.forProtocol(lambda: request)).addErrback(lambda _: request.end())
    return request.result


class _PortalRequest(Protocol):
    """The connection. It ends when the head of the answer is complete, or after `TIME`."""

    def __init__(self, reactor: Any, name: str, host: str) -> None:
        self.result: Deferred[bool] = Deferred()
        self._reactor = reactor
        self._ended = False
        self._name = name
        self._host = host
        self._answer = b""
        self._timer = Timer(reactor)

    def connectionMade(self) -> None:
        self._timer.start(TIME, self.end)
        assert self.transport is not None
        self.transport.write(portal_request(self._name))

    def dataReceived(self, data: bytes) -> None:
        self._answer += data
        if b"\r\n\r\n" in self._answer or len(self._answer) > LONGEST:
            self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end()

    def end(self) -> None:
        """Nothing more is read."""
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]
        portal, other = requires_sign_in(self._answer), redirects_to(self._answer, self._name)
        if not portal and other is not None and needs_look_up(self._name, other):
            self._timer.start(TIME, self._tell, False)
            look_up(self._reactor, other, self._looked_up)
        else:
            self._tell(portal or other is not None)

    def _looked_up(self, addresses: list[str]) -> None:
        """The host that the browser is sent to has these addresses; none if its name is not known."""
        self._tell(bool(addresses) and self._host not in addresses)

    def _tell(self, portal: bool) -> None:
        self._timer.cancel()
        if not self.result.called:
            self.result.callback(portal)
