"""
TLS towards the rendezvous: TLS 1.3, ALPN `punch/1`, our identity as client certificate.

The server is checked in one of two ways, never none: its key against the pin in the address, or its
certificate against the authorities this machine trusts and the name or IP address that was asked for. What is
wrong with a certificate is reported in detail, because the user has to do something else about each problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from ipaddress import ip_address
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from punch.identity import Identity
from punch.node.causes import ControlProblem, ProblemCode
from punch.wire.rendezvous_address import RendezvousAddress, pin_of

ALPN = b"punch/1"
RELAY_ALPN = b"stun.turn"

# Our certificate only carries the key. It is valid for so long that a wrong clock does no harm.
_NOT_BEFORE = datetime(2020, 1, 1, tzinfo=timezone.utc)
_DAYS = 100 * 365

_NOT_YET_VALID = 9
_EXPIRED = 10


@implementer(IOpenSSLClientConnectionCreator)
class _ConnectionCreator:
    """
    The TLS side of connections to one server, whose key is pinned or whose name an authority vouches for.

    :param oldest: the oldest version of TLS to speak.
    """

    def __init__(
        self,
        address: RendezvousAddress,
        roots: Sequence[x509.Certificate] | None,
        alpn: bytes,
        oldest: int = SSL.TLS1_3_VERSION,
    ) -> None:
        self._address = address
        # Twisted uses the connection's app data itself.
        self._problems: WeakKeyDictionary[SSL.Connection, ControlProblem] = WeakKeyDictionary()
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(oldest)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_protos([alpn])
        if address.pin is None:
            if roots is None:
                context.set_default_verify_paths()
            else:
                store = context.get_cert_store()
                assert store is not None
                for root in roots:
                    store.add_cert(X509.from_cryptography(root))
            context.set_verify(SSL.VERIFY_PEER, self._check_authority)
        else:
            context.set_verify(SSL.VERIFY_PEER, self._check_pin)
        self._context = context

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the TLS side of a new connection (`IOpenSSLClientConnectionCreator`)."""
        connection = SSL.Connection(self._context, None)
        try:
            ip_address(self._address.host)
        except ValueError:
            connection.set_tlsext_host_name(self._address.host.encode("idna"))
        return connection

    def problem(self, connection: SSL.Connection) -> ControlProblem | None:
        """Return what was wrong with the server's certificate on this connection; None: nothing."""
        return self._problems.get(connection)

    def _check_pin(
        self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int
    ) -> bool:
        # Only the key is pinned: names, dates and issuers do not matter.
        if depth > 0 or _pin(certificate) == self._address.pin:
            return True
        self._refuse(connection, ProblemCode.WRONG_PIN)
        return False

    def _check_authority(
        self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int
    ) -> bool:
        # Certificates of authorities that OpenSSL accepts need no check of ours.
        parsed = None if ok and depth > 0 else _parsed(certificate)
        if parsed is not None and error == _EXPIRED:
            self._refuse(connection, ProblemCode.EXPIRED, f"{parsed.not_valid_after_utc:%Y-%m-%d}")
        elif parsed is not None and error == _NOT_YET_VALID:
            self._refuse(connection, ProblemCode.NOT_YET_VALID, f"{parsed.not_valid_before_utc:%Y-%m-%d}")
        elif not ok or (depth == 0 and parsed is None):
            self._refuse(connection, ProblemCode.UNTRUSTED)
        elif depth == 0 and parsed is not None and not self._names_match(parsed):
            self._refuse(connection, ProblemCode.WRONG_NAME, _names(parsed))
        else:
            return True
        return False

    def _names_match(self, certificate: x509.Certificate) -> bool:
        try:
            try:
                ip_address(self._address.host)
            except ValueError:
                verify_certificate_hostname(certificate, self._address.host)
            else:
                verify_certificate_ip_address(certificate, self._address.host)
        except (VerificationError, CertificateError, ValueError):
            return False
        return True

    def _refuse(self, connection: SSL.Connection, code: ProblemCode, detail: str = "") -> None:
        # OpenSSL may ask several times about one certificate; the first objection is the reason.
        self._problems.setdefault(connection, ControlProblem(code, self._address, detail=detail))


class ControlConnectionCreator(_ConnectionCreator):
    """Makes the TLS side of each control connection to one rendezvous."""

    def __init__(
        self, address: RendezvousAddress, identity: Identity, roots: Sequence[x509.Certificate] | None = None
    ) -> None:
        """
        :param roots: the authorities to trust where the address has no pin; None for the platform's.
        """
        super().__init__(address, roots, ALPN)
        self._context.use_certificate(identity.certificate(_NOT_BEFORE, _DAYS))
        self._context.use_privatekey(identity.private_key)


class RelayConnectionCreator(_ConnectionCreator):
    """Makes the TLS side of connections to a TURN server (ALPN of RFC 7443); we show no certificate."""

    def __init__(
        self, host: str, port: int, pin: bytes | None, roots: Sequence[x509.Certificate] | None = None
    ) -> None:
        """
        :param host: the name or IP address that it has to be for, where no `pin` is given.
        :param roots: the authorities to trust where there is no pin; None for the platform's.
        """
        # coturn 4.6.1, which many run, ends handshakes of TLS 1.3. What passes through is sealed between
        # the peers anyway.
        super().__init__(RendezvousAddress(host, port, pin), roots, RELAY_ALPN, SSL.TLS1_2_VERSION)
        self._context.set_cipher_list(b"ECDHE+AESGCM:ECDHE+CHACHA20")


def _parsed(certificate: X509) -> x509.Certificate | None:
    """Return the parsed certificate; None if this parser refuses what OpenSSL accepts."""
    try:
        return certificate.to_cryptography()
    except Exception:  # a stranger wrote it, and an exception in the callback would end as an error of ours
        return None


def _pin(certificate: X509) -> bytes | None:
    """Return the pin of a certificate's key; None if the key can't be read."""
    parsed = _parsed(certificate)
    try:
        return None if parsed is None else pin_of(parsed.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _names(certificate: x509.Certificate) -> str:
    """Return the names that a certificate is for: some of them, since a stranger wrote them; may be empty."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    names = [*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))]
    printable = [name for name in names if name.isprintable()][:3]
    return ", ".join(printable)[:120]
