"""
The part of a prompt that runs in its own thread: prompt_toolkit's application, and the lines above it.

To show a line above the prompt, the prompt is erased, the line is written straight to the terminal, and the
prompt is drawn again. prompt_toolkit's own `run_in_terminal` is not used, since it sets the terminal to line
mode meanwhile: a key that is pressed just then is echoed into the message, and Ctrl-C kills the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth
from twisted.internet.defer import Deferred

from punch.ui.terminal import toolkit
from punch.ui.terminal.input import MAX_PASTE, clean_paste
from punch.ui.terminal.lines_above_prompt import LinesAbovePrompt
from punch.ui.terminal.prompt import Complete, Fragments, PromptUser
from punch.ui.terminal.toolkit import (
    STYLE,
    Keyboard,
    Suggestions,
    WatchedSelector,
    common_start,
    key_bindings,
    layout,
)

#: Most characters of the line that is typed.
MAX_LINE = MAX_PASTE

#: No keys are read while so many lines were entered and not handled yet.
MAX_ENTERED = 64

#: Seconds between two checks of the terminal's size. It is checked, as SIGWINCH only reaches the main thread.
SIZE_INTERVAL = 0.25

#: Least time between two notifications, in seconds.
NOTICE_PAUSE = 1.0


class PromptLoop:
    """
    The part of a `Prompt` that runs in its thread. Other threads may only call `post`.

    :param tell: calls a function with the `PromptUser` in the reactor's thread.

    The other parameters are those of `Prompt`.
    """

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
        self._suggest = complete
        self._in_reactor = in_reactor
        self._posted: deque[Callable[[PromptLoop], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._context = contextvars.copy_context()
        self._prompt = "> "
        self._status: StyleAndTextTuples = []
        self._noticed = 0
        self._began = 0
        self._entered = 0
        self._full = False
        self._told_lines = False
        self._stdin = stdin
        self._stdout = stdout
        self._colour = colour
        self._term = term
        self._reflows = reflows
        self._focused = True
        self._notified = -NOTICE_PAUSE
        self.selector = WatchedSelector()
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
        """Call a function in the prompt's thread, in order, as soon as the loop runs."""
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
        self._above.end()

    # -- start and end --

    async def run(self) -> None:
        """Run the prompt until `leave`, or until the terminal was closed (EOFError)."""
        input_file = open(self._stdin, encoding="utf-8", closefd=False)  # noqa: SIM115
        output_file = open(self._stdout, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        self._input = Keyboard(input_file, self.selector, self._focus)
        self._modes = self._input.raw_mode()
        size = Vt100_Output.from_pty(output_file).get_size
        # enable_cpr=False: don't ask the terminal for the cursor's position, as the answer would come in
        # between typed keys.
        self._output = Vt100_Output(output_file, size, term=self._term, enable_cpr=False)
        self._app = app = Application[None](
            layout=layout(self._buffer, self._prefix, lambda: self._status),
            key_bindings=key_bindings(self._buffer, self),
            style=STYLE,
            input=self._input,
            output=self._output,
            color_depth=None if self._colour else ColorDepth.DEPTH_1_BIT,
            erase_when_done=True,
            terminal_size_polling_interval=None,
        )
        # Seconds to wait after Escape for the rest of a sequence: few enough not to be noticed.
        app.ttimeoutlen = 0.1
        self._above = LinesAbovePrompt(app, self._output, self._reflows, self._in_reactor)
        self._report_focus(True)
        try:
            await app.run_async(pre_run=self._begin, set_exception_handler=False, handle_sigint=False)
        finally:
            with contextlib.suppress(OSError):
                self._report_focus(False)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._broken)
        self._context = contextvars.copy_context()
        with self._lock:
            self._loop = loop
            waiting = bool(self._posted)
        if waiting:
            # Show what was posted before the prompt is drawn for the first time.
            self._do_posted()
        toolkit.watch(self._app, self._notice, self._above.erase_if_resized)
        self._app.create_background_task(self._watch_size())

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        toolkit.end(self._app, context.get("exception") or RuntimeError(str(context.get("message"))))

    def leave(self) -> None:
        """Remove the prompt, and end `run`."""
        self._above.end()
        toolkit.end(self._app)

    def suspend(self) -> None:
        self._above.away = True
        self._above.begin()
        self._above.end()
        self._above.forget()
        self._report_focus(False)
        self._modes.__exit__(None, None, None)
        # The reactor's thread stops the process, and with it this thread; it calls `refresh` afterwards.
        self._tell(lambda user: user.suspended())

    def refresh(self) -> None:
        """Set the modes and draw the prompt again, after the process was stopped."""
        self._modes.__enter__()
        self._above.away = False
        # The prompt may still be drawn: if another process has stopped this one, it was not erased.
        self._above.erase()
        self._above.forget()
        self._report_focus(True)
        self._app.invalidate()

    def _report_focus(self, wanted: bool) -> None:
        """Tell the terminal whether to report when it gains and loses the focus. Not all terminals can."""
        self._focused = True
        self._output.write_raw("\x1b[?1004h" if wanted else "\x1b[?1004l")
        self._output.flush()

    async def _watch_size(self) -> None:
        while True:
            await asyncio.sleep(SIZE_INTERVAL)
            if self._above.resized and not self._above.away:
                self._app.invalidate()

    # -- what is shown --

    def show(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """As `LinesAbovePrompt.show`."""
        self._above.show(number, text, key, shown)

    def replace(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """As `LinesAbovePrompt.replace`."""
        self._above.replace(number, text, key, shown)

    def put_beside(self, number: int, key: object, beside: str, alone: str | None) -> None:
        """As `LinesAbovePrompt.put_beside`."""
        self._above.put_beside(number, key, beside, alone)

    def notify(self, sequence: str) -> None:
        """
        Write the escape sequence of a notification, unless the terminal has the focus; at most once in
        `NOTICE_PAUSE` seconds.
        """
        now = asyncio.get_running_loop().time()
        if not self._focused and not self._above.away and now - self._notified >= NOTICE_PAUSE:
            self._notified = now
            self._output.write_raw(sequence)
            self._output.flush()

    def set_prompt(self, text: str) -> None:
        """As `Prompt.set_prompt`."""
        self._prompt = text
        self._app.invalidate()

    def set_status(self, fragments: Fragments) -> None:
        """As `Prompt.set_status`."""
        self._status = [
            (f"class:status.{look}" if look else "class:status", text) for look, text in fragments
        ]
        self._app.invalidate()

    def put_in_line(self, text: str) -> None:
        """As `Prompt.put_in_line`."""
        self._buffer.document = Document(text + self._buffer.text, len(text) + self._buffer.cursor_position)

    def set_history(self, lines: list[str]) -> None:
        """As `Prompt.set_history`."""
        self._history = lines
        typed = self._buffer.document
        self._buffer.history = InMemoryHistory(lines)
        self._buffer.reset(document=typed)

    # -- what is typed --

    def handled(self) -> None:
        """Note that the reactor's thread has handled a line."""
        self._entered -= 1
        if self._entered < MAX_ENTERED:
            self._input.release()

    def enter(self) -> None:
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
            self._began = self._above.seen

    def _notice(self) -> None:
        if self._noticed != self._above.seen:
            self._noticed = seen = self._above.seen
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
            self._above.say(f"The line is full at {MAX_LINE:,} characters: send it, then go on.")

    def pasted(self, text: str, length: int, marked: bool) -> None:
        if not marked and not self._told_lines and "\n" in clean_paste(text):
            self._told_lines = True
            self._above.say(
                "Several lines came at once: they stand in the line as one message. Enter sends it."
            )
        if not self._buffer.text:
            self._began = self._above.seen
        if length <= MAX_LINE - len(self._buffer.text):
            self._buffer.insert_text(clean_paste(text))
        elif text:
            self._say_full()
        else:
            self._above.say(
                f"What was pasted has {length:,} characters, and a line holds at most {MAX_LINE:,}: "
                "nothing of it was taken."
            )

    def complete(self) -> None:
        # The completions are computed here, at once, as prompt_toolkit ignores Tab while it computes them.
        document = self._buffer.document
        found = [] if self._choosing() else list(self._suggest(document.text_before_cursor))
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

    def interrupt(self) -> None:
        self._tell(lambda user: user.interrupted())

    def end_of_input(self) -> None:
        self._tell(lambda user: user.ended())

    def clear(self) -> None:
        """Clear the screen, except the prompt."""
        self._above.forget()
        self._app.renderer.clear()

    def _focus(self, focused: bool) -> None:
        self._focused = focused

    def _choosing(self) -> bool:
        """Whether an entry of the completion menu is selected."""
        state = self._buffer.complete_state
        return state is not None and state.current_completion is not None

    def _prefix(self, line: int, wrapped: int) -> StyleAndTextTuples:
        prompt = self._prompt
        columns = self._above.columns
        if get_cwidth(prompt) > columns // 2:
            prompt = "> "
        if line == 0 and wrapped == 0:
            return [("class:prompt", prompt)]
        return [("", " " * get_cwidth(prompt))]
