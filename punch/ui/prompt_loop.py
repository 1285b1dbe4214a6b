"""
The part of a prompt that lives in its own thread: prompt_toolkit's application, and what is shown above it.

The lines above it are written straight to the terminal between erasing the prompt and drawing it again.
prompt_toolkit's own `run_in_terminal` puts the terminal back into its line mode meanwhile, where a key that
is pressed just then is echoed into the message, and Ctrl-C kills the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus, is_searching
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, HSplit, Layout, VerticalAlign, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar
from twisted.internet.defer import Deferred

from punch.ui.keyboard import Keyboard, Paste
from punch.ui.keys import MAX_PASTE, tame
from punch.ui.prompt_completion import Suggestions, common_start
from punch.ui.prompt_user import Complete, Fragments, PromptUser
from punch.ui.reflow import rows_above

#: Most characters of the line that is typed.
MAX_LINE = MAX_PASTE

#: Rows that the line may take before it scrolls.
MAX_ROWS = 8

#: Lines that were entered and not handled yet, before no more keys are read.
MAX_ENTERED = 64

#: How often the size of the terminal is looked at, in seconds: signals go to another thread.
SIZE_INTERVAL = 0.25

_STYLE = Style.from_dict(
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


class PromptLoop:
    """The part of a `Prompt` that lives in its thread. Only `post` is called from another one."""

    def __init__(
        self,
        stdin: int,
        stdout: int,
        tell: Callable[[Callable[[PromptUser], None]], None],
        in_reactor: Callable[[Callable[[], None]], None],
        complete: Complete,
        history: list[str],
        colour: bool,
        term: str,
        reflows: bool,
    ) -> None:
        self._tell = tell
        self._complete = complete
        self._in_reactor = in_reactor
        self._posted: deque[Callable[[PromptLoop], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._context = contextvars.copy_context()
        self._prompt = "> "
        self._status: StyleAndTextTuples = []
        self._seen = 0
        self._noticed = 0
        self._began = 0
        self._entered = 0
        self._last: tuple[object, str, int] | None = None
        self._written: list[Deferred[None]] = []
        self._drawing = False
        self._away = False
        self._full = False
        self._stdin = stdin
        self._stdout = stdout
        self._colour = colour
        self._term = term
        self._reflows = reflows
        self._size: Size | None = None
        self._history = history
        self._buffer = Buffer(
            completer=Suggestions(complete),
            complete_while_typing=Condition(lambda: self._buffer.text.startswith("/")),
            history=InMemoryHistory(history),
            multiline=True,
            on_text_changed=self._text_changed,
            on_text_insert=lambda _: self._check_length(),
        )

    # -- from any thread --

    def post(self, what: Callable[[PromptLoop], None]) -> None:
        """Do this in the prompt's thread, in order, as soon as it runs."""
        with self._lock:
            idle = not self._posted
            self._posted.append(what)
            if self._loop is not None and idle:
                with contextlib.suppress(RuntimeError):  # The loop has ended.
                    self._loop.call_soon_threadsafe(self._do_posted, context=self._context)

    def _do_posted(self) -> None:
        while True:
            with self._lock:
                if not self._posted:
                    break
                what = self._posted[0]
            what(self)
            with self._lock:
                self._posted.popleft()
        self._end_drawing()

    # -- life --

    async def run(self) -> None:
        """Until `leave`, or until the terminal is gone (EOFError)."""
        input_file = open(self._stdin, encoding="utf-8", closefd=False)  # noqa: SIM115
        output_file = open(self._stdout, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        self._input = Keyboard(input_file)
        self._modes = self._input.raw_mode()
        size = Vt100_Output.from_pty(output_file).get_size
        # Without asking where the cursor is: answers would come in between what is typed.
        self._output = Vt100_Output(output_file, size, term=self._term, enable_cpr=False)
        self._app = self._application()
        await self._app.run_async(pre_run=self._begin, set_exception_handler=False, handle_sigint=False)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._broken)
        self._context = contextvars.copy_context()
        with self._lock:
            self._loop = loop
            waiting = bool(self._posted)
        if waiting:
            # Before the prompt is drawn for the first time.
            self._do_posted()
        self._app.key_processor.before_key_press += lambda _: self._notice()
        self._app.before_render += lambda _: self._mind_size()
        self._app.create_background_task(self._watch_size())

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception") or RuntimeError(str(context.get("message")))
        future = self._app.future
        if future is not None and not future.done():
            future.set_exception(error)

    def leave(self) -> None:
        """End; the prompt disappears."""
        self._end_drawing()
        if self._app.is_running and self._app.future is not None and not self._app.future.done():
            self._app.exit()

    def _suspend(self) -> None:
        self._away = True
        self._begin_drawing()
        self._end_drawing()
        self._last = None
        self._modes.__exit__(None, None, None)
        # The other thread stops the process, and with it this one: `refresh` follows.
        self._tell(lambda user: user.suspended())

    def refresh(self) -> None:
        """Modes and prompt again."""
        self._modes.__enter__()
        self._away = False
        # It was stopped from elsewhere, or was quick enough to draw itself.
        self._erase()
        self._last = None
        self._app.invalidate()

    # -- what is shown --

    def show(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """Above the prompt."""
        self._begin_drawing()
        self._output.write_raw(text.replace("\n", "\r\n") + "\r\n")
        self._seen = number
        self._last = None if key is None or "\n" in text else (key, text, self._columns())
        self._written.append(shown)

    def mark(self, number: int, key: object, beside: str, alone: str | None) -> None:
        """Beside a line, or alone."""
        last = self._last
        if last is not None and last[0] == key and self._fits(last[1], beside, last[2]):
            self._begin_drawing()
            self._output.write_raw(f"\x1b[A\r\x1b[2K{last[1]}{beside}\r\n")
        elif alone is not None:
            self._begin_drawing()
            self._output.write_raw(alone.replace("\n", "\r\n") + "\r\n")
            self._last = None
            self._seen = number

    def _fits(self, text: str, beside: str, columns: int) -> bool:
        return self._columns() == columns and get_cwidth(_plain(text + beside)) < columns

    def _columns(self) -> int:
        return self._output.get_size().columns

    def set_prompt(self, text: str) -> None:
        """Before the line."""
        self._prompt = text
        self._app.invalidate()

    def set_status(self, fragments: Fragments) -> None:
        """Below the line."""
        self._status = [
            (f"class:status.{look}" if look else "class:status", text) for look, text in fragments
        ]
        self._app.invalidate()

    def put_in_line(self, text: str) -> None:
        """Before what is in the line."""
        self._buffer.document = Document(text + self._buffer.text, len(text) + self._buffer.cursor_position)

    def set_history(self, lines: list[str]) -> None:
        """For the arrow keys."""
        self._history = lines
        typed = self._buffer.document
        self._buffer.history = InMemoryHistory(lines)
        self._buffer.reset(document=typed)

    def _begin_drawing(self) -> None:
        if not self._drawing:
            self._drawing = True
            self._erase()

    def _erase(self) -> None:
        """Take the prompt away as it stands there now."""
        screen = self._app.renderer.last_rendered_screen
        if screen is None:
            return
        cursor = screen.get_cursor_position(self._app.layout.current_window)
        if self._reflows:
            rows = [_widths(screen.data_buffer[row]) for row in range(cursor.y + 1)]
            self._output.cursor_up(rows_above(rows, cursor.x, self._columns()) - cursor.y)
        self._app.renderer.erase()

    def _mind_size(self) -> None:
        """Before it is drawn: not over what was drawn for another size."""
        size = self._output.get_size()
        if size != self._size:
            self._size = size
            self._erase()

    async def _watch_size(self) -> None:
        while True:
            await asyncio.sleep(SIZE_INTERVAL)
            if self._output.get_size() != self._size and not self._away:
                self._app.invalidate()

    def _end_drawing(self) -> None:
        if not self._drawing:
            return
        self._drawing = False
        self._output.flush()
        if not self._away:
            self._app.invalidate()
        written, self._written = self._written, []

        def fire() -> None:
            for deferred in written:
                deferred.callback(None)

        if written:
            self._in_reactor(fire)

    # -- what is typed --

    def handled(self) -> None:
        """The other thread has had a line."""
        self._entered -= 1
        if self._entered < MAX_ENTERED:
            self._input.go_on()

    def _enter(self) -> None:
        text = self._buffer.text
        if text.strip() and (not self._history or self._history[-1] != text):
            self._history.append(text)
            self._buffer.history.append_string(text)
        self._buffer.reset()
        self._entered += 1
        if self._entered >= MAX_ENTERED:
            self._input.hold()
        began = self._began

        def tell(user: PromptUser) -> None:
            try:
                user.entered(text, began)
            finally:
                self.post(lambda inside: inside.handled())

        self._tell(tell)

    def _text_changed(self, _: object) -> None:
        if len(self._buffer.text) <= 1:
            self._began = self._seen

    def _notice(self) -> None:
        if self._noticed != self._seen:
            self._noticed = seen = self._seen
            self._tell(lambda user: user.noticed(seen))

    def _check_length(self) -> None:
        if len(self._buffer.text) > MAX_LINE:
            before = self._buffer.document
            cursor = min(before.cursor_position, MAX_LINE)
            self._buffer.document = Document(before.text[:MAX_LINE], cursor)
            self._say_full()
        else:
            self._full = False

    def _say_full(self) -> None:
        if not self._full:
            self._full = True
            self._say(f"The line is full at {MAX_LINE:,} characters: send it, then go on.")

    def _pasted(self, text: str, length: int) -> None:
        if not self._buffer.text:
            self._began = self._seen
        if length <= MAX_LINE - len(self._buffer.text):
            self._buffer.insert_text(tame(text))
        elif text:
            self._say_full()
        else:
            self._say(
                f"What was pasted has {length:,} characters, and a line holds at most {MAX_LINE:,}: "
                "nothing of it was taken."
            )

    def _say(self, text: str) -> None:
        self._begin_drawing()
        self._output.write_raw(text + "\r\n")
        self._last = None
        self._end_drawing()

    def _complete_now(self) -> None:
        # At once: prompt_toolkit ignores the key while it looks for completions by itself.
        document = self._buffer.document
        found = [] if self._choosing() else list(self._complete(document.text_before_cursor))
        if not found:
            self._buffer.complete_next()
            return
        typed = document.text_before_cursor[len(document.text_before_cursor) - found[0].replaces :]
        common = common_start([suggestion.text.lower() for suggestion in found])
        if len(found) == 1 or len(common) > len(typed):
            self._buffer.delete_before_cursor(found[0].replaces)
            self._buffer.insert_text(found[0].text[: len(common)])
        elif self._buffer.complete_state:
            self._buffer.complete_next()
        else:
            self._buffer.start_completion(select_first=True)

    def _choosing(self) -> bool:
        """Whether a line of the menu is chosen."""
        state = self._buffer.complete_state
        return state is not None and state.current_completion is not None

    def _application(self) -> Application[None]:
        search = SearchToolbar()
        line = Window(
            BufferControl(self._buffer, search_buffer_control=search.control, preview_search=True),
            height=Dimension(min=1, max=MAX_ROWS),
            wrap_lines=True,
            dont_extend_height=True,
            get_line_prefix=self._prefix,
        )
        status = Window(
            FormattedTextControl(lambda: self._status),
            height=1,
            style="class:status",
            dont_extend_height=True,
        )
        below = HSplit(
            [line, search, CompletionsMenu(max_height=8, scroll_offset=1), status], align=VerticalAlign.TOP
        )
        app: Application[None] = Application(
            layout=Layout(below, focused_element=line),
            key_bindings=self._keys(),
            style=_STYLE,
            input=self._input,
            output=self._output,
            color_depth=None if self._colour else ColorDepth.DEPTH_1_BIT,
            erase_when_done=True,
            terminal_size_polling_interval=None,
        )
        # After Escape, keys are waited for as long as people wait.
        app.ttimeoutlen = 0.1
        return app

    def _prefix(self, line: int, wrapped: int) -> StyleAndTextTuples:
        prompt = self._prompt
        columns = self._columns()
        if get_cwidth(prompt) > columns // 2:
            prompt = "> "
        if line == 0 and wrapped == 0:
            return [("class:prompt", prompt)]
        return [("", " " * get_cwidth(prompt))]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        here = has_focus(self._buffer)
        empty = Condition(lambda: not self._buffer.text)

        @keys.add("enter", filter=here)
        def enter(event: KeyPressEvent) -> None:
            self._enter()

        @keys.add("escape", "enter", filter=here)
        def newline(event: KeyPressEvent) -> None:
            self._buffer.newline(copy_margin=False)

        @keys.add("c-c", filter=~is_searching)
        def interrupt(event: KeyPressEvent) -> None:
            if self._buffer.text:
                self._buffer.reset()
            else:
                self._tell(lambda user: user.interrupted())

        @keys.add("c-d", filter=here & empty)
        def end(event: KeyPressEvent) -> None:
            self._tell(lambda user: user.ended())

        @keys.add("c-z")
        def suspend(event: KeyPressEvent) -> None:
            self._suspend()

        @keys.add("c-l")
        def clear(event: KeyPressEvent) -> None:
            self._last = None
            event.app.renderer.clear()

        @keys.add("tab", filter=here)
        def complete(event: KeyPressEvent) -> None:
            self._complete_now()

        @keys.add("s-tab", filter=here)
        def complete_back(event: KeyPressEvent) -> None:
            if self._buffer.complete_state:
                self._buffer.complete_previous()

        @keys.add(Keys.BracketedPaste, filter=here)
        def paste(event: KeyPressEvent) -> None:
            data = event.data
            self._pasted(data, data.length if isinstance(data, Paste) else len(data))

        return keys


_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def _widths(row: Mapping[int, Char]) -> list[int]:
    """Of the characters of a row that were drawn: spaces at its end are not."""
    end = max((column for column, cell in row.items() if cell.char != " "), default=-1) + 1
    return [row[column].width for column in range(end)]


def _plain(text: str) -> str:
    """Without colours, to measure it."""
    return _ESCAPE.sub("", text)
