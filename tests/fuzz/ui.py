"""The user interface: text of peers as it is shown, commands, and the web page's server."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch import names
from punch.apps.chat import ChatError
from punch.contacts import AddressBook
from punch.names import petname_from
from punch.rendezvous.monitoring.http import MonitoringConnections, MonitoringSite, health_page
from punch.rendezvous.monitoring.status import Health
from punch.sanitize import cut, flags, sanitize
from punch.test.internet import Host, Internet
from punch.test.ui.front_ends import BOB, EVE, FrontEndFixture, incoming
from punch.test.ui.web.web_client import HTTPConnection
from punch.test.ui.web.web_server import EchoOwner
from punch.ui import slash
from punch.ui.command import CommandContext, CommandRefused
from punch.ui.commands import COMMANDS, perform, why
from punch.ui.json.commands import error_fields, read, request_fields
from punch.ui.web.admission import BrowserAdmission
from punch.ui.web.server import WebServer
from punch.ui.web.socket import PageSocket
from punch.wire import strict_json
from punch.wire.fields import is_visible
from tests.fuzz.target import Reader, check_log, chunk, target


def _texts() -> Iterator[bytes]:
    for text in (
        "bob",
        "Аlice",
        "e\u0301\u0301x",
        "\x1b[31mred\x07",
        "\u202eabc\u2066d\u2069\u2069\n\u2067e",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\U0001f468\u200d\U0001f469\U0001f1e9\U0001f1ea",
        "𝐩𝐮𝐧𝐜𝐡\u00ad ",
        "ﷺ\u3164K",
    ):
        yield b"\x05" + text.encode()


@target(_texts, longest=400)
def shown_text(data: bytes) -> None:
    """Texts and names of peers: nothing acts on a terminal, and no name is taken that reads as another."""
    reader = Reader(data)
    length = reader.byte() % 40 + 1
    text = reader.rest().decode("utf-8", "replace")
    shown = sanitize(text)
    for character in shown:
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs"), (text, shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2028\u2029"), (text, shown)
    assert len(sanitize(shown)) >= 0
    for start, end in flags(text):
        assert 0 <= start < end <= len(text)
    short = cut(shown, length)
    assert len(short) <= length
    assert names.alike(text, text) or not names.skeletons(text)
    for look in (names.skeleton(text), *names.skeletons(text)):
        assert len(look) <= 40 * len(text) + 40
    names.is_misleading(text)
    names.looks_like_an_id(text)
    given = petname_from(text)
    if given is not None:
        assert is_visible(given)
        assert given == sanitize(given)
        assert not names.is_misleading(given)
        book = AddressBook(None)
        book.add(BOB, text)
        assert book.find(book.name_of(BOB) or "") == BOB
        # A second one that calls itself the same is told apart
        book.add(EVE, text)
        assert book.name_of(EVE) is None or book.find(book.name_of(EVE) or "") == EVE


def _commands() -> Iterator[bytes]:
    for name, command in COMMANDS.items():
        fields = {field.name: str(BOB) if field.name == "peer" else "x" for field in command.fields}
        yield strict_json.dumps({"command": name, "request": 5, **fields})
        yield strict_json.dumps({"command": name, "id": "mine", "limit": 10, "days": 3, "name": "robert"})


@target(_commands, longest=2048)
def json_commands(data: bytes) -> None:
    """Commands of a script or of the page: done, or refused with a code and a sentence."""
    fixture = FrontEndFixture()
    fixture.start()
    chat = fixture.chat
    fixture.node.emit(incoming(EVE))
    context = CommandContext(chat, lambda: None)
    fields = {}
    try:
        fields = read(data)
        if fields.get("command") == "export":
            return
        done = perform(context, fields.get("command"), fields)
    except CommandRefused as error:
        strict_json.dumps(error_fields(fields, error))
        return
    failures: list[Failure] = []
    done.addCallbacks(
        lambda answer: strict_json.dumps({**(answer or {}), **request_fields(fields)}), failures.append
    )
    for failure in failures:
        assert isinstance(failure.value, (ChatError, CommandRefused)), failure
        strict_json.dumps(error_fields(fields, why(failure, Logger())))
    check_log()


def assert_sentence(error: Exception) -> None:
    """An error says what is wrong."""
    assert str(error).endswith((".", "?")), error


def _typed() -> Iterator[bytes]:
    for name in (*COMMANDS, *slash.SHORT, *slash.VIEW, *slash.HISTORY):
        yield f"{name} {BOB} hello".encode()
        yield f"history {name} 3".encode()


@target(_typed, longest=300)
def typed_commands(data: bytes) -> None:
    """Typed lines, and what is offered to complete them."""
    fixture = _typing()
    text = data.decode("utf-8", "replace")
    for current in (None, BOB):
        try:
            assert slash.parse(text, fixture.chat, current, EVE if current else None)
        except CommandRefused as error:
            assert_sentence(error)
    for completion, start, _ in slash.completions("/" + text, ["bob", "eve"]):
        assert completion is not None
        assert start <= len(text) + 1


@cache
def _typing() -> FrontEndFixture:
    fixture = FrontEndFixture()
    fixture.start()
    fixture.node.emit(incoming(EVE))
    return fixture


# -- HTTP --


class _Machine:
    """A machine with the page's server and that for operators, which serve all inputs one after another."""

    def __init__(self) -> None:
        self.net = Internet(1)
        self.net.announce = False
        self.host: Host = self.net.host("machine", "192.0.2.1")
        clock = self.host.reactor
        self.owner = EchoOwner()
        self.admission = BrowserAdmission(self.net.random_bytes("tickets"))
        self.server = WebServer(
            clock,
            self.admission,
            lambda connection: PageSocket(
                connection,
                clock,
                perform=self.owner.perform,
                joined=self.owner.joined,
                left=self.owner.left,
            ),
        )
        self.server.listen(8080)
        browser = self.admission.admit(self.admission.ticket())
        assert browser is not None
        self.cookie, self.key = browser.cookie, browser.key
        health = Health()
        health.started()
        site = MonitoringSite({b"/healthz": health_page(health.report)}, clock, local=True)
        connections: Any = MonitoringConnections(site)
        clock.listenTCP(9464, connections, interface="127.0.0.1")

    def ask(self, port: int, pieces: list[bytes]) -> bytes:
        """Send something on a new connection; what came back until the server has closed it."""
        endpoint = TCP4ClientEndpoint(self.host.reactor, "127.0.0.1", port)
        connection = self.net.wait(endpoint.connect(Factory.forProtocol(HTTPConnection)), 5.0, "a connection")
        assert isinstance(connection, HTTPConnection)
        for piece in pieces:
            connection.write(piece)
            self.net.advance(0.001)
        self.net.advance(0.1)
        if connection.lost is None:
            connection.transport.loseConnection()  # type: ignore[union-attr]
            self.net.advance(20.0)
        answer = bytes(connection.received)
        assert b" 500 " not in answer[:40], answer
        assert len(answer) <= 500_000
        check_log()
        return answer


@cache
def _machine() -> _Machine:
    return _Machine()


def _http_requests() -> Iterator[bytes]:
    for host in (b"127.0.0.1:8080", b"localhost:9464", b"[::1]", b"\xff", b"evil.example"):
        yield b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        yield (
            b"GET /?token=a%ffb&token=c HTTP/1.1\r\nHost: " + host + b"\r\nCookie: punch-8080=\xff; x\r\n\r\n"
        )
    yield b"HEAD /index.js HTTP/1.0\r\nHost: 127.0.0.1:8080\r\nSec-Purpose: prefetch\r\n\r\n"
    yield b"POST / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Length: 5\r\n\r\nhello"
    yield b"GET /ws HTTP/1.1\r\nHost: localhost:8080\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n"
    yield b"GET http://x/%00/../style.css HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nOrigin: null\r\n\r\n"


@target(_http_requests, longest=1024)
def web_requests(data: bytes) -> None:
    """HTTP requests of anybody on the machine to the page's server."""
    _machine().ask(8080, [data])


@target(_http_requests, longest=1024)
def monitoring_requests(data: bytes) -> None:
    """HTTP requests of anybody on the machine to the server for operators."""
    _machine().ask(9464, [data])


def _ws_frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([first]) + length + bytes(4) + payload


def _pages() -> Iterator[bytes]:
    for text in (
        b'{"command":"echo","text":"a"}',
        b'{"command":"fail","request":1}',
        b"{}",
        b"\xff",
        b'"\\ud800"',
    ):
        yield b"\x81" + chunk(text)
    yield (
        b"\x01"
        + chunk(b'{"comm')
        + b"\x80"
        + chunk(b'and":"echo"}')
        + b"\x89"
        + chunk(b"ping")
        + b"\x88"
        + chunk(b"")
    )
    yield b"\x82" + chunk(b"bytes") + b"\0" + chunk(b"\x81\xff" + bytes(8) + bytes(4))
    yield b"\x81" + chunk(b'{"command":"wait"}') * 3 + b"\x8a" + chunk(b"")


@target(_pages, longest=1024)
def web_page(data: bytes) -> None:
    """WebSocket frames of a page that was let in."""
    machine = _machine()
    head = (
        f"GET /ws?key={machine.key} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nOrigin: http://127.0.0.1:8080\r\n"
        f"Cookie: {machine.server.cookie_name}={machine.cookie}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    pieces = [head.encode()]
    reader = Reader(data)
    while reader.more and len(pieces) < 20:
        first = reader.byte()
        payload = reader.chunk()
        pieces.append(_ws_frame(first, payload) if first else payload)
    answer = machine.ask(8080, pieces)
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    assert not machine.owner.pages
