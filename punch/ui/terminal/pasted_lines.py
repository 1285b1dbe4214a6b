"""Input of a terminal without a line editor: what was typed, told apart from a paste of several lines."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from punch.ui.terminal.keys import MAX_PASTE

#: Nobody types a second line this soon after the first one, in seconds; a paste has it there at once.
PASTE_INTERVAL = 0.02

#: How long after a line of a paste the next one may come, in seconds.
REST_TIME = 0.1


class PastedLines:
    """
    Holds each line for a moment, to see whether more lines come at once. A terminal in its line mode gives
    its lines one by one, whether they were typed or pasted.

    :param typed: is called with input that a person typed.
    :param pasted: is called with input that holds several lines; with nothing if it was too long to be kept.
    :param unfinished: takes out of the terminal what stands in its line and was not entered yet.
    """

    def __init__(
        self,
        clock: IReactorTime,
        typed: Callable[[bytes], None],
        pasted: Callable[[bytes], None],
        unfinished: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self._clock = clock
        self._typed = typed
        self._pasted = pasted
        self._unfinished = unfinished
        self._held = bytearray()
        self._size = 0
        self._lines = 0
        self._timer: IDelayedCall | None = None

    def add(self, data: bytes) -> None:
        """This was read just now."""
        self._keep(data)
        self._wait(REST_TIME if self._lines > 1 else PASTE_INTERVAL, self._look_again)

    def flush(self) -> None:
        """Decide now what it was: no more input follows."""
        self.stop()
        if self._lines > 1:
            self._keep(self._unfinished())
        several, held = self._lines > 1, bytes(self._held)
        if self._size > MAX_PASTE:
            several, held = True, b""
        self._held.clear()
        self._size = self._lines = 0
        if several:
            self._pasted(held)
        elif held:
            self._typed(held)

    def stop(self) -> None:
        """Wait for nothing more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_PASTE:
            self._held += data
        self._lines += sum(1 for line in data.split(b"\n") if line.strip())

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self.stop()
        self._timer = self._clock.callLater(seconds, then)

    def _look_again(self) -> None:
        # A reactor that was busy calls what is due before it reads what has come meanwhile.
        self._wait(0, self.flush)
