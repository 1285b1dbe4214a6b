"""The web page's server on the simulated internet, in front of a view that echoes what it receives."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from punch.test.internet import InternetTestCase
from punch.test.ui.web.web_client import SimulatedBrowser, WebSocketClient
from punch.ui.command import CommandRefused
from punch.ui.web.admission import BrowserAdmission
from punch.ui.web.server import WebServer
from punch.ui.web.socket import JSON, PageSocket


class EchoOwner:
    """A view whose only commands are `echo`, `fail`, `wait`, and `break`, which is a mistake."""

    def __init__(self) -> None:
        self.pages: list[PageSocket] = []
        self.waiting: list[Deferred[JSON | None]] = []

    def joined(self, page: PageSocket) -> None:
        self.pages.append(page)
        page.start({"event": "snapshot"})

    def left(self, page: PageSocket) -> None:
        self.pages.remove(page)

    def perform(self, name: object, fields: JSON) -> Deferred[JSON | None]:
        if name == "wait":
            self.waiting.append(Deferred())
            return self.waiting[-1]
        if name == "break":
            raise ZeroDivisionError("a mistake")
        if name == "fail":
            return fail(CommandRefused("no-call", "It can't be done."))
        if name != "echo":
            raise CommandRefused("unknown-command", "There is no such command.")
        return succeed({"text": fields.get("text")})


class ServerTestCase(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.machine = self.net.host("machine", "192.0.2.1")
        self.owner = EchoOwner()
        clock = self.machine.reactor
        self.server = WebServer(
            clock,
            BrowserAdmission(self.net.random_bytes("tickets")),
            lambda connection: PageSocket(
                connection,
                clock,
                perform=self.owner.perform,
                joined=self.owner.joined,
                left=self.owner.left,
            ),
        )
        self.server.listen(8080)
        self.addCleanup(self.server.stop)
        self.browser = SimulatedBrowser(self.net, self.machine, 8080)

    def enter(self) -> SimulatedBrowser:
        """A browser that was let in."""
        browser = SimulatedBrowser(self.net, self.machine, 8080)
        self.assertEqual(browser.enter(self.server.new_url()).status, 303)
        return browser

    def page(self, browser: SimulatedBrowser | None = None) -> WebSocketClient:
        """An open page."""
        socket = (browser or self.enter()).socket()
        self.assertTrue(socket.open, socket.refused)
        self.net.advance(0.1)
        return socket
