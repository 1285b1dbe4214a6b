"""
What `punch send` and `punch receive` have in common: how they show a transfer, the statuses with which they
end, and when the other side of a code is given up, as it can't come back once its command has ended.
"""

from __future__ import annotations

from twisted.internet.task import LoopingCall, deferLater

from punch.apps.files.messages import FailureCode, FilesOffer
from punch.apps.files.protocol import FileReceiver, FileSender, TransferState
from punch.cli.commands.node_command import LOOK_INTERVAL, CommandFailed, ExitStatus, NodeCommand
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import JSON
from punch.ui.transfer_progress import INTERVAL

AGAIN = "the transfer continues"
"""What comes of a command that is run again."""

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
"""The same while there is a link without a path, as while the other machine sleeps."""


def follow(command: NodeCommand, transfer: FileSender | FileReceiver, who: str, offer: FilesOffer) -> None:
    """Show how far a transfer is, until it is over."""
    label = f"{'to' if isinstance(transfer, FileSender) else 'from'} {who}"
    progress = command.display.follow(label, offer.size, command.reactor.seconds())

    def look() -> None:
        if transfer.over:
            loop.stop()
            progress.close()
        elif transfer.state is TransferState.RUNNING:
            if command.options.json:
                command.tell("", event="transfer-progress", position=transfer.position, size=offer.size)
            else:
                progress.look(transfer.position, command.reactor.seconds())

    loop = LoopingCall(look)
    loop.clock = command.reactor
    loop.start(INTERVAL)
    transfer.when_finished().addBoth(lambda _: progress.close())


class Absence:
    """For how long the other side has been away. Pure."""

    def __init__(self, now: float) -> None:
        self._looked = now
        self._away = 0.0
        self._disconnected = 0.0

    def look(self, now: float, *, linked: bool, disconnected: bool) -> bool:
        """
        Note whether there is a link, and whether that has no path. Call it every `LOOK_INTERVAL` seconds.

        :return: whether it has been so for too long.
        """
        # Time in which this machine slept does not count: nobody could come back in it
        passed = min(now - self._looked, 2 * LOOK_INTERVAL)
        self._looked = now
        self._away = 0.0 if linked else self._away + passed
        self._disconnected = self._disconnected + passed if linked and disconnected else 0.0
        return self._away > AWAY_TIME or self._disconnected > NO_PATH_TIME


async def watch_partner(command: NodeCommand, node: NodeAccess, peer: PeerID, what_next: str) -> None:
    """
    Look whether the peer is there. It does not return.

    :param what_next: what the user can do when it is gone.
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
