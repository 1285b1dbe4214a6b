"""`punch receive`: files and folders that peers send."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from punch.apps.codes.code import Code, CodePurpose
from punch.apps.files.messages import SERVICE, FailureCode, FilesOffer, TransferFailed
from punch.apps.files.receiver import FileReceiver, FileService
from punch.cli import twistd
from punch.cli.commands.codes import CodeCommand, parse_code
from punch.cli.commands.node_command import CommandFailed, ExitStatus, NodeCommand, Registers, make_parser
from punch.cli.commands.transfers import AGAIN, STATUSES, Reporting, follow, watch_partner
from punch.contacts import UnknownPeer, find_peer
from punch.identity import Identity, PeerID
from punch.local.access import Allow, NodeAccess
from punch.sanitize import quoted, sanitize
from punch.sentences import sentence_of
from punch.ui.terminal.tty_modes import TerminalModes
from punch.ui.text.transfers import failure_text, item_text, odd_name_lines, offer_lines
from punch.ui.transfer_progress import Display

CLOSE_TIMEOUT = 5.0
"""Seconds in which the sender has to close a stream on which everything has arrived."""


def main(arguments: Sequence[str]) -> int:
    """
    Receive files and folders from peers.

    :return: the exit status, one of `ExitStatus`.
    """
    program = "punch receive"
    parser = make_parser(
        program,
        "Receive files and folders that peers send with punch send, until you press Ctrl-C. You are asked "
        "about each offer, except those of peers with the grant files/1 (punch peers grant WHO files/1).",
        "docs/files.md",
        registers=Registers.FOR_A_CODE,
    )
    parser.add_argument(
        "--output", default=".", metavar="DIR", help="the folder for the files [default: the current one]"
    )
    parser.add_argument(
        "--from",
        dest="senders",
        action="append",
        default=[],
        metavar="WHO",
        help="only from this peer; may be repeated",
    )
    parser.add_argument(
        "code",
        nargs="*",
        metavar="CODE",
        help="the code that punch send printed on the other side: receive what it sends, and end",
    )
    parser.add_argument("--yes", action="store_true", help="accept every offer without asking")
    parser.add_argument("--once", action="store_true", help="end after one transfer")
    options = parser.parse(arguments)
    if options.code and options.senders:
        parser.error("--from is not for a code, which says whom to receive from")
    code = parse_code(program, " ".join(options.code), options.json) if options.code else None
    from twisted.internet import reactor

    command = NodeCommand(
        program,
        options,
        reactor,
        "Stopped receiving. What is not complete continues when it is sent again.",
        again=AGAIN,
    )
    folder = Path(options.output)
    if not folder.is_dir():
        twistd.fail(
            program,
            f"--output takes a folder that is there, not {quoted(options.output)}.",
            reason="bad-file",
            as_json=options.json,
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        twistd.fail(
            program,
            f"{quoted(options.output)} can't be written: you have no permission, or the disk is read-only.",
            reason=FailureCode.DISK.value,
            as_json=options.json,
            status=ExitStatus.NO_SPACE,
        )
    try:
        peers = frozenset(find_peer(command.book, who) for who in options.senders)
    except UnknownPeer as error:
        twistd.fail(program, sentence_of(error), reason="bad-peer-id", as_json=options.json)
    if code is not None:
        return _receive_by_code(command, code, folder.resolve())
    allow = Allow(peers, anyone=not peers)
    return command.run(lambda node: Receiving(command, folder.resolve()).run(node, allow))


def _receive_by_code(command: NodeCommand, code: Code, folder: Path) -> int:
    """Receive once, with a temporary identity."""
    codes = CodeCommand(command, CodePurpose.FILES)
    command.options.once = True

    async def receive() -> None:
        identity = Identity.generate()
        node = codes.node(identity)
        card = await codes.redeem(code, identity, codes.own_name)
        command.book.add(card.peer, card.name)
        await Receiving(command, folder, card.peer).run(node, Allow(frozenset((card.peer,))))

    return command.run_without_node(receive)


@dataclass(frozen=True)
class _Incoming:
    """A transfer that a peer has offered."""

    number: int
    receiver: FileReceiver
    offer: FilesOffer
    who: str

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that identify the transfer in events."""
        return {"transfer": self.number, "peer": self.receiver.peer}


class Receiving:
    """
    One `punch receive`.

    :param sender: the only peer that can send, known from a code; None: anyone who is allowed.
    """

    def __init__(self, command: NodeCommand, folder: Path, sender: PeerID | None = None) -> None:
        self._command = command
        self._folder = folder
        self._sender = sender
        self._questions = None if command.options.yes else _Questions.open(command.reactor, command.display)
        self._accepted: set[tuple[str, FilesOffer]] = set()
        self._node: NodeAccess | None = None
        self._numbers = count(1)
        self._ended: Deferred[None] = Deferred()
        self._ending = False

    async def run(self, node: NodeAccess, allow: Allow) -> None:
        """
        Receive until the first transfer is over, or for ever.

        :raise CommandFailed: the transfer has failed, or nothing can come any more.
        """
        self._node = node
        sender = self._sender
        service = FileService(self._decide, self._command.reactor, self._command.in_thread, shows_texts=True)
        await node.serve(SERVICE, service, allow)
        self._command.tell(
            f"Ready to receive into {quoted(str(self._folder))}. Your ID is {node.peer_id}."
            if sender is None
            else f"The code is right. {self._command.called(sender)} can send into "
            f"{quoted(str(self._folder))}.",
            event="ready",
            id=str(node.peer_id),
        )
        looking = Deferred.fromCoroutine(self._command.stay_registered(node))
        looking.addErrback(self._give_up)
        if sender is not None:
            watching = watch_partner(self._command, node, sender, "ask for a new one, of punch send there")
            Deferred.fromCoroutine(watching).addErrback(self._give_up)
        await self._ended

    def _give_up(self, failure: Failure) -> None:
        if not self._ending:
            self._ending = True
            self._ended.errback(failure)

    def _end(self, closed: Deferred[None], failed: CommandFailed | None = None) -> None:
        """
        End when the sender has heard how the transfer ended.

        :param closed: fires when its stream is closed.
        """
        if self._ending:
            return
        self._ending = True
        closed.addTimeout(CLOSE_TIMEOUT, self._command.reactor)
        closed.addBoth(
            lambda _: self._ended.callback(None) if failed is None else self._ended.errback(failed)
        )

    def _decide(self, transfer: FileReceiver, offer: FilesOffer) -> Deferred[Path]:
        peer = PeerID.parse(transfer.peer)
        incoming = _Incoming(next(self._numbers), transfer, offer, self._command.called(peer))
        self._report(incoming, peer)
        text = "\n".join(offer_lines(offer, incoming.who))
        self._command.book.refresh()
        granted = self._command.options.yes or self._command.book.granted(peer, SERVICE)
        granted = granted or (transfer.peer, offer) in self._accepted
        asking = not granted and self._questions is not None
        self._command.tell(
            # A user who is asked reads it with the question, and not while another question is open.
            "" if asking else text,
            event="transfer-offered",
            **incoming.fields,
            size=offer.size,
            entries=offer.entries,
            items=[
                {"name": item.name, "kind": item.kind.name.lower(), "size": item.size, "files": item.files}
                for item in offer.items
            ],
            is_text=offer.text is not None,
        )
        if granted:
            decided = succeed(True)
        elif self._questions is None:
            advice = "" if self._sender is not None else ", or punch peers grant WHO files/1"
            self._command.tell(
                f"Refused, as nobody can be asked: use --yes{advice}.",
                event="transfer-refused",
                **incoming.fields,
            )
            decided = succeed(False)
        else:
            decided = self._questions.ask(text).addCallback(self._answered, transfer.peer, offer)
        return decided.addCallback(self._decided, incoming)

    def _report(self, incoming: _Incoming, peer: PeerID) -> None:
        assert self._node is not None, "offers come when the service is there"
        reporting = Reporting(
            self._command, self._node, incoming.number, peer, incoming.offer, outgoing=False
        )
        reporting.follow(incoming.receiver)
        incoming.receiver.when_finished().addBoth(lambda _: reporting.over())

    def _answered(self, accepted: bool, peer: str, offer: FilesOffer) -> bool:
        if accepted:
            # When the connection is lost, the sender offers the same again.
            self._accepted.add((peer, offer))
        return accepted

    def _decided(self, accepted: bool, incoming: _Incoming) -> Path:
        transfer = incoming.receiver
        closed = transfer.when_closed()
        if not accepted:
            if self._sender is not None:
                # The code is used up, so nothing else can come.
                sentence = "Nothing was received, and a code works once."
                self._end(closed, CommandFailed(sentence, ExitStatus.REFUSED, FailureCode.REFUSED.value))
            raise TransferFailed(FailureCode.REFUSED)
        follow(self._command, transfer, incoming.who, incoming.offer, incoming.fields)
        transfer.when_finished().addCallbacks(
            lambda paths: self._complete(paths, incoming, closed),
            lambda failure: self._incomplete(failure, incoming, closed),
        )
        return self._folder

    def _complete(self, paths: list[Path], incoming: _Incoming, closed: Deferred[None]) -> None:
        offer, who = incoming.offer, incoming.who
        self._accepted.discard((incoming.receiver.peer, offer))
        if offer.text is not None:
            self._command.tell(f"Text from {who}:", event="text-received", **incoming.fields, text=offer.text)
            if not self._command.options.json:
                self._command.show(sanitize(offer.text))
        files = offer.items if offer.text is None else ()
        for path, item in zip(paths, files, strict=True):
            name = item_text(item)
            self._command.tell(
                f"Received from {who}: {name}, as {quoted(str(path))}.",
                event="transfer-done",
                **incoming.fields,
                name=item.name,
                path=os.fsdecode(path).encode("utf-8", "replace").decode(),
            )
        odd = incoming.receiver.odd_names
        if odd.counts:
            self._command.tell(
                "\n".join(odd_name_lines(odd)),
                event="odd-names",
                **incoming.fields,
                counts={oddity.value: number for oddity, number in odd.counts.items()},
            )
        for link in incoming.receiver.left_out:
            self._command.tell(
                f"The link {quoted(link)} is left out: this disk takes no symbolic links.",
                event="link-left-out",
                **incoming.fields,
                name=link,
            )
        if self._command.options.once:
            self._end(closed)

    def _incomplete(self, failure: Any, incoming: _Incoming, closed: Deferred[None]) -> None:
        error = failure.value
        if isinstance(error, TransferFailed):
            self._command.tell(
                failure_text(error, incoming.who),
                event="transfer-failed",
                **incoming.fields,
                reason=error.code.value,
            )
            if self._command.options.once and error.code is not FailureCode.CANCELLED:
                status = STATUSES.get(error.code, ExitStatus.FAILED)
                self._end(closed, CommandFailed("The transfer failed.", status, error.code.value))
        else:
            self._command.tell(
                f"The connection to {incoming.who} was lost. The transfer continues when it is back.",
                event="transfer-failed",
                **incoming.fields,
                reason="lost",
            )


class _Questions(LineReceiver):
    """
    Asks the user about offers, one at a time, on the terminal. What was typed before a question was shown
    does not answer it.
    """

    delimiter = b"\n"

    def __init__(self, modes: TerminalModes, display: Display) -> None:
        self._modes = modes
        self._display = display
        self._waiting: deque[tuple[str, Deferred[bool]]] = deque()
        self._ended = False

    @classmethod
    def open(cls, reactor: Any, display: Display) -> _Questions | None:
        """Return an instance for the terminal of this process; None if there is no terminal."""
        if sys.stdin is None or not sys.stdin.isatty():
            return None
        questions = cls(TerminalModes(sys.stdin.fileno(), 1), display)
        StandardIO(questions, reactor=reactor)  # type: ignore[no-untyped-call]
        return questions

    def ask(self, offer: str) -> Deferred[bool]:
        """
        Ask whether to accept what `offer` describes, which is shown when no other question is open.

        :return: fires with the answer, which is no if nobody answers any more. It may be cancelled.
        """
        if self._ended:
            return succeed(False)
        asked: Deferred[bool] = Deferred(self._cancelled)
        self._waiting.append((offer, asked))
        if len(self._waiting) == 1:
            self._show()
        return asked

    def _cancelled(self, asked: Deferred[bool]) -> None:
        first = bool(self._waiting) and self._waiting[0][1] is asked
        self._waiting = deque(each for each in self._waiting if each[1] is not asked)
        if first:
            self._display.answered(entered=False)
            self._display.line("The offer was withdrawn.")
            self._show()

    def _show(self) -> None:
        if self._waiting:
            self._modes.take_unfinished_line()
            self.clearLineBuffer()  # type: ignore[no-untyped-call]
            self._display.line(self._waiting[0][0])
            self._display.ask("Accept? [y/n] ")

    def lineReceived(self, line: bytes) -> None:
        """Use a line as the answer to the open question."""
        if not self._waiting:
            return
        answer = line.strip().lower()
        if answer not in (b"y", b"yes", b"n", b"no"):
            self._display.ask("Type y or n: ")
            return
        _, asked = self._waiting.popleft()
        self._display.answered()
        asked.callback(answer.startswith(b"y"))
        self._show()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The user has ended the input, so nobody answers any more."""
        self._ended = True
        self._display.answered(entered=False)
        waiting, self._waiting = self._waiting, deque()
        for _, asked in waiting:
            asked.callback(False)
