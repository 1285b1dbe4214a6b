"""
The interface for scripts (`--json`): events on stdout, commands on stdin, one JSON object per line.

`docs/json.md` describes it, and is a promise to its users: what it says must stay true.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat import Chat, ChatMessage, MessageState
from punch.apps.chat.events import (
    Event,
    MessageAdded,
    MessageChanged,
    PageServed,
)
from punch.apps.files.events import Stage, Transfer, TransferChanged
from punch.apps.files.messages import FailureCode, TransferFailed
from punch.local.protocol import CommandError
from punch.node.events import CallFailed, Connected, Disconnected, Ready
from punch.ui.command import Answer, CommandRefused
from punch.ui.commands import COMMANDS, perform, why
from punch.ui.front_end import FrontEndContext, Output, ProcessView, Settings
from punch.ui.json.commands import (
    MAX_COMMAND,
    error_fields,
    read,
    request_fields,
    too_long,
)
from punch.ui.json.events import message_fields, render
from punch.ui.standard_streams import InputKind
from punch.ui.text.causes import event_sentence
from punch.wire import strict_json


class JSONFrontEnd:
    """
    The front end for scripts: a `punch.ui.front_end.FrontEnd`.

    :param elapsed: returns the seconds since the process started, which events have as their `time`.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        context: FrontEndContext,
        chat: Chat,
        output: Output,
        input_kind: InputKind,
        elapsed: Callable[[], float],
    ) -> None:
        self.view = ProcessView(
            settings,
            context,
            chat,
            self,
            output,
            input_kind,
            watched=False,
            answers=input_kind is not InputKind.NOTHING,
        )
        self._chat = chat
        self._output = output
        self._has_input = input_kind is not InputKind.NOTHING
        self._exit = self.view.exit
        self._elapsed = elapsed
        self._commands = self.view.commands
        self._buffer = bytearray()
        self._skipping = False
        self._sending: deque[str] = deque()
        self._first_call = settings.target
        self._something_failed = False
        self._asked = 0
        self.view.attach()

    def emit(self, event: str, /, **fields: Any) -> None:
        """Write one event, with its time before the other fields."""
        line = {"event": event, "time": round(self._elapsed(), 6)}
        line.update((key, value) for key, value in fields.items() if key not in line)
        self._output.write(strict_json.dumps(line) + b"\n")

    # -- commands --

    def input_received(self, data: bytes) -> None:
        """Handle bytes from stdin."""
        self._buffer += data
        while not self._exit.ending:
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                break
            self._buffer = rest
            if self._skipping:
                self._skipping = False
            else:
                self._line(bytes(line))
        if len(self._buffer) > MAX_COMMAND:
            if not self._skipping:
                self._error({}, too_long())
            self._skipping = True
            self._buffer.clear()

    def input_over(self) -> None:
        """Handle the end of stdin, after a last command without a newline."""
        if self._buffer and not self._skipping and not self._exit.finished:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._line(line)
        self.view.input_over()

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        fields: dict[str, Any] = {}
        try:
            fields = read(line)
            answer = self._perform(fields)
        except CommandRefused as error:
            self._error(fields, error)
            return
        self._asked += 1
        answer.addCallbacks(partial(self._answered, fields), partial(self._failed_command, fields))

    def _perform(self, fields: dict[str, Any]) -> Deferred[Answer | None]:
        name = fields.get("command")
        if name != "send":
            return perform(self._commands, name, fields)
        self._sending.append(str(fields.get("text")))
        try:
            return perform(self._commands, name, fields)
        except CommandRefused:
            self._sending.pop()
            raise

    def _answered(self, fields: dict[str, Any], answer: Answer | None) -> None:
        self._asked -= 1
        command = COMMANDS[fields["command"]]
        request = request_fields(fields)
        if (command.asks or request) and not self._exit.finished:
            self.emit("result", **{**(answer or {}), **request, "command": command.name})
        self.check_done()

    def _failed_command(self, fields: dict[str, Any], failure: Failure) -> None:
        self._asked -= 1
        error = why(failure, self._log)
        if fields["command"] == "send":
            self._something_failed = True
            self._sent_here(fields["text"])
        self._error(fields, error)
        self.check_done()

    def _error(self, fields: dict[str, Any], error: CommandRefused) -> None:
        if not self._exit.finished:
            self.emit("error", **error_fields(fields, error))

    # -- events --

    def show_event(self, event: Event) -> Deferred[None] | None:
        """Write the JSON object of an event, if it has one."""
        if isinstance(event, MessageAdded) and event.message.outgoing:
            self._show_outgoing(event.message)
            return None
        fields = render(event, self._chat)
        if fields is not None:
            self.emit(fields["event"], **fields)
        if isinstance(event, MessageAdded):
            return self._output.written()
        if isinstance(event, MessageChanged):
            message = event.message
            told = message.outgoing and message.state in (MessageState.DELIVERED, MessageState.READ)
            return self._output.written() if told and fields is not None else None
        if isinstance(event, Ready):
            self.view.call_target()
        elif isinstance(event, Connected):
            if event.peer == self._first_call:
                self._first_call = None
        elif isinstance(event, Disconnected):
            if self._exit.input_ended and self._chat.conversations.undelivered(event.peer):
                self._something_failed = True
        elif isinstance(event, CallFailed):
            self._call_failed(event)
        elif isinstance(event, TransferChanged):
            transfer = event.transfer
            if transfer.outgoing and transfer.stage is Stage.FAILED and not _was_stopped_here(transfer):
                self._something_failed = True
        elif isinstance(event, PageServed):
            # It is not in `render`, as pages must not get an address that lets another browser in.
            self.emit("web", url=event.url)
        return None

    def _show_outgoing(self, message: ChatMessage) -> None:
        if not self._sent_here(message.text):
            # Another view has sent the message.
            self.emit("added", **message_fields(message), written=message.time)
        state = render(MessageChanged(message), self._chat)
        assert state is not None
        self.emit(state["event"], **state)

    def _sent_here(self, text: str) -> bool:
        """
        Whether this is the text of the next message that this front end has sent and not seen added. If so,
        it is removed: messages are added in the order in which they were sent.
        """
        if self._sending and self._sending[0] == text:
            self._sending.popleft()
            return True
        return False

    def show_held(self, error: CommandRefused) -> None:
        """Does nothing: a command whose message can't be stored is answered with an error."""

    def unsent(self) -> str | None:
        """Return None: the commands of messages that were not stored were answered with errors."""
        return None

    def stopped(self) -> None:
        """Does nothing: there are no timers."""

    def _call_failed(self, event: CallFailed) -> None:
        self._something_failed = True
        if event.peer is not None and event.peer == self._first_call:
            self._exit.finish(1, event_sentence(event))

    def pending_size(self) -> int:
        """How much text is stored for peers with a link and not delivered, in characters."""
        # Text for peers that are away is in the history, of any length: it must not pause stdin.
        return self.view.sending.size_for(self._chat.links)

    def check_done(self) -> None:
        """
        End the process after the end of stdin, if nothing is left to do.

        Every command must be done, every call must have succeeded or failed, and all messages and files must
        be delivered to the peers that can be reached. The status is 1 if something failed or waits for a peer
        that can't be reached.
        """
        if self._exit.ending or not self._exit.input_ended:
            return
        chat = self._chat
        if not self._has_input or chat.calling or self._asked:
            return
        if any(
            chat.conversations.undelivered(peer) or chat.conversations.unhandled(peer) for peer in chat.links
        ):
            return
        called = self.view.sending.peers - chat.calls.unreachable.keys()
        if called and (chat.registered or not chat.was_registered):
            return
        transfers = self._transfers()
        if not all(map(_is_away, transfers)):
            return
        # What waits for peers that are away is kept on disk, but it was not delivered.
        undelivered = self.view.sending.undelivered or transfers
        self._exit.leave(1 if self._something_failed or undelivered else 0)

    def _transfers(self) -> list[Transfer]:
        """The transfers that are running, and those to others that have not begun or wait."""
        transfers = self._commands.applications.transfers
        found = [] if transfers is None else transfers.all
        return [
            each for each in found if each.stage is Stage.RUNNING or (each.outgoing and not each.stage.over)
        ]


def _is_away(transfer: Transfer) -> bool:
    """Whether a transfer waits because its peer can't be reached, or does not take files."""
    return transfer.stage is Stage.WAITING and isinstance(transfer.problem, CommandError)


def _was_stopped_here(transfer: Transfer) -> bool:
    problem = transfer.problem
    return (
        isinstance(problem, TransferFailed) and problem.code is FailureCode.CANCELLED and not problem.by_peer
    )
