"""`punch pipe`: joins standard input and output with those of a peer, or with a service of a peer."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory

from punch.apps.forward.addresses import ForwardAddressError, service_of
from punch.apps.forward.messages import ForwardFailure, PipeError, failure_of
from punch.apps.forward.pipe import Meeting, OtherSideFailed, OutputLost, Pipe, ServicePipe
from punch.cli.commands.node_command import CommandFailed, ExitStatus, NodeCommand, make_parser, status_of
from punch.contacts import UnknownPeer, find_peer
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import CommandError
from punch.sentences import sentence_of
from punch.ui.standard_streams import StandardStreams, StreamDescriptors
from punch.ui.text.forwards import address_error_sentence, failure_text

PROGRAM = "punch pipe"
_STATUSES = {ForwardFailure.BUSY: ExitStatus.REFUSED, ForwardFailure.RESET: ExitStatus.NO_PATH}


def main(arguments: Sequence[str]) -> int:
    """
    Join standard input and output with those of a peer, or with a service.

    :return: the exit status: one of `ExitStatus`, or that of the other side.
    """
    parser = make_parser(
        PROGRAM,
        "Join standard input and output with those of a peer, who runs punch pipe with you: what one side "
        "reads, the other writes. With SERVICE, join them with a service of the peer, such as a port that it "
        "exposes.",
        "docs/forward.md",
        own_stdout=False,
    )
    parser.add_argument("who", metavar="WHO", help="the peer: a name of the address book, or an ID")
    parser.add_argument(
        "service",
        metavar="SERVICE",
        nargs="?",
        help="the name of a service, or a port that the peer exposes, as localhost:22",
    )
    options = parser.parse(arguments)
    from twisted.internet import reactor

    command = NodeCommand(PROGRAM, options, reactor, own_stdout=False)
    try:
        peer = find_peer(command.book, options.who)
        service = None if options.service is None else service_of(options.service)
    except UnknownPeer as error:
        command.fail(sentence_of(error), "bad-peer-id")
    except ForwardAddressError as error:
        command.fail(address_error_sentence(error), "bad-address")
    descriptors = StreamDescriptors.of_this_process()
    return command.run(lambda node: _Piping(command, node, peer, descriptors).run(service))


class _Piping:
    """One `punch pipe`."""

    def __init__(
        self, command: NodeCommand, node: NodeAccess, peer: PeerID, descriptors: StreamDescriptors
    ) -> None:
        self._command = command
        self._node = node
        self._peer = peer
        self._who = command.called(peer)
        self._descriptors = descriptors
        self._told = False

    async def run(self, service: str | None) -> None:
        """Pipe until both directions have ended."""
        pipe: Pipe | ServicePipe
        if service is None:
            pipe = await Meeting(self._node, self._peer, self._command.reactor, self._waits).meet()
        else:
            pipe = ServicePipe()
            await self._node.open(self._peer, service, Factory.forProtocol(lambda: pipe))
        self._command.tell("", event="pipe-connected", peer=str(self._peer))
        streams = StandardStreams(
            self._command.reactor, self._descriptors, pipe.input_received, pipe.input_ended, pipe.output_lost
        )
        self._command.reactor.addSystemEventTrigger("after", "shutdown", streams.restore)
        pipe.joined.start(streams)
        try:
            await pipe.joined.finished
        except OutputLost:
            raise CommandFailed(
                "Nobody reads the output any more, or it can't be written.", ExitStatus.FAILED, "output-lost"
            ) from None
        except OtherSideFailed as failed:
            raise CommandFailed(
                f"The pipe of {self._who} ended with status {failed.status}.", failed.status, "other-side"
            ) from None
        except PipeError as error:
            raise CommandFailed(
                f"The program of {self._who} does not keep to the protocol: {error}.",
                ExitStatus.FAILED,
                "protocol",
            ) from None
        except (ConnectionDone, ConnectionLost) as error:
            raise self._lost(error, service) from None
        # A service does not confirm that everything has arrived
        if service is not None and not await self._node.when_delivered(self._peer):
            raise CommandFailed(
                f"The connection to {self._who} was lost before all that was sent had arrived.",
                ExitStatus.NO_PATH,
                "lost",
            )
        self._command.tell("", event="pipe-done")

    def _lost(self, error: Exception, service: str | None) -> CommandFailed:
        failure = failure_of(error)
        if failure is None:
            return CommandFailed(
                f"The connection to {self._who} was lost, or given up there.", ExitStatus.NO_PATH, "lost"
            )
        status = _STATUSES.get(failure, ExitStatus.NOT_THERE)
        return CommandFailed(failure_text(failure, self._who, service or ""), status, failure.reason)

    def _waits(self, error: CommandError) -> bool:
        if status_of(error.reason) not in (ExitStatus.NOT_THERE, ExitStatus.REFUSED):
            return False
        if not self._told:
            self._told = True
            self._command.tell(
                f"Waiting for {self._who} to run punch pipe with you.",
                event="pipe-waiting",
                reason=error.reason,
            )
        return True
