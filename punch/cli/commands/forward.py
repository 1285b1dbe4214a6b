"""
`punch forward`: has a port or socket of this machine lead to one that a peer exposes. `punch expose`: lets
peers reach a port or socket of this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from punch.apps.forward.addresses import (
    ForwardAddress,
    ForwardAddressError,
    Protocol,
    named_service,
    parse_address,
    service_of,
    split_target,
)
from punch.apps.forward.messages import ForwardFailure, failure_of
from punch.apps.forward.reverse import listen_service
from punch.cli.commands.forward_common import (
    Notices,
    ReverseForward,
    exposed_at,
    forwarder_for,
    grant_port,
    listen,
    option_for,
)
from punch.cli.commands.node_command import NodeCommand, make_parser
from punch.cli.startup import raise_descriptor_limit
from punch.contacts import UnknownPeer, find_peer
from punch.identity import PeerID
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.sentences import sentence_of
from punch.ui.text.forwards import (
    address_error_sentence,
    exposed_failure_text,
    failure_text,
    open_failure_text,
)


def forward(arguments: Sequence[str]) -> int:
    """
    Forward connections until a signal comes.

    :return: the exit status, one of `ExitStatus`.
    """
    parser = make_parser(
        "punch forward",
        "Listen on a port or a Unix socket of this machine, and forward each connection to what a peer "
        "exposes with punch expose, until you press Ctrl-C. With --reverse, a port of the peer leads here.",
        "docs/forward.md",
    )
    parser.add_argument(
        "local",
        metavar="LOCAL",
        help="where to listen: 8080 (0: any port), 0.0.0.0:8080, or the path of a Unix socket; "
        "with --reverse, where connections go",
    )
    parser.add_argument(
        "target",
        metavar="WHO:ADDRESS",
        help="the peer and what it exposes: bob:localhost:80, bob:80, bob:NAME",
    )
    parser.add_argument(
        "--udp",
        action="store_true",
        help="forward datagrams, as punch expose --udp allows",
    )
    parser.add_argument(
        "--reverse",
        action="store_true",
        help="the peer's ADDRESS leads to LOCAL (expose --reverse)",
    )
    options = parser.parse(arguments)
    from twisted.internet import reactor

    raise_descriptor_limit()
    command = NodeCommand("punch forward", options, reactor, "Stopped: nothing is forwarded any more.")
    try:
        local = parse_address(options.local, listening=not options.reverse, udp=options.udp)
        who, what = split_target(options.target)
        service = service_of(what, udp=options.udp)
        if options.reverse:
            service = listen_service(service)
        peer = find_peer(command.book, who)
    except UnknownPeer as error:
        command.fail(sentence_of(error), "bad-peer-id")
    except ForwardAddressError as error:
        command.fail(address_error_sentence(error), "bad-address")
    if options.reverse:
        return command.run(lambda node: ReverseForward(command, node, local, peer, service, what).run())
    return command.run(lambda node: _forward(command, node, local, peer, service, what))


async def _forward(
    command: NodeCommand, node: NodeAccess, local: ForwardAddress, peer: PeerID, service: str, what: str
) -> None:
    who = command.called(peer)
    notices = Notices(command)

    def failed(error: Exception) -> None:
        failure = failure_of(error)
        if failure is not None:
            notices.tell(failure_text(failure, who, what), reason=failure.reason)
        elif isinstance(error, CommandError):
            exposed = f"{option_for(local)}{what}"
            notices.tell(open_failure_text(error.reason, str(error), who, exposed), reason=error.reason)
        else:
            notices.tell(f"A connection to {who} was lost, or given up there.", reason="lost")

    what_goes = "Datagrams" if local.protocol is Protocol.UDP else "Connections"
    forwarder = forwarder_for(local, node, peer, service, command.reactor, failed)
    address, _ = listen(command.reactor, local, forwarder)
    command.tell(
        f"{what_goes} to {address} go to {what} of {who}.",
        event="listening",
        address=address,
        peer=str(peer),
        service=service,
    )
    await Deferred()


def expose(arguments: Sequence[str]) -> int:
    """
    Expose an address until a signal comes.

    :return: the exit status, one of `ExitStatus`.
    """
    parser = make_parser(
        "punch expose",
        "Let peers reach a port or a Unix socket from here, with punch forward and punch pipe, until you "
        "press Ctrl-C. Nothing else becomes reachable.",
        "docs/forward.md",
    )
    parser.add_argument("address", metavar="ADDRESS", help="localhost:22, 22, or the path of a Unix socket")
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
    parser.add_argument("--udp", action="store_true", help="a port of UDP, for punch forward --udp")
    parser.add_argument(
        "--reverse",
        action="store_true",
        help="the other way round: let the peers have connections to this port go to them, by punch forward "
        "--reverse",
    )
    options = parser.parse(arguments)
    if options.reverse and "anyone" in options.peers:
        parser.error("--reverse needs the names or IDs of peers, not anyone")
    from twisted.internet import reactor

    raise_descriptor_limit()
    command = NodeCommand("punch expose", options, reactor, "Stopped: nothing is exposed any more.")
    try:
        address = parse_address(options.address, udp=options.udp)
        service = (
            address.service if options.service is None else named_service(options.service, udp=options.udp)
        )
        if options.reverse:
            service = listen_service(service)
        anyone = "anyone" in options.peers
        peers = frozenset() if anyone else frozenset(find_peer(command.book, who) for who in options.peers)
    except UnknownPeer as error:
        command.fail(sentence_of(error), "bad-peer-id")
    except ForwardAddressError as error:
        command.fail(address_error_sentence(error), "bad-address")
    name = str(address) if options.service is None else options.service
    exposing = _Exposing(command, address, name, service, Allow(peers, anyone))
    return command.run(exposing.reverse if options.reverse else exposing.run)


class _Exposing:
    """
    One `punch expose`.

    :param name: what peers call the address.
    :param service: what the link calls it.
    """

    def __init__(
        self, command: NodeCommand, address: ForwardAddress, name: str, service: str, allow: Allow
    ) -> None:
        self._command = command
        self._address = address
        self._name = name
        self._service = service
        self._allow = allow
        self._who = ", ".join(sorted(command.called(peer) for peer in allow.peers))
        self._option = option_for(address)

    async def run(self, node: NodeAccess) -> None:
        """Let the peers reach the address."""
        notices = Notices(self._command)

        def failed(peer: PeerID, failure: ForwardFailure, error: Exception) -> None:
            text = exposed_failure_text(failure, self._command.called(peer), str(self._address), error)
            notices.tell(text, peer=str(peer), reason=failure.reason)

        exposed = exposed_at(self._command.reactor, self._address, failed)
        await node.serve(self._service, exposed, self._allow)
        who = "Anyone" if self._allow.anyone else self._who
        example = f"punch forward {self._option}8080 YOU:{self._name}"
        self._tell(node, f"{who} can reach {self._address} now, as in {example}.")
        await self._command.stay_registered(node)

    async def reverse(self, node: NodeAccess) -> None:
        """Let the peers ask for the address. Connections to it then go to them."""
        await grant_port(self._command, node, self._address, self._service, self._allow.peers)
        example = f"punch forward --reverse {self._option}3000 YOU:{self._name}"
        self._tell(node, f"{self._who} can have {self._address} lead to a port there now, as in {example}.")
        await self._command.stay_registered(node)

    def _tell(self, node: NodeAccess, sentence: str) -> None:
        self._command.tell(
            f"{sentence} Your ID is {node.peer_id}.",
            event="exposed",
            address=str(self._address),
            service=self._service,
            id=str(node.peer_id),
        )
