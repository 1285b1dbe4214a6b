"""
TLS on the service's side: TLS 1.3 only, no tickets, no session cache; the client's ALPN chooses.

`punch/1` asks for the client's certificate, whatever it is: whether it will do is said in a line, after the
handshake, because under TLS 1.3 a client has finished its handshake when it would get the alert, and an alert
says little. `stun.turn` (RFC 7443) and no ALPN at all are for TURN over TLS; an ALPN without a route gets
the alert `no_application_protocol`, no ALPN without a route is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.rendezvous.config import ServerCertificate
from punch.rendezvous.protocol_sniffer import Established, Route

CONTROL_ALPN = b"punch/1"
TURN_ALPN = b"stun.turn"


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnectionCreator:
    """
    Makes the TLS side of every connection.

    :param protocols: the ALPN names that have a route; `CONTROL_ALPN` asks for a client certificate.
    :raise SSL.Error: the key is not that of the certificate.
    """

    def __init__(self, certificate: ServerCertificate, protocols: frozenset[bytes]) -> None:
        self._protocols = protocols
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(CONTROL_ALPN)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_verify_depth(1)
        context.use_certificate(certificate.chain[0])
        for issuer in certificate.chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(certificate.key)  # type: ignore[arg-type]
        context.check_privatekey()
        context.set_alpn_select_callback(self._select)
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection that does not know yet whether it wants a client certificate."""
        return SSL.Connection(self._context, None)

    def _select(self, connection: SSL.Connection, offered: list[bytes]) -> bytes:
        if CONTROL_ALPN in offered and CONTROL_ALPN in self._protocols:
            connection.set_verify(SSL.VERIFY_PEER, _take_any)
            return CONTROL_ALPN
        for name in offered:
            if name in self._protocols:
                return name
        # Anything else that is raised here would not end as an alert, but as an error of ours.
        raise SSL.Error([("SSL routines", "", "no application protocol")])


def _take_any(connection: SSL.Connection, certificate: Any, error: int, depth: int, ok: int) -> bool:
    # A peer is its key: TLS checks that the client holds it, and nothing else in the certificate says more.
    return True


@implementer(IHandshakeListener)
class _Chooser(Protocol):
    """Waits for the end of the handshake, then passes everything on to what the ALPN chose."""

    def __init__(
        self, address: IAddress, established: Established, routes: Mapping[bytes | None, Route]
    ) -> None:
        self._address = address
        self._established = established
        self._routes = routes
        self._inner: IProtocol | None = None

    def handshakeCompleted(self) -> None:
        """The ALPN and the client's certificate are known now."""
        transport = self.transport
        assert transport is not None
        route = self._routes.get(transport.negotiatedProtocol)  # type: ignore[attr-defined]
        if route is None:
            cast(ITCPTransport, transport).abortConnection()
            return
        self._inner = route(self._address, self._established)
        self._inner.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Nothing comes before the handshake is over."""
        if self._inner is not None:
            self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """A handshake that failed is nobody's business."""
        if self._inner is not None:
            self._inner.connectionLost(reason)


def tls_route(
    certificate: ServerCertificate, routes: Mapping[bytes | None, Route], clock: IReactorTime
) -> Route:
    """
    The gate's route for TLS.

    :param routes: by ALPN, called when the handshake is over; None is for clients that send none.
    :raise SSL.Error: the certificate and the key do not fit together.
    """
    creator = ServerConnectionCreator(certificate, frozenset(name for name in routes if name is not None))
    factory = TLSMemoryBIOFactory(creator, False, Factory(), clock)

    def route(address: IAddress, established: Established) -> IProtocol:
        return factory.protocol(factory, _Chooser(address, established, routes))

    return route
