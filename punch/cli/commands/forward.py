"""`punch forward`: a port or socket of this machine that leads to one that a peer exposes."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from punch.apps.forward.addresses import (
    ForwardAddress,
    ForwardAddressError,
    Protocol,
    parse_address,
    service_of,
    split_target,
)
from punch.apps.forward.failures import failure_of
from punch.apps.forward.reverse import listen_service
from punch.cli import twistd
from punch.cli.commands.forward_common import Notices, ReverseForward, forwarder_for, listen, option_for
from punch.cli.commands.node_command import NodeCommand, make_parser
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import CommandError
from punch.lookup import UnknownPeer, find_peer
from punch.ui.text.forwards import address_error_sentence, failure_text, open_failure_text

PROGRAM = "punch forward"


def main(arguments: Sequence[str]) -> int:
    """
    Forward connections until a signal comes.

    :return: the exit status, one of `ExitStatus`.
    """
    parser = make_parser(
        PROGRAM,
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

    twistd.raise_descriptor_limit()
    command = NodeCommand(PROGRAM, options, reactor, "Stopped: nothing is forwarded any more.")
    try:
        local = parse_address(options.local, listening=not options.reverse, udp=options.udp)
        who, what = split_target(options.target)
        service = service_of(what, udp=options.udp)
        if options.reverse:
            service = listen_service(service)
        peer = find_peer(command.book, who)
    except UnknownPeer as error:
        command.fail(str(error), "bad-peer-id")
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
