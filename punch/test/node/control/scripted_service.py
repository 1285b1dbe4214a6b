"""
A rendezvous that does what a test says: real TLS and real lines, with the test deciding what is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from OpenSSL import SSL
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import Identity, PeerID
from punch.test.internet import Host, Internet
from punch.wire.control import Ping, Pong, Register, Reply, Request, Welcome
from punch.wire.control_lines import decode_request, encode


class Authority:
    """A certificate authority that issues what a test needs."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime.now(timezone.utc)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=400))
            .not_valid_after(self.now + timedelta(days=400))
            .add_extension(constraints, critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def issue(
        self, *hosts: str, start: float = -10.0, end: float = 10.0
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A certificate for names and addresses, valid from `start` to `end` days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + timedelta(days=start))
            .not_valid_after(self.now + timedelta(days=end))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return certificate, key


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """The server's side of TLS, with any choice of what is offered."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: CertificateIssuerPrivateKeyTypes,
        *,
        alpn: bytes | None = b"punch/1",
        refuse_client: bool = False,
        extra: x509.Certificate | None = None,
        highest: int = SSL.TLS1_3_VERSION,
    ) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(highest)
        context.use_certificate(certificate)
        context.use_privatekey(key)  # type: ignore[arg-type]
        if extra is not None:
            context.add_extra_chain_cert(extra)
        if alpn is not None:
            chosen = alpn
            context.set_alpn_select_callback(lambda connection, offered: chosen)
        mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        context.set_verify(mode, lambda *_: not refuse_client)
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """The connection for Twisted's TLS."""
        return SSL.Connection(self._context, None)


class ScriptedConnection(LineReceiver):
    """One control connection, as the service sees it."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, service: ScriptedService) -> None:
        self.service = service
        self.peer: PeerID | None = None
        self.lost = False

    def lineReceived(self, line: bytes) -> None:
        """A message of the client."""
        assert self.transport is not None
        if self.peer is None:
            certificate = self.transport.getPeerCertificate()  # type: ignore[attr-defined]
            self.peer = PeerID.from_certificate(certificate.to_cryptography())
        request = decode_request(line)
        self.service.requests.append(request)
        self.service.answer(self, request)

    def reply(self, reply: Reply) -> None:
        """Send a message."""
        self.raw(encode(reply) + b"\n")

    def raw(self, data: bytes) -> None:
        """Send anything."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """End the connection in good order."""
        assert self.transport is not None
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Record the end of the connection."""
        self.lost = True


class ScriptedService:
    """
    Listens on a simulated host's TCP port 7001.

    :ivar answer: what to do about each request; `obliging` unless a test says otherwise.
    """

    def __init__(self, host: Host, tls: ServerTLS, port: int = 7001) -> None:
        self.connections: list[ScriptedConnection] = []
        self.requests: list[Request] = []
        self.answer: Callable[[ScriptedConnection, Request], None] = self.obliging
        self.keepalive = 20.0
        self.retry = 0
        self.reflector = 0
        factory = Factory.forProtocol(self._build)
        secured: Any = TLSMemoryBIOFactory(tls, False, factory, clock=host.reactor)
        self.port = host.reactor.listenTCP(port, secured)

    @classmethod
    def with_key(cls, host: Host, identity: Identity) -> ScriptedService:
        """One that shows a self-signed certificate of its own key, for a pin."""
        start = datetime(2020, 1, 1, tzinfo=timezone.utc)
        return cls(host, ServerTLS(identity.certificate(start, 36500), identity.private_key))

    def obliging(self, connection: ScriptedConnection, request: Request) -> None:
        """Answer `register` with `welcome`, and pings."""
        if isinstance(request, Register):
            assert connection.peer is not None
            address = "203.0.113.1"
            connection.reply(
                Welcome(connection.peer, address, self.reflector, self.keepalive, retry=self.retry)
            )
        elif isinstance(request, Ping):
            connection.reply(Pong(self.retry))

    def stop(self, net: Internet) -> None:
        """Listen no more; connections stay."""
        net.wait(maybeDeferred(self.port.stopListening), 1.0)

    @property
    def last(self) -> ScriptedConnection:
        """The newest connection."""
        return self.connections[-1]

    def _build(self) -> ScriptedConnection:
        connection = ScriptedConnection(self)
        self.connections.append(connection)
        return connection


class Plain(Protocol):
    """A server of another protocol, which sends one text without TLS."""

    greeting = b"SSH-2.0-OpenSSH_9.9\r\n"

    def connectionMade(self) -> None:
        """Send first, as SSH does."""
        assert self.transport is not None
        self.transport.write(self.greeting)
