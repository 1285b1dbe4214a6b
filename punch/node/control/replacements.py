"""
Pauses for two processes with one identity, which replace each other at the rendezvous.

Under a supervisor that restarts each of them at once, they would replace each other for ever, and no message
would arrive. So a process that was replaced waits when it is started the next time, longer each time, and the
other one stays registered meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from punch.net.driver import Timer
from punch.node.causes import SimpleCause
from punch.node.events import CallFailed, Registered, Unregistered
from punch.node.events import Event as NodeEvent
from punch.state import PeerState
from punch.state_files import StateError
from punch.wire.control import ErrorCode

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0
"""Seconds of the pause after the first replacement, and at most. It doubles with each further replacement."""
STEADY = 900.0
"""Seconds for which a registration has to last to show that the other process has ended."""
EXIT_STATUS = 3
"""The exit status of a process that was replaced. Supervisors should not restart it."""


def pause_after(count: int) -> float:
    """Return the seconds to wait at the start after so many replacements without a steady registration."""
    return 0.0 if count <= 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(count - 1, 30))


class Replacements:
    """
    Counts over all runs how often this identity was replaced, and waits accordingly at the start.

    :param start: called once, to register.
    :param tell: called at the start if there was another process, with for how long this one waits.
    :param sentence: returns what the log says of an error.
    """

    _log = Logger()

    def __init__(
        self,
        state: PeerState,
        clock: IReactorTime,
        start: Callable[[], object],
        tell: Callable[[Unregistered], None],
        sentence: Callable[[StateError], str] = str,
    ) -> None:
        self._state = state
        self._start = start
        self._tell = tell
        self._sentence = sentence
        self._count = 0
        self._timer = Timer(clock)

    def start(self, *, waits: bool) -> None:
        """
        Register now or after the pause.

        :param waits: False: without a pause, where a person has started this process.
        :raise StateError: the count can't be read.
        """
        self._count = self._state.replacements
        pause = pause_after(self._count) if waits else 0.0
        if self._count:
            self._tell(Unregistered(SimpleCause.REPLACED_LAST_TIME, pause))
        if pause:
            self._timer.start(pause, self._start)
        else:
            self._start()

    def handle(self, event: NodeEvent) -> bool:
        """
        Take an event of the node. Returns whether this process was replaced.

        :raise StateError: the count can't be written.
        """
        if isinstance(event, Registered) and self._count:
            self.stop()
            self._timer.start(STEADY, self._forget)
        elif isinstance(event, Unregistered):
            self.stop()
        elif (
            isinstance(event, CallFailed) and event.peer is None and event.reason == ErrorCode.REPLACED.value
        ):
            self.stop()
            self._set(self._count + 1)
            return True
        return False

    def stop(self) -> None:
        """Cancel what is waited for."""
        self._timer.cancel()

    def _forget(self) -> None:
        try:
            self._set(0)
        except StateError as error:
            self._log.warn("{error}", error=self._sentence(error))

    def _set(self, count: int) -> None:
        self._count = count
        self._state.remember_replacements(count)
