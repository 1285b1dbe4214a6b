"""stdin as prompt_toolkit reads it, with what it does not do well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TextIO

from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

from punch.ui.terminal.keys import (
    FOCUS_IN,
    FOCUS_OUT,
    Focus,
    KeySplitter,
    Pasted,
)


class Paste(str):
    """
    The data of a key press that is a paste; `length` is how many characters it had, and `marked` whether the
    terminal said that it is one.
    """

    length = 0
    marked = True


class WatchedSelector(selectors.DefaultSelector):
    """
    Knows how a loop came to its turn.

    :ivar waited: nothing had been there when the loop last looked, and it waited for what it has now.
    """

    waited = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        self.waited = not found and timeout != 0
        return super().select(timeout) if self.waited else found


#: Where the keyboard does not split them off since they came in pieces.
ANSI_SEQUENCES.setdefault(FOCUS_IN, Keys.Ignore)
ANSI_SEQUENCES.setdefault(FOCUS_OUT, Keys.Ignore)


class Keyboard(Vt100Input):
    """
    stdin as prompt_toolkit reads it, except that large pastes don't go through its parser, that reading can
    be held, that several lines at once are a paste, that `focus` is told whether somebody looks, and that a
    terminal that is gone is an end (prompt_toolkit takes that error for an interrupted call, and spins).
    """

    def __init__(
        self, stdin: TextIO, selector: WatchedSelector, focus: Callable[[bool], None] = lambda gained: None
    ) -> None:
        super().__init__(stdin)
        self._selector = selector
        self._focus = focus
        self._late = True
        self._descriptor = stdin.fileno()
        self._splitter = KeySplitter()
        self._gone = False
        self._held = False
        self._ready: Callable[[], None] | None = None

    @property
    def closed(self) -> bool:
        return self._gone

    def attach(self, input_ready_callback: Callable[[], None]) -> AbstractContextManager[None]:
        return self._attached(input_ready_callback)

    def detach(self) -> AbstractContextManager[None]:
        return self._attached(None)

    @contextlib.contextmanager
    def _attached(self, ready: Callable[[], None] | None) -> Iterator[None]:
        before, self._ready = self._ready, ready
        self._listen()
        try:
            yield
        finally:
            self._ready = before
            self._listen()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._ready is None or self._held or self._gone:
            loop.remove_reader(self._descriptor)
        else:
            loop.add_reader(self._descriptor, self._ready)

    def hold(self) -> None:
        """Read no more for now."""
        if not self._held:
            self._held = True
            self._listen()

    def go_on(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            # What is there by now was typed bit by bit.
            self._late = True
            self._listen()

    def read_keys(self) -> list[KeyPress]:
        try:
            data = os.read(self._descriptor, 65536 if self._splitter.pasting else 4096)
        except (InterruptedError, BlockingIOError):
            return []
        except OSError:
            data = b""
        if not data:
            self._gone = True
            self._listen()
            return []
        at_once, self._late = self._selector.waited and not self._late, False
        for piece in self._splitter.feed(data, time.monotonic(), at_once):
            if isinstance(piece, Focus):
                self._focus(piece.gained)
            elif isinstance(piece, Pasted):
                paste = Paste(piece.text)
                paste.length = piece.length
                paste.marked = piece.marked
                self._buffer.append(KeyPress(Keys.BracketedPaste, paste))
            else:
                self.vt100_parser.feed(piece.text)
        keys, self._buffer = self._buffer, []
        return keys
