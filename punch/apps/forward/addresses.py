"""
Addresses of ports and sockets, as they are typed, and the services that stand for them. Pure.

    localhost:22    127.0.0.1:80    [::1]:80    8080 (on localhost)    /run/app.sock    unix:app.sock
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from dataclasses import dataclass, replace
from enum import Enum

from punch.sanitize import quoted

MAX_SERVICE = 255
"""Bytes of the longest name of a service."""
MAX_SOCKET_PATH = 103 if sys.platform == "darwin" or "bsd" in sys.platform else 107
"""Bytes of the longest path that a Unix socket can have on this system."""
_MAX_SHOWN = 60
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)


class ForwardAddressError(ValueError):
    """It is no address; `str()` is a sentence for the user."""


class Protocol(Enum):
    """What an address is of."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"


@dataclass(frozen=True)
class ForwardAddress:
    """
    A port of a host, or the path of a Unix socket.

    :ivar host: a name in lower case, or an IP address; "" for a path.
    :ivar path: "" for a port.
    """

    protocol: Protocol
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.protocol is Protocol.UNIX:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def service(self) -> str:
        """The name of the service that stands for it."""
        return f"{self.protocol.value}/{self}"

    @property
    def single_host(self) -> str:
        """
        The host, where one address is wanted. `localhost` is 127.0.0.1 then: systems differ in which of its
        addresses is the first.
        """
        return "127.0.0.1" if self.host == "localhost" else self.host


def parse_address(text: str, *, listening: bool = False, udp: bool = False) -> ForwardAddress:
    """
    Read an address.

    :param listening: whether it is one to listen at: then its port may be 0, which stands for any.
    :param udp: whether it is a port of UDP; those of TCP are others.
    :raise ForwardAddressError: it is none.
    """
    if is_path(text):
        if udp:
            raise ForwardAddressError(
                f"UDP has ports, such as localhost:53; {_shown(text)} is a Unix socket."
            )
        return _path(text.removeprefix("unix:"))
    if listening and re.search("(?:^|:)0$", text):
        found = parse_address(text[:-1] + "1", udp=udp)
        return replace(found, port=0)
    host, port = _split(text)
    return ForwardAddress(Protocol.UDP if udp else Protocol.TCP, host, port)


def is_path(text: str) -> bool:
    """Whether the path of a Unix socket is meant."""
    return text.startswith("unix:") or "/" in text


def service_of(text: str, *, udp: bool = False) -> str:
    """
    Return the name of the service that is meant by an address, or by the name itself.

    :param udp: whether it takes datagrams.
    :raise ForwardAddressError: it is neither.
    """
    if is_path(text) and not text.startswith(("unix:", "/")):
        return named_service(text, udp=udp)  # as "echo/1"
    if ":" in text or is_path(text) or (text.isascii() and text.isdigit()):
        return parse_address(text, udp=udp).service
    return named_service(text, udp=udp)


def named_service(name: str, *, udp: bool = False) -> str:
    """
    Return the name of the service that a user calls so. One that takes datagrams can't be taken for another.

    :raise ForwardAddressError: it can't be one.
    """
    return check_service(f"{Protocol.UDP.value}/{name}" if udp and name else name)


def check_service(name: str) -> str:
    """
    Return the name of a service.

    :raise ForwardAddressError: it can't be one.
    """
    if not name or not name.isprintable() or len(name.encode("utf-8", "replace")) > MAX_SERVICE:
        raise ForwardAddressError(
            f"A service has a name of 1 to {MAX_SERVICE} bytes of printable characters, not {_shown(name)}."
        )
    return name


def split_target(text: str) -> tuple[str, str]:
    """
    Return the peer and the rest of "bob:localhost:80".

    :raise ForwardAddressError: it has not this form.
    """
    who, colon, rest = text.partition(":")
    if not who or not colon or not rest:
        raise ForwardAddressError(
            f"A peer and what it exposes are written as bob:localhost:80, or bob:NAME, not {_shown(text)}."
        )
    return who, rest


def _path(path: str) -> ForwardAddress:
    if not path or "\0" in path or not path.isprintable():
        raise ForwardAddressError(f"The path of a Unix socket can't be {_shown(path)}.")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ForwardAddressError(
            f"The path of a Unix socket has at most {MAX_SOCKET_PATH} bytes here, unlike {_shown(path)}."
        )
    return ForwardAddress(Protocol.UNIX, path=path)


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if "[" in host or "]" in host:
        literal = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]", host)
        if literal is None:
            raise _no_address(text)
        host = literal[1]
    elif ":" in host:
        raise ForwardAddressError(
            f"An IPv6 address stands in brackets, as [::1]:80, unlike in {_shown(text)}."
        )
    return _host(host or "localhost", text) if ":" in text else "localhost", _port(port, text)


def _host(host: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if ":" in host or len(host) > 253 or _HOST.fullmatch(host) is None:
        raise _no_address(text)
    return host.lower().removesuffix(".")


def _port(port: str, text: str) -> int:
    if re.fullmatch("[0-9]{1,5}", port, re.ASCII) is None:
        raise _no_address(text)
    if not 1 <= int(port) <= 65535:
        raise ForwardAddressError(f"A port is a number from 1 to 65535, unlike in {_shown(text)}.")
    return int(port)


def _no_address(text: str) -> ForwardAddressError:
    return ForwardAddressError(
        f"An address is written as localhost:80, 127.0.0.1:80, [::1]:80, 80, or /path/of/a/socket, not "
        f"{_shown(text)}."
    )


def _shown(text: str) -> str:
    return quoted(text, _MAX_SHOWN)
