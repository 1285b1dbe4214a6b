"""A certificate that an authority issued, from files: refused at start if peers would refuse it."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from punch.files import read_regular
from punch.rendezvous.config import ServerCertificate

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
