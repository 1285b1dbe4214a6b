"""
What `punch send` and `punch receive` have in common: how they show a transfer, with which statuses they end,
and when they give up the other side of a code, which can't come back once its command has ended.
"""

from __future__ import annotations

from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from punch.apps.files.messages import FailureCode, FilesOffer
from punch.apps.files.protocol import FileSender, TransferState
from punch.apps.files.receiver import FileReceiver
from punch.cli.commands.node_command import LOOK_INTERVAL, CommandFailed, ExitStatus, NodeCommand
from punch.identity import PeerID
from punch.local.access import MAX_TEXT, REPORT_INTERVAL, NodeAccess, TransferReport
from punch.local.protocol import JSON, CommandError
from punch.ui.transfer_progress import INTERVAL

AGAIN = "the transfer continues"
"""What happens when a command is run again."""

STATUSES = {
    FailureCode.REFUSED: ExitStatus.REFUSED,
    FailureCode.BUSY: ExitStatus.REFUSED,
    FailureCode.NO_SPACE: ExitStatus.NO_SPACE,
    FailureCode.DISK: ExitStatus.NO_SPACE,
    FailureCode.SOURCE_CHANGED: ExitStatus.CHANGED,
    FailureCode.SOURCE_UNREADABLE: ExitStatus.CHANGED,
}

AWAY_TIME = 180.0
"""Seconds without a link, after which the other side is given up."""
NO_PATH_TIME = 3600.0
"""The same for a link that has no path, such as while the other machine sleeps."""


class Reporting:
    """
    Reports to the node how far a transfer of this command is, at most once a second, until it is over. `punch
    status` and the page show it.

    :param transfer: a number for it, unique in this process.
    """

    def __init__(
        self,
        command: NodeCommand,
        node: NodeAccess,
        transfer: int,
        peer: PeerID,
        offer: FilesOffer,
        outgoing: bool,
    ) -> None:
        self._command = command
        self._node = node
        self._transfer = transfer
        self._peer = peer
        self._offer = offer
        self._outgoing = outgoing
        self._end: FileSender | FileReceiver | None = None
        self._position = 0
        self._told: TransferReport | None = None
        self._waits = False
        self._loop = LoopingCall(self._look)
        self._loop.clock = command.reactor
        self._loop.start(REPORT_INTERVAL, now=False)

    def follow(self, end: FileSender | FileReceiver | None) -> None:
        """Report the state of this end of the transfer; None while there is no stream for it."""
        self._end = end

    def over(self) -> None:
        """The transfer is over."""
        if self._loop.running:
            self._loop.stop()
        if self._told is not None:
            self._tell(None)

    def _look(self) -> None:
        report = self._report()
        if not self._waits and report != self._told:
            self._tell(report)

    def _tell(self, report: TransferReport | None) -> None:
        self._told, self._waits = report, True
        self._node.report_transfer(self._transfer, report).addCallbacks(self._noted, self._not_noted)

    def _noted(self, _: None) -> None:
        self._waits = False

    def _not_noted(self, failure: Failure) -> Failure | None:
        # The node is of an older release, or has ended, which the stream reports.
        if self._loop.running:
            self._loop.stop()
        return None if isinstance(failure.value, CommandError) else failure

    def _report(self) -> TransferReport:
        items, end = self._offer.items, self._end
        name = "a text" if self._offer.text is not None else items[0].name
        if end is None:
            stage = "waiting"
        else:
            stage = "offered" if end.state is TransferState.OFFERED else "running"
            self._position = end.position
        return TransferReport(
            self._command.program,
            self._peer,
            self._outgoing,
            stage,
            name[:MAX_TEXT],
            len(items),
            self._offer.size,
            self._position,
        )


def follow(
    command: NodeCommand,
    transfer: FileSender | FileReceiver,
    who: str,
    offer: FilesOffer,
    fields: JSON,
) -> None:
    """
    Show how far a transfer is, until it is over.

    :param fields: the keys that tell in each event which transfer it is.
    """
    label = f"{'to' if isinstance(transfer, FileSender) else 'from'} {who}"
    progress = command.display.follow(label, offer.size, command.reactor.seconds())

    def look() -> None:
        if transfer.over:
            loop.stop()
            progress.close()
        elif transfer.state is TransferState.RUNNING:
            if command.options.json:
                command.tell(
                    "", event="transfer-progress", **fields, position=transfer.position, size=offer.size
                )
            else:
                progress.look(transfer.position, command.reactor.seconds())

    loop = LoopingCall(look)
    loop.clock = command.reactor
    loop.start(INTERVAL)
    transfer.when_finished().addBoth(lambda _: progress.close())


class Absence:
    """How long the other side has been away. It does no input or output."""

    def __init__(self, now: float) -> None:
        self._looked = now
        self._away = 0.0
        self._disconnected = 0.0

    def look(self, now: float, *, linked: bool, disconnected: bool) -> bool:
        """
        Note whether there is a link, and whether that has no path. Call it every `LOOK_INTERVAL` seconds.

        :return: whether it has been so for too long.
        """
        # Time in which this machine slept does not count, since nobody could come back then
        passed = min(now - self._looked, 2 * LOOK_INTERVAL)
        self._looked = now
        self._away = 0.0 if linked else self._away + passed
        self._disconnected = self._disconnected + passed if linked and disconnected else 0.0
        return self._away > AWAY_TIME or self._disconnected > NO_PATH_TIME


async def watch_partner(command: NodeCommand, node: NodeAccess, peer: PeerID, what_next: str) -> None:
    """
    Check again and again whether the peer is there. It does not return.

    :param what_next: what the user is told to do when it is gone.
    :raise CommandFailed: it has been away for too long.
    """
    absence = Absence(command.reactor.seconds())
    while True:
        await deferLater(command.reactor, LOOK_INTERVAL, lambda: None)
        link = _link(await node.status(), peer)
        disconnected = link is not None and link["dark"] is True
        if absence.look(command.reactor.seconds(), linked=link is not None, disconnected=disconnected):
            raise CommandFailed(
                f"{command.called(peer)} is gone, and a code works once: {what_next}.",
                ExitStatus.NOT_THERE,
                "gone",
            )


def _link(status: JSON, peer: PeerID) -> JSON | None:
    return next((link for link in status["links"] if link["peer"] == str(peer)), None)
