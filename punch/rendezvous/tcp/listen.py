"""Listening for control connections: on Twisted endpoint strings, or on one TCP port of IPv4 and IPv6."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, gatherResults, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReactorSocket,
    IReactorTCP,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import ServerFactory
from zope.interface import implementer

from punch.net.udp.server import concerns_both_families, errno_of
from punch.wire.rendezvous_address import DEFAULT_PORT

BACKLOG = 4096
"""
Connections that the system queues. When its queue is full, it drops the packets that open connections, and
clients wait a second before they try again.
"""

_TRIES = 16
"""How often a port that is free for both families is looked for."""

_TLS_KINDS = {"ssl", "tls", "txsni", "le", "lets"}
_BALANCER = "haproxy:"

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""For each wildcard address, the one at which this machine reaches itself."""


class EndpointError(ValueError):
    """An endpoint string can't be used; `str()` is a sentence for the user."""


@dataclass(frozen=True)
class ControlEndpoint:
    """An endpoint for control connections."""

    server: IStreamServerEndpoint
    behind_balancer: bool
    """Whether each connection begins with a header with the client's address (PROXY protocol)."""


def parse_endpoints(reactor: object, descriptions: Sequence[str]) -> list[ControlEndpoint]:
    """
    The endpoints that the strings describe.

    `tcp:` without an interface stands for all addresses of both families, or of IPv4 alone if another string
    names an IPv6 interface with the same port.

    :raise EndpointError: a string is not an endpoint, or its kind is not usable.
    """
    ipv6_ports = {
        int(values["port"])
        for values in (tcp_values(_without_balancer(description)) for description in descriptions)
        if "\\:" in values.get("interface", "") and values.get("port", "").isdecimal()
    }
    return [_parse(reactor, description, ipv6_ports) for description in descriptions]


def check_kind(description: str) -> None:
    """:raise EndpointError: an endpoint of this kind is not usable."""
    kind = _without_balancer(description).partition(":")[0]
    if kind.lower() in _TLS_KINDS:
        raise EndpointError(
            f"--control takes no {kind}: endpoint, because the service does TLS itself (TLS 1.3 with client "
            "certificates); use tcp:, and --certificate and --key for a certificate of your own."
        )
    if kind.lower() == "stdio":
        raise EndpointError("--control takes no stdio: endpoint, because it serves many peers; use tcp:.")


def _parse(reactor: object, description: str, ipv6_ports: Set[int]) -> ControlEndpoint:
    check_kind(description)
    inner = _without_balancer(description)
    behind_balancer = inner != description
    try:
        server = cast(IStreamServerEndpoint, serverFromString(reactor, _with_backlog(inner)))  # type: ignore[no-untyped-call]
        wildcard = _wildcard_port(inner)
        if wildcard is not None and wildcard[0] not in ipv6_ports:
            server = _WildcardEndpoint(cast(IReactorTCP, reactor), *wildcard)
        if behind_balancer:
            from twisted.protocols.haproxy import proxyEndpoint

            server = cast(IStreamServerEndpoint, proxyEndpoint(server))
        return ControlEndpoint(server, behind_balancer)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as problem:
        # Twisted's parsers raise whatever their arguments make them raise.
        raise EndpointError(
            f"--control {description[:200]!r} is no Twisted server endpoint ({str(problem)[:200]}); "
            "write something like tcp:7001, tcp:7001:interface=192.0.2.1 or "
            r"'tcp:7001:interface=2001\:db8\:\:1' (a colon within a part is written \:)."
        ) from problem


def _without_balancer(description: str) -> str:
    """An endpoint string without `haproxy:` in front of it."""
    while description.lower().startswith(_BALANCER):
        description = description[len(_BALANCER) :]
    return description


def _wildcard_port(description: str) -> tuple[int, int] | None:
    """Port and backlog of a `tcp:` endpoint that names no interface; None for any other endpoint."""
    values = tcp_values(description)
    if not values or values.get("interface"):
        return None
    return int(values["port"]), int(values.get("backlog", BACKLOG))


def _with_backlog(description: str) -> str:
    """The string of a TCP endpoint with our backlog, where it names none."""
    values = _values(description, "tcp", "tcp6")
    return f"{description}:backlog={BACKLOG}" if values and "backlog" not in values else description


def listening_failed(problem: Exception, where: str, option: str) -> tuple[str, str]:
    """
    Why it is not possible to listen somewhere: a code and a sentence for the user.

    :param where: the port or file.
    :param option: the option with which the user can choose another one.
    """
    number = errno_of(problem)
    start = where[0].upper() + where[1:]
    if number == errno.EADDRINUSE:
        text = f"{start} is in use already; stop the program that has it, or choose another with {option}."
        return "port-in-use", text
    if number == errno.EACCES:
        text = f"{start} may not be used by this user; choose one above 1023 with {option}."
        return "permission", text
    why = os.strerror(number) if number is not None else str(problem)[:200]
    return "endpoint", f"The service can't listen on {where} ({why}); choose another with {option}."


def tcp_values(description: str) -> dict[str, str]:
    """The arguments of a `tcp:` endpoint string, unparsed; empty for any other endpoint."""
    return _values(description, "tcp")


def _values(description: str, *kinds: str) -> dict[str, str]:
    kind, *parts = re.split(r"(?<!\\):", description)
    if kind.lower() not in kinds:
        return {}
    values = dict(
        zip(("port", "interface", "backlog"), [part for part in parts if "=" not in part], strict=False)
    )
    for part in parts:
        key, equals, value = part.partition("=")
        if equals:
            values[key] = value
    return values


@implementer(IStreamServerEndpoint)
class _WildcardEndpoint:
    """One TCP port on all addresses of both families."""

    def __init__(self, reactor: IReactorTCP, port: int, backlog: int) -> None:
        self._reactor = reactor
        self._port = port
        self._backlog = backlog

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen. The result stands for the ports of both families."""
        try:
            factory = cast(ServerFactory, protocolFactory)
            ports = listen_on_all_addresses(self._reactor, self._port, factory, self._backlog)
            return succeed(_Ports(ports, self._shown(ports[-1].getHost())))
        except CannotListenError:
            return fail()

    def _shown(self, address: IAddress) -> IAddress:
        if isinstance(address, IPv6Address) and not IReactorSocket.providedBy(self._reactor):
            # The port is bound to the IPv4 addresses as well.
            return IPv4Address("TCP", "0.0.0.0", address.port)
        return address


@implementer(IListeningPort)
class _Ports:
    """
    The ports of both families as one.

    :ivar ports: these ports.
    """

    def __init__(self, ports: Sequence[IListeningPort], address: IAddress) -> None:
        self.ports = ports
        self._address = address

    def startListening(self) -> None:
        """Do nothing: the ports listen already."""

    def stopListening(self) -> Deferred[None]:
        """Close both ports."""
        closing = [maybeDeferred(cast(Callable[[], Any], port.stopListening)) for port in self.ports]
        return gatherResults(closing).addCallback(lambda _: None)

    def getHost(self) -> IAddress:
        """The IPv4 address, if there is one."""
        return self._address


def listen_on_all_addresses(
    reactor: IReactorTCP, port: int, factory: ServerFactory, backlog: int = BACKLOG
) -> list[IListeningPort]:
    """
    Listen on one TCP port on all IPv4 and IPv6 addresses, as far as the machine has both.

    :param port: 0 takes one that is free for both families.
    :raise CannotListenError: the port is in use, or may not be used.
    """
    for attempt in range(_TRIES):
        try:
            return _listen_once(reactor, port, factory, backlog)
        except CannotListenError as problem:
            if port != 0 or errno_of(problem) != errno.EADDRINUSE or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _listen_once(
    reactor: IReactorTCP, port: int, factory: ServerFactory, backlog: int
) -> list[IListeningPort]:
    opened: list[IListeningPort] = []
    try:
        opened.append(_listen_ipv6(reactor, port, factory, backlog))
        port = opened[0].getHost().port  # type: ignore[attr-defined]
    except CannotListenError as problem:
        if concerns_both_families(errno_of(problem), port):
            raise
    # On most systems, the IPv6 port is bound to the IPv4 addresses as well.
    has_both = bool(opened) and not IReactorSocket.providedBy(reactor)
    try:
        opened.append(reactor.listenTCP(port, factory, backlog, "0.0.0.0"))
    except CannotListenError as problem:
        number = errno_of(problem)
        if has_both and number == errno.EADDRINUSE:
            return opened
        if not opened or concerns_both_families(number, port):
            for each in opened:
                each.stopListening()
            raise
    return opened


def _listen_ipv6(reactor: IReactorTCP, port: int, factory: ServerFactory, backlog: int) -> IListeningPort:
    if not IReactorSocket.providedBy(reactor):
        return reactor.listenTCP(port, factory, backlog, "::")
    # Twisted leaves it to the system whether such a socket is bound to IPv4 addresses as well.
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
            listening.listen(backlog)
        except OSError as problem:
            raise CannotListenError("::", port, problem) from problem  # type: ignore[no-untyped-call]
        return cast(IReactorSocket, reactor).adoptStreamPort(listening.fileno(), socket.AF_INET6, factory)


def listen(
    reactor: IReactorTCP,
    endpoints: Sequence[ControlEndpoint],
    port: int,
    factory: ServerFactory,
    behind_balancer: ServerFactory,
    opened: Callable[[IListeningPort], object],
) -> Deferred[list[IListeningPort]]:
    """
    Listen on all `endpoints`, or on `port` of all addresses if there are none. If one fails, none listens.

    :param behind_balancer: the factory for connections whose address comes in a header.
    :param opened: called with each port for connections without such a header.
    """
    if not endpoints:
        try:
            ports = listen_on_all_addresses(reactor, port, factory)
        except CannotListenError:
            return fail()
        for each in ports:
            opened(each)
        return succeed(ports)
    return Deferred.fromCoroutine(_listen_all(endpoints, factory, behind_balancer, opened))


async def _listen_all(
    endpoints: Sequence[ControlEndpoint],
    factory: ServerFactory,
    behind_balancer: ServerFactory,
    opened: Callable[[IListeningPort], object],
) -> list[IListeningPort]:
    ports: list[IListeningPort] = []
    try:
        for endpoint in endpoints:
            port = await endpoint.server.listen(behind_balancer if endpoint.behind_balancer else factory)
            ports.append(port)
            if not endpoint.behind_balancer:
                for each in port.ports if isinstance(port, _Ports) else (port,):
                    opened(each)
    except BaseException:
        for each in ports:
            await _stopped(each)
        raise
    return ports


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


def bound_address(ports: Sequence[IListeningPort]) -> tuple[str, int]:
    """The address listened on: a wildcard address if there is one, else the first TCP address."""
    found: list[tuple[str, int]] = []
    for each in ports:
        address: IAddress = each.getHost()
        host, port = getattr(address, "host", None), getattr(address, "port", None)
        if isinstance(host, str) and isinstance(port, int):
            found.append((_plain(host), port))
    wildcards = sorted(each for each in found if each[0] in LOOPBACK)
    return (wildcards or found or [("0.0.0.0", DEFAULT_PORT)])[0]


def _plain(host: str) -> str:
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return host
