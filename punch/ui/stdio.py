"""
The chat on stdin and stdout: in a terminal for a person, through pipes for a shell.

Every line of stdin is a message. In a terminal a line that begins with a slash is a command, and a question
of ours is answered by the next line. Through a pipe everything is a message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred

from punch.apps.chat_v1 import MAX_TEXT, ChatError
from punch.identity import PeerID
from punch.peer.events import (
    Calling,
    Connected,
    Disconnected,
    Event,
    Failed,
    IncomingCall,
    Ready,
    Registered,
    Unregistered,
)
from punch.ui.console import InputKind
from punch.ui.front_end import FrontEnd, NodeLike, Output, Settings, Surroundings
from punch.ui.line_editor import CLEAR_LINE, Entered, LineEditor, display_width
from punch.ui.sentences import count, describe, printable
from punch.ui.terminal import Style

#: How much of a message its mark repeats, in characters.
MARK_LENGTH = 60

HELP = (
    "What you type goes to the other side. Commands: /id shows your ID, /quit ends the chat, "
    "/help shows this; a line that begins with // is sent with one slash."
)


def split_text(text: str, most: int = MAX_TEXT) -> list[str]:
    """`text` in parts of at most `most` bytes of UTF-8, cut between characters."""
    data = text.encode("utf-8", "replace")
    parts = []
    while len(data) > most:
        cut = most
        while data[cut] & 0xC0 == 0x80:
            cut -= 1
        parts.append(data[:cut].decode("utf-8"))
        data = data[cut:]
    return [*parts, data.decode("utf-8")]


class StdioFrontEnd(FrontEnd):
    """
    The peer as a person or a shell uses it.

    :param environ: for the looks (`TERM`, `NO_COLOR`).
    """

    def __init__(
        self, settings: Settings, surroundings: Surroundings, environ: Mapping[str, str] = os.environ
    ) -> None:
        super().__init__(settings, surroundings)
        self._environ = environ
        self._style = Style(False)
        self._editor: LineEditor | None = None
        self._buffer = bytearray()
        self._kept: list[str] = []
        self._kept_bytes = 0
        self._sent: dict[tuple[PeerID, int], str] = {}
        self._last_sent: tuple[PeerID, int, str] | None = None
        self._told: set[str] = set()
        self._trouble: str | None = None
        self._to_tell: Calling | None = None

    def attach(self, node: NodeLike, output: Output, input_kind: InputKind, terminal: bool) -> None:
        super().attach(node, output, input_kind, terminal)
        self.watched = terminal and input_kind is InputKind.TERMINAL
        self._style = Style.choose(self._environ, terminal)

    def edit_lines(self, columns: Callable[[], int]) -> LineEditor:
        """The terminal gives single keys from now on: keep the line here."""
        self._editor = LineEditor(columns)
        return self._editor

    def redraw(self) -> None:
        """The bottom line again, as after a resize."""
        if self._editor is not None and not self.finished:
            self.output.write(self._editor.draw().encode())

    def close(self) -> None:
        """The service has stopped: leave a clean line to the shell."""
        if self._editor is not None:
            self.output.write(CLEAR_LINE.encode())

    # -- what is shown --

    def show(self, text: str) -> None:
        """One line above the one that is being typed."""
        self._last_sent = None
        line = text + "\n"
        if self._editor is not None:
            line = CLEAR_LINE + line + ("" if self.finished else self._editor.draw())
        self.output.write(line.encode("utf-8", "replace"))

    def on_ready(self, event: Ready) -> None:
        self.show(f"{describe(event)} {self._style.dim(f'({printable(self.settings.name)})')}")
        super().on_ready(event)

    def on_registered(self, event: Registered) -> None:
        self._trouble = None
        self._stage(describe(event))
        if self._to_tell is not None:
            self._stage(describe(self._to_tell))
            self._to_tell = None
        if self.target is None and not self.links:
            self._stage("Waiting for a call: give your ID to the other side")

    def on_unregistered(self, event: Unregistered) -> None:
        # Every try that fails the same way is not worth a line.
        if event.text != self._trouble and event.retry_in is not None:
            self._trouble = event.text
            self.show(self._style.bad(describe(event)))
        super().on_unregistered(event)

    def on_stage(self, event: Event) -> None:
        peer = getattr(event, "peer", None)
        name = self.name_of(peer) if peer is not None else ""
        if isinstance(event, Calling) and not self.ever_registered:
            # It waits for the rendezvous, and is told when it goes out.
            self._to_tell = event
            return
        self._stage(describe(event, name))

    def _stage(self, text: str) -> None:
        self.show(self._style.dim(text))

    def on_incoming(self, event: IncomingCall) -> None:
        name = self.name_of(event.peer)
        self.show(describe(event, self._style.bold(name)))
        if event.decided:
            return
        if not self.watched or self.input_ended:
            self.show(
                f"Refused the call of {name}, as nobody is here to ask: "
                "start with --accept known or --accept anyone to let calls in."
            )
            self.node.reject(event.peer)
            return
        self.questions.append(event.peer)
        if len(self.questions) == 1:
            self._ask()

    def _ask(self) -> None:
        if self.questions:
            peer = self.questions[0]
            self.show(f"Let {self._style.bold(self.name_of(peer))} ({peer}) connect? [y/n]")

    def on_connected(self, event: Connected) -> None:
        name = self.name_of(event.peer)
        self.show(self._style.good(describe(event, name)))
        if self.watched and len(self.links) == 1:
            self._stage("Type a line and press Enter to send it, /quit to end")
        elif self.watched:
            self._stage(f"What you type goes to {name} now")
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        for text in kept:
            self._send(event.peer, text)

    def on_disconnected(self, event: Disconnected) -> None:
        if self.finished or self.leaving is not None:
            return
        lost = self.chats.undelivered(event.peer)
        if event.peer != self.target:
            self.show(describe(event))
            if lost:
                self.show(f"{count(lost, 'message')} not delivered: sent again when they are back.")
            return
        left = bool(lost or self._kept) or not (self.watched or self.input_ended)
        if str(event.reason) != "bye":
            self.finish(1, printable(event.text))
        elif left:
            missing = f"{count(lost, 'message')} not delivered" if lost else "the input had not ended"
            self.finish(1, f"{printable(event.text)} ({missing})")
        else:
            self.show(describe(event))
            self.finish(0)

    def on_failed(self, event: Failed) -> None:
        if event.peer is not None and event.peer == self.target:
            if event.peer not in self.links:
                self.finish(1, printable(event.text))
        elif event.peer is not None:
            self.show(self._style.bad(describe(event)))
            self._ask()

    def on_message(self, peer: PeerID, number: int, text: str) -> Deferred[None] | None:
        self.show(f"{self._style.bold(self.name_of(peer) + ':')} {printable(text, newline=chr(10) + '    ')}")
        return self.output.written()

    def on_delivered(self, peer: PeerID, number: int) -> None:
        text = self._sent.pop((peer, number), "")
        last = self._last_sent
        mark = self._style.good("✓ delivered")
        if self._editor is not None and last is not None and last[:2] == (peer, number):
            # The line just above is the message itself: the mark goes beside it.
            self.output.write(b"\x1b[A")
            self.show(f"{last[2]}  {mark}")
        else:
            self.show(f"{mark}: {text}")
        super().on_delivered(peer, number)

    # -- what is typed --

    def input_received(self, data: bytes) -> None:
        if self.finished or self.leaving is not None:
            return
        if self._editor is not None:
            for action in self._editor.feed(data):
                if isinstance(action, Entered):
                    self._typed(action.text)
                else:
                    self.input_over()
            self.redraw()
            return
        self._buffer += data
        while not self.finished and self.leaving is None:
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
        if self._buffer and not self.finished:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._typed(self._decode(line))
        super().input_over()

    def _cut(self) -> bytes:
        cut = MAX_TEXT
        while cut > MAX_TEXT - 4 and self._buffer[cut] & 0xC0 == 0x80:
            cut -= 1
        line = bytes(self._buffer[:cut])
        del self._buffer[:cut]
        self._tell_once(f"A line of more than {MAX_TEXT:,} bytes goes as several messages.")
        return line

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self._tell_once("The input is not all UTF-8: what is not, goes as \ufffd.")
            return line.decode("utf-8", "replace")

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.show(text)

    def _typed(self, text: str) -> None:
        if self.watched and self.questions:
            self._answer(text.strip().lower())
        elif not self.watched:
            self._say(text)
        elif text.startswith("//"):
            self._say(text[1:])
        elif text.startswith("/"):
            self._command(text[1:].strip().lower())
        elif text.strip():
            self._say(text)

    def _answer(self, answer: str) -> None:
        if answer in ("y", "yes"):
            self.node.accept(self.questions.pop(0))
        elif answer in ("n", "no"):
            self.node.reject(self.questions.pop(0))
        elif answer in ("/quit", "/q"):
            self.leave()
            return
        else:
            self.show("Please type y to let them connect, or n to refuse.")
        self._ask()

    def _command(self, command: str) -> None:
        if command in ("quit", "q", "exit"):
            self.leave()
        elif command == "id":
            self.show(f"Your ID: {self.settings.me}")
            for peer, link in self.links.items():
                rtt = "" if link.rtt is None else f", round trip {link.rtt * 1000:.1f} ms"
                self.show(f"{self.name_of(peer)}: {peer}{rtt}")
        elif command in ("help", "?", ""):
            self.show(HELP)
        else:
            self.show(f"There is no command /{printable(command)[:20]}: /help shows what there is.")

    def _say(self, text: str) -> None:
        peer = self.target if self.target is not None else self.current()
        if peer is None and self.watched:
            self.show("Nobody is connected yet, so that was not sent: wait for a call.")
            return
        parts = split_text(text)
        if len(parts) > 1:
            self._tell_once(f"A line of more than {MAX_TEXT:,} bytes goes as several messages.")
        for part in parts:
            if peer is None:
                self._kept.append(part)
                self._kept_bytes += len(part.encode()) + 64
            else:
                self._send(peer, part)
        self.balance()

    def _send(self, peer: PeerID, text: str) -> None:
        try:
            number = self.chats.send(peer, text)
        except ChatError as error:
            self.show(str(error))
            return
        shown = printable(text)
        self._sent[peer, number] = shown if len(shown) <= MARK_LENGTH else shown[: MARK_LENGTH - 1] + "…"
        if self._editor is not None:
            line = f"{self._style.bold('you:')} {shown}"
            self.show(line)
            if display_width("you: " + shown + "  ✓ delivered") < self._editor.columns():
                self._last_sent = (peer, number, line)

    def pending_bytes(self) -> int:
        return super().pending_bytes() + self._kept_bytes

    def check_done(self) -> None:
        """
        After the end of the input: a peer that calls ends when all it said was delivered; in a terminal
        Ctrl-D also ends one that waits; otherwise a peer that waits goes on waiting, as a service does.
        """
        if self.finished or self.leaving is not None or not self.input_ended:
            return
        if self.target is None:
            if self.input_kind is InputKind.TERMINAL and not any(map(self.chats.undelivered, self.links)):
                self.leave()
        elif self.chats.undelivered(self.target):
            return
        elif self.watched or (self.target in self.links and not self.chats.unhandled(self.target)):
            self.leave()
