"""`punch send`: sends files and folders to a peer."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from punch.amounts import format_bytes
from punch.apps.codes.code import CodePurpose
from punch.apps.files.messages import SERVICE, FailureCode, TransferFailed
from punch.apps.files.protocol import FileSender
from punch.apps.files.source import PIPE, Source, SourceError, find_source, text_source
from punch.apps.files.transfers import FIRST_RETRY, LAST_RETRY
from punch.cli import twistd
from punch.cli.commands.codes import CodeCommand
from punch.cli.commands.node_command import (
    CommandFailed,
    ExitStatus,
    NodeCommand,
    Registers,
    make_parser,
    status_of,
)
from punch.cli.commands.transfers import AGAIN, STATUSES, Reporting, follow, watch_partner
from punch.cli.usage import write_stderr
from punch.contacts import UnknownPeer, find_peer
from punch.identity import Identity, PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import CommandError
from punch.sentences import sentence_of
from punch.ui.text.transfers import failure_text, skipped_sentence, source_error_sentence, time_text

AGAIN_BY_CODE = "run punch send again for a new one"
"""What the user is told to do when the other side of a code is gone."""
_NUMBER = 1
"""The number of the transfer, since a process has only one."""


def main(arguments: Sequence[str]) -> int:
    """
    Send files and folders to a peer.

    :return: the exit status, one of `ExitStatus`.
    """
    program = "punch send"
    parser = make_parser(
        program,
        "Send files and folders to a peer, who runs punch receive. The same command, run again, continues a "
        "transfer that was interrupted (not by a code).",
        "docs/files.md",
        words_name_files=True,
        registers=Registers.FOR_A_CODE,
    )
    parser.usage = (
        "punch send [options] PATH... WHO\n       punch send [options] [--code] PATH...\n"
        "       punch send [options] --text TEXT [WHO]"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PATH... WHO",
        help="files and folders (- is standard input), and the peer: a name of the address book, or an ID; "
        "a single path without a peer is sent by a code",
    )
    parser.add_argument(
        "--code", action="store_true", help="print a code for punch receive, to send to somebody new"
    )
    parser.add_rare_argument(
        "--as",
        dest="pipe_name",
        default="stdin",
        metavar="NAME",
        help="the name of what comes from standard input",
    )
    parser.add_argument("--text", metavar="TEXT", help="send this text in place of files, to be shown there")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for a peer who is not there yet [default: end with status 4]",
    )
    options = parser.parse(arguments)
    if options.text is None and not options.words:
        parser.error("name what to send: files and folders, and whom to send them to")
    if options.text is not None and len(options.words) + options.code > 1:
        parser.error("--text is sent alone, to one peer or with a code: punch send --text TEXT WHO")
    from twisted.internet import reactor

    command = NodeCommand(
        program,
        options,
        reactor,
        "Stopped. If the transfer had begun, the same command continues it.",
        again=AGAIN,
    )
    by_code = options.code or len(options.words) == (1 if options.text is None else 0)
    paths = options.words if by_code else options.words[:-1]
    try:
        peer = None if by_code else find_peer(command.book, options.words[-1])
        if "/" in options.pipe_name or options.pipe_name in ("", ".", "..") or len(options.pipe_name) > 80:
            twistd.fail(
                program,
                "--as takes the name of a file, without a folder.",
                reason="bad-file",
                as_json=options.json,
            )
        if options.text is None and PIPE in paths and sys.stdin is None:
            # Another open file may have the descriptor 0 by now.
            message = "There is no standard input to send."
            twistd.fail(program, message, reason="bad-file", as_json=options.json)
        if options.text is None:
            source = find_source(paths, 0, options.pipe_name)
        else:
            source = text_source(options.text)
    except UnknownPeer as error:
        message = sentence_of(error)
        if os.path.lexists(options.words[-1]):
            message += " To send all of these files to somebody new: punch send --code."
        twistd.fail(program, message, reason="bad-peer-id", as_json=options.json)
    except SourceError as error:
        reason, status = "bad-file", ExitStatus.FAILED
        if error.unreadable:
            reason, status = FailureCode.SOURCE_UNREADABLE.value, ExitStatus.CHANGED
        twistd.fail(program, source_error_sentence(error), reason=reason, as_json=options.json, status=status)
    for path, reason_skipped in source.skipped:
        write_stderr(f"{program}: {skipped_sentence(path, reason_skipped)}")
    if peer is not None:
        return command.run(lambda node: Sending(command, node, peer, source).run())
    codes = CodeCommand(command, CodePurpose.FILES)

    async def send_by_code() -> None:
        identity = Identity.generate()
        card = await codes.issue(identity, codes.own_name)
        node = codes.node(identity)
        command.book.add(card.peer, card.name)
        await send_to_partner(command, node, card.peer, source)

    return command.run_without_node(send_by_code)


async def send_to_partner(command: NodeCommand, node: NodeAccess, peer: PeerID, source: Source) -> None:
    """
    Send to the peer that has used a code, until it has everything or is gone.

    :raise CommandFailed: it can't be sent, or the peer is gone. So does `CommandError`.
    """
    sending = Sending(command, node, peer, source, by_code=True).run()
    watching = watch_partner(command, node, peer, AGAIN_BY_CODE)
    try:
        await DeferredList(
            [Deferred.fromCoroutine(sending), Deferred.fromCoroutine(watching)],
            fireOnOneCallback=True,
            fireOnOneErrback=True,
            consumeErrors=True,
        )
    except FirstError as error:
        error.subFailure.raiseException()


class Sending:
    """
    One `punch send`: tries until the transfer is complete, or can't be.

    :param by_code: the other side has used a code of this one. It may not be ready yet. `watch_partner`
        notices when it is gone.
    """

    def __init__(
        self,
        command: NodeCommand,
        node: NodeAccess,
        peer: PeerID,
        source: Source,
        *,
        by_code: bool = False,
    ) -> None:
        self._command = command
        self._node = node
        self._peer = peer
        self._source = source
        self._who = command.called(peer)
        self._began = False
        self._waits = command.options.wait or by_code
        self._by_code = by_code
        self._delay = FIRST_RETRY
        self._fields = {"transfer": _NUMBER, "peer": str(peer)}

    async def run(self) -> None:
        """
        Send everything.

        :raise CommandFailed: it can't be sent. So does `CommandError`.
        """
        reporting = Reporting(
            self._command, self._node, _NUMBER, self._peer, self._source.offer, outgoing=True
        )
        try:
            await self._run(reporting)
        finally:
            reporting.over()

    async def _run(self, reporting: Reporting) -> None:
        while True:
            sender = FileSender(self._source, self._command.in_thread)
            try:
                await self._node.open(self._peer, SERVICE, Factory.forProtocol(lambda: sender))  # noqa: B023
                reporting.follow(sender)
                self._command.tell(
                    f"Waiting for {self._who} to accept.", event="transfer-offered", **self._fields
                )
                follow(self._command, sender, self._who, self._source.offer, self._fields)
                started = self._command.reactor.seconds()
                await sender.when_finished()
            except CommandError as error:
                reporting.follow(None)
                await self._not_there(error)
            except TransferFailed as error:
                reporting.follow(None)
                await self._failed(error, sender)
            except (ConnectionDone, ConnectionLost):
                reporting.follow(None)
                await self._interrupted(sender)
            else:
                seconds = self._command.reactor.seconds() - started
                what = f"{format_bytes(sender.position)} in {time_text(seconds)}"
                self._command.tell(
                    f"Sent to {self._who}: {what if self._source.text is None else 'the text'}.",
                    event="transfer-done",
                    **self._fields,
                    position=sender.position,
                    sent=sender.sent,
                )
                return

    async def _not_there(self, error: CommandError) -> None:
        status = status_of(error.reason)
        away = status in (ExitStatus.NOT_THERE, ExitStatus.NO_PATH) or error.reason == "busy"
        # A side that used a code refuses calls until it knows that the code was right
        if not away and not (self._by_code and status is ExitStatus.REFUSED):
            raise error
        if not self._began and not self._waits:
            if error.reason == "no-service":
                raise CommandFailed(
                    f"{self._who} does not receive files now. Ask for punch receive there, or use --wait.",
                    ExitStatus.NOT_THERE,
                    error.reason,
                )
            raise error
        await self._pause(f"{self._who} is not there now")

    async def _failed(self, error: TransferFailed, sender: FileSender) -> None:
        self._began = self._began or sender.accepted
        if error.code is FailureCode.IN_PROGRESS and self._began:
            # The other side has not noticed yet that the connection before was lost.
            await self._pause(f"{self._who} is still busy with the attempt before")
            return
        status = STATUSES.get(error.code, ExitStatus.FAILED)
        raise CommandFailed(failure_text(error, self._who), status, error.code.value)

    async def _interrupted(self, sender: FileSender) -> None:
        self._began = self._began or sender.accepted
        if sender.position:
            self._delay = FIRST_RETRY
        if not self._source.resumable and sender.reading:
            raise CommandFailed(
                "The connection was lost, and what comes from a pipe can't be read again.",
                ExitStatus.NO_PATH,
                "lost",
            )
        if not self._began and not self._waits:
            raise CommandFailed(
                f"The connection to {self._who} was lost before the transfer began.",
                ExitStatus.NO_PATH,
                "lost",
            )
        await self._pause("The connection was lost")

    async def _pause(self, why: str) -> None:
        self._command.tell(
            f"{why}: trying again in {time_text(self._delay)}.",
            event="transfer-waiting",
            **self._fields,
            text=why,
        )
        await deferLater(self._command.reactor, self._delay, lambda: None)
        self._delay = min(2 * self._delay, LAST_RETRY)
