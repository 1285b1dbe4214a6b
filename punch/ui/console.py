"""
A front end together with the streams that it uses: JSON lines, plain lines, or a terminal with a line editor.

Which front end fits depends on what stdin and stdout are. That is found out when the service starts, since
twistd may replace them before, when it becomes a daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, succeed

from punch.apps.chat import Chat
from punch.ui.front_end import DRAIN_TIMEOUT, FrontEnd, StartOptions
from punch.ui.standard_streams import InputKind, StandardStreams, StreamDescriptors
from punch.ui.stdio import StdioFrontEnd
from punch.ui.terminal.escapes import takes_escapes
from punch.ui.terminal.input import PastedLines
from punch.ui.terminal.tty_modes import TerminalModes

if TYPE_CHECKING:
    from punch.ui.json.front_end import JSONFrontEnd


def _hint() -> str:
    # Imported here, as it takes long to find out what is installed, and the hint is rarely shown.
    from punch.extras import install_command_here

    return f"For line editing, history and a status line: {install_command_here('terminal')}"


class Console(Protocol):
    """
    A front end with its streams. At the end of the process, `close` is called first and `drain` last.
    """

    @property
    def front_end(self) -> FrontEnd:
        """The front end."""

    def close(self) -> Deferred[Any]:
        """Show nothing more, and restore the terminal. Fires when that is done."""

    def drain(self) -> Deferred[Any]:
        """Wait until the output was read, and restore the streams. Fires when that is done."""

    def restore(self) -> None:
        """Restore the terminal at once, for a process that ends without `close`."""


def open_console(reactor: Any, options: StartOptions, chat: Chat) -> Console:
    """Open the front end that fits stdin, stdout and the options, and attach it to the chat."""
    streams = StreamDescriptors.of_this_process()
    watched = streams.input_kind is InputKind.TERMINAL and streams.output_is_terminal
    modes = TerminalModes(streams.stdin, streams.stdout)
    takes = watched and takes_escapes(options.environ) and not options.json
    if takes and modes.known and find_spec("prompt_toolkit") is not None:
        # Imported here, as the import of JSONFrontEnd below: only the front end that is used is loaded.
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
    stdin and stdout, line by line: a `Console` for plain lines and for JSON lines.

    :param make: makes the front end that writes to these streams.
    :param modes: the modes of the terminal in which a person types, to recognize pastes of several lines;
        None: nobody types, or the input is JSON.
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
        """Wait until the output was read, at most `DRAIN_TIMEOUT` seconds, and restore the streams."""
        done: Deferred[None] = self._streams.written()
        done.addTimeout(DRAIN_TIMEOUT, self._reactor)
        return done.addBoth(lambda _: self._streams.restore())

    def restore(self) -> None:
        """Does nothing: the terminal's modes were not changed."""
