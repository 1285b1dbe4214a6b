"""A browser as far as the server can tell: requests, cookies, WebSockets, on the simulated internet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    TextMessage,
)
from wsproto.events import Request as Handshake

from punch.test.internet import Host, Internet


class HTTPConnection(Protocol):
    """One TCP connection to the page's port. :ivar received: what came. :ivar lost: why it ended."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None
        self.on_data: Callable[[bytes], None] = self.received.extend

    def dataReceived(self, data: bytes) -> None:
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def write(self, data: bytes) -> None:
        """Send something."""
        assert self.transport is not None
        self.transport.write(data)

    def pause(self) -> None:
        """Read no more."""
        self.transport.pauseProducing()  # type: ignore[union-attr]


class HTTPResponse:
    """What a request was answered. :ivar headers: with names in lower case; cookies apart."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        self.headers: dict[str, str] = {}
        self.cookies: list[str] = []
        for line in lines:
            name, _, value = line.partition(": ")
            if name.lower() == "set-cookie":
                self.cookies.append(value)
            else:
                self.headers[name.lower()] = value


class WebSocketClient:
    """One WebSocket. :ivar events: what was told. :ivar refused: the status, if it was refused."""

    def __init__(self, connection: HTTPConnection) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []
        self.refused: int | None = None
        self.closed: int | None = None
        self.open = False
        self.answers_pings = True
        self._text = ""
        self._protocol = WSConnection(ConnectionType.CLIENT)
        connection.on_data = self._take

    def shake_hands(self, host: str, target: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Ask for the WebSocket."""
        self.connection.write(self._protocol.send(Handshake(host, target, extra_headers=headers)))

    def say(self, message: object) -> None:
        """A command, or any text."""
        text = message if isinstance(message, str) else json.dumps(message)
        self.connection.write(self._protocol.send(TextMessage(text)))

    def say_bytes(self, data: bytes) -> None:
        """A binary message."""
        self.connection.write(self._protocol.send(BytesMessage(data)))

    def part(self, text: str) -> None:
        """The beginning of a message, or more of it, but not its end."""
        self.connection.write(self._protocol.send(TextMessage(text, message_finished=False)))

    def _take(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            if isinstance(event, AcceptConnection):
                self.open = True
            elif isinstance(event, RejectConnection):
                self.refused = event.status_code
            elif isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:
                    self.events.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(event, CloseConnection):
                self.closed = event.code
            elif isinstance(event, Ping) and self.answers_pings:
                self.connection.write(self._protocol.send(event.response()))

    def of(self, name: str) -> list[dict[str, Any]]:
        """All events of one name so far."""
        return [event for event in self.events if event["event"] == name]


class SimulatedBrowser:
    """A browser on the same machine. :ivar cookie: what it sends. :ivar key: what its page keeps."""

    def __init__(self, net: Internet, host: Host, port: int) -> None:
        self.net = net
        self.host = host
        self.port = port
        self.cookie = ""
        self.key = ""

    @property
    def authority(self) -> str:
        """The server's host and port."""
        return f"127.0.0.1:{self.port}"

    def connect(self) -> HTTPConnection:
        """Only a TCP connection."""
        endpoint = TCP4ClientEndpoint(self.host.reactor, "127.0.0.1", self.port)
        connected = endpoint.connect(Factory.forProtocol(HTTPConnection))
        made = self.net.wait(connected, 5.0, "a connection to the page")
        assert isinstance(made, HTTPConnection)
        return made

    def get(
        self, target: str, *, host: str | None = None, method: str = "GET", body: bytes = b"", **headers: str
    ) -> HTTPResponse:
        """One request."""
        connection = self.connect()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or self.authority}", "Connection: close"]
        if self.cookie and "cookie" not in headers:
            lines.append(f"Cookie: {self.cookie}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.net.run_until(lambda: connection.lost is not None, 40.0, "an answer")
        return HTTPResponse(bytes(connection.received))

    def enter(self, url: str) -> HTTPResponse:
        """Open a printed address, and keep what it gives."""
        answer = self.get(url.partition(self.authority)[2])
        if answer.cookies:
            self.cookie = answer.cookies[0].partition(";")[0]
            self.key = answer.headers["location"].partition("#key=")[2]
        return answer

    def socket(
        self,
        *,
        origin: str | None = "",
        host: str | None = None,
        key: str | None = None,
        cookie: str | None = None,
    ) -> WebSocketClient:
        """Ask for a WebSocket; see whether it is `open`, or was `refused`."""
        socket = WebSocketClient(self.connect())
        given = self.cookie if cookie is None else cookie
        headers = [(b"Cookie", given.encode())] if given else []
        if origin is not None:
            headers.append((b"Origin", (origin or f"http://{self.authority}").encode()))
        socket.shake_hands(host or self.authority, f"/ws?key={self.key if key is None else key}", headers)
        self.net.run_until(
            lambda: socket.open or socket.refused is not None or socket.connection.lost is not None,
            5.0,
            "an answer to the handshake",
        )
        return socket
