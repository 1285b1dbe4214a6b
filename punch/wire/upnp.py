"""
How a router with UPnP is found (SSDP, UPnP Device Architecture 2.0, section 1.3), and what it is asked for.

The rest of UPnP, which is XML over HTTP, is `miniupnpc`'s (`punch.net.upnp`).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from punch.wire.address import Address

SSDP_PORT = 1900
MULTICAST = Address("239.255.255.250", SSDP_PORT)
"""Where all devices of a network listen for searches."""
LONGEST = 1500
"""The longest answer that is read, in bytes."""
LONGEST_URL = 256

_SEARCH = (
    "M-SEARCH * HTTP/1.1\r\n"
    "HOST: {host}:{port}\r\n"
    'MAN: "ssdp:discover"\r\n'
    "MX: 1\r\n"
    "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
)


@dataclass(frozen=True)
class UpnpRequest:
    """
    A mapping of a UDP port that a router with UPnP is asked for.

    :ivar url: where the router describes itself.
    :ivar internal: the address of the socket.
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
    if len(data) > LONGEST or not data.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
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
