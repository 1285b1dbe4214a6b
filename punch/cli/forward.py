"""`punch forward`: a port or socket of this machine that leads to one that a peer exposes."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory

from punch.apps.forward.addresses import (
    Address,
    AddressError,
    Protocol,
    parse_address,
    service_of,
    split_target,
)
from punch.apps.forward.datagrams import DatagramForwarder
from punch.apps.forward.failures import failure_of
from punch.apps.forward.flows import MAX_DATAGRAM
from punch.apps.forward.listening import Forwarder
from punch.cli import twistd
from punch.cli.node_command import CommandFailed, NodeCommand, make_parser
from punch.cli.notices import Notices
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import CommandError
from punch.lookup import UnknownPeer, find_peer
from punch.ui.text.forwards import failure_text, open_failure_text

PROGRAM = "punch forward"
BACKLOG = 1024
"""Connections that wait to be accepted."""
_IN_USE = "another process listens there"


def main(arguments: Sequence[str]) -> int:
    """
    Forward connections until a signal comes.

    :return: the exit status, one of `ExitStatus`.
    """
    parser = make_parser(
        PROGRAM,
        "Listen on a port or a Unix socket of this machine, and forward each connection to what a peer "
        "exposes with punch expose, until you press Ctrl-C.",
        "docs/forward.md",
    )
    parser.add_argument(
        "local",
        metavar="LOCAL",
        help="where to listen: a port of this machine, as 8080 (0: any), or with an address, as "
        "0.0.0.0:8080, or the path of a Unix socket",
    )
    parser.add_argument(
        "target",
        metavar="WHO:ADDRESS",
        help="the peer, by name or ID, and what it exposes, as bob:localhost:80, bob:80 or bob:NAME",
    )
    parser.add_argument(
        "--udp",
        action="store_true",
        help="forward datagrams of UDP, not connections; the peer exposes its port with --udp, too",
    )
    options = parser.parse(arguments)
    from twisted.internet import reactor

    twistd.raise_descriptor_limit()
    command = NodeCommand(PROGRAM, options, reactor, "Stopped: nothing is forwarded any more.")
    try:
        local = parse_address(options.local, listening=True, udp=options.udp)
        who, what = split_target(options.target)
        service = service_of(what, udp=options.udp)
        peer = find_peer(command.book, who)
    except (UnknownPeer, AddressError) as error:
        command.fail(str(error), "bad-peer-id" if isinstance(error, UnknownPeer) else "bad-address")
    return command.run(lambda node: _forward(command, node, local, peer, service, what))


async def _forward(
    command: NodeCommand, node: NodeAccess, local: Address, peer: PeerID, service: str, what: str
) -> None:
    who = command.called(peer)
    notices = Notices(command)

    def failed(error: Exception) -> None:
        failure = failure_of(error)
        if failure is not None:
            notices.tell(failure_text(failure, who, what), reason=failure.reason)
        elif isinstance(error, CommandError):
            exposed = f"--udp {what}" if udp else what
            notices.tell(open_failure_text(error.reason, str(error), who, exposed), reason=error.reason)
        else:
            notices.tell(f"A connection to {who} was lost, or given up there.", reason="lost")

    udp = local.protocol is Protocol.UDP
    kind = DatagramForwarder if udp else Forwarder
    address = listen(command.reactor, local, kind(node, peer, service, command.reactor, failed))
    command.tell(
        f"{'Datagrams' if udp else 'Connections'} to {address} go to {what} of {who}.",
        event="listening",
        address=address,
        peer=str(peer),
        service=service,
    )
    await Deferred()


def listen(reactor: Any, local: Address, forwarder: Factory | DatagramProtocol) -> str:
    """
    Listen, and return where.

    :param forwarder: a `DatagramProtocol` for UDP.
    :raise CommandFailed: it is not possible.
    """
    host = "127.0.0.1" if local.host == "localhost" else local.host
    try:
        if local.protocol is Protocol.UDP:
            opened = reactor.listenUDP(local.port, forwarder, interface=host, maxPacketSize=MAX_DATAGRAM)
            return str(Address(local.protocol, host, opened.getHost().port))
        if local.protocol is Protocol.UNIX:
            if _is_in_use(local.path):
                raise CommandFailed(f"{local} can't be listened on: {_IN_USE}.", reason="listen")
            # A socket that a dead process has left is replaced
            reactor.listenUNIX(local.path, forwarder, backlog=BACKLOG, mode=0o600, wantPID=True)
            return local.path
        port = reactor.listenTCP(local.port, forwarder, backlog=BACKLOG, interface=host).getHost().port
    except (CannotListenError, OSError) as error:
        cause = error.socketError if isinstance(error, CannotListenError) else error
        # It is no error of the system if another process has the lock beside a Unix socket
        text = cause.strerror if isinstance(cause, OSError) else _IN_USE
        raise CommandFailed(f"{local} can't be listened on: {text}.", reason="listen") from None
    return str(Address(local.protocol, host, port))


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
