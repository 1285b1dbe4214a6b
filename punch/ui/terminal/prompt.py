"""
The bottom of a terminal: the line that is typed, completions, and a status line, drawn by prompt_toolkit.

prompt_toolkit needs asyncio, and the reactor that `twistd` has chosen may be another one. Also, a terminal
that takes no output (a stopped tmux pane, a slow ssh) must not block the reactor. So the prompt runs in a
thread with an event loop of its own. The reactor's thread calls it by `call_soon_threadsafe`, and it calls
back by the reactor's `callFromThread`. Nothing here knows of chats; `punch.ui.terminal.front_end` does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Fragments = Sequence[tuple[str, str]]
"""Text in parts, each of which is the name of a style ("", "good", "bad" or "dim") and the text."""


@dataclass(frozen=True)
class Suggestion:
    """One completion: `text` replaces the last `replaces` characters before the cursor."""

    text: str
    replaces: int
    meaning: str = ""


Complete = Callable[[str], Iterable[Suggestion]]


class PromptUser(Protocol):
    """Is told, in the reactor's thread, what the user does at the prompt."""

    def entered(self, text: str, seen: int) -> None:
        """
        A line was entered.

        :param seen: the number of the last `Prompt.show` when the first character of the line was typed.
        """

    def ended(self) -> None:
        """Ctrl-D was pressed on an empty line."""

    def interrupted(self) -> None:
        """Ctrl-C was pressed on an empty line."""

    def suspended(self) -> None:
        """Ctrl-Z was pressed: stop the process, and call `Prompt.refresh` when it was continued."""

    def noticed(self, seen: int) -> None:
        """A key was pressed after the `Prompt.show` with this number, for the first time since it."""

    def lost(self, failure: Failure | None) -> None:
        """The terminal was closed, or (with a failure) the prompt has failed."""


class Prompt:
    """
    A prompt at the bottom of a terminal, and lines that appear above it.

    All public methods are called in the reactor's thread and return at once.

    :param stdin: the descriptor to read keys from, and `stdout` the one to draw on.
    :param in_reactor: runs a function in the reactor's thread (`callFromThread`).
    :param complete: returns completions for the text before the cursor; called in the prompt's thread.
    :param history: lines for the arrow keys, oldest first.
    :param colour: whether to use colours.
    :param term: the value of `TERM`.
    :param reflows: whether the terminal wraps its lines again when it becomes narrower.
    """

    def __init__(
        self,
        stdin: int,
        stdout: int,
        *,
        in_reactor: Callable[[Callable[[], None]], None],
        complete: Complete = lambda text: (),
        history: Iterable[str] = (),
        colour: bool = True,
        term: str = "xterm",
        reflows: bool = True,
    ) -> None:
        self._user: PromptUser | None = None
        self._in_reactor = in_reactor
        self._numbers = 0
        self._over: Deferred[None] | None = None
        # Imported here, as prompt_toolkit takes long to load, and is an extra that may be missing.
        from punch.ui.terminal.prompt_loop import PromptLoop

        self._inside = PromptLoop(
            stdin, stdout, self._tell, in_reactor, complete, list(history), colour, term, reflows
        )
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)
        self._wanted = False
        self._running = False

    def start(self, user: PromptUser) -> None:
        """
        Draw the prompt as soon as there is something to show.

        :param user: is told what the user does at the prompt.
        """
        self._user = user
        self._wanted = True

    def _start(self) -> None:
        if self._wanted:
            self._wanted = False
            self._running = True
            self._thread.start()

    def show(self, text: str, key: object = None) -> tuple[int, Deferred[None]]:
        """
        Show a text of one or more lines above the prompt.

        :param text: is written as it is, so it must have been sanitized.
        :param key: names the line for `replace` and `put_beside`.
        :return: the number of this call (1, 2…), and a Deferred that fires when the text was written.
        """
        self._numbers += 1
        number = self._numbers
        shown: Deferred[None] = Deferred()
        self._inside.post(lambda inside: inside.show(number, text, key, shown))
        self._start()
        return number, shown

    def replace(self, text: str, key: object) -> tuple[int, Deferred[None]]:
        """As `show`, but replace the last line if it has the same key and surely took one row."""
        self._numbers += 1
        number = self._numbers
        shown: Deferred[None] = Deferred()
        self._inside.post(lambda inside: inside.replace(number, text, key, shown))
        self._start()
        return number, shown

    def notify(self, sequence: str) -> None:
        """Write an escape sequence that notifies the user, unless the terminal has the focus."""
        self._inside.post(lambda inside: inside.notify(sequence))

    def clear(self) -> None:
        """Clear the screen."""
        self._inside.post(lambda inside: inside.clear())

    def put_beside(self, key: object, beside: str, alone: str | None) -> None:
        """
        Show a state beside the line that was shown with `key`, in place of an earlier state, if that is the
        last line and has room.

        :param beside: the state, to be written behind the line.
        :param alone: the line that is shown otherwise; None: nothing is.
        """
        self._numbers += 1
        number = self._numbers
        self._inside.post(lambda inside: inside.put_beside(number, key, beside, alone))

    def set_prompt(self, text: str) -> None:
        """Set the text before the line that is typed."""
        self._inside.post(lambda inside: inside.set_prompt(text))

    def set_status(self, fragments: Fragments) -> None:
        """Set the status line, below the line that is typed."""
        self._inside.post(lambda inside: inside.set_status(fragments))

    def put_in_line(self, text: str) -> None:
        """Put a text into the line, before what the user has typed meanwhile."""
        self._inside.post(lambda inside: inside.put_in_line(text))

    def set_history(self, lines: Iterable[str]) -> None:
        """Replace the lines for the arrow keys."""
        kept = list(lines)
        self._inside.post(lambda inside: inside.set_history(kept))

    def refresh(self) -> None:
        """
        Set the terminal's modes and draw the prompt again, after the process was stopped and continued. A
        signal handler may call it.
        """
        self._inside.post(lambda inside: inside.refresh())

    def stop(self) -> Deferred[None]:
        """Remove the prompt, and restore the terminal. Fires when that is done."""
        self._wanted = False
        if self._over is None:
            self._over = Deferred()
            if self._running:
                self._inside.post(lambda inside: inside.leave())
            else:
                self._over.callback(None)
        return self._over

    def _run(self) -> None:
        failure: Failure | None = None
        try:
            self._loop()
        except (EOFError, OSError):
            pass  # The terminal was closed.
        except BaseException:
            failure = Failure()  # type: ignore[no-untyped-call]
        self._in_reactor(lambda: self._ended(failure))

    def _loop(self) -> None:
        # The same as `asyncio.run`, which can't use a given loop in Python 3.10.
        loop = asyncio.SelectorEventLoop(self._inside.selector)
        try:
            loop.run_until_complete(self._inside.run())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _ended(self, failure: Failure | None) -> None:
        self._running = False
        asked, self._over = self._over is not None, self._over or Deferred()
        if not self._over.called:
            self._over.callback(None)
        if not asked or failure is not None:
            assert self._user is not None
            self._user.lost(failure)

    def _tell(self, what: Callable[[PromptUser], None]) -> None:
        def tell() -> None:
            if self._over is None and self._user is not None:
                what(self._user)

        self._in_reactor(tell)
