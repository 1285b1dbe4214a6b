"""
The chat on stdin and stdout as plain lines: through pipes for a shell, and in terminals that can do no more.

Every line of stdin is a message. In a terminal a line that begins with a slash is a command, a question
of ours is answered by the next line, and several lines that were pasted are sent as one message, when the
user says so. Through a pipe everything is a message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from punch.apps.chat import MAX_TEXT, Chat
from punch.identity import PeerID
from punch.names import without_format
from punch.node.events import Connected
from punch.ui.command_line import ANSWERS
from punch.ui.front_end import FrontEndContext, Output, Settings
from punch.ui.questions import Question
from punch.ui.send_queue import split_text
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.input import MAX_PASTE, clean_paste
from punch.ui.text.sentences import count, name_lines, shortened
from punch.ui.text_front_end import TextFrontEnd


class StdioFrontEnd(TextFrontEnd):
    """
    Plain lines.

    :param hint: is shown at the start in a terminal: what it could be like.
    :param encoding: of the output; what it can't hold is escaped.
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
        super().__init__(settings, context, chat, output, input_kind, terminal=terminal, environ=environ)
        self._hint = hint
        self._encoding = encoding
        self._shown = 0
        self._buffer = bytearray()
        self._kept: list[str] = []
        self._kept_bytes = 0
        #: Lines that were pasted, until the user says whether to send them.
        self._paste: list[str] = []
        self._paste_question: Question | None = None
        chat.views.attach(self)
        self.balance()

    # -- what is shown --

    def show(self, text: str) -> int:
        if self._hint is not None and self.watched:
            text, self._hint = f"{self._hint}\n{text}", None
        self.output.write((text + "\n").encode(self._encoding, "backslashreplace"))
        self._shown += 1
        return self._shown

    def on_connected(self, event: Connected) -> None:
        super().on_connected(event)
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        for text in kept:
            self.sending.send(event.peer, text, partial(self.not_sent, text))

    # -- what is typed --

    def input_received(self, data: bytes) -> None:
        if self.exit.ending:
            return
        self._buffer += data
        while not self.exit.ending:
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
        if self._buffer and not self.exit.finished:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._typed(self._decode(line))
        super().input_over()

    def paste_received(self, data: bytes) -> None:
        """Several lines came at once in a terminal, or too many to be kept: then `data` is empty."""
        if self.exit.ending:
            return
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
                f"Send them to {self.style.bold(self.name_of(peer))} as one message? [y/n]"
            ),
            lambda: self.line.send_parts(peer, "\n".join(self._take_paste())),
            lambda: self.show_dim(f"{count(len(self._take_paste()), 'line')} not sent."),
            refused_by_quit=True,
        )
        self.line.ask(self._paste_question)
        if self.line.questions.open is not self._paste_question:
            self.show_dim(f"{count(len(lines), 'line')} came at once: whether to send them is asked next.")
            self.line.questions.ask_again()

    def _take_paste(self) -> list[str]:
        paste, self._paste, self._paste_question = self._paste, [], None
        return paste

    def _typed(self, text: str) -> None:
        if not self.watched:
            self._send_piped(text)
            return
        word = without_format(text).strip().lower()
        if self._paste_is_asked and word not in ("", *ANSWERS) and not text.startswith("/"):
            # It came too late to be seen as a part of the paste, or was typed below it.
            self.paste_received(text.encode())
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
        if self.exit.ending:
            return
        peer = self.target if self.target is not None else next(reversed(self.chat.links), None)
        if peer is not None:
            self.line.send_parts(peer, text)
            return
        for part in split_text(text):
            self._kept.append(part)
            self._kept_bytes += len(part.encode()) + 64
        self.balance()

    def pending_size(self) -> int:
        return super().pending_size() + self._kept_bytes

    def unsent(self) -> str | None:
        if self._paste:
            lines = count(len(self._paste), "line")
            pasted = f'The paste of {lines}, the first of them "{shortened(self._paste[0])}", was not sent.'
            stored = super().unsent()
            return pasted if stored is None else f"{stored} {pasted}"
        if not self._kept:
            return super().unsent()
        return f"{name_lines(self._kept)} not sent, since nobody was connected."

    def check_done(self) -> None:
        """
        After the end of the input: a peer that calls ends when all it said was delivered; in a terminal
        Ctrl-D also ends one that waits; otherwise a peer that waits goes on waiting, as a service does.
        """
        if self.exit.ending or not self.exit.input_ended or len(self.sending):
            return
        if self.watched:
            self.exit.leave()
        elif self.target is None or self.chat.conversations.undelivered(self.target):
            return
        elif self.target in self.chat.links and not self.chat.conversations.unhandled(self.target):
            self.exit.leave()
