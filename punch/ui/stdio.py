"""
The chat on stdin and stdout as plain lines: for pipes, and for terminals without a line editor.

From a pipe, every line is a message. In a terminal, a line may also be a command, which begins with a slash,
or the answer to a question; and several lines that were pasted can be sent as one message, after the user was
asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from twisted.internet.defer import Deferred

from punch.apps.chat import MAX_TEXT, Chat
from punch.apps.chat.events import Event
from punch.identity import PeerID
from punch.names import without_format
from punch.node.events import Connected
from punch.ui.command import CommandRefused
from punch.ui.command_line import ANSWERS, CommandLine, Question
from punch.ui.front_end import FrontEndContext, Output, ProcessView, Settings
from punch.ui.send_queue import split_text
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.escapes import Style
from punch.ui.terminal.input import MAX_PASTE, clean_paste
from punch.ui.text.sentences import count, name_lines, shortened
from punch.ui.text_renderer import TextRenderer


class StdioFrontEnd:
    """
    The front end for plain lines: a `punch.ui.front_end.FrontEnd` and a `punch.ui.command_line.TextScreen`.

    :param terminal: whether stdout is a terminal.
    :param environ: the environment variables, of which `TERM` and `NO_COLOR` decide about colours.
    :param hint: the first line that a user at a terminal sees: how to get more than plain lines.
    :param encoding: the encoding of stdout; characters that it lacks are escaped.
    """

    def __init__(
        self,
        settings: Settings,
        context: FrontEndContext,
        chat: Chat,
        output: Output,
        input_kind: InputKind,
        *,
        terminal: bool,
        environ: Mapping[str, str] = os.environ,
        hint: str | None = None,
        encoding: str = "utf-8",
    ) -> None:
        watched = terminal and input_kind is InputKind.TERMINAL
        self._style = Style.choose(environ, terminal)
        self.view = ProcessView(
            settings, context, chat, self, output, input_kind, watched=watched, answers=watched
        )
        self.line = CommandLine(self.view, self, self._style)
        self._text = TextRenderer(self.view, self.line, self, self._style, compact=False)
        self._chat = chat
        self._output = output
        self._exit = self.view.exit
        self._hint = hint
        self._encoding = encoding
        self._shown = 0
        self._buffer = bytearray()
        self._kept: list[str] = []
        self._kept_bytes = 0
        #: Lines that were pasted, until the user says whether to send them.
        self._paste: list[str] = []
        self._paste_question: Question | None = None
        self.view.attach()

    # -- what is shown (TextScreen) --

    def show(self, text: str) -> int:
        """Write one or more lines. Returns how many times this was called."""
        if self._hint is not None and self.view.watched:
            text, self._hint = f"{self._hint}\n{text}", None
        self._output.write((text + "\n").encode(self._encoding, "backslashreplace"))
        self._shown += 1
        return self._shown

    def replace(self, text: str, key: object) -> int:
        """As `show`: what was written can't be replaced."""
        return self.show(text)

    def written(self) -> Deferred[None]:
        """Fires when all that was shown has left this process."""
        return self._output.written()

    def give_back(self, text: str) -> None:
        """Does nothing: what was typed is still on the screen."""

    def clear(self) -> None:
        """Say that the screen can't be cleared."""
        self.show("This terminal can't be cleared from here.")

    def changed(self) -> None:
        """Does nothing: there is no status line."""

    def selected(self, before: PeerID | None, peer: PeerID, chosen: bool) -> None:
        """Does nothing: there is no prompt that names the peer."""

    # -- what the view asks for (FrontEnd) --

    def show_event(self, event: Event) -> Deferred[None] | None:
        """Show an event. When a link comes up, send the lines over it that were read before there was one."""
        delivered = self._text.show_event(event)
        if isinstance(event, Connected):
            kept, self._kept, self._kept_bytes = self._kept, [], 0
            for text in kept:
                self.view.sending.send(event.peer, text, partial(self.line.not_sent, text))
        if not self._exit.finished:
            self.line.drop_answered()
        return delivered

    def show_held(self, error: CommandRefused) -> None:
        """Show that messages can't be stored now."""
        self._text.show_held(error)

    def stopped(self) -> None:
        """Does nothing: there are no timers."""

    # -- what is typed --

    def input_received(self, data: bytes) -> None:
        """Handle bytes from stdin."""
        if self._exit.ending:
            return
        self._buffer += data
        while not self._exit.ending:
            end = self._buffer.find(b"\n")
            if 0 <= end <= MAX_TEXT + 1:
                line = bytes(self._buffer[:end]).removesuffix(b"\r")
                del self._buffer[: end + 1]
            elif len(self._buffer) > MAX_TEXT + 1:
                line = self._cut()
            else:
                break
            self._typed(self._decode(line))

    def input_over(self) -> None:
        """Handle the end of stdin, after a last line without a line end."""
        if self._buffer and not self._exit.finished:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._typed(self._decode(line))
        self.view.input_over()

    def paste_received(self, data: bytes) -> None:
        """
        Handle several lines that came at once in a terminal.

        :param data: the lines; empty if they were too many to be kept.
        """
        if self._exit.ending:
            return
        if data and not data.endswith(b"\n"):
            # On the screen the cursor is still at the end of the last line.
            self._output.write(b"\n")
        lines = clean_paste(self._decode(data).strip("\r\n")).split("\n")
        size = sum(map(len, [*self._paste, *lines]))
        if not data or size > MAX_PASTE:
            self.show(f"A paste of more than {MAX_PASTE:,} characters is not taken.")
            self.line.questions.ask_again()
        elif self.line.current is None:
            self.line.say("\n".join(lines))
        else:
            self._ask_about(lines, self.line.current)

    def _ask_about(self, lines: list[str], peer: PeerID) -> None:
        self._paste += lines
        if self._paste_question is not None:
            self.line.questions.ask_again()
            return
        self._paste_question = Question(
            lambda: (
                f"{count(len(self._paste), 'line')} came at once, as in a paste. "
                f"Send them to {self._style.bold(self.view.name_of(peer))} as one message? [y/n]"
            ),
            lambda: self.line.send_parts(peer, "\n".join(self._take_paste())),
            lambda: self._text.show_dim(f"{count(len(self._take_paste()), 'line')} not sent."),
            refused_by_quit=True,
            by_user=True,
        )
        self.line.ask(self._paste_question)

    def _take_paste(self) -> list[str]:
        paste, self._paste, self._paste_question = self._paste, [], None
        return paste

    def _typed(self, text: str) -> None:
        if not self.view.watched:
            self._send_piped(text)
            return
        word = without_format(text).strip().lower()
        if self._paste_is_asked and word not in ("", *ANSWERS) and not text.startswith("/"):
            # The rest of the paste came late, or the user typed more below it: it is added to the paste.
            self.paste_received(f"{text}\n".encode())
        else:
            self.line.typed(text)

    @property
    def _paste_is_asked(self) -> bool:
        return self._paste_question is not None and self.line.questions.open is self._paste_question

    def _cut(self) -> bytes:
        cut = MAX_TEXT
        while cut > MAX_TEXT - 4 and self._buffer[cut] & 0xC0 == 0x80:
            cut -= 1
        line = bytes(self._buffer[:cut])
        del self._buffer[:cut]
        self.line.tell_once(f"A line of more than {MAX_TEXT:,} bytes goes as several messages.")
        return line

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self.line.tell_once("The input is not all UTF-8: what is not, goes as \ufffd.")
            return line.decode("utf-8", "replace")

    def _send_piped(self, text: str) -> None:
        """Send a line of a pipe, or keep it until a peer is connected."""
        if self._exit.ending:
            return
        target = self.view.settings.target
        peer = target if target is not None else next(reversed(self._chat.links), None)
        if peer is not None:
            self.line.send_parts(peer, text)
            return
        for part in split_text(text):
            self._kept.append(part)
            self._kept_bytes += len(part.encode()) + 64
        self.view.balance()

    def pending_size(self) -> int:
        """How much was read and is not delivered, in characters."""
        return self.view.sending.size + self._kept_bytes

    def unsent(self) -> str | None:
        """A sentence that names what was read and is not stored; None: there is nothing."""
        if self._paste:
            lines = count(len(self._paste), "line")
            pasted = f'The paste of {lines}, the first of them "{shortened(self._paste[0])}", was not sent.'
            stored = self.view.unsent()
            return pasted if stored is None else f"{stored} {pasted}"
        if not self._kept:
            return self.view.unsent()
        return f"{name_lines(self._kept)} not sent, since nobody was connected."

    def check_done(self) -> None:
        """
        End the process after the end of its input, if nothing is left to do.

        With `--peer` it ends when all messages were delivered. Without, it goes on waiting for calls, as a
        service does; but in a terminal, where Ctrl-D has ended the input, it ends.
        """
        if self._exit.ending or not self._exit.input_ended or len(self.view.sending):
            return
        if self.view.watched:
            self._exit.leave()
            return
        target, conversations = self.view.settings.target, self._chat.conversations
        if target is None or conversations.undelivered(target):
            return
        if target in self._chat.links and not conversations.unhandled(target):
            self._exit.leave()
