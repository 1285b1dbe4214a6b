"""
The identity of a peer: an Ed25519 key, its text form, its key file, its signatures, and the X25519 key that
is made of it.

The peer ID is the public key as 56 characters of lower-case base32, in the form of Tor v3 onion addresses:
key (32 bytes), checksum (2), version (1). The pin of a rendezvous has the same form with another version.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from base64 import b32encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from functools import cached_property, lru_cache
from hashlib import sha3_256, sha256, sha512
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from punch.files import create_private, make_private_directory, open_regular

RandomBytes = Callable[[int], bytes]
"""A function that returns so many random bytes: `os.urandom`, or a seeded one in tests."""

PEER_ID_VERSION = 1
PIN_VERSION = 2
TEXT_LENGTH = 56
LABEL_PREFIX = b"punch/1 "
MAX_KEY_FILE = 16384
"""How many bytes of a key file are read. A key has about 120."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_ALPHABET = frozenset(_LETTERS)
_DIGITS = str.maketrans(_LETTERS, "0123456789abcdefghijklmnopqrstuv")
"""Translates the letters of base32 to the digits that `int` reads in base 32."""


class PeerIDError(ValueError):
    """A text, key or certificate is not a peer ID; `str()` is a sentence for the user."""


class IdentityProblem(str, Enum):
    """Why a key can't be loaded, created or used."""

    ENCRYPTED = "encrypted"
    """The key is encrypted with a passphrase."""
    NO_KEY = "no-key"
    """There is no private key in PEM form."""
    OTHER_KEY = "other-key"
    """It is not an Ed25519 key."""
    FILE = "file"
    """The system refuses to open, read or make the file: `cause` is an `OSError`."""
    VANISHED = "vanished"
    """The file was removed while it was being read."""
    CONTENT = "content"
    """The file has no usable key: `cause` is an `IdentityError`."""
    MODE = "mode"
    """Other users can read or change the file: `mode`."""


class IdentityError(Exception):
    """
    A key can't be loaded, created or used.

    :ivar problem: why not.
    :ivar path: the file of the key; None if it comes from elsewhere.
    :ivar cause: the error that is the cause, if there is one.
    :ivar mode: the mode of the file, if that is the problem.
    """

    def __init__(
        self,
        problem: IdentityProblem,
        path: Path | None = None,
        cause: OSError | IdentityError | None = None,
        mode: int = 0,
    ) -> None:
        super().__init__(problem.value, path, cause)
        self.problem = problem
        self.path = path
        self.cause = cause
        self.mode = mode


def key_to_text(payload: bytes, version: int) -> str:
    """32 bytes (a key or the hash of one) as 56 characters: payload, checksum, version."""
    return b32encode(payload + _checksum(payload, version) + bytes([version])).decode("ascii").lower()


def key_from_text(text: str, what: str) -> tuple[bytes, int]:
    """
    Parse the text form that `key_to_text` returns, in upper or lower case. Spaces, dashes and invisible
    characters (Cf) are ignored. The caller checks the version.

    :param what: what the text should be ("peer ID"), for error messages.
    :return: the key and the version.
    :raise PeerIDError: the text does not have this form, or has a typo.
    """
    return _decode(_canonical(text, what), what)


def _canonical(text: str, what: str) -> str:
    """The text as `key_to_text` returns it, if it is a key."""
    if _ALPHABET.issuperset(text):
        compact = text
    else:
        characters = [c for c in text if not c.isspace() and unicodedata.category(c) not in ("Pd", "Cf")]
        compact = "".join(characters).lower()
        for character in characters:
            if character.lower() not in _ALPHABET:
                raise PeerIDError(
                    f"There is a typo in the {what}: it has the letters a to z and the digits 2 to 7, "
                    f"not {character!a}. Copy it again."
                )
    if not compact:
        raise PeerIDError(f"The {what} is empty: paste the {TEXT_LENGTH} characters as they were printed.")
    if len(compact) != TEXT_LENGTH:
        some = "characters are missing" if len(compact) < TEXT_LENGTH else "there is too much"
        raise PeerIDError(
            f"There is a typo in the {what}: {some}, it has {TEXT_LENGTH} characters and this has "
            f"{len(compact)}. Copy it again."
        )
    return compact


def _decode(compact: str, what: str) -> tuple[bytes, int]:
    # `b32decode` goes through the letters one by one in Python, and takes several times as long
    raw = int(compact.translate(_DIGITS), 32).to_bytes(TEXT_LENGTH * 5 // 8, "big")
    payload, checksum, version = raw[:32], raw[32:34], raw[34]
    if checksum != _checksum(payload, version):
        raise PeerIDError(
            f"There is a typo in the {what} {compact[:8]}…: its checksum does not match. Copy it again."
        )
    return payload, version


def _checksum(payload: bytes, version: int) -> bytes:
    return sha3_256(b".punch checksum" + payload + bytes([version])).digest()[:2]


@dataclass(frozen=True, order=True)
class PeerID:
    """A peer's Ed25519 public key (32 bytes). The order is that of the bytes."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != 32:
            raise PeerIDError(f"A peer's key has 32 bytes, this one has {len(self.key)}.")

    @classmethod
    def parse(cls, text: str) -> PeerID:
        """
        Parse a peer ID that a person typed or pasted.

        :raise PeerIDError: the text is not a peer ID, or has a typo.
        """
        # Programs write IDs without spaces, and the same few again and again
        return _parse_cached(text) if len(text) == TEXT_LENGTH else cls.parse_unchecked(text).checked()

    @classmethod
    def parse_unchecked(cls, text: str) -> PeerID:
        """
        Parse a peer ID without checking that its key is usable, which takes much longer than the rest. The
        result can be compared with others, since no peer can register with an unusable key.

        :raise PeerIDError: the text is not a peer ID, or has a typo.
        """
        if "://" in text:
            raise PeerIDError(
                "This is an address, not a peer ID: a peer prints its ID when it starts, and a rendezvous "
                "address goes with --rendezvous."
            )
        what = "peer ID"
        compact = _canonical(text, what)
        key, version = _decode(compact, what)
        if version == PIN_VERSION:
            raise PeerIDError(
                "This is the pin of a rendezvous, not a peer ID: a peer prints its ID when it starts."
            )
        if version != PEER_ID_VERSION:
            raise PeerIDError(
                f"This peer ID has version {version} and this Punch knows version {PEER_ID_VERSION}: "
                "install a newer Punch."
            )
        peer = cls(key)
        peer.__dict__["_text"] = compact  # the cached property
        return peer

    @classmethod
    def from_certificate(cls, certificate: x509.Certificate) -> PeerID:
        """
        The peer ID of the key in a certificate. Names and dates are not checked, since they prove nothing
        here.

        :raise PeerIDError: the key is not a usable Ed25519 key.
        """
        try:
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise PeerIDError("The certificate's key can't be read; a peer's is an Ed25519 key.") from error
        if not isinstance(key, Ed25519PublicKey):
            raise PeerIDError("The certificate's key is not an Ed25519 key, as a peer's must be.")
        return cls(key.public_bytes_raw()).checked()

    @cached_property
    def _text(self) -> str:
        return key_to_text(self.key, PEER_ID_VERSION)

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<PeerID {self.short}>"

    @property
    def short(self) -> str:
        """
        The first 8 characters, only for messages to people: anyone can make a key that has the same ones.
        """
        return str(self)[:8]

    def verify(self, label: bytes, message: bytes, signature: bytes) -> bool:
        """Whether this peer signed `message` for the purpose `label`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, label + b"\0" + message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def x25519(self) -> X25519PublicKey:
        """
        The X25519 key that messages to this peer are sealed to.

        :raise PeerIDError: the key is not a point of the prime-order group in canonical form.
        """
        try:
            return X25519PublicKey.from_public_bytes(montgomery_u(self.key))
        except ValueError as error:
            raise PeerIDError(f"The peer ID {self.short}… is no usable Ed25519 key: {error}.") from error

    def checked(self) -> PeerID:
        """
        Return this peer ID, whose key is checked.

        :raise PeerIDError: its key is not usable.
        """
        self.x25519()
        return self


@lru_cache(maxsize=1024)
def _parse_cached(text: str) -> PeerID:
    return PeerID.parse_unchecked(text).checked()


class Identity:
    """The private key of a peer or of a rendezvous service."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.private_key = private_key
        self.peer_id = PeerID(private_key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, random: RandomBytes = os.urandom) -> Identity:
        """Make a new key from 32 random bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(random(32)))

    @classmethod
    def from_pem(cls, pem: bytes) -> Identity:
        """
        Parse a PKCS #8 private key in PEM form.

        :raise IdentityError: the data is malformed or encrypted, or the key is not an Ed25519 key.
        """
        try:
            key = load_pem_private_key(pem, None)
        except TypeError as error:
            raise IdentityError(IdentityProblem.ENCRYPTED) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise IdentityError(IdentityProblem.NO_KEY) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(IdentityProblem.OTHER_KEY)
        return cls(key)

    def to_pem(self) -> bytes:
        """The private key as unencrypted PKCS #8 in PEM form, as `openssl genpkey` writes it."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, label: bytes, message: bytes) -> bytes:
        """
        Sign a message for one purpose, so that the signature is not valid for another one.

        :param label: the purpose. It starts with ``punch/1 `` and has no zero byte.
        :return: the signature, 64 bytes.
        """
        if not label.startswith(LABEL_PREFIX) or b"\0" in label:
            raise ValueError(f"{label!r} is no label for a signature")
        return self.private_key.sign(label + b"\0" + message)

    def x25519(self) -> X25519PrivateKey:
        """The X25519 key that opens messages which are sealed to `peer_id`."""
        return X25519PrivateKey.from_private_bytes(montgomery_scalar(self.private_key.private_bytes_raw()))

    def certificate(
        self, not_before: datetime, days: int = 3650, hosts: Sequence[str] = ()
    ) -> x509.Certificate:
        """
        Make a self-signed certificate of the key that does not name its owner.

        The same arguments give the same bytes.

        :param not_before: an aware datetime.
        :param hosts: the DNS names and IP addresses at which a service is reached.
        """
        not_before = not_before.astimezone(timezone.utc).replace(microsecond=0)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "punch")])
        public_key = self.private_key.public_key()
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        serial = sha256(spki + not_before.isoformat().encode("ascii")).digest()[:16]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public_key)
            .serial_number(int.from_bytes(serial, "big") >> 1 | 1)
            .not_valid_before(not_before)
            .not_valid_after(not_before + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if hosts:
            names = [_general_name(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.private_key, None)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def load_identity(path: Path, random: RandomBytes = os.urandom) -> Identity:
    """
    Load the identity with the key file `path`. The file is created with mode 0600 if it does not exist.

    Two processes that do this at the same time get the same key.

    :raise IdentityError: the file can't be read or created, others can read it, or it has no Ed25519 key.
    """
    try:
        pem = _read_key_file(path)
        if pem is None:
            make_private_directory(path.parent)
            create_private(path, Identity.generate(random).to_pem())
            pem = _read_key_file(path)
    except OSError as error:
        raise IdentityError(IdentityProblem.FILE, path, error) from error
    if pem is None:
        raise IdentityError(IdentityProblem.VANISHED, path)
    try:
        return Identity.from_pem(pem)
    except IdentityError as error:
        raise IdentityError(IdentityProblem.CONTENT, path, error) from error


def _read_key_file(path: Path) -> bytes | None:
    """The file's content; None if there is no such file."""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    try:
        mode = os.fstat(descriptor).st_mode
        if os.name == "posix" and mode & 0o077:
            raise IdentityError(IdentityProblem.MODE, path, mode=stat.S_IMODE(mode))
        return os.read(descriptor, MAX_KEY_FILE)
    finally:
        os.close(descriptor)


# -- from Ed25519 keys to X25519 keys (RFC 7748, section 4.1), as libsodium and age do it --
#
# A peer ID is an Ed25519 key, and offers are sealed to the X25519 key that is made of it. `cryptography`, on
# which Punch depends already, does not offer the mapping. PyNaCl does, but would be a dependency that brings
# a second cryptography library (libsodium, 4 MB with its bindings) for these two functions. The tests compare
# the results with PyNaCl's. Only public points are computed with here, so nothing has to take constant time;
# X25519 itself is the library's.

P = 2**255 - 19
"""The field prime."""

_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, P) % P
_SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)
# -1 modulo the prime order, 0 modulo 8, and with the top bit set: X25519's clamping does not change it.
_MINUS_ONE = X25519PrivateKey.from_private_bytes((5 * _ORDER - 1).to_bytes(32, "little"))


@lru_cache(maxsize=4096)
def montgomery_u(key: bytes) -> bytes:
    """
    The X25519 public key (32 bytes) of an Ed25519 public key (32 bytes): u = (1 + y) / (1 - y).

    :raise ValueError: the key is not the canonical form of a point, or the point is not in the prime-order
        group: it is of small order or has a component of small order, which no generated key has.
    """
    y = _y_coordinate(key)
    if y == 1:
        raise ValueError("it is the neutral point")
    u = ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")
    if not _in_prime_order_group(u):
        raise ValueError("the point is not in the prime-order group")
    return u


def montgomery_scalar(seed: bytes) -> bytes:
    """The X25519 private key (32 bytes, clamped) of an Ed25519 seed (RFC 8032, section 5.1.5)."""
    scalar = bytearray(sha512(seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return bytes(scalar)


def _in_prime_order_group(u: bytes) -> bool:
    """
    Whether a point is in the prime-order group.

    Multiplying by a number that is 0 modulo 8 and -1 modulo the prime order gives the inverse of a point's
    component of prime order, and a point and its inverse have the same u. X25519 multiplies several times as
    fast as Python code does.
    """
    try:
        return _MINUS_ONE.exchange(X25519PublicKey.from_public_bytes(u)) == u
    except ValueError:  # the result is neutral: the point has small order
        return False


def _y_coordinate(key: bytes) -> int:
    """The y coordinate of a point in its canonical form (RFC 8032, section 5.1.3)."""
    if len(key) != 32:
        raise ValueError("a key has 32 bytes")
    number = int.from_bytes(key, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= P:
        raise ValueError("the y coordinate is not canonical")
    u, v = (y * y - 1) % P, (_D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * _SQRT_MINUS_ONE % P
        if v * x * x % P != u:
            raise ValueError("there is no such point")
    if x == 0 and sign:
        raise ValueError("the sign of x is not canonical")
    return y
