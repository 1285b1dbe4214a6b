"""
How a captive portal is recognized: a network that answers web requests itself until somebody signs in
(RFC 8910).

It answers in place of whatever host is asked. So the host of the rendezvous is asked by plain HTTP, and no
other host need be asked.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from punch.wire.address import parsed

LONGEST = 4096
"""Bytes of an answer that are read."""
NETWORK_AUTHENTICATION_REQUIRED = 511
"""RFC 6585, section 6."""
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
"""What is looked up as a name."""


def portal_request(host: str) -> bytes:
    """Return an HTTP request for the page of a host."""
    name = f"[{host}]" if ":" in host else host
    return f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode("ascii", "replace")


def requires_sign_in(answer: bytes) -> bool:
    """
    Whether the answer to `portal_request` has the status 511, by which a captive portal says what it is.
    """
    return _status(answer) == NETWORK_AUTHENTICATION_REQUIRED


def redirects_to(answer: bytes, host: str) -> str | None:
    """
    Return the host to which the answer to `portal_request` redirects the browser; None if it redirects to no
    other host.

    A domain that contains the host, or a name in the host's domain, does not count as another host, since web
    servers redirect between a domain and names in it. A portal that shows its page at once can't be told from
    a web server of that host.
    """
    if _status(answer) not in (301, 302, 303, 307, 308):
        return None
    lines = answer[:LONGEST].partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    fields = (line.partition(b":") for line in lines)
    places = [value.strip() for name, _, value in fields if name.strip().lower() == b"location"]
    try:
        elsewhere = urlsplit(places[0].decode("ascii")).hostname if places else None
    except ValueError:
        return None
    host, other = host.lower().rstrip("."), (elsewhere or "").rstrip(".")
    if not _is_address(other) and not _NAME.fullmatch(other):
        return None
    names = not _is_address(host) and not _is_address(other)
    near = host == other or (names and (host.endswith(f".{other}") or other.endswith(f".{host}")))
    return None if near else other


def needs_look_up(host: str, other: str) -> bool:
    """
    Whether the addresses of the host that a browser is sent to say whether a portal has answered. A web
    server that is asked by its IP address sends browsers to its name; a portal to a name of its own.
    """
    return _is_address(host) and not _is_address(other)


def _status(answer: bytes) -> int | None:
    """The status of an HTTP answer; None if it is not HTTP."""
    version, _, rest = answer[:LONGEST].partition(b"\r\n")[0].partition(b" ")
    code = rest[:3]
    return int(code) if version.startswith(b"HTTP/1.") and code.isdigit() else None


def _is_address(host: str) -> bool:
    try:
        parsed(host)
    except ValueError:
        return False
    return True
