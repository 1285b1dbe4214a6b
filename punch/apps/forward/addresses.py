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

from punch.wire.address import PortError, parse_port

MAX_SERVICE = 255
"""Bytes of the longest name of a service."""
MAX_SOCKET_PATH = 103 if sys.platform == "darwin" or "bsd" in sys.platform else 107
"""Bytes of the longest path that a Unix socket can have on this system."""
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)


class AddressProblem(str, Enum):
    """What is wrong with a text that should be an address, or the name of a service."""

    FORM = "form"
    """It has no form of an address."""
    BRACKETS = "brackets"
    """An IPv6 address without brackets."""
    PORT = "port"
    """The port is none from 1 to 65535."""
    PATH = "path"
    """No Unix socket can have this path."""
    LONG_PATH = "long-path"
    """The path has more than `MAX_SOCKET_PATH` bytes."""
    UDP_PATH = "udp-path"
    """A path where a port of UDP is wanted."""
    SERVICE = "service"
    """No service can have this name."""
    TARGET = "target"
    """It is not a peer, a colon, and what the peer exposes."""


class ForwardAddressError(ValueError):
    """
    A text is no address, or no name of a service.

    :ivar problem: what is wrong.
    :ivar text: the text.
    """

    def __init__(self, problem: AddressProblem, text: str) -> None:
        super().__init__(problem.value, text)
        self.problem = problem
        self.text = text


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
            raise ForwardAddressError(AddressProblem.UDP_PATH, text)
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
        raise ForwardAddressError(AddressProblem.SERVICE, name)
    return name


def split_target(text: str) -> tuple[str, str]:
    """
    Return the peer and the rest of "bob:localhost:80".

    :raise ForwardAddressError: it has not this form.
    """
    who, colon, rest = text.partition(":")
    if not who or not colon or not rest:
        raise ForwardAddressError(AddressProblem.TARGET, text)
    return who, rest


def _path(path: str) -> ForwardAddress:
    if not path or "\0" in path or not path.isprintable():
        raise ForwardAddressError(AddressProblem.PATH, path)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ForwardAddressError(AddressProblem.LONG_PATH, path)
    return ForwardAddress(Protocol.UNIX, path=path)


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if "[" in host or "]" in host:
        literal = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]", host)
        if literal is None:
            raise ForwardAddressError(AddressProblem.FORM, text)
        host = literal[1]
    elif ":" in host:
        raise ForwardAddressError(AddressProblem.BRACKETS, text)
    return _host(host or "localhost", text) if ":" in text else "localhost", _port(port, text)


def _host(host: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if ":" in host or len(host) > 253 or _HOST.fullmatch(host) is None:
        raise ForwardAddressError(AddressProblem.FORM, text)
    return host.lower().removesuffix(".")


def _port(port: str, text: str) -> int:
    try:
        return parse_port(port)
    except PortError as error:
        problem = AddressProblem.PORT if error.out_of_range else AddressProblem.FORM
        raise ForwardAddressError(problem, text) from None
