"""
TLS on the service's side.

Connections use TLS 1.3 only, without tickets and without a session cache; the client's ALPN chooses the
protocol. `punch/1` asks for the client's certificate and accepts any: whether the peer may register is said
in a line after the handshake, because a client of TLS 1.3 has finished its handshake before it would get the
alert, and an alert says little. `stun.turn` (RFC 7443) and no ALPN at all are TURN over TLS. An ALPN without
a route gets the alert `no_application_protocol`; a client without an ALPN is closed if there is no route for
it.

A certificate that an authority issued is read from files, and refused at start if peers would refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from punch.files import read_regular
from punch.rendezvous.config import ServerCertificate
from punch.rendezvous.tcp.protocol_sniffer import Established, Route

_MAX_FILE = 1_000_000


class CertificateProblem(Exception):
    """The files can't be used; `str()` is a sentence for the user."""


def load_certificate(certificate: Path, key: Path, host: str | None, now: datetime) -> ServerCertificate:
    """
    Read the certificate chain (the server's first) and the private key, both PEM.

    :param host: the name or IP address that peers will use, if it is known.
    :param now: an aware datetime.
    :raise CertificateProblem: they can't be read, do not fit together, or no peer would take them.
    """
    certificate_pem, key_pem = _read(certificate, "--certificate"), _read(key, "--key")
    try:
        chain = tuple(x509.load_pem_x509_certificates(certificate_pem))
    except (ValueError, x509.InvalidVersion) as problem:
        raise CertificateProblem(
            f"There is no certificate in PEM form in {certificate}; give the full chain, as the authority "
            "issued it."
        ) from problem
    try:
        private_key = load_pem_private_key(key_pem, None)
    except TypeError as problem:
        raise CertificateProblem(
            f"The key in {key} is locked with a passphrase; give one without (openssl pkey -in OLD -out NEW)."
        ) from problem
    except Exception as problem:  # what it raises for a key of an unsupported kind differs from kind to kind
        raise CertificateProblem(f"There is no usable private key in PEM form in {key}.") from problem
    first = chain[0]
    public = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:
        raise CertificateProblem(
            f"The key in {key} is not the key of the first certificate in {certificate}; give the pair that "
            "belongs together, the server's own certificate first."
        )
    for each in chain:
        if each.not_valid_after_utc < now:
            raise CertificateProblem(
                f"A certificate in {certificate} expired on {each.not_valid_after_utc:%Y-%m-%d}; renew it, "
                "or start without --certificate and --key to use a pinned key."
            )
        if each.not_valid_before_utc > now:
            raise CertificateProblem(
                f"A certificate in {certificate} is valid only from {each.not_valid_before_utc:%Y-%m-%d} on; "
                "check this machine's clock."
            )
    if host is not None and not _is_for(first, host):
        raise CertificateProblem(
            f"The certificate in {certificate} is not for {host}, but for "
            f"{', '.join(names_of(first)) or 'no name'}; give --host a name that it is for."
        )
    return ServerCertificate(chain, private_key)


def names_of(certificate: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses that a certificate is for; wildcards are left out."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names = [name for name in extension.value.get_values_for_type(x509.DNSName) if "*" not in name]
    return names + [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)]


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    try:
        try:
            ip_address(host)
        except ValueError:
            verify_certificate_hostname(certificate, host)
        else:
            verify_certificate_ip_address(certificate, host)
    except (VerificationError, CertificateError):
        return False
    return True


def _read(path: Path, option: str) -> bytes:
    try:
        return read_regular(path, _MAX_FILE)
    except OSError as problem:
        raise CertificateProblem(
            f"The file {path} that {option} names can't be read ({problem.strerror}); check its name and its "
            "permissions."
        ) from problem


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
        self._context = self._context_for(certificate)

    def use(self, certificate: ServerCertificate) -> None:
        """
        Show this certificate on connections that begin from now on. Open connections are not touched.

        :raise SSL.Error: the key is not that of the certificate. The certificate before stays in use.
        """
        self._context = self._context_for(certificate)

    def _context_for(self, certificate: ServerCertificate) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(CONTROL_ALPN)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_verify(SSL.VERIFY_NONE, _take_any)
        context.set_verify_depth(1)
        context.use_certificate(certificate.chain[0])
        for issuer in certificate.chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(certificate.key)  # type: ignore[arg-type]
        context.check_privatekey()
        context.set_alpn_select_callback(self._select)
        return context

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection; whether it asks for a client certificate is decided by ALPN."""
        return _Connection(self._context, None)

    def _select(self, connection: SSL.Connection, offered: list[bytes]) -> bytes:
        if CONTROL_ALPN in offered and CONTROL_ALPN in self._protocols:
            # The callback stays that of the context: another one would take a kilobyte of each connection.
            connection.set_verify(SSL.VERIFY_PEER)
            return CONTROL_ALPN
        for name in offered:
            if name in self._protocols:
                return name
        # Any other exception would not become an alert.
        raise SSL.Error([("SSL routines", "", "no application protocol")])


def _take_any(connection: SSL.Connection, certificate: Any, error: int, depth: int, ok: int) -> bool:
    # A peer is identified by its key. TLS checks that the client holds it; nothing else in it matters.
    return True


class _Connection(SSL.Connection):
    """
    A connection on which an error of TLS while receiving is reported as the end of TLS.

    Twisted turns such an error into a failure that is part of a reference cycle. The connection, with tens of
    kilobytes, would then stay in memory until the garbage collector finds it, and each client that vanishes
    causes such an error. No protocol here depends on how a connection ended: a message is complete or it is
    not.
    """

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """
        Return what was received.

        :raise SSL.ZeroReturnError: nothing more comes.
        :raise SSL.WantReadError: nothing has come yet.
        """
        try:
            return super().recv(bufsiz, flags)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            raise
        except SSL.Error:
            raise SSL.ZeroReturnError from None


@implementer(IHandshakeListener)
class _ProtocolByALPN(Protocol):
    """Waits for the end of the handshake, then leaves its place to the protocol that ALPN chose."""

    def __init__(
        self, address: IAddress, established: Established, routes: Mapping[bytes | None, Route]
    ) -> None:
        self._address = address
        self._established = established
        self._routes = routes

    def handshakeCompleted(self) -> None:
        """The ALPN and the client's certificate are known now."""
        transport = cast(TLSMemoryBIOProtocol, self.transport)
        route = self._routes.get(transport.negotiatedProtocol)
        if route is None:
            cast(ITCPTransport, transport).abortConnection()
            return
        chosen = route(self._address, self._established)
        # It stays for as long as the connection, and this object does not.
        transport.wrappedProtocol = chosen
        chosen.makeConnection(cast(Any, transport))


def tls_route(
    creator: ServerConnectionCreator, routes: Mapping[bytes | None, Route], clock: IReactorTime
) -> Route:
    """
    The route for TLS.

    :param creator: knows the certificate, and all ALPN names of `routes`.
    :param routes: by ALPN, called when the handshake is over; None stands for clients that send no ALPN.
    """
    factory = TLSMemoryBIOFactory(creator, False, Factory(), clock)

    def route(address: IAddress, established: Established) -> IProtocol:
        return factory.protocol(factory, _ProtocolByALPN(address, established, routes))

    return route
