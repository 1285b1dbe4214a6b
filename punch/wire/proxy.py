"""
Proxies for TCP connections: HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928, with user name and
password as in RFC 1929). Addresses of proxies, and what is said to one before a connection is through.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

VARIABLES: Final = "https_proxy", "http_proxy", "all_proxy", "socks_proxy"
"""Variables of the environment that name proxies, in lower or upper case, the best first."""
MAX_HEAD: Final = 16_384
"""Bytes of the longest answer to CONNECT, with all headers and all interim answers."""
_PORTS: Final = {"http": 3128, "https": 443, "socks5": 1080, "socks5h": 1080, "socks": 1080}
_NAME_BYTES: Final = 255


class ProxyKind(Enum):
    """How a proxy is spoken to."""

    HTTP = "http"
    HTTPS = "https"
    """HTTP within TLS."""
    SOCKS5 = "socks5"


class ProxyRefusal(Enum):
    """Why a connection is not through."""

    AUTHENTICATION = "authentication"
    """The proxy wants a user name and a password, or others."""
    FORBIDDEN = "forbidden"
    """It does not connect to that host or port."""
    UNREACHABLE = "unreachable"
    """It can't reach that host."""
    FAILED = "failed"
    """Another answer, which the detail says."""
    NOT_A_PROXY = "not a proxy"
    """What answers there is no such proxy."""
    CLOSED = "closed"
    """It closed the connection without an answer."""
    SILENT = "silent"
    """It does not answer."""
    NO_CONNECTION = "no connection"
    """There is no TCP connection to the proxy itself."""


class ProxyError(Exception):
    """
    A connection through a proxy was not made.

    :ivar detail: what the proxy said, for `FAILED`: an HTTP status or a SOCKS reply.
    """

    def __init__(self, refusal: ProxyRefusal, detail: str = "") -> None:
        super().__init__(f"{refusal.value} {detail}".strip())
        self.refusal = refusal
        self.detail = detail


@dataclass(frozen=True)
class ProxyAddress:
    """
    Where a proxy is, and who uses it.

    :ivar user: a name for it, and its `password`; empty without authentication.
    """

    kind: ProxyKind
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> ProxyAddress:
        """
        Return the proxy that a URL names, such as `http://proxy:3128` or `socks5://user:password@[::1]:1080`.
        Without a scheme it speaks HTTP.

        :raise ValueError: it names none; `str()` is a sentence without the password.
        """
        url = text.strip()
        if "://" not in url:
            url = f"http://{url}"
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
        except ValueError:
            scheme, host, port, user, password = "http", None, None, "", ""
        if scheme not in _PORTS:
            raise ValueError(f"a proxy can't be used with {scheme}: use http, https or socks5")
        # `urlsplit` drops line ends
        plain = url.isprintable() and re.fullmatch(r"[0-9A-Za-z.:%_-]+", host or "")
        if not host or port == 0 or not plain:
            raise ValueError("a proxy is given as http://host:port or socks5://host:port")
        if max(len(user.encode()), len(password.encode())) > _NAME_BYTES:
            raise ValueError("the user name and the password for a proxy have at most 255 bytes each")
        kind = ProxyKind.SOCKS5 if scheme.startswith("socks") else ProxyKind(scheme)
        return cls(kind, host, _PORTS[scheme] if port is None else port, user, password)

    @property
    def location(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ProxySettings:
    """
    Which proxy is used for what.

    :ivar proxy: the proxy.
    :ivar source: who named it: an option, or a variable of the environment.
    :ivar required: nothing is connected to directly. Without it, that is tried too where the proxy fails.
    :ivar excluded: what is connected to directly: names, with those below them, addresses, and `*`, as in
        NO_PROXY.
    """

    proxy: ProxyAddress
    source: str
    required: bool = False
    excluded: tuple[str, ...] = ()

    def leads_to(self, host: str) -> bool:
        """Return whether a host is reached through the proxy: never this machine, nor what is excluded."""
        host = host.rstrip(".").lower()
        if host == "localhost" or host.endswith(".localhost"):
            return False
        try:
            if ip_address(host.partition("%")[0]).is_loopback:
                return False
        except ValueError:
            pass  # A name
        return not any(self._names(each, host) for each in self.excluded)

    @staticmethod
    def _names(excluded: str, host: str) -> bool:
        excluded = excluded.strip().strip("[]").lstrip(".").lower()
        return excluded == "*" or (excluded != "" and (host == excluded or host.endswith(f".{excluded}")))


def proxy_of_environment(environ: Mapping[str, str]) -> ProxySettings | None:
    """
    Return what the environment says about proxies, if it names one.

    :raise ValueError: a variable names none; `str()` is a sentence with the variable.
    """
    names = (each for name in VARIABLES for each in (name, name.upper()))
    source = next((name for name in names if environ.get(name, "").strip()), None)
    if source is None:
        return None
    try:
        proxy = ProxyAddress.parse(environ[source])
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    excluded = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return ProxySettings(proxy, source, excluded=tuple(excluded.replace(" ", ",").split(",")))


class Handshake(Protocol):
    """
    What is said to a proxy, sans I/O.

    :ivar rest: what came behind the proxy's last answer, once the connection is through; None before.
    """

    rest: bytes | None

    def begin(self) -> bytes:
        """Return what is said first."""

    def receive(self, data: bytes) -> bytes:
        """
        Take what the proxy said, in any pieces; return what is said next.

        :raise ProxyError: the proxy refuses, or is none.
        """


class HttpConnect:
    """
    HTTP CONNECT.

    :param host: a name, which the proxy looks up, or an IP address.
    """

    def __init__(self, proxy: ProxyAddress, host: str, port: int) -> None:
        self.rest: bytes | None = None
        self._proxy = proxy
        host = host.partition("%")[0]  # A zone means nothing elsewhere
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._head = b""
        self._left = MAX_HEAD

    def begin(self) -> bytes:
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._proxy.user:
            pair = f"{self._proxy.user}:{self._proxy.password}".encode()
            lines.append(f"Proxy-Authorization: Basic {b64encode(pair).decode()}")
        return "\r\n".join([*lines, "", ""]).encode()

    def receive(self, data: bytes) -> bytes:
        self._head += data
        while self.rest is None and (answer := self._answer()) is not None:
            code, self._head = answer
            if 200 <= code < 300:
                self.rest = self._head
            elif code >= 200:
                raise ProxyError(_HTTP_REFUSALS.get(code, ProxyRefusal.FAILED), f"HTTP {code}")
            # Else an interim answer (RFC 9110, section 15.2): the final one follows.
        return b""

    def _answer(self) -> tuple[int, bytes] | None:
        """Return the status of an answer, and what follows it; None if it is not complete."""
        begins = b"HTTP/1."
        if self._head[: len(begins)] != begins[: len(self._head)]:
            raise ProxyError(ProxyRefusal.NOT_A_PROXY)
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if len(head) > self._left:
            raise ProxyError(ProxyRefusal.NOT_A_PROXY)
        if not end:
            return None
        self._left -= len(head) + len(end)
        status = re.match(rb"HTTP/1\.\d ([1-5]\d\d)(?:[ \r]|$)", head)
        if status is None:
            raise ProxyError(ProxyRefusal.NOT_A_PROXY)
        return int(status[1]), rest


_HTTP_REFUSALS: Final = {
    401: ProxyRefusal.AUTHENTICATION,
    403: ProxyRefusal.FORBIDDEN,
    405: ProxyRefusal.FORBIDDEN,
    407: ProxyRefusal.AUTHENTICATION,
    502: ProxyRefusal.UNREACHABLE,
    503: ProxyRefusal.UNREACHABLE,
    504: ProxyRefusal.UNREACHABLE,
}


class Socks5:
    """
    SOCKS5.

    :param host: a name, which the proxy looks up, or an IP address.
    :raise ValueError: the name is too long.
    """

    _VERSION, _NONE, _PASSWORD = 5, 0, 2

    def __init__(self, proxy: ProxyAddress, host: str, port: int) -> None:
        self.rest: bytes | None = None
        self._proxy = proxy
        self._request = bytes([self._VERSION, 1, 0]) + _socks_host(host) + port.to_bytes(2, "big")
        self._received = b""
        self._step = self._method

    def begin(self) -> bytes:
        methods = [self._NONE, self._PASSWORD] if self._proxy.user else [self._NONE]
        return bytes([self._VERSION, len(methods), *methods])

    def receive(self, data: bytes) -> bytes:
        self._received += data
        reply = b""
        while self.rest is None and (said := self._step()) is not None:
            reply += said
        return reply

    def _take(self, size: int) -> bytes | None:
        if len(self._received) < size:
            return None
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _method(self) -> bytes | None:
        if self._received[:1] not in (b"", bytes([self._VERSION])):
            raise ProxyError(ProxyRefusal.NOT_A_PROXY)
        chosen = self._take(2)
        if chosen is None:
            return None
        if chosen[1] == self._NONE:
            self._step = self._connected
            return self._request
        if chosen[1] != self._PASSWORD or not self._proxy.user:
            raise ProxyError(ProxyRefusal.AUTHENTICATION)
        self._step = self._authenticated
        user, password = self._proxy.user.encode(), self._proxy.password.encode()
        return bytes([1, len(user)]) + user + bytes([len(password)]) + password

    def _authenticated(self) -> bytes | None:
        answer = self._take(2)
        if answer is None:
            return None
        if answer[1] != 0:
            raise ProxyError(ProxyRefusal.AUTHENTICATION)
        self._step = self._connected
        return self._request

    def _connected(self) -> bytes | None:
        if len(self._received) >= 2 and self._received[1] != 0:
            code = self._received[1]
            raise ProxyError(_SOCKS_REFUSALS.get(code, ProxyRefusal.FAILED), f"SOCKS reply {code}")
        if len(self._received) < 5:
            return None
        kind = self._received[3]
        if self._received[0] != self._VERSION or kind not in (1, 3, 4):
            raise ProxyError(ProxyRefusal.NOT_A_PROXY)
        if self._take(6 + {1: 4, 3: 1 + self._received[4], 4: 16}[kind]) is None:
            return None
        self.rest, self._received = self._received, b""
        return None


_SOCKS_REFUSALS: Final = {
    2: ProxyRefusal.FORBIDDEN,
    3: ProxyRefusal.UNREACHABLE,
    4: ProxyRefusal.UNREACHABLE,
    5: ProxyRefusal.UNREACHABLE,
    6: ProxyRefusal.UNREACHABLE,
}


def _socks_host(host: str) -> bytes:
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        name = host.encode("idna") if not host.isascii() else host.encode()
        if not 0 < len(name) <= _NAME_BYTES:
            raise ValueError("a name for a SOCKS proxy has at most 255 bytes") from None
        return bytes([3, len(name)]) + name
    return bytes([1 if address.version == 4 else 4]) + address.packed


def handshake(proxy: ProxyAddress, host: str, port: int) -> Handshake:
    """
    Return what is said to a proxy to be connected to a host.

    :raise ValueError: the host is no name or address.
    """
    return Socks5(proxy, host, port) if proxy.kind is ProxyKind.SOCKS5 else HttpConnect(proxy, host, port)
