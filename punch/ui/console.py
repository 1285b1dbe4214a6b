"""
The front end of a process with its streams: stdin and stdout as a pipe or plain lines, or a terminal.

What stdin and stdout are is determined when the service starts: until then a daemon may still change them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, succeed

from punch.apps.chat import Chat
from punch.ui.front_end import FrontEnd, FrontEndContext, Settings
from punch.ui.standard_streams import InputKind, StandardStreams, StreamDescriptors
from punch.ui.stdio import StdioFrontEnd
from punch.ui.terminal.escapes import takes_escapes
from punch.ui.terminal.input import PastedLines
from punch.ui.terminal.tty_modes import TerminalModes

if TYPE_CHECKING:
    from punch.ui.json.front_end import JSONFrontEnd

#: Seconds that the last output may take to be read.
DRAIN_TIMEOUT = 1.0


def _hint() -> str:
    # Reading what is installed takes long, and few need the hint.
    from punch.extras import install_command_here

    return f"For line editing, history and a status line: {install_command_here('terminal')}"


@dataclass(frozen=True)
class StartOptions:
    """
    What the user asked for.

    :ivar json: events and commands as JSON lines.
    :ivar elapsed: seconds since the process started.
    :ivar typed_lines: where typed lines are kept, if they are.
    """

    settings: Settings
    context: FrontEndContext
    environ: Mapping[str, str]
    elapsed: Callable[[], float]
    json: bool = False
    typed_lines: Path | None = None


class Console(Protocol):
    """
    A front end with its streams, from its first line to its last.

    :ivar front_end: the view.
    """

    @property
    def front_end(self) -> FrontEnd:
        """The view."""

    def close(self) -> Deferred[Any]:
        """Show nothing more, and give a terminal back: the first thing at the end of the process."""

    def drain(self) -> Deferred[Any]:
        """Wait for the output to be read, and give everything back: the last thing."""

    def restore(self) -> None:
        """The process ends at once: leave a terminal as it was."""


def open_console(reactor: Any, options: StartOptions, chat: Chat) -> Console:
    """Show the chat on stdin and stdout of this process, as they are and as the user wants it."""
    streams = StreamDescriptors.of_this_process()
    watched = streams.input_kind is InputKind.TERMINAL and streams.output_is_terminal
    modes = TerminalModes(streams.stdin, streams.stdout)
    takes = watched and takes_escapes(options.environ) and not options.json
    if takes and modes.known and find_spec("prompt_toolkit") is not None:
        # Only the front end that is used is loaded, here and below
        from punch.ui.terminal.front_end import TerminalConsole

        return TerminalConsole(reactor, streams, modes, options, chat)

    def make(output: StandardStreams) -> StdioFrontEnd | JSONFrontEnd:
        settings, context, kind = options.settings, options.context, streams.input_kind
        if options.json:
            from punch.ui.json.front_end import JSONFrontEnd

            return JSONFrontEnd(settings, context, chat, output, kind, options.elapsed)
        return StdioFrontEnd(
            settings,
            context,
            chat,
            output,
            kind,
            terminal=streams.output_is_terminal,
            environ=options.environ,
            hint=_hint() if takes else None,
            encoding=streams.encoding,
        )

    return PlainConsole(reactor, streams, make, modes if watched and not options.json else None)


class PlainConsole:
    """
    stdin and stdout, line by line.

    :param make: makes the front end that writes to these streams.
    :param modes: of the terminal in which a person types, to find pastes of several lines; None: it is none.
    """

    def __init__(
        self,
        reactor: Any,
        streams: StreamDescriptors,
        make: Callable[[StandardStreams], StdioFrontEnd | JSONFrontEnd],
        modes: TerminalModes | None,
    ) -> None:
        self._reactor = reactor
        self._streams = StandardStreams(
            reactor,
            streams,
            self._received,
            self._input_over,
            lambda: self.front_end.view.output_lost(failed=streams.output_is_file),
        )
        self.front_end = make(self._streams)
        self._pasted: PastedLines | None = None
        if modes is not None and isinstance(self.front_end, StdioFrontEnd):
            self._pasted = PastedLines(
                reactor,
                self.front_end.input_received,
                self.front_end.paste_received,
                modes.take_unfinished_line,
            )

    def _received(self, data: bytes) -> None:
        if self._pasted is None:
            self.front_end.input_received(data)
        else:
            self._pasted.add(data)

    def _input_over(self) -> None:
        if self._pasted is not None:
            self._pasted.flush()
        self.front_end.input_over()

    def close(self) -> Deferred[Any]:
        """Show nothing more."""
        if self._pasted is not None:
            self._pasted.stop()
        self.front_end.view.exit.stop()
        return succeed(None)

    def drain(self) -> Deferred[Any]:
        """Wait for the output to be read, at most `DRAIN_TIMEOUT` seconds."""
        done: Deferred[None] = self._streams.written()
        done.addTimeout(DRAIN_TIMEOUT, self._reactor)
        return done.addBoth(lambda _: self._streams.restore())

    def restore(self) -> None:
        """Does nothing: no mode was changed that would outlive the process."""
