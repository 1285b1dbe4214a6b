"""
The parts of a prompt for prompt_toolkit: keyboard, key bindings, layout and completion.

This is the only module that depends on prompt_toolkit's internals: how its input parses keys, what its
renderer has drawn, and how an application ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus, is_searching
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, HSplit, Layout, VerticalAlign, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import SearchToolbar

from punch.ui.terminal.input import (
    FOCUS_IN,
    FOCUS_OUT,
    Focus,
    KeySplitter,
    Pasted,
)
from punch.ui.terminal.prompt import Complete

MAX_ROWS = 8
"""Rows that the line may take before it scrolls."""

STYLE = Style.from_dict(
    {
        "prompt": "bold",
        "status": "noinherit",
        "status.good": "fg:ansigreen",
        "status.bad": "fg:ansired",
        "status.dim": "fg:ansibrightblack",
        "completion-menu": "noinherit",
        "completion-menu.completion": "noinherit",
        "completion-menu.completion.current": "reverse",
        "completion-menu.meta.completion": "noinherit fg:ansibrightblack",
        "completion-menu.meta.completion.current": "reverse",
        "scrollbar.background": "noinherit",
        "scrollbar.button": "noinherit",
        "search-toolbar": "noinherit",
    }
)


# -- the keyboard --


class Paste(str):
    """
    A paste, as the data of a prompt_toolkit key press. `length` and `marked` are those of `Pasted`.
    """

    length = 0
    marked = True


class WatchedSelector(selectors.DefaultSelector):
    """
    A selector that tells whether the event loop had to wait. If so, the input that it got came all at once.

    :ivar waited: whether nothing was ready at the last `select`, so that it waited.
    """

    waited = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        self.waited = not found and timeout != 0
        return super().select(timeout) if self.waited else found


# prompt_toolkit's parser gets these if they came in pieces, so that `KeySplitter` did not recognize them.
ANSI_SEQUENCES.setdefault(FOCUS_IN, Keys.Ignore)
ANSI_SEQUENCES.setdefault(FOCUS_OUT, Keys.Ignore)


class Keyboard(Vt100Input):
    """
    The input of prompt_toolkit, with these differences:

    * Large pastes don't go through its parser, and several lines that come at once are a paste, too.
    * Reading can be held and released.
    * `focus` is told whether the terminal has the focus.
    * When the terminal was closed, the input ends. prompt_toolkit takes the error for an interrupted call,
      and tries again without end.
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
        """Stop reading until `release`."""
        if not self._held:
            self._held = True
            self._listen()

    def release(self) -> None:
        """Read again after `hold`."""
        if self._held:
            self._held = False
            # What can be read now was typed over some time, so it is not a paste.
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


# -- keys and layout --


class KeyUser(Protocol):
    """Is told of keys, in the prompt's thread."""

    def enter(self) -> None:
        """Enter was pressed."""

    def interrupt(self) -> None:
        """Ctrl-C was pressed on an empty line."""

    def end_of_input(self) -> None:
        """Ctrl-D was pressed on an empty line."""

    def suspend(self) -> None:
        """Ctrl-Z was pressed."""

    def clear(self) -> None:
        """Ctrl-L was pressed."""

    def complete(self) -> None:
        """Tab was pressed."""

    def pasted(self, text: str, length: int, marked: bool) -> None:
        """A text was pasted; for the parameters see `Pasted`."""


def layout(
    buffer: Buffer,
    prefix: Callable[[int, int], StyleAndTextTuples],
    status: Callable[[], StyleAndTextTuples],
) -> Layout:
    """
    Return the layout: the line that is typed, the search, the completion menu, and the status line.

    :param prefix: returns what stands before a row of the line, as prompt_toolkit's `get_line_prefix`.
    """
    search = SearchToolbar()
    line = Window(
        BufferControl(buffer, search_buffer_control=search.control, preview_search=True),
        height=Dimension(min=1, max=MAX_ROWS),
        wrap_lines=True,
        dont_extend_height=True,
        get_line_prefix=prefix,
    )
    bottom = Window(FormattedTextControl(status), height=1, style="class:status", dont_extend_height=True)
    menu = CompletionsMenu(max_height=8, scroll_offset=1)
    return Layout(HSplit([line, search, menu, bottom], align=VerticalAlign.TOP), focused_element=line)


def key_bindings(buffer: Buffer, user: KeyUser) -> KeyBindings:
    """Return the key bindings that differ from prompt_toolkit's own."""
    keys = KeyBindings()
    here = has_focus(buffer)
    empty = Condition(lambda: not buffer.text)

    @keys.add("enter", filter=here)
    def enter(event: KeyPressEvent) -> None:
        user.enter()

    @keys.add("escape", "enter", filter=here)
    def newline(event: KeyPressEvent) -> None:
        buffer.newline(copy_margin=False)

    @keys.add("c-c", filter=~is_searching)
    def interrupt(event: KeyPressEvent) -> None:
        if buffer.text:
            buffer.reset()
        else:
            user.interrupt()

    @keys.add("c-d", filter=here & empty)
    def end(event: KeyPressEvent) -> None:
        user.end_of_input()

    @keys.add("c-z")
    def suspend(event: KeyPressEvent) -> None:
        user.suspend()

    @keys.add("c-l")
    def clear(event: KeyPressEvent) -> None:
        user.clear()

    @keys.add("tab", filter=here)
    def complete(event: KeyPressEvent) -> None:
        user.complete()

    @keys.add("s-tab", filter=here)
    def complete_back(event: KeyPressEvent) -> None:
        if buffer.complete_state:
            buffer.complete_previous()

    @keys.add(Keys.BracketedPaste, filter=here)
    def paste(event: KeyPressEvent) -> None:
        data = event.data
        if isinstance(data, Paste):
            user.pasted(data, data.length, data.marked)
        else:
            user.pasted(data, len(data), True)

    return keys


# -- completion --


class Suggestions(Completer):
    """Passes the completions of `complete` to prompt_toolkit's menu."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        for suggestion in self._complete(document.text_before_cursor):
            yield Completion(
                suggestion.text,
                start_position=-suggestion.replaces,
                display_meta=suggestion.meaning,
            )


def common_start(texts: list[str]) -> str:
    """Return the longest text with which all of them begin."""
    first, last = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


# -- the application's internals --

Cells = list[tuple[str, int]]
"""The characters of a row, each with the number of columns that it takes."""


def drawn_rows(app: Application[None]) -> tuple[list[Cells], tuple[int, int]] | None:
    """
    Return the rows of the prompt that are drawn now, from the first to the cursor's.

    :return: the rows, without the spaces at their ends, which are not drawn; and the row and column of the
        cursor, from 0. None if nothing is drawn.
    """
    screen = app.renderer.last_rendered_screen
    if screen is None:
        return None
    cursor = screen.get_cursor_position(app.layout.current_window)
    rows = []
    for number in range(cursor.y + 1):
        row = screen.data_buffer[number]
        end = max((column for column, cell in row.items() if cell.char != " "), default=-1) + 1
        rows.append([(row[column].char, row[column].width) for column in range(end)])
    return rows, (cursor.y, cursor.x)


def watch(app: Application[None], key_pressed: Callable[[], None], drawing: Callable[[], None]) -> None:
    """Call `key_pressed` before each key is handled, and `drawing` each time before the prompt is drawn."""
    app.key_processor.before_key_press += lambda _: key_pressed()
    app.before_render += lambda _: drawing()


def end(app: Application[None], error: BaseException | None = None) -> None:
    """End an application, with an exception if one is given. Does nothing if it has ended."""
    future = app.future
    if future is None or future.done():
        return
    if error is not None:
        future.set_exception(error)
    elif app.is_running:
        app.exit()
