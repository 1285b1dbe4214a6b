"""
The address of a rendezvous: ``punch://host:port`` or ``punch://host:port/PIN``, where ``?token=TOKEN`` may
follow, an invitation; and the SRV records (RFC 2782) by which DNS names its hosts and ports. Pure.

With a pin, the service's key must have that hash; without one, its certificate must be issued by a
certificate authority. A service of several processes has several addresses, separated by commas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from ipaddress import ip_address

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from punch.identity import (
    PEER_ID_VERSION,
    PIN_VERSION,
    PeerIDError,
    key_from_text,
    key_to_text,
)
from punch.wire.address import PortError, parse_port
from punch.wire.invitation import Invitation, InvitationError, service_tag

DEFAULT_PORT = 7001
SCHEME = "punch"
MAX_ADDRESSES = 8
"""Addresses of one service that a user may give."""
SERVICE = "_punch._tcp"
"""What stands before the name of a domain to ask for its SRV records."""
MAX_RECORDS = 16
"""SRV records of one name that are used."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""The last label of what many systems take for an IPv4 address: 127.1, 0x7f000001."""
_VISIBLE = re.compile("[!-~]+")


class RendezvousAddressProblem(str, Enum):
    """What is wrong with a text that should be a rendezvous address; `found` is the part that is wrong."""

    TOO_MANY = "too-many"
    """More addresses than `MAX_ADDRESSES`: `found`, a number."""
    PINS = "pins"
    """The addresses have different pins."""
    EMPTY = "empty"
    SCHEME = "scheme"
    CHARACTER = "character"
    """A character that begins a part which a rendezvous address does not have: @ or #."""
    QUERY = "query"
    """What follows the ? is no token."""
    INVITATION = "invitation"
    """The token is malformed: `cause` is an `InvitationError`."""
    OTHER_INVITATION = "other-invitation"
    """The token is for another rendezvous than the pin."""
    OPEN_BRACKET = "open-bracket"
    """The ] after an IPv6 address is missing."""
    IN_BRACKETS = "in-brackets"
    """Something else than an IPv6 address is in brackets."""
    AFTER_BRACKETS = "after-brackets"
    """What follows the ] is no port."""
    BRACKETS = "brackets"
    """An IPv6 address without brackets."""
    PORT = "port"
    NO_HOST = "no-host"
    IP_ADDRESS = "ip-address"
    """It looks like an IP address, and is none."""
    NOT_ONE_HOST = "not-one-host"
    """An IP address that is not that of one host."""
    HOST = "host"
    """Neither a host name nor an IP address."""
    PEER_ID = "peer-id"
    """A peer ID in the place of the host."""
    PIN = "pin"
    """The pin is malformed: `cause` is a `PeerIDError`."""
    PEER_ID_FOR_PIN = "peer-id-for-pin"
    """A peer ID in the place of the pin."""
    PIN_VERSION = "pin-version"
    """The pin is of a newer version: `found`, a number."""


class RendezvousAddressError(ValueError):
    """
    A text is not a rendezvous address.

    :ivar problem: what is wrong.
    :ivar found: the part of the text that is wrong, or "".
    :ivar cause: what is wrong with the invitation or the pin; None: something else is wrong.
    """

    def __init__(
        self,
        problem: RendezvousAddressProblem,
        found: str = "",
        cause: InvitationError | PeerIDError | None = None,
    ) -> None:
        super().__init__(problem.value, found)
        self.problem = problem
        self.found = found
        self.cause = cause


def pin_of(public_key: CertificatePublicKeyTypes) -> bytes:
    """The pin of a service's key: SHA-256 of its SubjectPublicKeyInfo in DER form (32 bytes)."""
    return sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@dataclass(frozen=True)
class RendezvousAddress:
    """
    `host` is an IP address in canonical text form, or a DNS name in lower case (A-labels). `pin` is what
    `pin_of` returns, or None: a certificate authority issues the service's certificate. `invitation` is the
    token that comes with the address, if any; it is no part of the text form, since it is secret.
    """

    host: str
    port: int = DEFAULT_PORT
    pin: bytes | None = None
    has_services: bool = field(default=False, compare=False)
    """
    Whether the host is a name that was given without a port: DNS may name the hosts and ports of the service
    (SRV records, RFC 2782). `host` and `port` are used if it names none.
    """
    invitation: Invitation | None = field(default=None, compare=False)

    def __str__(self) -> str:
        pin = "" if self.pin is None else "/" + key_to_text(self.pin, PIN_VERSION)
        return f"{SCHEME}://{self.location}{pin}"

    @property
    def with_invitation(self) -> str:
        """The text form with the invitation, for the one who is invited."""
        return str(self) if self.invitation is None else f"{self}?token={self.invitation}"

    @property
    def location(self) -> str:
        """`host:port`, without the pin; only the host if no port was given with a name."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.has_services else f"{host}:{self.port}"

    @classmethod
    def parse_all(cls, text: str) -> tuple[RendezvousAddress, ...]:
        """
        Parse the addresses of one service, separated by commas. A pin in one of them holds for all.

        :raise RendezvousAddressError: one is malformed, there are too many, or their pins differ.
        """
        found = list(dict.fromkeys(cls.parse(part) for part in text.split(",")))
        if len(found) > MAX_ADDRESSES:
            raise RendezvousAddressError(RendezvousAddressProblem.TOO_MANY, str(len(found)))
        pins = {address.pin for address in found} - {None}
        if len(pins) > 1:
            raise RendezvousAddressError(RendezvousAddressProblem.PINS)
        pin = next(iter(pins), None)
        return tuple(dict.fromkeys(replace(address, pin=pin) for address in found))

    @classmethod
    def parse(cls, text: str) -> RendezvousAddress:
        """
        Parse an address that a person pasted or typed. The scheme and the port may be missing.

        :raise RendezvousAddressError: it is malformed.
        """
        rest = text.strip()
        if not rest:
            raise RendezvousAddressError(RendezvousAddressProblem.EMPTY)
        if "://" in rest:
            scheme, rest = rest.split("://", 1)
            if scheme.lower() != SCHEME:
                raise RendezvousAddressError(RendezvousAddressProblem.SCHEME, scheme)
        rest, question, query = rest.partition("?")
        location, slash, pin_text = rest.partition("/")
        for character in "@#":
            if character in rest:
                raise RendezvousAddressError(RendezvousAddressProblem.CHARACTER, character)
        host_text, port = _split_port(location)
        host = _host(host_text)
        pin = _pin(pin_text) if slash and pin_text else None
        invitation = _invitation(query, pin) if question else None
        has_services = port is None and _is_domain(host)
        return cls(host, port or DEFAULT_PORT, pin, has_services, invitation)


def invitation_in(addresses: RendezvousAddress | Iterable[RendezvousAddress]) -> str:
    """The token that came with the address of a service, or with one of them; empty if none did."""
    found = [addresses] if isinstance(addresses, RendezvousAddress) else addresses
    return next((str(address.invitation) for address in found if address.invitation is not None), "")


def _invitation(query: str, pin: bytes | None) -> Invitation:
    name, equals, token = query.partition("=")
    if name.strip().lower() != "token" or not equals:
        raise RendezvousAddressError(RendezvousAddressProblem.QUERY, query)
    try:
        invitation = Invitation.parse(token)
    except InvitationError as error:
        raise RendezvousAddressError(RendezvousAddressProblem.INVITATION, cause=error) from error
    if pin is not None and invitation.service != service_tag(pin):
        raise RendezvousAddressError(RendezvousAddressProblem.OTHER_INVITATION)
    return invitation


def _split_port(location: str) -> tuple[str, int | None]:
    if location.startswith("["):
        host, bracket, port_text = location[1:].partition("]")
        if not bracket:
            raise RendezvousAddressError(RendezvousAddressProblem.OPEN_BRACKET, location)
        if ":" not in host:
            raise RendezvousAddressError(RendezvousAddressProblem.IN_BRACKETS, host)
        if port_text and not port_text.startswith(":"):
            raise RendezvousAddressError(RendezvousAddressProblem.AFTER_BRACKETS, port_text)
        return host, _port(port_text[1:]) if port_text else None
    if location.count(":") > 1:
        raise RendezvousAddressError(RendezvousAddressProblem.BRACKETS, location)
    host, colon, port_text = location.partition(":")
    return host, _port(port_text) if colon else None


def _port(text: str) -> int:
    try:
        return parse_port(text)
    except PortError:
        raise RendezvousAddressError(RendezvousAddressProblem.PORT, text) from None


def _host(text: str) -> str:
    if not text:
        raise RendezvousAddressError(RendezvousAddressProblem.NO_HOST)
    try:
        name = text if ":" in text else text.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        name = ""
    if ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            address = ip_address(name)
        except ValueError as error:
            raise RendezvousAddressError(RendezvousAddressProblem.IP_ADDRESS, text) from error
        if not _VISIBLE.fullmatch(name):
            # Python takes any text for the zone of an IPv6 address
            raise RendezvousAddressError(RendezvousAddressProblem.IP_ADDRESS, text)
        if address.is_unspecified or address.is_multicast:
            raise RendezvousAddressError(RendezvousAddressProblem.NOT_ONE_HOST, str(address))
        return str(address)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise RendezvousAddressError(RendezvousAddressProblem.HOST, text)
    if _is_peer_id(name):
        raise RendezvousAddressError(RendezvousAddressProblem.PEER_ID)
    return name


def _is_domain(host: str) -> bool:
    """Whether a canonical host is a name with a dot: nobody publishes SRV records for localhost."""
    return "." in host and ":" not in host and _NUMBER.fullmatch(host.rpartition(".")[2]) is None


def _is_peer_id(name: str) -> bool:
    try:
        return key_from_text(name, "peer ID")[1] in (PEER_ID_VERSION, PIN_VERSION)
    except PeerIDError:
        return False


def _pin(text: str) -> bytes:
    try:
        pin, version = key_from_text(text, "pin of the rendezvous")
    except PeerIDError as error:
        raise RendezvousAddressError(RendezvousAddressProblem.PIN, cause=error) from error
    if version == PEER_ID_VERSION:
        raise RendezvousAddressError(RendezvousAddressProblem.PEER_ID_FOR_PIN)
    if version != PIN_VERSION:
        raise RendezvousAddressError(RendezvousAddressProblem.PIN_VERSION, str(version))
    return pin


@dataclass(frozen=True)
class ServiceRecord:
    """An SRV record: `host` and `port` of a service. The host is empty if there is no such service."""

    priority: int
    weight: int
    host: str
    port: int


def in_order(records: Sequence[ServiceRecord], random: Callable[[int], bytes]) -> list[ServiceRecord]:
    """Order SRV records as RFC 2782 says: by priority, and at random by weight where that is the same."""
    ordered: list[ServiceRecord] = []
    for priority in sorted({record.priority for record in records}):
        # Records of weight 0 come first, so that they have a small chance beside others.
        left = sorted((each for each in records if each.priority == priority), key=lambda each: each.weight)
        while left:
            chosen = int.from_bytes(random(8), "big") % (sum(each.weight for each in left) + 1)
            for record in left:
                chosen -= record.weight
                if chosen <= 0:
                    break
            left.remove(record)
            ordered.append(record)
    return ordered
