"""The ports of this machine at which commands listen, and those that they expose, of TCP and UDP."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory

from punch.apps.forward.addresses import ForwardAddress, Protocol
from punch.apps.forward.connections import CONNECT_TIME, Exposed, Forwarder
from punch.apps.forward.datagrams import DatagramForwarder, ExposedDatagrams
from punch.apps.forward.failures import ForwardFailure
from punch.apps.forward.flows import MAX_DATAGRAM
from punch.cli.node_command import CommandFailed
from punch.identity import PeerID
from punch.local.access import NodeAccess

BACKLOG = 1024
"""Connections that wait to be accepted."""
_IN_USE = "another process listens there"


def exposed_at(
    reactor: Any, address: ForwardAddress, failed: Callable[[PeerID, ForwardFailure, Exception], object]
) -> Factory:
    """Return what answers the streams of a service with a port or socket of this machine."""
    if address.protocol is Protocol.UDP:
        return ExposedDatagrams(reactor, address, failed)
    if address.protocol is Protocol.UNIX:
        path: Any = cast(Any, UNIXClientEndpoint)(reactor, address.path, CONNECT_TIME)
        return Exposed(cast(IStreamClientEndpoint, path), failed)
    return Exposed(HostnameEndpoint(reactor, address.host, address.port, CONNECT_TIME), failed)


def forwarder_for(
    local: ForwardAddress,
    node: NodeAccess,
    peer: PeerID,
    service: str,
    reactor: Any,
    failed: Callable[[Exception], object],
) -> Factory | DatagramProtocol:
    """Return what forwards the connections or datagrams to a port of this machine to a service of a peer."""
    kind = DatagramForwarder if local.protocol is Protocol.UDP else Forwarder
    return kind(node, peer, service, reactor, failed)


def option_for(address: ForwardAddress) -> str:
    """Return the option that commands need for an address, with a space behind it; nothing if none."""
    return "--udp " if address.protocol is Protocol.UDP else ""


def listen(reactor: Any, local: ForwardAddress, forwarder: Factory | DatagramProtocol) -> tuple[str, Any]:
    """
    Listen, and return where, and the port, an `IListeningPort`.

    :param forwarder: a `DatagramProtocol` for UDP.
    :raise CommandFailed: it is not possible.
    """
    host = local.single_host
    try:
        if local.protocol is Protocol.UDP:
            opened = reactor.listenUDP(local.port, forwarder, interface=host, maxPacketSize=MAX_DATAGRAM)
            return str(ForwardAddress(local.protocol, host, opened.getHost().port)), opened
        if local.protocol is Protocol.UNIX:
            if _is_in_use(local.path):
                raise CommandFailed(f"{local} can't be listened on: {_IN_USE}.", reason="listen")
            # A socket that a dead process has left is replaced
            opened = reactor.listenUNIX(local.path, forwarder, backlog=BACKLOG, mode=0o600, wantPID=True)
            return local.path, opened
        opened = reactor.listenTCP(local.port, forwarder, backlog=BACKLOG, interface=host)
    except (CannotListenError, OSError) as error:
        cause = error.socketError if isinstance(error, CannotListenError) else error
        # It is no error of the system if another process has the lock beside a Unix socket
        text = cause.strerror if isinstance(cause, OSError) else _IN_USE
        raise CommandFailed(f"{local} can't be listened on: {text}.", reason="listen") from None
    return str(ForwardAddress(local.protocol, host, opened.getHost().port)), opened


def _is_in_use(path: str) -> bool:
    """
    Whether a process listens at a Unix socket.

    Twisted can't tell whose socket it finds beside a lock that was left, and removes it.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            pass  # Too many wait to be accepted
        except OSError:
            return False
    return True
