"""Finds out whether a captive portal answers in place of a host."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from punch.natcheck.captive_portal import LONGEST, is_portal, portal_request
from punch.net.driver import Timer

HTTP = 80
TIME = 3.0
"""Seconds that the connection and the answer may take together."""


def answers_as_portal(reactor: Any, name: str, host: str) -> Deferred[bool]:
    """
    Ask the web server of a host.

    :param name: what the user calls it.
    :param host: its IP address.
    :return: whether a portal answers; False as well if nobody does.
    """
    endpoint_class: Any = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    request = _PortalRequest(reactor, name)
    endpoint = endpoint_class(reactor, host, HTTP, timeout=TIME)
    endpoint.connect(Factory.forProtocol(lambda: request)).addErrback(lambda _: request.end())
    return request.result


class _PortalRequest(Protocol):
    """The connection. It ends when the head of the answer is complete, or after `TIME`."""

    def __init__(self, reactor: Any, name: str) -> None:
        self.result: Deferred[bool] = Deferred()
        self._name = name
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
        self._timer.cancel()
        if not self.result.called:
            if self.transport is not None:
                self.transport.abortConnection()  # type: ignore[attr-defined]
            self.result.callback(is_portal(self._answer, self._name))
