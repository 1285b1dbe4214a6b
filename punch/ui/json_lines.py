"""
The interface for scripts (`--json`): events on stdout, commands on stdin, one JSON object a line each.

`docs/json.md` is its description; what stands there is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from punch.apps.chat_v1 import ChatError
from punch.identity import PeerID, PeerIDError
from punch.peer.events import (
    AlreadyConnected,
    Calling,
    Checking,
    Connected,
    Disconnected,
    Event,
    Failed,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    Ready,
    Registered,
    Unregistered,
)
from punch.ui.console import InputKind
from punch.ui.front_end import FrontEnd, NodeLike, Output, Settings, Surroundings
from punch.wire import strict_json

#: Longest command line, in bytes: a message of 16 KiB fits with every byte written as an escape.
MAX_COMMAND = 128 * 1024

#: Longest id that a client may give a message, in characters.
MAX_CLIENT_ID = 128


class CommandError(Exception):
    """A command can't be done: answered by an `error` event, and nothing else happens."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class JSONFrontEnd(FrontEnd):
    """
    The peer as a script drives it.

    :param elapsed: seconds since the process started.
    """

    def __init__(self, settings: Settings, surroundings: Surroundings, elapsed: Callable[[], float]) -> None:
        super().__init__(settings, surroundings)
        self._elapsed = elapsed
        self._buffer = bytearray()
        self._skipping = False
        self._client_ids: dict[tuple[PeerID, int], str | int] = {}
        self._first_call = settings.target
        self._something_failed = False
        self._commands: Mapping[str, Callable[[dict[str, Any]], None]] = {
            "call": self._call,
            "accept": self._accept,
            "reject": self._reject,
            "send": self._send,
            "hangup": self._hangup,
            "quit": self._quit,
        }

    def attach(self, node: NodeLike, output: Output, input_kind: InputKind, terminal: bool) -> None:
        super().attach(node, output, input_kind, terminal)

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event."""
        line = {"event": event, "time": round(self._elapsed(), 6), **fields}
        self.output.write(strict_json.dumps(line) + b"\n")

    # -- commands --

    def input_received(self, data: bytes) -> None:
        self._buffer += data
        while not self.finished and self.leaving is None:
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
                self._too_long()
            self._skipping = True
            self._buffer.clear()

    def input_over(self) -> None:
        if self._buffer and not self._skipping and not self.finished:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._line(line)
        for peer in list(self.questions):
            # Nobody can answer any more.
            self._refuse(peer)
        super().input_over()

    def _too_long(self) -> None:
        self._error(
            "too-long", f"A command has more than {MAX_COMMAND:,} bytes: send long texts in parts.", None, {}
        )

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        if len(line) > MAX_COMMAND:
            self._too_long()
            return
        command: str | None = None
        fields: dict[str, Any] = {}
        try:
            fields = _read(line)
            name = fields.get("command")
            if not isinstance(name, str):
                raise CommandError("malformed", 'A command needs a field "command" with its name, as text.')
            command = name[:64]
            if name not in self._commands:
                known = ", ".join(self._commands)
                raise CommandError("unknown-command", f"There is no command {command!r}: use one of {known}.")
            self._commands[name](fields)
        except CommandError as error:
            self._error(error.reason, str(error), command, fields)

    def _error(self, reason: str, text: str, command: str | None, fields: dict[str, Any]) -> None:
        extra: dict[str, Any] = {}
        if command is not None:
            extra["command"] = command
        if _is_client_id(fields.get("id")):
            extra["id"] = fields["id"]
        self.emit("error", reason=reason, text=text, **extra)

    def _peer(self, fields: dict[str, Any]) -> PeerID:
        value = fields.get("peer")
        if value is None:
            raise CommandError("malformed", 'The command needs a field "peer" with a peer ID.')
        if not isinstance(value, str):
            raise CommandError("malformed", 'The field "peer" must be a peer ID, as text.')
        try:
            return PeerID.parse(value)
        except PeerIDError as error:
            raise CommandError("bad-peer-id", str(error)) from None

    def _linked(self, fields: dict[str, Any]) -> PeerID:
        """The peer of a command that may leave it out when there is only one link."""
        if fields.get("peer") is not None:
            peer = self._peer(fields)
            if peer not in self.links:
                raise CommandError(
                    "not-connected",
                    f"There is no link to {peer.short}: call, and wait for its connected event.",
                )
            return peer
        if not self.links:
            raise CommandError(
                "not-connected", "There is no link: call a peer, and wait for the connected event."
            )
        if len(self.links) > 1:
            raise CommandError("ambiguous", 'There are several links: say which with the field "peer".')
        return next(iter(self.links))

    def _call(self, fields: dict[str, Any]) -> None:
        peer = self._peer(fields)
        if peer == self.settings.me:
            raise CommandError("self", "This is your own ID: call the ID that the other side printed.")
        self.place_call(peer)

    def _accept(self, fields: dict[str, Any]) -> None:
        self.node.accept(self._asked(fields))

    def _reject(self, fields: dict[str, Any]) -> None:
        self.node.reject(self._asked(fields))

    def _asked(self, fields: dict[str, Any]) -> PeerID:
        peer = self._peer(fields)
        if peer not in self.questions:
            raise CommandError(
                "no-call", f"No call of {peer.short} waits for an answer: wait for a call event."
            )
        self.questions.remove(peer)
        return peer

    def _send(self, fields: dict[str, Any]) -> None:
        text = fields.get("text")
        if not isinstance(text, str):
            raise CommandError("malformed", 'The command needs a field "text" with what to say.')
        client_id = fields.get("id")
        if client_id is not None and not _is_client_id(client_id):
            raise CommandError(
                "malformed",
                f'The field "id" must be an integer, or text of at most {MAX_CLIENT_ID} characters.',
            )
        peer = self._linked(fields)
        try:
            number = self.chats.send(peer, text)
        except ChatError as error:
            raise CommandError(error.code, str(error)) from None
        if client_id is not None:
            self._client_ids[peer, number] = client_id
        self.emit("sent", peer=str(peer), id=number if client_id is None else client_id)
        self.balance()

    def _hangup(self, fields: dict[str, Any]) -> None:
        if fields.get("peer") is not None:
            peer = self._peer(fields)
            if peer not in self.links and peer not in self.calling:
                raise CommandError("not-connected", f"There is neither a link nor a call to {peer.short}.")
        elif len(both := self.links.keys() | self.calling) == 1:
            (peer,) = both
        else:
            peer = self._linked(fields)
        self.calling.discard(peer)
        self.node.hangup(peer)

    def _quit(self, fields: dict[str, Any]) -> None:
        self.leave(0)

    # -- events --

    def on_ready(self, event: Ready) -> None:
        self.emit("ready", id=str(event.peer_id), name=self.settings.name)
        super().on_ready(event)

    def on_registered(self, event: Registered) -> None:
        self.emit("registered", rendezvous=event.rendezvous)

    def on_unregistered(self, event: Unregistered) -> None:
        self.emit("unregistered", reason=str(event.reason), text=event.text, retry_in=event.retry_in)
        super().on_unregistered(event)

    def on_stage(self, event: Event) -> None:
        if isinstance(event, Calling):
            self.emit("calling", peer=str(event.peer))
        elif isinstance(event, AlreadyConnected):
            self.emit(
                "error",
                reason="already-connected",
                text=f"There is a link to {event.peer.short} already, and it answers: send over it.",
                command="call",
                peer=str(event.peer),
            )
        elif isinstance(event, Introduced):
            self.emit("introduced", peer=str(event.peer), name=event.name)
        elif isinstance(event, Checking):
            self.emit("checking", peer=str(event.peer), pairs=event.pairs)
        elif isinstance(event, PathChanged):
            self.emit("path", peer=str(event.peer), **_path(event))
        elif isinstance(event, PathLost):
            self.emit("path-lost", peer=str(event.peer), text=event.text)

    def on_incoming(self, event: IncomingCall) -> None:
        self.emit("call", peer=str(event.peer), name=event.name, known=event.known, decided=event.decided)
        if not event.decided:
            self.questions.append(event.peer)
            if self.input_ended or self.input_kind is InputKind.NOTHING:
                self._refuse(event.peer)

    def _refuse(self, peer: PeerID) -> None:
        self.questions.remove(peer)
        self.emit(
            "refused",
            peer=str(peer),
            reason="nobody-to-ask",
            text="There is no stdin to answer the call on: start with --accept known or --accept anyone.",
        )
        self.node.reject(peer)

    def on_connected(self, event: Connected) -> None:
        if event.peer == self._first_call:
            self._first_call = None
        self.emit("connected", peer=str(event.peer), name=event.name, **_path(event))

    def on_disconnected(self, event: Disconnected) -> None:
        lost = self.chats.undelivered(event.peer)
        self.emit(
            "disconnected",
            peer=str(event.peer),
            reason=str(event.reason),
            text=event.text,
            undelivered=lost,
        )
        if lost and self.input_ended:
            self._something_failed = True

    def on_failed(self, event: Failed) -> None:
        peer = {} if event.peer is None else {"peer": str(event.peer)}
        self.emit("failed", reason=str(event.reason), text=event.text, **peer)
        self._something_failed = True
        if event.peer is not None and event.peer == self._first_call:
            self.finish(1, event.text)

    def on_message(self, peer: PeerID, number: int, text: str) -> Deferred[None] | None:
        self.emit("message", peer=str(peer), name=self.names.get(peer, ""), text=text, id=number)
        return self.output.written()

    def on_delivered(self, peer: PeerID, number: int) -> None:
        client_id = self._client_ids.pop((peer, number), number)
        self.emit("delivered", peer=str(peer), id=client_id)
        super().on_delivered(peer, number)

    def check_done(self) -> None:
        """After the last command: end when every call has come to something and all was delivered."""
        if self.finished or self.leaving is not None or not self.input_ended:
            return
        if self.input_kind is InputKind.NOTHING:
            return
        if self.calling:
            return
        if any(self.chats.undelivered(peer) or self.chats.unhandled(peer) for peer in self.links):
            return
        self.leave(1 if self._something_failed else 0)


def _read(line: bytes) -> dict[str, Any]:
    try:
        value = strict_json.loads(line)
    except strict_json.JSONError as error:
        raise CommandError("malformed", f"A command must be one JSON object a line: {error}.") from None
    if not isinstance(value, dict):
        raise CommandError("malformed", 'A command must be a JSON object, such as {"command": "quit"}.')
    return value


def _is_client_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_CLIENT_ID
    return isinstance(value, int) and not isinstance(value, bool)


def _path(event: Connected | PathChanged) -> dict[str, Any]:
    return {
        "path": event.path,
        "local": str(event.local),
        "remote": str(event.remote),
        "protocol": event.protocol,
        "rtt": event.rtt,
    }
