"""
The captive portal of a hotel, which answers in place of every host: `python -m tests.network.portal ADDRESS`.

Its name server says that every name is at this address, its web server sends browsers to its own name, and
what speaks TLS with it gets a certificate of its own.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import Any

from OpenSSL.SSL import TLS_METHOD, Context
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.names import dns, server
from zope.interface import implementer

from punch.identity import Identity

LOGIN = "login.hotel.example"
CONTROL_PORT = 7001


class Records:
    """What is known, as `DNSServerFactory` asks for it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, query: dns.Query, timeout: object = None) -> Deferred[tuple[list[dns.RRHeader], ...]]:
        """Answer a question: this host has every name."""
        record = dns.RRHeader(query.name.name, dns.A, dns.IN, 60, dns.Record_A(self._address))
        return succeed(([record] if query.type == dns.A else [], [], []))


class WebServer(Protocol):
    """Sends every browser to the page where one signs in."""

    def dataReceived(self, data: bytes) -> None:
        """Answer what ends with a request."""
        assert self.transport is not None
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(f"HTTP/1.1 302 Found\r\nLocation: http://{LOGIN}/?x\r\n\r\n".encode())
            self.transport.loseConnection()


@implementer(IOpenSSLContextFactory)
class Contexts:
    """TLS with a certificate of the hotel's."""

    def __init__(self) -> None:
        identity = Identity.generate()
        self._context = Context(TLS_METHOD)
        self._context.use_certificate(identity.certificate(datetime.now(timezone.utc), 30))
        self._context.use_privatekey(identity.private_key)

    def getContext(self) -> Context:
        """Return it."""
        return self._context


def main(reactor: Any, address: str) -> Deferred[None]:
    """Serve until the process is ended; says `ready` first."""
    factory = server.DNSServerFactory(clients=[Records(address)])
    reactor.listenUDP(53, dns.DNSDatagramProtocol(factory), interface=address)
    reactor.listenTCP(80, Factory.forProtocol(WebServer), interface=address)
    reactor.listenSSL(CONTROL_PORT, Factory.forProtocol(Protocol), Contexts(), interface=address)
    print("ready", flush=True)
    return Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
