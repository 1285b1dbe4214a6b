"""
The front end of a process and what it stands on: stdin and stdout as a pipe or plain lines, or a terminal.

What stdin and stdout are is asked when the service starts: until then a daemon may still change them.
"""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, succeed

from punch.apps.chat import Chat
from punch.extras import install_command_here
from punch.ui import slash
from punch.ui.front_end import FrontEnd, FrontEndContext, Settings
from punch.ui.json.front_end import JSONFrontEnd
from punch.ui.standard_streams import InputKind, StandardStreams, StreamDescriptors
from punch.ui.stdio import StdioFrontEnd
from punch.ui.terminal.escapes import Style, reflows, takes_escapes
from punch.ui.terminal.front_end import TerminalFrontEnd
from punch.ui.terminal.input import PastedLines
from punch.ui.terminal.line_history import LineHistory
from punch.ui.terminal.prompt import Suggestion
from punch.ui.terminal.tty_modes import TerminalModes

if TYPE_CHECKING:
    from punch.ui.terminal.prompt import Prompt

#: How long the last output may take to be read, in seconds.
LAST_WORDS = 1.0

HINT = f"For line editing, history and a status line: {install_command_here('terminal')}"


@dataclass(frozen=True)
class StartOptions:
    """
    What the user asked for.

    :ivar json: events and commands as JSON lines.
    :ivar elapsed: seconds since the process started.
    :ivar typed_lines: where typed lines are kept, if they are.
    """

    settings: Settings
    surroundings: FrontEndContext
    environ: Mapping[str, str]
    elapsed: Callable[[], float]
    json: bool = False
    typed_lines: Path | None = None


class Console(Protocol):
    """A front end, from its first line to its last."""

    @property
    def front_end(self) -> FrontEnd:
        """The view."""

    def open(self, chat: Chat) -> None:
        """Show this chat."""

    def close(self) -> Deferred[Any]:
        """Show nothing more, and give a terminal back: the first thing at the end of the process."""

    def last_words(self) -> Deferred[Any]:
        """Let the output out, and give everything back: the last thing."""

    def rescue(self) -> None:
        """The process ends at once: leave a terminal as it was."""


def choose(reactor: Any, options: StartOptions) -> Console:
    """The face for the stdin and stdout of this process."""
    streams = StreamDescriptors.of_this_process()
    if options.json:
        return PlainConsole(
            reactor, streams, JSONFrontEnd(options.settings, options.surroundings, options.elapsed)
        )
    hint = None
    watched = streams.input_kind is InputKind.TERMINAL and streams.output_is_terminal
    modes = TerminalModes(streams.stdin, streams.stdout)
    if watched and takes_escapes(options.environ):
        if modes.known and find_spec("prompt_toolkit") is not None:
            return TerminalConsole(reactor, streams, modes, options)
        hint = HINT
    front_end = StdioFrontEnd(options.settings, options.surroundings, options.environ, hint, streams.encoding)
    if not watched:
        return PlainConsole(reactor, streams, front_end)
    pasted = PastedLines(
        reactor, front_end.input_received, front_end.paste_received, modes.take_unfinished_line
    )
    return PlainConsole(reactor, streams, front_end, pasted)


class PlainConsole:
    """
    stdin and stdout, line by line.

    :param pasted: in front of a front end that a person types to: finds pastes of several lines.
    """

    def __init__(
        self,
        reactor: Any,
        streams: StreamDescriptors,
        front_end: StdioFrontEnd | JSONFrontEnd,
        pasted: PastedLines | None = None,
    ) -> None:
        self._reading = front_end
        self._pasted = pasted
        self._reactor = reactor
        self._streams = streams
        self._console: StandardStreams | None = None

    @property
    def front_end(self) -> FrontEnd:
        """The view."""
        return self._reading

    def open(self, chat: Chat) -> None:
        """Read and write from now on."""
        front_end, streams = self._reading, self._streams
        received = front_end.input_received if self._pasted is None else self._pasted.add
        self._console = StandardStreams(
            self._reactor, streams, received, self._input_over, front_end.output_lost
        )
        front_end.attach(chat, self._console, streams.input_kind, streams.output_is_terminal)

    def _input_over(self) -> None:
        if self._pasted is not None:
            self._pasted.flush()
        self._reading.input_over()

    def close(self) -> Deferred[Any]:
        """There is nothing to give back yet."""
        if self._pasted is not None:
            self._pasted.stop()
        self.front_end.stopped()
        return succeed(None)

    def last_words(self) -> Deferred[Any]:
        """All that was written gets a moment to be read."""
        console = self._console
        if console is None:
            return succeed(None)
        done: Deferred[None] = console.written()
        done.addTimeout(LAST_WORDS, self._reactor)
        return done.addBoth(lambda _: console.restore())

    def rescue(self) -> None:
        """Nothing was changed that outlives the process."""


class TerminalConsole:
    """A terminal with a line editor."""

    def __init__(
        self, reactor: Any, streams: StreamDescriptors, modes: TerminalModes, options: StartOptions
    ) -> None:
        self.front_end = TerminalFrontEnd(
            options.settings, options.surroundings, LineHistory(options.typed_lines), options.environ
        )
        self._environ = options.environ
        self._reactor = reactor
        self._streams = streams
        self._modes = modes
        self._prompt: Prompt | None = None
        self._clean = True

    def open(self, chat: Chat) -> None:
        """Take the terminal."""
        # Not earlier: it takes long to load, and only terminals need it.
        from punch.ui.terminal.prompt import Prompt

        front_end = self.front_end
        self._prompt = prompt = Prompt(
            self._streams.stdin,
            self._streams.stdout,
            front_end,
            in_reactor=self._reactor.callFromThread,
            complete=lambda text: (Suggestion(*found) for found in slash.completions(text, front_end.names)),
            history=front_end.lines,
            colour=Style.choose(self._environ, True).colour,
            term=self._environ.get("TERM", ""),
            reflows=reflows(self._environ),
        )
        self._clean = False
        atexit.register(self.rescue)
        if threading.current_thread() is threading.main_thread():
            # Whoever stops and continues the process from elsewhere leaves the terminal's modes to us.
            signal.signal(signal.SIGCONT, lambda *_: self._reactor.callFromThread(prompt.refresh))
        front_end.attach_bottom(chat, prompt)
        prompt.start()

    def close(self) -> Deferred[Any]:
        """The prompt disappears, and the terminal is as it was."""
        self.front_end.stopped()
        if self._prompt is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred()

        def stopped(_: object) -> None:
            self._clean = True
            if not waiting.called:
                waiting.callback(None)

        self._prompt.stop().addCallback(stopped)
        # A terminal that holds its output holds the prompt's thread; not the process.
        waiting.addTimeout(LAST_WORDS, self._reactor)
        return waiting.addBoth(lambda _: self.rescue())

    def last_words(self) -> Deferred[Any]:
        """All was said when the prompt ended."""
        return succeed(None)

    def rescue(self) -> None:
        """The modes of the terminal, whatever the prompt's thread does."""
        self._modes.put_back(drawn=not self._clean)
