"""`punch expose`: a port or socket of this machine, for peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from punch.apps.forward.addresses import Address, AddressError, Protocol, named_service, parse_address
from punch.apps.forward.datagrams import ExposedDatagrams
from punch.apps.forward.exposed import CONNECT_TIME, Exposed
from punch.apps.forward.failures import ForwardFailure
from punch.cli import twistd
from punch.cli.node_command import NodeCommand, make_parser
from punch.cli.notices import Notices
from punch.identity import PeerID
from punch.local.access import Allow, NodeAccess
from punch.lookup import UnknownPeer, find_peer
from punch.ui.text.forwards import exposed_failure_text

PROGRAM = "punch expose"


def main(arguments: Sequence[str]) -> int:
    """
    Expose an address until a signal comes.

    :return: the exit status, one of `ExitStatus`.
    """
    parser = make_parser(
        PROGRAM,
        "Let peers reach a port or a Unix socket from here, with punch forward and punch pipe, until you "
        "press Ctrl-C. Nothing else becomes reachable.",
        "docs/forward.md",
    )
    parser.add_argument(
        "address", metavar="ADDRESS", help="as localhost:22, 22 (on localhost), or the path of a Unix socket"
    )
    parser.add_argument(
        "--to",
        dest="peers",
        action="append",
        default=[],
        metavar="WHO",
        required=True,
        help="who may use it: a name of the address book, an ID, or anyone; may be repeated",
    )
    parser.add_argument(
        "--as",
        dest="service",
        metavar="NAME",
        help="the name that peers give instead of the address [default: the address]",
    )
    parser.add_argument(
        "--udp", action="store_true", help="the port is one of UDP, which punch forward --udp reaches"
    )
    options = parser.parse(arguments)
    from twisted.internet import reactor

    twistd.raise_descriptor_limit()
    command = NodeCommand(PROGRAM, options, reactor, "Stopped: nothing is exposed any more.")
    try:
        address = parse_address(options.address, udp=options.udp)
        service = (
            address.service if options.service is None else named_service(options.service, udp=options.udp)
        )
        anyone = "anyone" in options.peers
        peers = frozenset() if anyone else frozenset(find_peer(command.book, who) for who in options.peers)
    except (UnknownPeer, AddressError) as error:
        command.fail(str(error), "bad-peer-id" if isinstance(error, UnknownPeer) else "bad-address")
    name = str(address) if options.service is None else options.service
    return command.run(lambda node: _expose(command, node, address, name, service, Allow(peers, anyone)))


async def _expose(
    command: NodeCommand, node: NodeAccess, address: Address, name: str, service: str, allow: Allow
) -> None:
    notices = Notices(command)

    def failed(peer: PeerID, failure: ForwardFailure, error: Exception) -> None:
        who = command.called(peer)
        notices.tell(
            exposed_failure_text(failure, who, str(address), error), peer=str(peer), reason=failure.reason
        )

    udp = address.protocol is Protocol.UDP
    exposed = (
        ExposedDatagrams(command.reactor, address, failed)
        if udp
        else Exposed(_endpoint(command.reactor, address), failed)
    )
    await node.serve(service, exposed, allow)
    who = "Anyone" if allow.anyone else ", ".join(sorted(command.called(peer) for peer in allow.peers))
    option = "--udp " if udp else ""
    command.tell(
        f"{who} can reach {address} now, as in punch forward {option}8080 YOU:{name}. "
        f"Your ID is {node.peer_id}.",
        event="exposed",
        address=str(address),
        service=service,
        id=str(node.peer_id),
    )
    await command.stay_registered(node)


def _endpoint(reactor: Any, address: Address) -> IStreamClientEndpoint:
    if address.protocol is Protocol.UNIX:
        return cast(IStreamClientEndpoint, cast(Any, UNIXClientEndpoint)(reactor, address.path, CONNECT_TIME))
    return HostnameEndpoint(reactor, address.host, address.port, CONNECT_TIME)
