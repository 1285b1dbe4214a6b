"""The page's server: who gets in, who doesn't, and that neither can hurt it."""

from __future__ import annotations

import json
import re
from typing import cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from punch.apps.chat import ChatError
from punch.test.internet import InternetTestCase
from punch.test.web_client import Browser, Socket
from punch.ui.web.admission import MAX_BROWSERS, MAX_TICKETS, Admission
from punch.ui.web.guard import MAX_PLAIN, MAX_SOCKETS, PLAIN_TIME, UNREAD_BYTES, UNREAD_TIME
from punch.ui.web.server import WebServer
from punch.ui.web.socket import JSON, MAX_COMMAND, MAX_PENDING, PING, PageSocket


class EchoRoom:
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
            return fail(ChatError("no-call", "It can't be done."))
        if name != "echo":
            raise ChatError("unknown-command", "There is no such command.")
        return succeed({"text": fields.get("text")})


class ServerTestCase(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.machine = self.net.host("machine", "192.0.2.1")
        self.room = EchoRoom()
        clock = self.machine.reactor
        self.server = WebServer(
            clock,
            Admission(self.net.random_bytes("tickets")),
            lambda connection: PageSocket(connection, self.room, clock),
        )
        self.server.listen(8080)
        self.addCleanup(self.server.stop)
        self.browser = Browser(self.net, self.machine, 8080)

    def enter(self) -> Browser:
        """A browser that was let in."""
        browser = Browser(self.net, self.machine, 8080)
        self.assertEqual(browser.enter(self.server.new_url()).status, 303)
        return browser

    def page(self, browser: Browser | None = None) -> Socket:
        """An open page."""
        socket = (browser or self.enter()).socket()
        self.assertTrue(socket.open, socket.refused)
        self.net.advance(0.1)
        return socket


class AdmissionTests(ServerTestCase):
    def test_the_printed_address_lets_in(self) -> None:
        answer = self.browser.enter(self.server.new_url())
        self.assertEqual(answer.status, 303)
        (cookie,) = answer.cookies
        self.assertRegex(cookie, r"^punch-8080=[\w-]{43}; ")
        for attribute in ("HttpOnly", "SameSite=strict", "Path=/"):
            self.assertIn(attribute.lower(), cookie.lower())
        self.assertNotIn("expires", cookie.lower())
        self.assertEqual(self.browser.get("/").status, 200)
        self.assertEqual(self.page(self.browser).of("snapshot"), [{"event": "snapshot"}])

    def test_only_on_loopback(self) -> None:
        elsewhere = self.net.host("elsewhere", "192.0.2.2")
        endpoint = TCP4ClientEndpoint(elsewhere.reactor, "192.0.2.1", 8080, timeout=5)
        connected = endpoint.connect(Factory.forProtocol(Protocol))
        with self.assertRaises(ConnectError):
            self.net.wait(connected, 10.0)

    def test_a_used_token(self) -> None:
        url = self.server.new_url()
        self.assertEqual(self.browser.enter(url).status, 303)
        stranger = Browser(self.net, self.machine, 8080)
        answer = stranger.enter(url)
        self.assertEqual((answer.status, answer.cookies), (403, []))
        self.assertIn(b"no key", answer.body)

    def test_the_browser_that_used_it_may_come_back_by_it(self) -> None:
        url = self.server.new_url()
        self.browser.enter(url)
        again = self.browser.get(url.partition(self.browser.authority)[2])
        self.assertEqual((again.status, again.headers["location"], again.cookies), (303, "/", []))

    def test_wrong_tokens(self) -> None:
        self.server.new_url()
        for token in ("", "x", "a" * 43, "%00%ff", "é".encode().hex(), "a" * 9000):
            answer = self.browser.get(f"/?token={token}")
            self.assertEqual((answer.status, answer.cookies), (403, []), token[:50])

    def test_without_anything(self) -> None:
        answer = self.browser.get("/")
        self.assertEqual(answer.status, 403)
        self.assertEqual(self.browser.socket().refused, 403)

    def test_looking_ahead_uses_nothing_up(self) -> None:
        url = self.server.new_url()
        target = url.partition(self.browser.authority)[2]
        self.assertEqual(self.browser.get(target, sec_purpose="prefetch;prerender").status, 503)
        self.assertEqual(self.browser.get(target, method="HEAD").status, 503)
        self.assertEqual(self.browser.enter(url).status, 303)

    def test_no_ticket_in_the_log(self) -> None:
        """Twisted's own words about a request name all of its address."""
        heard: list[str] = []
        observer = cast(ILogObserver, lambda event: heard.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        target = self.server.new_url().partition(self.browser.authority)[2]
        for method in ("HEAD", "GET", "POST", "BREW"):
            self.browser.get(target, method=method)
            self.browser.get(target, method=method, host="elsewhere.example")
        self.assertEqual([line for line in heard if "token" in line], [])

    def test_a_link_on_another_site(self) -> None:
        """Strict cookies don't follow a redirect that another site led to: the page goes on by itself."""
        target = self.server.new_url().partition(self.browser.authority)[2]
        answer = self.browser.get(target, sec_fetch_site="cross-site")
        self.assertEqual(answer.status, 200)
        self.assertRegex(answer.body, rb'content="0; url=/#key=[\w-]{43}"')

    def test_two_browsers(self) -> None:
        one, other = self.enter(), self.enter()
        self.page(one)
        self.page(other)
        self.assertNotEqual((one.cookie, one.key), (other.cookie, other.key))
        self.assertEqual(one.socket(key=other.key).refused, 403)

    def test_a_second_tab(self) -> None:
        browser = self.enter()
        self.page(browser)
        self.assertEqual(browser.get("/").status, 200)
        self.page(browser)
        self.assertEqual(len(self.room.pages), 2)

    def test_a_stolen_cookie_is_not_enough(self) -> None:
        browser = self.enter()
        thief = Browser(self.net, self.machine, 8080)
        thief.cookie = browser.cookie
        self.assertEqual(thief.socket().refused, 403)
        self.assertEqual(thief.socket(key="a" * 43).refused, 403)

    def test_a_stolen_key_is_not_enough(self) -> None:
        browser = self.enter()
        self.assertEqual(browser.socket(cookie="x=y").refused, 403)
        self.assertEqual(browser.socket(cookie="punch-8080=" + "a" * 43).refused, 403)

    def test_only_so_many_tickets_and_browsers(self) -> None:
        admission = Admission(self.net.random_bytes("more"))
        tickets = [admission.ticket() for _ in range(MAX_TICKETS + 1)]
        self.assertIsNone(admission.admit(tickets[0]))
        first = admission.admit(tickets[1])
        assert first is not None
        for _ in range(MAX_BROWSERS):
            admission.admit(admission.ticket())
        self.assertFalse(admission.knows(first.cookie))


class StrangerTests(ServerTestCase):
    """Other sites, and other users of the machine."""

    def test_a_wrong_host(self) -> None:
        """DNS rebinding: somebody's name that leads here, with everything else right."""
        browser = self.enter()
        for host in (
            "evil.example:8080",
            "evil.example",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1:8080.evil.example",
            "0:8080",
        ):
            for target in ("/", "/main.js", f"/ws?key={browser.key}"):
                answer = browser.get(target, host=host)
                self.assertEqual((answer.status, len(answer.body) < 50), (421, True), (host, target))
            self.assertEqual(browser.socket(host=host, origin=f"http://{host}").refused, 421)
        url = self.server.new_url().partition(browser.authority)[2]
        self.assertEqual(self.browser.get(url, host="evil.example:8080").status, 421)
        self.assertEqual(self.browser.enter(f"http://127.0.0.1:8080{url}").status, 303)

    def test_localhost_is_this_host(self) -> None:
        self.assertEqual(self.enter().get("/", host="localhost:8080").status, 200)

    def test_a_wrong_origin(self) -> None:
        browser = self.enter()
        for origin in (
            None,
            "null",
            "http://evil.example",
            "https://127.0.0.1:8080",
            "http://127.0.0.1:8081",
            "http://127.0.0.1",
            "http://localhost:8080",
            "file://",
        ):
            self.assertEqual(browser.socket(origin=origin).refused, 403, origin)
        self.assertTrue(browser.socket().open)

    def test_what_every_answer_forbids(self) -> None:
        browser = self.enter()
        for target, status in (("/", 200), ("/main.js", 200), ("/nothing", 404), ("/?token=x", 303)):
            answer = browser.get(target)
            self.assertEqual(answer.status, status)
            policy = answer.headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertIn("frame-ancestors 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertNotRegex(policy, r"https?:|\*")
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            self.assertEqual(answer.headers["referrer-policy"], "no-referrer")
            self.assertEqual(answer.headers["cross-origin-resource-policy"], "same-origin")
            self.assertEqual(answer.headers["cache-control"], "no-store")
            self.assertNotIn("server", answer.headers)

    def test_the_page_needs_nobody_else(self) -> None:
        """Nothing in it names another host, and it has no script or style of its own in the markup."""
        browser = self.enter()
        total = 0
        for name in ("", *re.findall(r'(?:src|href)="([\w.]+)"', browser.get("/").body.decode())):
            total += len(browser.get(f"/{name}").body)
        self.assertGreater(total, 20_000)
        for name, content in self.server.files.items():
            text = content.decode().replace("http://www.w3.org/2000/svg", "")
            self.assertNotRegex(text, r"https?://|//[a-z]+\.[a-z]+/", name)
            if name.endswith(".html"):
                self.assertNotRegex(text, r"<style|style=|\bon[a-z]+=|<script(?![^>]*\bsrc=)", name)
            if name.endswith(".js"):
                self.assertNotRegex(
                    text, r"innerHTML|outerHTML|insertAdjacentHTML|\beval\b|document\.write", name
                )

    def test_the_page_asks_for_all_at_once(self) -> None:
        """No module waits until another one that names it has come, and no style sheet is left out."""
        page = self.server.files["index.html"].decode()
        for name in self.server.files:
            if name.endswith((".js", ".css")):
                self.assertEqual(page.count(f'"{name}"'), 1, name)

    def test_no_way_out_of_the_files(self) -> None:
        browser = self.enter()
        for target in (
            "/../server.py",
            "/%2e%2e/server.py",
            "/static/main.js",
            "/index.html",
            "//main.js",
            "/%00",
        ):
            self.assertEqual(browser.get(target).status, 404, target)

    def test_other_methods(self) -> None:
        browser = self.enter()
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X" * 100):
            self.assertEqual(browser.get("/", method=method).status, 405, method)

    def test_a_request_with_a_body_is_not_read(self) -> None:
        browser = self.enter()
        connection = browser.connect()
        connection.write(
            f"POST / HTTP/1.1\r\nHost: {browser.authority}\r\nContent-Length: 99999999\r\n\r\n".encode()
        )
        self.net.advance(1.0)
        self.assertIsNotNone(connection.lost)

    def test_no_request_at_all(self) -> None:
        connection = self.browser.connect()
        for _ in range(int(PLAIN_TIME) + 5):
            if connection.lost is None:
                connection.write(b"G")
            self.net.advance(1.0)
        self.assertIsNotNone(connection.lost)

    def test_garbage_instead_of_a_request(self) -> None:
        for garbage in (b"\0" * 1000, b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"x" * 300_000):
            connection = self.browser.connect()
            connection.write(garbage)
            self.net.advance(40.0)
            self.assertIsNotNone(connection.lost, garbage[:10])
        self.flushLoggedErrors()
        self.page()

    def test_whoever_opens_many_connections_locks_nobody_out(self) -> None:
        held = [self.browser.connect() for _ in range(3 * MAX_PLAIN)]
        self.net.advance(0.5)
        self.assertEqual(sum(each.lost is None for each in held), MAX_PLAIN)
        self.page()


class SocketTests(ServerTestCase):
    def test_commands_and_answers(self) -> None:
        page = self.page()
        page.say({"command": "echo", "request": 1, "text": "hello"})
        page.say({"command": "fail", "request": "two"})
        page.say({"command": "nothing"})
        self.net.advance(0.2)
        self.assertEqual(
            page.events[1:],
            [
                {"event": "result", "request": 1, "command": "echo", "text": "hello"},
                {
                    "event": "error",
                    "request": "two",
                    "command": "fail",
                    "reason": "no-call",
                    "text": "It can't be done.",
                },
                {
                    "event": "error",
                    "command": "nothing",
                    "reason": "unknown-command",
                    "text": "There is no such command.",
                },
            ],
        )

    def test_a_mistake_of_ours(self) -> None:
        """It is told, logged, and ends nothing."""
        page = self.page()
        page.say({"command": "break", "request": 1})
        page.say({"command": "echo", "text": "still there"})
        self.net.advance(0.2)
        self.assertEqual([event.get("reason") for event in page.events[1:]], ["internal", None])
        self.assertEqual(page.events[1]["request"], 1)
        self.assertEqual(page.events[2]["text"], "still there")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_garbage(self) -> None:
        """What is no command is told so; the connection stays."""
        page = self.page()
        garbage = [
            "",
            "x",
            "[]",
            "null",
            "{",
            '{"command": NaN}',
            '{"command": "echo", "command": "fail"}',
            '{"a":' * 40 + "1" + "}" * 40,
            '{"text": "\\ud800"}',
            json.dumps({"command": ["echo"]}),
            json.dumps({"command": None, "request": {"a": 1}}),
            json.dumps({"command": "x" * 100_000}),
        ]
        for message in garbage:
            page.say(message)
        self.net.advance(0.5)
        self.assertEqual([event["event"] for event in page.events[1:]], ["error"] * len(garbage))
        self.assertLess(max(len(json.dumps(event)) for event in page.events), 2000)
        page.say({"command": "echo", "request": 9})
        self.net.advance(0.2)
        self.assertEqual(page.events[-1]["request"], 9)

    def test_garbage_below_messages(self) -> None:
        """Frames that are none end the connection, and nothing else."""
        other = self.page()
        for garbage in (
            b"\xff" * 100,
            b"\x83\x80\0\0\0\0",  # a reserved opcode
            b"\x81\x05hello",  # not masked
            b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0",  # 2^64 bytes to come
            b"\x81\x82\0\0\0\0\xc3\x28",  # not UTF-8
            b"\x89\xff\0\0\0\0\0\0\x01\0\0\0\0\0",  # a ping of 256 bytes
            b"\x80\x80\0\0\0\0",  # goes on with nothing
        ):
            page = self.page()
            page.connection.write(garbage)
            self.net.advance(1.0)
            self.assertIsNotNone(page.connection.lost, garbage[:12])
        other.say({"command": "echo", "request": 1})
        self.net.advance(0.2)
        self.assertEqual(other.events[-1]["event"], "result")
        self.flushLoggedErrors()

    def test_binary_messages(self) -> None:
        page = self.page()
        page.say_bytes(b'{"command": "echo"}')
        self.net.advance(1.0)
        self.assertEqual(page.closed, 1003)

    def test_a_long_command(self) -> None:
        page = self.page()
        page.say({"command": "echo", "request": 1, "text": "x" * MAX_COMMAND})
        self.net.advance(2.0)
        self.assertEqual(page.events[-1]["reason"], "too-long")
        page.say({"command": "echo", "request": 2, "text": "x" * (MAX_COMMAND // 2)})
        self.net.advance(2.0)
        self.assertEqual(page.events[-1]["event"], "result")

    def test_ten_megabytes(self) -> None:
        page = self.page()
        page.say("x" * 10_000_000)
        self.net.advance(30.0)
        self.assertIsNotNone(page.connection.lost)

    def test_a_message_without_end(self) -> None:
        page = self.page()
        for _ in range(100):
            if page.connection.lost is None:
                page.part("x" * 10_000)
            self.net.advance(0.1)
        self.assertIsNotNone(page.connection.lost)

    def test_many_commands_at_once(self) -> None:
        page = self.page()
        for number in range(MAX_PENDING + 10):
            page.say({"command": "wait", "request": number})
        self.net.advance(1.0)
        self.assertEqual(len(self.room.waiting), MAX_PENDING)
        self.assertEqual([event["reason"] for event in page.events[1:]], ["too-many"] * 10)
        for waiting in self.room.waiting:
            waiting.callback(None)
        self.net.advance(1.0)
        self.assertEqual(len(page.of("result")), MAX_PENDING)

    def test_an_answer_after_the_page_was_closed(self) -> None:
        page = self.page()
        page.say({"command": "wait", "request": 1})
        self.net.advance(0.5)
        page.connection.transport.abortConnection()  # type: ignore[union-attr]
        self.net.advance(0.5)
        self.room.waiting[0].callback({"text": "late"})
        self.net.advance(0.5)
        self.assertEqual(self.room.pages, [])

    def test_a_thousand_sockets(self) -> None:
        """So many get in; the others are refused, and when some have left there is room again."""
        browser = self.enter()
        sockets = [browser.socket() for _ in range(1000)]
        taken = [socket for socket in sockets if socket.open]
        self.assertEqual(len(taken), MAX_SOCKETS)
        self.assertEqual({socket.refused for socket in sockets if not socket.open}, {503})
        taken[0].say({"command": "echo", "request": 1})
        taken[-1].connection.transport.abortConnection()  # type: ignore[union-attr]
        self.net.advance(0.5)
        self.assertEqual(taken[0].events[-1]["event"], "result")
        self.page(browser)
        self.assertEqual(len(self.room.pages), MAX_SOCKETS)

    def test_a_browser_that_stops_reading(self) -> None:
        page, other = self.page(), self.page()
        page.connection.pause()
        told = 0
        while len(self.room.pages) == 2 and told < 100:
            for each in self.room.pages:
                each.tell({"event": "message", "text": "x" * 200_000})
            told += 1
            self.net.advance(0.2)
        self.assertEqual(len(self.room.pages), 1)
        self.assertLess(told * 200_000, UNREAD_BYTES + 2_000_000)
        self.net.advance(1.0)
        self.assertEqual(len(other.of("message")), told)

    def test_a_browser_that_leaves_a_little_unread(self) -> None:
        page = self.page()
        page.connection.pause()
        for each in self.room.pages:
            each.tell({"event": "message", "text": "x" * 2_000_000})
        self.net.advance(UNREAD_TIME / 2)
        self.assertEqual(len(self.room.pages), 1)
        self.net.advance(UNREAD_TIME)
        self.assertEqual(self.room.pages, [])

    def test_a_slow_browser_stays(self) -> None:
        page = self.page()
        for _ in range(10):
            page.connection.pause()
            for each in self.room.pages:
                each.tell({"event": "message", "text": "x" * 500_000})
            self.net.advance(UNREAD_TIME / 3)
            page.connection.transport.resumeProducing()  # type: ignore[union-attr]
            self.net.advance(UNREAD_TIME / 3)
        self.assertEqual(len(page.of("message")), 10)

    def test_idle_pages_stay_and_dead_ones_go(self) -> None:
        page, dead = self.page(), self.page()
        dead.answers_pings = False
        self.net.advance(10 * PING)
        self.assertIsNone(page.connection.lost)
        self.assertIsNotNone(dead.connection.lost)
        self.assertEqual(len(self.room.pages), 1)

    def test_the_end_of_the_server(self) -> None:
        page = self.page()
        self.net.wait(self.server.stop(), 5.0, "the server stops")
        self.net.advance(0.5)
        self.assertIsNotNone(page.connection.lost)
        self.assertEqual(self.room.pages, [])
        self.assertIsInstance(self.server.guards.sockets, set)
        self.assertEqual(self.server.guards.protocols, {})
