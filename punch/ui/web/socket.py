"""One open page: the JSON interface over its WebSocket, commands in and events out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.websocket import WebSocketTransport

from punch.apps.chat import ChatError
from punch.ui.web.guard import Guarded
from punch.wire import strict_json

#: Longest command, in characters: that of `--json`.
MAX_COMMAND = 128 * 1024

#: Commands of one page that are being done at a time.
MAX_PENDING = 64

#: Events that wait for the page's snapshot.
MAX_EARLY = 10_000

#: Seconds between two questions whether the page is still there, of which one may stay without answer.
PING = 20.0

#: The codes of RFC 6455, section 7.4.1, with which a connection is closed.
UNSUPPORTED, TOO_MUCH = 1003, 1009

JSON = dict[str, Any]


class Room(Protocol):
    """Where pages come and go: the view of the chat."""

    def joined(self, page: PageSocket) -> None:
        """It is open."""

    def left(self, page: PageSocket) -> None:
        """It is closed."""

    def perform(self, name: object, fields: JSON) -> Deferred[JSON | None]:
        """Do a command. :raise ChatError: it can't be done."""


class PageSocket:
    """
    What a page says and hears.

    An event that happens while the snapshot is being made is told after it.
    """

    _log = Logger()

    def __init__(self, connection: Guarded, room: Room, clock: IReactorTime) -> None:
        self._connection = connection
        self._room = room
        self._clock = clock
        self._transport: WebSocketTransport | None = None
        self._early: list[JSON] | None = []
        self._pending = 0
        self._heard = True
        self._timer: IDelayedCall | None = None

    # -- out --

    def tell(self, event: JSON) -> None:
        """An event happened."""
        if self._early is None:
            self._send(event)
        elif len(self._early) < MAX_EARLY:
            self._early.append(event)
        else:
            self._connection.drop()

    def start(self, snapshot: JSON) -> None:
        """How things are, and all that happened while that was being found out."""
        early, self._early = self._early or [], None
        self._send(snapshot)
        for event in early:
            self._send(event)

    def close(self) -> None:
        """Nothing more will be said."""
        if self._transport is not None:
            self._transport.loseConnection()

    def _send(self, event: JSON) -> None:
        if self._transport is not None:
            self._transport.sendTextMessage(strict_json.dumps(event).decode("ascii"))

    # -- in (WebSocketProtocol) --

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        """The connection is there, and nothing may be sent yet."""
        self._next = transport

    def negotiationFinished(self) -> None:
        """Now it may."""
        self._transport = self._next
        self._ask()
        self._room.joined(self)

    def textMessageReceived(self, message: str) -> None:
        """A command."""
        self._alive()
        request: object = None
        command: object = None
        try:
            if len(message) > MAX_COMMAND:
                raise ChatError(
                    "too-long",
                    f"A command has more than {MAX_COMMAND:,} characters: send long texts in parts.",
                )
            fields = _read(message)
            given = fields.get("request")
            if isinstance(given, (str, int)) and len(str(given)) <= 64:
                request = given
            command = fields.get("command")
            if self._pending >= MAX_PENDING:
                raise ChatError("too-many", "Too many commands at once: wait for the answers.")
            done = self._room.perform(command, fields)
        except ChatError as error:
            self._fail(command, request, error)
            return
        self._pending += 1
        done.addBoth(self._finished)
        done.addCallbacks(
            lambda answer: self._answer(answer, command, request),
            lambda failure: self._failed(failure, command, request),
        )
        done.addErrback(lambda failure: self._log.failure("A page's command failed", failure))

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:
        """Commands are text."""
        self._close(UNSUPPORTED)

    def pongReceived(self, payload: bytes) -> None:
        """It is still there."""
        self._alive()

    def connectionLost(self, reason: Failure) -> None:
        """The page is gone."""
        self._transport = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._room.left(self)

    # -- inside --

    def _finished(self, result: Any) -> Any:
        self._pending -= 1
        return result

    def _answer(self, answer: JSON | None, command: object, request: object) -> None:
        if request is not None:
            self._send({**(answer or {}), "event": "result", "request": request, "command": command})

    def _failed(self, failure: Failure, command: object, request: object) -> None:
        error = failure.value
        if not isinstance(error, ChatError):
            failure.raiseException()
        self._fail(command, request, error)

    def _fail(self, command: object, request: object, error: ChatError) -> None:
        event: JSON = {"event": "error", "reason": error.code, "text": str(error)}
        if isinstance(command, str):
            event["command"] = command[:64]
        if request is not None:
            event["request"] = request
        self._send(event)

    def _close(self, code: int) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            close: Callable[..., None] = transport.loseConnection
            close(code)

    def _alive(self) -> None:
        self._heard = True
        self._connection.message_complete()

    def _ask(self) -> None:
        if not self._heard:
            self._connection.drop()
            return
        self._heard = False
        if self._transport is not None:
            self._transport.ping()
        self._timer = self._clock.callLater(PING, self._ask)


def _read(message: str) -> JSON:
    try:
        value = strict_json.loads(message.encode("utf-8"))
    except (strict_json.JSONError, UnicodeEncodeError) as error:
        raise ChatError("malformed", f"A command must be one JSON object: {error}.") from None
    if not isinstance(value, dict):
        raise ChatError("malformed", 'A command must be a JSON object, such as {"command": "status"}.')
    return value
