"""The WebSocket of an open page, which carries the JSON interface: commands in, events out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.websocket import WebSocketTransport

from punch.net.driver import Timer
from punch.ui.command import CommandRefused
from punch.ui.commands import why
from punch.ui.json.commands import error_fields, read, request_fields
from punch.ui.web.connections import PageConnection
from punch.wire import strict_json

#: The most commands of one page that are being done at a time.
MAX_PENDING = 64

#: Seconds between two pings. A page that has sent nothing since the last one is dropped.
PING = 20.0

#: The close code for a page that sent a binary message (RFC 6455, section 7.4.1).
UNSUPPORTED = 1003

JSON = dict[str, Any]


class PageSocket:
    """
    The WebSocket of one page.

    The first thing that it sends is a snapshot of the chat. Earlier events are not sent, as the snapshot
    includes them.

    :param connection: its connection.
    :param perform: does a command, given its name and fields; may raise `CommandRefused`.
    :param joined: called when the WebSocket is open.
    :param left: called when the connection was lost.
    """

    _log = Logger()

    def __init__(
        self,
        connection: PageConnection,
        clock: IReactorTime,
        *,
        perform: Callable[[object, JSON], Deferred[JSON | None]],
        joined: Callable[[PageSocket], None],
        left: Callable[[PageSocket], None],
    ) -> None:
        self._connection = connection
        self._perform = perform
        self._joined = joined
        self._left = left
        self._negotiating: WebSocketTransport | None = None
        self._transport: WebSocketTransport | None = None
        self._started = False
        self._pending = 0
        self._heard = True
        self._timer = Timer(clock)

    # -- out --

    def tell(self, event: JSON) -> None:
        """Send an event, if the snapshot was sent; otherwise drop it."""
        if self._started:
            self._send(event)

    def start(self, snapshot: JSON) -> None:
        """Send the snapshot, which must be the state of the chat now. All later events are sent."""
        self._started = True
        self._send(snapshot)

    def close(self) -> None:
        """Close the connection, after what still waits to be sent."""
        if self._transport is not None:
            self._transport.loseConnection()

    def _send(self, event: JSON) -> None:
        if self._transport is not None:
            self._transport.sendTextMessage(strict_json.dumps(event).decode("ascii"))

    # -- in (WebSocketProtocol) --

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        """The WebSocket's handshake begins. Nothing may be sent until it is done."""
        self._negotiating = transport

    def negotiationFinished(self) -> None:
        """The handshake is done."""
        self._transport = self._negotiating
        self._ping()
        self._joined(self)

    def textMessageReceived(self, message: str) -> None:
        """Do a command of the page."""
        self._alive()
        fields: JSON = {}
        try:
            fields = read(message.encode("utf-8", "surrogatepass"))
            if self._pending >= MAX_PENDING:
                raise CommandRefused("too-many", "Too many commands at once: wait for the answers.")
        except CommandRefused as error:
            self._fail(fields, error)
            return
        self._pending += 1
        done = maybeDeferred(self._perform, fields.get("command"), fields)
        done.addCallbacks(partial(self._answer, fields), partial(self._failed, fields))

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:
        """Close the connection, as commands must be text messages."""
        self._close(UNSUPPORTED)

    def pongReceived(self, payload: bytes) -> None:
        """Note that the page has answered a ping."""
        self._alive()

    def connectionLost(self, reason: Failure) -> None:
        """The connection was lost, so the page is closed."""
        self._transport = None
        self._timer.cancel()
        self._left(self)

    # -- inside --

    def _answer(self, fields: JSON, answer: JSON | None) -> None:
        self._pending -= 1
        request = request_fields(fields)
        if request or answer is not None:
            self._send({**(answer or {}), **request, "event": "result", "command": fields["command"]})

    def _failed(self, fields: JSON, failure: Failure) -> None:
        self._pending -= 1
        self._fail(fields, why(failure, self._log))

    def _fail(self, fields: JSON, error: CommandRefused) -> None:
        self._send({"event": "error", **error_fields(fields, error)})

    def _close(self, code: int) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            close: Callable[..., None] = transport.loseConnection
            close(code)

    def _alive(self) -> None:
        self._heard = True
        self._connection.message_complete()

    def _ping(self) -> None:
        if not self._heard:
            self._connection.drop()
            return
        self._heard = False
        if self._transport is not None:
            self._transport.ping()
        self._timer.start(PING, self._ping)
