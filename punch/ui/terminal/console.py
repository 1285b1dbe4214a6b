"""The console of a terminal: a line editor at the bottom, and what happens above it."""

from __future__ import annotations

import atexit
import signal
import threading
from typing import Any

from twisted.internet.defer import Deferred, succeed

from punch.apps.chat import Chat
from punch.ui import slash
from punch.ui.console import DRAIN_TIMEOUT, StartOptions
from punch.ui.standard_streams import StreamDescriptors
from punch.ui.terminal.escapes import Style, reflows
from punch.ui.terminal.front_end import TerminalFrontEnd
from punch.ui.terminal.line_history import LineHistory
from punch.ui.terminal.prompt import Prompt, Suggestion
from punch.ui.terminal.tty_modes import TerminalModes


class TerminalConsole:
    """A terminal with a line editor: a `punch.ui.console.Console`."""

    def __init__(
        self,
        reactor: Any,
        streams: StreamDescriptors,
        modes: TerminalModes,
        options: StartOptions,
        chat: Chat,
    ) -> None:
        self._reactor = reactor
        self._modes = modes
        self._clean = False
        typed = LineHistory(options.typed_lines)
        self._prompt = prompt = Prompt(
            streams.stdin,
            streams.stdout,
            in_reactor=reactor.callFromThread,
            complete=lambda text: (
                Suggestion(*found) for found in slash.completions(text, self.front_end.names)
            ),
            history=typed,
            colour=Style.choose(options.environ, True).colour,
            term=options.environ.get("TERM", ""),
            reflows=reflows(options.environ),
        )
        self.front_end = TerminalFrontEnd(
            options.settings, options.context, chat, prompt, typed, environ=options.environ
        )
        atexit.register(self.restore)
        if threading.current_thread() is threading.main_thread():
            # Whoever stops and continues the process from elsewhere leaves the terminal's modes to us.
            signal.signal(signal.SIGCONT, lambda *_: reactor.callFromThread(prompt.refresh))
        prompt.start(self.front_end)

    def close(self) -> Deferred[Any]:
        """The prompt disappears, and the terminal is as it was."""
        self.front_end.view.exit.stop()
        waiting: Deferred[None] = Deferred()

        def stopped(_: object) -> None:
            self._clean = True
            if not waiting.called:
                waiting.callback(None)

        self._prompt.stop().addCallback(stopped)
        # A terminal that holds its output holds the prompt's thread; not the process.
        waiting.addTimeout(DRAIN_TIMEOUT, self._reactor)
        return waiting.addBoth(lambda _: self.restore())

    def drain(self) -> Deferred[Any]:
        """All output was shown when the prompt ended."""
        return succeed(None)

    def restore(self) -> None:
        """Put back the modes of the terminal, whatever the prompt's thread does."""
        self._modes.put_back(drawn=not self._clean)
