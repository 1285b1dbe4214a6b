"""stdin as prompt_toolkit reads it, with what it does not do well."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TextIO

from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

from punch.ui.keys import KeySplitter, Pasted


class Paste(str):
    """The data of a key press that is a paste; `length` is how many characters it had."""

    length = 0


class Keyboard(Vt100Input):
    """
    stdin as prompt_toolkit reads it, except that large pastes don't go through its parser, that reading can
    be held, and that a terminal that is gone is an end (prompt_toolkit takes that error for an interrupted
    call, and spins).
    """

    def __init__(self, stdin: TextIO) -> None:
        super().__init__(stdin)
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
        for piece in self._splitter.feed(data):
            if isinstance(piece, Pasted):
                paste = Paste(piece.text)
                paste.length = piece.length
                self._buffer.append(KeyPress(Keys.BracketedPaste, paste))
            else:
                self.vt100_parser.feed(piece.text)
        keys, self._buffer = self._buffer, []
        return keys
