"""
The bottom of a terminal: the line that is typed, completions, and a status line, by prompt_toolkit.

It runs in a thread with an event loop of its own. `twistd` has chosen the reactor, and a terminal that holds
its output (a stopped tmux pane, a slow ssh) must not hold the reactor: what this thread waits for, nobody
else waits for. Calls cross by `call_soon_threadsafe` one way and by the reactor's `callFromThread` the other.
Nothing here knows of chats; `punch.ui.terminal` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, HSplit, Layout, VerticalAlign, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from punch.ui.keys import MAX_PASTE, KeySplitter, Pasted, tame

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

Fragments = Sequence[tuple[str, str]]
"""Text in parts, each with the name of its look: "", "good", "bad" or "dim"."""


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
    """

    def __init__(
        self,
        stdin: int,
        stdout: int,
        user: PromptUser,
        *,
        in_reactor: Callable[[Callable[[], None]], None],
        complete: Complete = lambda text: (),
        history: Iterable[str] = (),
        colour: bool = True,
        term: str = "xterm",
    ) -> None:
        self._user = user
        self._in_reactor = in_reactor
        self._numbers = 0
        self._over: Deferred[None] | None = None
        self._inside = _Inside(stdin, stdout, self._tell, in_reactor, complete, list(history), colour, term)
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)
        self._wanted = False
        self._running = False

    def start(self) -> None:
        """Take the terminal, as soon as there is something to show: a prompt alone has nothing to say."""
        self._wanted = True

    def _start(self) -> None:
        if self._wanted:
            self._wanted = False
            self._running = True
            self._thread.start()

    def show(self, text: str, key: object = None) -> tuple[int, Deferred[None]]:
        """
        One or more lines above the prompt, shown as they are: `text` must be harmless.

        :param key: names the line for `mark`.
        :return: its number (1, 2…), and when the terminal has it.
        """
        self._numbers += 1
        number = self._numbers
        shown: Deferred[None] = Deferred()
        self._inside.post(lambda inside: inside.show(number, text, key, shown))
        self._start()
        return number, shown

    def mark(self, key: object, beside: str, alone: str | None) -> None:
        """
        Put `beside` at the end of the line shown with `key` if it is the last and has room, instead of an
        earlier mark; else show the line `alone`.
        """
        self._numbers += 1
        number = self._numbers
        self._inside.post(lambda inside: inside.mark(number, key, beside, alone))

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
            asyncio.run(self._inside.run())
        except (EOFError, OSError):
            pass  # The terminal is gone.
        except BaseException:
            failure = Failure()  # type: ignore[no-untyped-call]
        self._in_reactor(lambda: self._ended(failure))

    def _ended(self, failure: Failure | None) -> None:
        self._running = False
        asked, self._over = self._over is not None, self._over or Deferred()
        if not self._over.called:
            self._over.callback(None)
        if not asked or failure is not None:
            self._user.lost(failure)

    def _tell(self, what: Callable[[PromptUser], None]) -> None:
        def tell() -> None:
            if self._over is None:
                what(self._user)

        self._in_reactor(tell)


class _Inside:
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
    ) -> None:
        self._tell = tell
        self._in_reactor = in_reactor
        self._posted: deque[Callable[[_Inside], None]] = deque()
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
        self._history = history
        self._buffer = Buffer(
            completer=_Completer(complete),
            complete_while_typing=Condition(lambda: self._buffer.text.startswith("/")),
            history=InMemoryHistory(history),
            multiline=True,
            on_text_changed=self._text_changed,
            on_text_insert=lambda _: self._check_length(),
        )

    # -- from any thread --

    def post(self, what: Callable[[_Inside], None]) -> None:
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
        self._input = _Keyboard(input_file)
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
        self._begin_drawing()
        self._end_drawing()
        self._last = None
        self._away = True
        self._modes.__exit__(None, None, None)
        # The other thread stops the process, and with it this one: `refresh` follows.
        self._tell(lambda user: user.suspended())

    def refresh(self) -> None:
        """Modes and prompt again."""
        self._modes.__enter__()
        if self._away:
            self._away = False
            self._app.renderer.reset()
        else:
            # It was stopped from elsewhere, or this is the second time.
            self._app.renderer.erase()
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
            if self._app.renderer.last_rendered_screen is not None:
                self._app.renderer.erase()

    def _end_drawing(self) -> None:
        if not self._drawing:
            return
        self._drawing = False
        self._output.flush()
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

    def _application(self) -> Application[None]:
        search = SearchToolbar()
        line = Window(
            BufferControl(self._buffer, search_buffer_control=search.control),
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
            terminal_size_polling_interval=SIZE_INTERVAL,
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

        @keys.add("c-c")
        def interrupt(event: KeyPressEvent) -> None:
            if self._buffer.text or not here():
                event.app.layout.focus(self._buffer)
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
            if self._buffer.complete_state:
                self._buffer.complete_next()
            else:
                self._buffer.start_completion(insert_common_part=True)

        @keys.add("s-tab", filter=here)
        def complete_back(event: KeyPressEvent) -> None:
            if self._buffer.complete_state:
                self._buffer.complete_previous()

        @keys.add(Keys.BracketedPaste, filter=here)
        def paste(event: KeyPressEvent) -> None:
            data = event.data
            self._pasted(data, data.length if isinstance(data, _Paste) else len(data))

        return keys


class _Paste(str):
    """The data of a key press that is a paste; `length` is how many characters it had."""

    length = 0


class _Keyboard(Vt100Input):
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
                paste = _Paste(piece.text)
                paste.length = piece.length
                self._buffer.append(KeyPress(Keys.BracketedPaste, paste))
            else:
                self.vt100_parser.feed(piece.text)
        keys, self._buffer = self._buffer, []
        return keys


class _Completer(Completer):
    """What `Complete` says, for prompt_toolkit."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        for suggestion in self._complete(document.text_before_cursor):
            yield Completion(
                suggestion.text,
                start_position=-suggestion.replaces,
                display_meta=suggestion.meaning,
            )


_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def _plain(text: str) -> str:
    """Without colours, to measure it."""
    return _ESCAPE.sub("", text)
