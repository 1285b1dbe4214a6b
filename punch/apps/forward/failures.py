"""Why an exposed port can't be reached: the codes with which its streams are given up."""

from __future__ import annotations

from enum import IntEnum

from punch.link.events import FIRST_APPLICATION_CODE
from punch.link.transport import StreamAborted


class ForwardFailure(IntEnum):
    """Why; the number goes over the wire, as the code of the stream's reset."""

    CONNECTION_REFUSED = FIRST_APPLICATION_CODE + 1
    """Nobody listens there."""
    UNREACHABLE = FIRST_APPLICATION_CODE + 2
    """It did not answer in time, or there is no way to it."""
    NO_HOST = FIRST_APPLICATION_CODE + 3
    """There is no host of this name."""
    NOT_PERMITTED = FIRST_APPLICATION_CODE + 4
    """The exposing user may not connect to it."""
    BUSY = FIRST_APPLICATION_CODE + 5
    """Too many connections are open."""
    FAILED = FIRST_APPLICATION_CODE + 6
    """Anything else."""
    RESET = FIRST_APPLICATION_CODE + 7
    """The connection was there, and was reset."""
    NOT_LISTENING = FIRST_APPLICATION_CODE + 8
    """The port that was asked for can't be listened at."""

    @property
    def reason(self) -> str:
        """The code for programs, as docs/json.md lists it."""
        return self.name.lower().replace("_", "-")


def failure_of(error: Exception) -> ForwardFailure | None:
    """Return what the other side said when it gave up a stream; None if it said nothing of this."""
    if not isinstance(error, StreamAborted) or error.code not in ForwardFailure.__members__.values():
        return None
    return ForwardFailure(error.code)
