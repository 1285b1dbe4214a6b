"""A control client for tests of the rendezvous, which sends whatever the test says, valid or not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import Identity
from punch.wire.control import Message
from punch.wire.control_lines import encode
from punch.wire.invitation import BINDING_LABEL, BINDING_SIZE, Voucher

EPOCH = datetime(2020, 1, 1, tzinfo=timezone.utc)
"""When the certificates of tests begin to be valid."""


@implementer(IOpenSSLClientConnectionCreator)
class ClientCreator:
    """
    The client's side of TLS; it takes any server.

    :param key: a private key with its certificate, or None for a client that shows none.
    """

    def __init__(
        self,
        key: tuple[Any, Any] | None,
        alpn: list[bytes] | None = None,
        maximum: int = SSL.TLS1_3_VERSION,
    ) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_max_proto_version(maximum)
        if alpn:
            self._context.set_alpn_protos(alpn)
        if key is not None:
            self._context.use_certificate(key[1])
            self._context.use_privatekey(key[0])

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection that trusts whoever answers."""
        return SSL.Connection(self._context, None)


@implementer(IHandshakeListener)
class RecordingControlClient(Protocol):
    """Notes all lines it gets, and how it ended."""

    def __init__(self) -> None:
        self.data = b""
        self._lines: list[dict[str, Any]] = []
        self._read = 0
        self.secured = False
        self.ended: Failure | None = None

    def handshakeCompleted(self) -> None:
        """As far as the client can see."""
        self.secured = True

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All messages that came."""
        complete = self.data.rfind(b"\n") + 1
        if complete > self._read:
            self._lines += [json.loads(line) for line in self.data[self._read : complete - 1].split(b"\n")]
            self._read = complete
        return list(self._lines)

    @property
    def last(self) -> dict[str, Any]:
        """The latest message."""
        return self.lines[-1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All messages of a type."""
        return [line for line in self.lines if line["type"] == kind]

    def vouched(self, member: Identity, guest: Identity) -> bytes:
        """The voucher of a member for a key, for this connection."""
        connection = cast(Any, self.transport).getHandle()
        binding = connection.export_keying_material(BINDING_LABEL, BINDING_SIZE)
        return Voucher.by(member, guest.peer_id, binding).encode()

    def send(self, *messages: Message | bytes) -> None:
        """Send lines."""
        assert self.transport is not None
        for message in messages:
            self.transport.write((message if isinstance(message, bytes) else encode(message)) + b"\n")

    def stop_reading(self) -> None:
        """Read nothing more."""
        cast(Any, self.transport).pauseProducing()

    def abort(self) -> None:
        """Vanish with a reset."""
        cast(ITCPTransport, self.transport).abortConnection()


def key_of(identity: Identity) -> tuple[Any, x509.Certificate]:
    """What a proper peer shows."""
    return identity.private_key, identity.certificate(EPOCH)


def key_of_another_kind() -> tuple[Any, x509.Certificate]:
    """A key that is no Ed25519 key, with a certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "punch")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(EPOCH)
        .not_valid_after(EPOCH + timedelta(days=20_000))
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def keys_with_unreadable_certificates(identity: Identity) -> list[tuple[Any, Any]]:
    """Certificates that OpenSSL takes and `cryptography` can't parse: of version 10, and of month 99."""
    key, certificate = key_of(identity)
    good = certificate.public_bytes(Encoding.DER)
    version, date = good.index(b"\xa0\x03\x02\x01\x02") + 4, good.index(b"\x17\x0d") + 4
    odd = [good[:version] + b"\x09" + good[version + 1 :], good[:date] + b"99" + good[date + 2 :]]
    return [(key, crypto.load_certificate(crypto.FILETYPE_ASN1, der)) for der in odd]


class _HeaderFirst(ProtocolWrapper):
    """Writes a header, then lets the protocol begin."""

    header = b""

    def makeConnection(self, transport: Any) -> None:
        transport.write(self.header)
        super().makeConnection(transport)


@implementer(IStreamClientEndpoint)
class _HeaderEndpoint:
    """Connects, and writes a header first."""

    def __init__(self, endpoint: HostnameEndpoint, header: bytes) -> None:
        self._endpoint = endpoint
        self._header = header

    def connect(self, protocolFactory: Any) -> Any:
        """Connect."""
        if self._header:
            protocolFactory = WrappingFactory(protocolFactory)
            protocolFactory.protocol = type("Headed", (_HeaderFirst,), {"header": self._header})
        return self._endpoint.connect(protocolFactory)


def connect_control(
    reactor: Any,
    host: str,
    port: int,
    key: tuple[Any, Any] | None,
    alpn: list[bytes] | None = None,
    maximum: int = SSL.TLS1_3_VERSION,
    header: bytes = b"",
) -> RecordingControlClient:
    """
    Connect a client with TLS; it has no transport before time has passed.

    :param header: what is sent before TLS begins, as load balancers do.
    """
    client = RecordingControlClient()
    creator = ClientCreator(key, [b"punch/1"] if alpn is None else alpn, maximum)
    plain = _HeaderEndpoint(HostnameEndpoint(reactor, host, port), header)
    endpoint = wrapClientTLS(creator, plain, clock=reactor)
    _connect(endpoint, client)
    return client


def connect_raw(reactor: Any, host: str, port: int) -> RecordingControlClient:
    """Connect a client without TLS."""
    client = RecordingControlClient()
    _connect(HostnameEndpoint(reactor, host, port), client)
    return client


def _connect(endpoint: Any, client: RecordingControlClient) -> None:
    def failed(failure: Failure) -> None:
        client.ended = failure

    connecting = endpoint.connect(Factory.forProtocol(lambda: client))
    connecting.addCallbacks(lambda _: None, failed)
