"""What the keys of a prompt do, and how it is laid out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, has_focus, is_searching
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, HSplit, Layout, VerticalAlign, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import SearchToolbar

from punch.ui.terminal.keyboard import Paste

#: Rows that the line may take before it scrolls.
MAX_ROWS = 8

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


class KeyUser(Protocol):
    """Who is told of keys, in the prompt's thread."""

    def enter(self) -> None:
        """The line is complete."""

    def interrupt(self) -> None:
        """Ctrl-C on an empty line."""

    def end_of_input(self) -> None:
        """Ctrl-D on an empty line."""

    def suspend(self) -> None:
        """Ctrl-Z."""

    def clear(self) -> None:
        """Ctrl-L."""

    def complete(self) -> None:
        """Tab."""

    def pasted(self, text: str, length: int, marked: bool) -> None:
        """A paste came, of which `text` is kept."""


def layout(
    buffer: Buffer,
    prefix: Callable[[int, int], StyleAndTextTuples],
    status: Callable[[], StyleAndTextTuples],
) -> Layout:
    """The line that is typed, what is below it, and the status line."""
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
    """The keys that do something else than prompt_toolkit's own."""
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
