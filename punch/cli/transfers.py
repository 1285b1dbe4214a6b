"""How `punch send` and `punch receive` show a transfer, and the statuses with which they end."""

from __future__ import annotations

from twisted.internet.task import LoopingCall

from punch.apps.files.messages import FailureCode, FilesOffer
from punch.apps.files.protocol import FileReceiver, FileSender, TransferState
from punch.cli.exit_status import ExitStatus
from punch.cli.node_command import NodeCommand
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
