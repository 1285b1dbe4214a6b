"""Where control connections come in: Twisted endpoint strings, or one TCP port of IPv4 and IPv6."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorSocket,
    IReactorTCP,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import ServerFactory

from punch.rendezvous.udp import NO_FAMILY, errno_of

BACKLOG = 511
"""Connections that the system keeps until we take them: a flood should not crowd the others out."""

_TRIES = 16

_TLS_KINDS = {"ssl", "tls", "txsni", "le", "lets"}
_WRAPPERS = {"haproxy"}


class EndpointError(ValueError):
    """An endpoint string can't be used; `str()` is a sentence for the user."""


def parse_endpoints(reactor: object, descriptions: Sequence[str]) -> list[IStreamServerEndpoint]:
    """
    The endpoints that the strings describe.

    :raise EndpointError: one is no endpoint, or none for this.
    """
    return [_parse(reactor, description) for description in descriptions]


def check_kind(description: str) -> None:
    """:raise EndpointError: an endpoint of this kind is of no use here."""
    kind, _, rest = description.partition(":")
    while kind.lower() in _WRAPPERS:
        kind, _, rest = rest.partition(":")
    if kind.lower() in _TLS_KINDS:
        raise EndpointError(
            f"--control takes no {kind}: endpoint, because the service does TLS itself (TLS 1.3 with client "
            "certificates); use tcp:, and --certificate and --key for a certificate of your own."
        )
    if kind.lower() == "stdio":
        raise EndpointError("--control takes no stdio: endpoint, because it serves many peers; use tcp:.")


def _parse(reactor: object, description: str) -> IStreamServerEndpoint:
    check_kind(description)
    try:
        return cast(IStreamServerEndpoint, serverFromString(reactor, description))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as problem:
        # Twisted's parsers raise whatever their arguments make them raise.
        raise EndpointError(
            f"--control {description[:200]!a} is no Twisted server endpoint ({str(problem)[:200]}); "
            "write something like tcp:7001, tcp:7001:interface=192.0.2.1 or "
            r"'tcp:7001:interface=2001\:db8\:\:1' (a colon within a part is written \:)."
        ) from problem


def listen_everywhere(reactor: IReactorTCP, port: int, factory: ServerFactory) -> list[IListeningPort]:
    """
    Listen on one TCP port of all IPv4 and IPv6 addresses, as far as the machine has both.

    :param port: 0 takes one that is free in both.
    :raise CannotListenError: the port is in use, or not allowed.
    """
    for attempt in range(_TRIES):
        try:
            return _listen_once(reactor, port, factory)
        except CannotListenError as problem:
            if port != 0 or errno_of(problem) != errno.EADDRINUSE or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _listen_once(reactor: IReactorTCP, port: int, factory: ServerFactory) -> list[IListeningPort]:
    opened: list[IListeningPort] = []
    try:
        opened.append(_listen_ipv6(reactor, port, factory))
        port = opened[0].getHost().port  # type: ignore[attr-defined]
    except CannotListenError as problem:
        if errno_of(problem) not in NO_FAMILY:
            raise
    absent = set(NO_FAMILY)
    if opened and not IReactorSocket.providedBy(reactor):
        # That IPv6 port has taken the IPv4 addresses too, on most systems.
        absent.add(errno.EADDRINUSE)
    try:
        opened.append(reactor.listenTCP(port, factory, BACKLOG, "0.0.0.0"))
    except CannotListenError as problem:
        if not opened or errno_of(problem) not in absent:
            for each in opened:
                each.stopListening()
            raise
    return opened


def _listen_ipv6(reactor: IReactorTCP, port: int, factory: ServerFactory) -> IListeningPort:
    if not IReactorSocket.providedBy(reactor):
        return reactor.listenTCP(port, factory, BACKLOG, "::")
    # Twisted leaves it to the system whether such a socket takes IPv4, too.
    try:
        listening = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as problem:
        raise CannotListenError("::", port, problem) from problem  # type: ignore[no-untyped-call]
    with listening:
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("::", port))
            listening.listen(BACKLOG)
        except OSError as problem:
            raise CannotListenError("::", port, problem) from problem  # type: ignore[no-untyped-call]
        return cast(IReactorSocket, reactor).adoptStreamPort(listening.fileno(), socket.AF_INET6, factory)


def listen(
    reactor: IReactorTCP, endpoints: Sequence[IStreamServerEndpoint], port: int, factory: ServerFactory
) -> Deferred[list[IListeningPort]]:
    """
    Listen on all `endpoints`, or everywhere on `port` if there are none. If one fails, none listens.
    """
    if not endpoints:
        try:
            return succeed(listen_everywhere(reactor, port, factory))
        except CannotListenError:
            return fail()
    return Deferred.fromCoroutine(_listen_all(endpoints, factory))


async def _listen_all(
    endpoints: Sequence[IStreamServerEndpoint], factory: ServerFactory
) -> list[IListeningPort]:
    opened: list[IListeningPort] = []
    try:
        for endpoint in endpoints:
            opened.append(await endpoint.listen(factory))
    except BaseException:
        for each in opened:
            await _stopped(each)
        raise
    return opened


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping
