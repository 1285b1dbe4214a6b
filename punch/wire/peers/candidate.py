"""
ICE candidates in the text form of RFC 8839, section 5.1 (the value of an `a=candidate` line), or for TCP in
that of RFC 6544, section 4.5. Also functions that read lists of them from JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from punch.wire.address import Address, TCPAddress, canonical, parse_port, parsed
from punch.wire.fields import FieldError, sequence, string

MAX_TEXT = 512
"""The longest text of a candidate in characters, extensions included."""

_GRAMMAR = re.compile(
    r"(?P<foundation>[A-Za-z0-9+/]{1,32}) (?P<component>[0-9]{1,3}) (?P<protocol>[!-~]+)"
    r" (?P<priority>[0-9]{1,10}) (?P<host>[!-~]+) (?P<port>[0-9]{1,5}) typ (?P<type>[!-~]+)"
    r"(?: raddr (?P<raddr>[!-~]+))?(?: rport (?P<rport>[0-9]{1,5}))?(?P<extensions>(?: [!-~]+ [!-~]+)*)"
)


class CandidateType(str, Enum):
    """RFC 8445, section 5.1.1."""

    HOST = "host"
    SRFLX = "srflx"
    PRFLX = "prflx"
    RELAY = "relay"


class TCPType(str, Enum):
    """How a TCP connection to a candidate comes about (RFC 6544, section 4.5)."""

    ACTIVE = "active"
    """The owner connects, and listens nowhere."""
    PASSIVE = "passive"
    """The owner listens there."""
    SIMULTANEOUS_OPEN = "so"
    """The owner connects from there while the other side connects to it."""


class UnsupportedCandidate(ValueError):
    """
    A candidate that Punch does not support (another transport, a host name, an unknown type), to be ignored.
    """


@dataclass(frozen=True)
class Candidate:
    """
    An address at which a peer may be reached.

    `related` is the base of a reflexive candidate, or the mapped address of a relayed one. Candidates of TCP,
    and no others, have a `tcp_type`; their address is a `TCPAddress`.
    """

    type: CandidateType
    address: Address
    priority: int
    foundation: str
    related: Address | None = None
    component: int = 1
    tcp_type: TCPType | None = None

    @property
    def protocol(self) -> str:
        """The transport protocol, "udp" or "tcp"."""
        return self.address.protocol

    def __str__(self) -> str:
        related = f" raddr {self.related.host} rport {self.related.port}" if self.related else ""
        tcp = f" tcptype {self.tcp_type.value}" if self.tcp_type else ""
        return (
            f"{self.foundation} {self.component} {self.protocol} {self.priority} "
            f"{self.address.host} {self.address.port} typ {self.type.value}{related}{tcp}"
        )

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """
        Parse the text form. Unknown extensions are ignored.

        :raise UnsupportedCandidate: it may be valid, but Punch does not support it.
        :raise ValueError: it is malformed.
        """
        match = _GRAMMAR.fullmatch(text) if len(text) <= MAX_TEXT else None
        if match is None:
            raise ValueError(f"not a candidate: {text[:100]!a}")
        component, priority = int(match["component"]), int(match["priority"])
        if not 1 <= component <= 256:
            raise ValueError(f"the component is {component}, not 1 to 256")
        if not 1 <= priority < 2**31:
            raise ValueError(f"the priority is {priority}, not 1 to 2147483647")
        port = parse_port(match["port"])
        if (match["raddr"] is None) != (match["rport"] is None):
            raise ValueError("raddr and rport belong together")
        protocol, tcp_type = match["protocol"].lower(), None
        if protocol == "tcp":
            tcp_type = _tcp_type(match["extensions"].split())
        elif protocol != "udp":
            raise UnsupportedCandidate(f"candidates are UDP or TCP, not {match['protocol']!a}")
        try:
            kind = CandidateType(match["type"])
        except ValueError as error:
            raise UnsupportedCandidate(f"unknown candidate type {match['type']!a}") from error
        address = _address(match["host"], port)
        _check_unicast(address)
        related = None if match["raddr"] is None else _address(match["raddr"], int(match["rport"]))
        if tcp_type is not None:
            address = TCPAddress(*address)
        return cls(kind, address, priority, match["foundation"], related, component, tcp_type)


def _tcp_type(extensions: list[str]) -> TCPType:
    """Return the type that the extensions of a candidate of TCP name."""
    values = dict(zip(extensions[::2], extensions[1::2], strict=True))
    try:
        return TCPType(values["tcptype"])
    except (KeyError, ValueError) as error:
        raise UnsupportedCandidate("a candidate of TCP has no known tcptype") from error


def _address(host: str, port: int) -> Address:
    if "%" in host:
        raise ValueError("an address with a zone means nothing elsewhere")
    try:
        parsed(host)
    except ValueError as error:
        if re.fullmatch(r"[0-9.]*|.*:.*", host):
            raise ValueError(f"{host!a} is no IP address") from error
        raise UnsupportedCandidate(f"{host!a} is a name, not an IP address") from error
    return canonical(host, port)


def _check_unicast(address: Address) -> None:
    ip = parsed(address.host)
    if ip.is_multicast or ip.is_unspecified or ip == IPv4Address("255.255.255.255"):
        raise ValueError(f"{address.host} is not the address of one host")


MAX_CANDIDATES = 32
"""How many candidates one offer, answer or trickled message may have."""


MAX_TCP_CANDIDATES = 8
"""How many candidates of TCP one message on the link may have."""


def read_candidates(value: object) -> tuple[Candidate, ...]:
    """Read candidates of UDP. Those of other transports and types are left out, as RFC 8839 demands."""
    return _read_candidates(value, "udp", MAX_CANDIDATES)


def read_tcp_candidates(value: object) -> tuple[Candidate, ...]:
    """Read candidates of TCP, of which there are `MAX_TCP_CANDIDATES` at most. Others are left out."""
    return _read_candidates(value, "tcp", MAX_TCP_CANDIDATES)


def _read_candidates(value: object, protocol: str, most: int) -> tuple[Candidate, ...]:
    found = sequence(_candidate, most)(value)
    return tuple(each for each in found if each is not None and each.protocol == protocol)


def _candidate(value: object) -> Candidate | None:
    try:
        return Candidate.parse(string(value))
    except UnsupportedCandidate:
        return None
    except FieldError:
        raise
    except ValueError as error:
        raise FieldError(f"is wrong: {error}") from error
