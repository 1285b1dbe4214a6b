"""
The messages by which a host asks its router for a port: PCP (RFC 6887) and its predecessor NAT-PMP (RFC
6886), which are sent to UDP port 5351 of the default gateway, and the search for a router with UPnP (SSDP,
UPnP Device Architecture 2.0, section 1.3), with what that is asked for.

Only what this project uses is here: mappings of UDP and TCP ports, and NAT-PMP's request for the external
address. Which of the two a port is follows from its `Address`, or from the protocol's name, "udp" or "tcp".
The rest of UPnP, which is XML over HTTP, is `miniupnpc`'s (`punch.net.upnp`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from punch.wire.address import Address, canonical

SERVER_PORT = 5351
"""Where the router listens (RFC 6887, section 19.1; RFC 6886, section 3.1)."""
LONGEST = 1100
"""The longest message of PCP, in bytes (RFC 6887, section 7)."""

SSDP_PORT = 1900
MULTICAST = Address("239.255.255.250", SSDP_PORT)
"""Where all devices of a network listen for searches."""
LONGEST_ANSWER = 1500
"""The longest answer to a search that is read, in bytes."""
LONGEST_URL = 256

NAT_PMP = 0
PCP = 2
"""The versions in the first byte of each message."""

SUCCESS = 0
UNSUPPORTED_VERSION = 1
"""Result codes that both protocols have (RFC 6887, section 7.4; RFC 6886, section 3.5)."""

_RESPONSE = 0x80
_MAP = 1
_ADDRESS = 0
_NAT_PMP_MAP = {"udp": 1, "tcp": 2}
_NAT_PMP_PROTOCOLS = {opcode: protocol for protocol, opcode in _NAT_PMP_MAP.items()}
"""The opcodes of a mapping (RFC 6886, section 3.3)."""
_PCP_NUMBERS = {"udp": 17, "tcp": 6}
_PCP_PROTOCOLS = {number: protocol for protocol, number in _PCP_NUMBERS.items()}
"""The protocol numbers of the IANA registry (RFC 6887, section 11.1)."""
_HEADER = struct.Struct("!BBHI16s")
_ANSWER_HEADER = struct.Struct("!BBBBII12s")
_MAPPING = struct.Struct("!12sB3xHH16s")
_NAT_PMP_MAPPING = struct.Struct("!BBHHHI")
_NAT_PMP_HEADER = struct.Struct("!BBHI")

_SEARCH = (
    "M-SEARCH * HTTP/1.1\r\n"
    "HOST: {host}:{port}\r\n"
    'MAN: "ssdp:discover"\r\n'
    "MX: 1\r\n"
    "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
)


@dataclass(frozen=True)
class PcpAnswer:
    """
    The answer to a MAP request of PCP (RFC 6887, section 11.1), or a PCP server's refusal of its version.

    :ivar version: the version that the answer has: `NAT_PMP` from a router that knows no PCP.
    :ivar result: a result code; 0 for success.
    :ivar lifetime: seconds: of the mapping, or for how long the same error is to be expected.
    :ivar epoch: seconds since the server lost its mappings (section 8.5).
    :ivar nonce: that of the request; empty if the answer is too short to have one.
    :ivar internal_port: the port that is mapped.
    :ivar external: the address that leads to it; None if the answer is too short to have one.
    :ivar protocol: "udp" or "tcp"; empty if the answer is too short to say it, or refuses another one.
    """

    version: int
    result: int
    lifetime: int
    epoch: int
    nonce: bytes
    internal_port: int
    external: Address | None
    protocol: str = ""


@dataclass(frozen=True)
class AddressAnswer:
    """
    NAT-PMP's answer to a request for the external address (RFC 6886, section 3.2).

    :ivar host: the address; None if the result is no success.
    """

    result: int
    epoch: int
    host: str | None


@dataclass(frozen=True)
class MappingAnswer:
    """
    NAT-PMP's answer to a request for a mapping (RFC 6886, section 3.3).

    :ivar lifetime: seconds.
    :ivar protocol: "udp" or "tcp".
    """

    result: int
    epoch: int
    internal_port: int
    external_port: int
    lifetime: int
    protocol: str


Answer = PcpAnswer | AddressAnswer | MappingAnswer


def pcp_map_request(nonce: bytes, internal: Address, suggested: Address | None, lifetime: int) -> bytes:
    """
    Return a request of PCP for a mapping (RFC 6887, sections 7.1 and 11.1).

    :param nonce: 12 bytes that only the owner of the mapping knows.
    :param internal: the port to map, at the IP address that the request is sent from.
    :param suggested: the external address that is wished for; None: no wish.
    :param lifetime: seconds; 0 deletes the mapping.
    """
    if suggested is None:
        suggested = Address("::" if internal.is_ipv6 else "0.0.0.0", 0)
    header = _HEADER.pack(PCP, _MAP, 0, lifetime, _packed(internal.host))
    number = _PCP_NUMBERS[internal.protocol]
    return header + _MAPPING.pack(nonce, number, internal.port, suggested.port, _packed(suggested.host))


def nat_pmp_address_request() -> bytes:
    """Return NAT-PMP's request for the external address (RFC 6886, section 3.2)."""
    return bytes((NAT_PMP, _ADDRESS))


def nat_pmp_map_request(internal: Address, suggested: int, lifetime: int) -> bytes:
    """
    Return a request of NAT-PMP for a mapping (RFC 6886, section 3.3).

    :param internal: the port to map; the router takes the IP address from the datagram.
    :param suggested: the external port that is wished for; 0: no wish.
    :param lifetime: seconds; 0 deletes the mapping.
    """
    return _NAT_PMP_MAPPING.pack(
        NAT_PMP, _NAT_PMP_MAP[internal.protocol], 0, internal.port, suggested, lifetime
    )


def parse(data: bytes) -> Answer | None:
    """Read an answer of a router; None if it is malformed, or no answer of a kind that is known here."""
    if not 8 <= len(data) <= LONGEST or not data[1] & _RESPONSE:
        return None
    opcode = data[1] & ~_RESPONSE
    if data[0] == NAT_PMP:
        return _parse_nat_pmp(data, opcode)
    return _parse_pcp(data, opcode)


def _parse_nat_pmp(data: bytes, opcode: int) -> Answer | None:
    _, _, result, epoch = _NAT_PMP_HEADER.unpack_from(data)
    if result == UNSUPPORTED_VERSION and opcode == _MAP:
        # A router with NAT-PMP only refuses PCP's MAP so, whose number is that of MAP UDP here
        # (RFC 6887, appendix A).
        return PcpAnswer(NAT_PMP, result, 0, epoch, b"", 0, None)
    if opcode == _ADDRESS:
        if result != SUCCESS:
            return AddressAnswer(result, epoch, None)
        return AddressAnswer(result, epoch, str(IPv4Address(data[8:12]))) if len(data) == 12 else None
    protocol = _NAT_PMP_PROTOCOLS.get(opcode)
    if protocol is not None:
        if result != SUCCESS and len(data) < 16:
            return MappingAnswer(result, epoch, 0, 0, 0, protocol)
        if len(data) == 16:
            internal, external, lifetime = struct.unpack_from("!HHI", data, 8)
            return MappingAnswer(result, epoch, internal, external, lifetime, protocol)
    return None


def _parse_pcp(data: bytes, opcode: int) -> PcpAnswer | None:
    if len(data) < _ANSWER_HEADER.size or len(data) % 4 or opcode != _MAP:
        return None
    version, _, _, result, lifetime, epoch, _ = _ANSWER_HEADER.unpack_from(data)
    if version != PCP and result != UNSUPPORTED_VERSION:
        return None
    if len(data) < _ANSWER_HEADER.size + _MAPPING.size:
        # Only an error may leave it out: what the server could not read, it can't repeat.
        return PcpAnswer(version, result, lifetime, epoch, b"", 0, None) if result else None
    nonce, number, internal, port, host = _MAPPING.unpack_from(data, _ANSWER_HEADER.size)
    protocol = _PCP_PROTOCOLS.get(number, "")
    if result == SUCCESS and not protocol:
        return None
    external = canonical(str(IPv6Address(host)), port)
    return PcpAnswer(version, result, lifetime, epoch, nonce, internal, external, protocol)


def _packed(host: str) -> bytes:
    """Return an address in 16 bytes, IPv4 as IPv4-mapped IPv6 (RFC 6887, section 5)."""
    ip = ip_address(host)
    return ip.packed if isinstance(ip, IPv6Address) else bytes(10) + b"\xff\xff" + ip.packed


@dataclass(frozen=True)
class UpnpRequest:
    """
    A mapping that a router with UPnP is asked for.

    :ivar url: where the router describes itself.
    :ivar internal: the address of the socket, of UDP or TCP.
    :ivar port: the external port that is wished for, or that is deleted.
    :ivar lifetime: seconds; 0 deletes the mapping.
    """

    url: str
    internal: Address
    port: int
    lifetime: int


@dataclass(frozen=True)
class UpnpGrant:
    """
    A port that a router has mapped.

    :ivar external: the port at the address that the router names; "0.0.0.0" if it names none.
    :ivar lifetime: seconds; 0: the mapping stays until it is deleted.
    """

    external: Address
    lifetime: int


def search_request(server: Address) -> bytes:
    """
    Return the search for routers of any version.

    :param server: where it is sent: to all devices (`MULTICAST`), or to one.
    """
    return _SEARCH.format(host=server.host, port=server.port).encode("ascii")


def parse_search_answer(data: bytes, router: str) -> str | None:
    """
    Return the URL at which the router describes itself; None if the answer is malformed, or names another
    host.

    :param router: the IPv4 address that the answer came from.
    """
    if len(data) > LONGEST_ANSWER or not data.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        return None
    for line in data.split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"location":
            return _url(value.strip(), router)
    return None


def _url(value: bytes, router: str) -> str | None:
    if len(value) > LONGEST_URL or any(not 0x20 < byte < 0x7F for byte in value):
        return None
    url = value.decode("ascii")
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "http" and parts.netloc in (router, f"{router}:{parts.port}")
    except ValueError:
        return None
    return url if usable and parts.path.startswith("/") else None
