"""
How a captive portal is recognized: a network that answers web requests itself until somebody signs in
(RFC 8910).

It answers in place of whatever host is asked. So the host of the rendezvous is asked by plain HTTP, and
nobody else need be.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from punch.wire.address import parsed

LONGEST = 4096
"""Bytes of an answer that are read."""
NETWORK_AUTHENTICATION_REQUIRED = 511
"""RFC 6585, section 6."""


def portal_request(host: str) -> bytes:
    """Return an HTTP request for the page of a host."""
    name = f"[{host}]" if ":" in host else host
    return f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode("ascii", "replace")


def is_portal(answer: bytes, host: str) -> bool:
    """
    Whether the answer to `portal_request` is that of a captive portal: it says so, or sends the browser to
    another host. A portal that shows its page at once is not told from a web server of that host. Web servers
    send from their IP addresses to their names, and between a domain and names in it.
    """
    head, _, _ = answer[:LONGEST].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    code = rest[:3]
    if not version.startswith(b"HTTP/1.") or not code.isdigit():
        return False
    if int(code) == NETWORK_AUTHENTICATION_REQUIRED:
        return True
    if int(code) not in (301, 302, 303, 307, 308):
        return False
    fields = (line.partition(b":") for line in lines)
    places = [value.strip() for name, _, value in fields if name.strip().lower() == b"location"]
    try:
        elsewhere = urlsplit(places[0].decode("ascii")).hostname if places else None
    except ValueError:
        return False
    return elsewhere is not None and not _may_send_to(host.lower().rstrip("."), elsewhere.rstrip("."))


def _may_send_to(host: str, other: str) -> bool:
    """Whether a web server of this host may send browsers to the other one."""
    if _is_address(host) or _is_address(other):
        return host == other or not _is_address(other)
    return host == other or host.endswith(f".{other}") or other.endswith(f".{host}")


def _is_address(host: str) -> bool:
    try:
        parsed(host)
    except ValueError:
        return False
    return True
