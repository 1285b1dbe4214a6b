"""The exit statuses of the commands that do one thing with a peer, as docs/files.md lists them."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Why a command ended."""

    DONE = 0
    FAILED = 1
    """Anything that has no status of its own."""
    USAGE = 2
    """The command line is wrong."""
    # 3 is that of a peer that another process has replaced (`punch.node.control.replacements`).
    NOT_THERE = 4
    """The peer is not registered, or does not serve what was asked for."""
    REFUSED = 5
    """The other side's user, or policy, said no."""
    NO_PATH = 6
    """No path to the peer, or to the rendezvous, was found."""
    CHANGED = 7
    """A file changed, vanished or became unreadable while it was sent."""
    NO_SPACE = 8
    """A disk is full, or can't be written."""
    NODE_LOST = 9
    """The process that has the node ended."""


REASONS = {
    "not-registered": ExitStatus.NOT_THERE,
    "gone": ExitStatus.NOT_THERE,
    "timeout": ExitStatus.NOT_THERE,
    "no-service": ExitStatus.NOT_THERE,
    "refused": ExitStatus.REFUSED,
    "busy": ExitStatus.REFUSED,
    "not-allowed": ExitStatus.REFUSED,
    "unreachable": ExitStatus.NO_PATH,
    "rendezvous-unreachable": ExitStatus.NO_PATH,
    "lost": ExitStatus.NO_PATH,
    "node-lost": ExitStatus.NODE_LOST,
}
"""The statuses of the reasons with which a call or a stream fails."""


def status_of(reason: str) -> ExitStatus:
    """The exit status for a reason of docs/json.md."""
    return REASONS.get(reason, ExitStatus.FAILED)
