"""ICE candidates in the text form of RFC 8839, section 5.1 (the value of an `a=candidate` line)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from punch.wire.address import Address, canonical, parsed

MAX_TEXT = 512
"""The longest text of a candidate in characters, extensions included."""

_GRAMMAR = re.compile(
    r"(?P<foundation>[A-Za-z0-9+/]{1,32}) (?P<component>[0-9]{1,3}) (?P<protocol>[!-~]+)"
    r" (?P<priority>[0-9]{1,10}) (?P<host>[!-~]+) (?P<port>[0-9]{1,5}) typ (?P<type>[!-~]+)"
    r"(?: raddr (?P<raddr>[!-~]+))?(?: rport (?P<rport>[0-9]{1,5}))?(?: [!-~]+ [!-~]+)*"
)


class CandidateType(str, Enum):
    """RFC 8445, section 5.1.1."""

    HOST = "host"
    SRFLX = "srflx"
    PRFLX = "prflx"
    RELAY = "relay"


class UnsupportedCandidate(ValueError):
    """
    A candidate that Punch does not support (TCP, a host name, an unknown type) and that is to be ignored.
    """


@dataclass(frozen=True)
class Candidate:
    """
    An address at which a peer may be reached.

    `related` is the base of a reflexive candidate, or the mapped address of a relayed one.
    """

    type: CandidateType
    address: Address
    priority: int
    foundation: str
    related: Address | None = None
    component: int = 1
    protocol: str = "udp"

    def __str__(self) -> str:
        related = f" raddr {self.related.host} rport {self.related.port}" if self.related else ""
        return (
            f"{self.foundation} {self.component} {self.protocol} {self.priority} "
            f"{self.address.host} {self.address.port} typ {self.type.value}{related}"
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
        component, priority, port = int(match["component"]), int(match["priority"]), int(match["port"])
        if not 1 <= component <= 256:
            raise ValueError(f"the component is {component}, not 1 to 256")
        if not 1 <= priority < 2**31:
            raise ValueError(f"the priority is {priority}, not 1 to 2147483647")
        if not 1 <= port <= 65535:
            raise ValueError(f"the port is {port}, not 1 to 65535")
        if (match["raddr"] is None) != (match["rport"] is None):
            raise ValueError("raddr and rport belong together")
        if match["protocol"].lower() != "udp":
            raise UnsupportedCandidate(f"candidates are UDP, not {match['protocol']!a}")
        try:
            kind = CandidateType(match["type"])
        except ValueError as error:
            raise UnsupportedCandidate(f"unknown candidate type {match['type']!a}") from error
        address = _address(match["host"], port)
        _check_unicast(address)
        related = None if match["raddr"] is None else _address(match["raddr"], int(match["rport"]))
        return cls(kind, address, priority, match["foundation"], related, component)


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
