"""
The bottom of a terminal: the line that is typed, completions, and a status line, by prompt_toolkit.

It runs in a thread with an event loop of its own. `twistd` has chosen the reactor, and a terminal that holds
its output (a stopped tmux pane, a slow ssh) must not hold the reactor: nothing else waits for what this
thread waits for. Calls go one way by `call_soon_threadsafe`, and the other by the reactor's `callFromThread`.
Nothing here knows of chats; `punch.ui.terminal.front_end` does.
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
"""Text in parts, each with the name of its style: "", "good", "bad" or "dim"."""


@dataclass(frozen=True)
class Suggestion:
    """What a completion offers: `text` for the last `replaces` characters before the cursor."""

    text: str
    replaces: int
    meaning: str = ""


Complete = Callable[[str], Iterable[Suggestion]]


class PromptUser(Protocol):
    """Who is told what happens at the prompt, in the reactor's thread."""

    def entered(self, text: str, seen: int) -> None:
        """A line; when its first character was typed, `Prompt.show` number `seen` was the last one shown."""

    def ended(self) -> None:
        """Ctrl-D on an empty line."""

    def interrupted(self) -> None:
        """Ctrl-C on an empty line."""

    def suspended(self) -> None:
        """Ctrl-Z: stop the process, and call `Prompt.refresh` when it goes on."""

    def noticed(self, seen: int) -> None:
        """A person did something after `Prompt.show` number `seen` had been shown."""

    def lost(self, failure: Failure | None) -> None:
        """The terminal is gone, or (`failure`) the prompt can't go on."""


class Prompt:
    """
    A prompt at the bottom of a terminal, and lines that appear above it.

    Everything public is called in the reactor's thread and returns at once.

    :param in_reactor: runs a function in the reactor's thread (`callFromThread`).
    :param complete: what may follow the text before the cursor. It is called in the prompt's thread.
    :param history: lines for the arrow keys, oldest first.
    :param reflows: whether the terminal wraps anew what it shows when it becomes narrower.
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
        # Not earlier: prompt_toolkit takes long to load, and is an extra.
        from punch.ui.terminal.prompt_loop import PromptLoop

        self._inside = PromptLoop(
            stdin, stdout, self._tell, in_reactor, complete, list(history), colour, term, reflows
        )
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)
        self._wanted = False
        self._running = False

    def start(self, user: PromptUser) -> None:
        """
        Take the terminal, as soon as there is something to show.

        :param user: is told what happens at the prompt.
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
        One or more lines above the prompt, shown as they are: `text` must be harmless.

        :param key: names the line for `put_beside`.
        :return: its number (1, 2…), and when the terminal has it.
        """
        self._numbers += 1
        number = self._numbers
        shown: Deferred[None] = Deferred()
        self._inside.post(lambda inside: inside.show(number, text, key, shown))
        self._start()
        return number, shown

    def replace(self, text: str, key: object) -> tuple[int, Deferred[None]]:
        """As `show`, but instead of the last line if that has the same key and surely took one row."""
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
        Put `beside` at the end of the line shown with `key` if it is the last and has room, instead of an
        earlier state; else show the line `alone`.
        """
        self._numbers += 1
        number = self._numbers
        self._inside.post(lambda inside: inside.put_beside(number, key, beside, alone))

    def set_prompt(self, text: str) -> None:
        """What stands before the line."""
        self._inside.post(lambda inside: inside.set_prompt(text))

    def set_status(self, fragments: Fragments) -> None:
        """What stands below the line."""
        self._inside.post(lambda inside: inside.set_status(fragments))

    def put_in_line(self, text: str) -> None:
        """Give a text back to whoever typed it: into the line, before what is there."""
        self._inside.post(lambda inside: inside.put_in_line(text))

    def set_history(self, lines: Iterable[str]) -> None:
        """Other lines for the arrow keys."""
        kept = list(lines)
        self._inside.post(lambda inside: inside.set_history(kept))

    def refresh(self) -> None:
        """The process goes on after a stop: take the terminal again. May be called by a signal handler."""
        self._inside.post(lambda inside: inside.refresh())

    def stop(self) -> Deferred[None]:
        """Give the terminal back. Fires when that is done."""
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
            pass  # The terminal is gone.
        except BaseException:
            failure = Failure()  # type: ignore[no-untyped-call]
        self._in_reactor(lambda: self._ended(failure))

    def _loop(self) -> None:
        # As `asyncio.run`, which takes no loop of ours in Python 3.10.
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
