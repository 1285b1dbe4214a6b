"""The page's server: who gets in, who doesn't, and that neither can hurt it."""

from __future__ import annotations

import gzip
import re
from typing import cast

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from punch.test.ui.web.web_client import SimulatedBrowser
from punch.test.ui.web.web_server import ServerTestCase
from punch.ui.web.admission import MAX_BROWSERS, MAX_TICKETS, BrowserAdmission
from punch.ui.web.connections import MAX_PLAIN, PLAIN_TIME


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
        stranger = SimulatedBrowser(self.net, self.machine, 8080)
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

    def test_headers_that_are_no_text(self) -> None:
        """They are like any other wrong value."""
        host = self.browser.authority
        for status, target, fields in (
            (b"421", b"/", b"Host: \xff"),
            (b"503", b"/?token=x", b"Host: %b\r\nSec-Purpose: \xff" % host.encode()),
            (b"403", b"/ws", b"Host: %b\r\nOrigin: \xff\r\nUpgrade: \xff" % host.encode()),
        ):
            connection = self.browser.connect()
            connection.write(b"GET %b HTTP/1.1\r\n%b\r\nConnection: close\r\n\r\n" % (target, fields))
            self.net.advance(40.0)
            self.assertEqual(bytes(connection.received).split()[1], status, fields)

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
        self.assertEqual(len(self.owner.pages), 2)

    def test_a_stolen_cookie_is_not_enough(self) -> None:
        browser = self.enter()
        thief = SimulatedBrowser(self.net, self.machine, 8080)
        thief.cookie = browser.cookie
        self.assertEqual(thief.socket().refused, 403)
        self.assertEqual(thief.socket(key="a" * 43).refused, 403)

    def test_a_stolen_key_is_not_enough(self) -> None:
        browser = self.enter()
        self.assertEqual(browser.socket(cookie="x=y").refused, 403)
        self.assertEqual(browser.socket(cookie="punch-8080=" + "a" * 43).refused, 403)

    def test_only_so_many_tickets_and_browsers(self) -> None:
        admission = BrowserAdmission(self.net.random_bytes("more"))
        tickets = [admission.ticket() for _ in range(MAX_TICKETS + 1)]
        self.assertIsNone(admission.admit(tickets[0]))
        first = admission.admit(tickets[1])
        assert first is not None
        for _ in range(MAX_BROWSERS):
            admission.admit(admission.ticket())
        self.assertFalse(admission.knows(first.cookie))


class CompressionTests(ServerTestCase):
    """What is loaded is compressed for browsers that say so."""

    def test_files(self) -> None:
        plain = self.browser.get("/main.js")
        self.assertEqual((plain.status, plain.headers.get("content-encoding")), (200, None))
        for accepted in ("gzip", "br, GZIP;q=0.5, deflate"):
            answer = self.browser.get("/main.js", accept_encoding=accepted)
            self.assertEqual(answer.headers["content-encoding"], "gzip")
            self.assertEqual(answer.headers["vary"], "Accept-Encoding")
            self.assertEqual(gzip.decompress(answer.body), plain.body)
            self.assertEqual(int(answer.headers["content-length"]), len(answer.body))
            self.assertLess(len(answer.body), len(plain.body) / 2)
        for refused in ("", "br", "gzip;q=0", "x-gzip-not"):
            self.assertEqual(self.browser.get("/main.js", accept_encoding=refused).body, plain.body)


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

    def test_a_forwarded_port(self) -> None:
        """Through a tunnel from another port: refused, with the command that works."""
        browser = self.enter()
        for host in ("localhost:9000", "127.0.0.1:12345", "[::1]:8080"):
            for target in ("/", "/main.js", f"/ws?key={browser.key}", "/?token=x"):
                answer = browser.get(target, host=host)
                self.assertEqual((answer.status, answer.cookies), (421, []))
                self.assertIn(b"ssh -L 8080:127.0.0.1:8080 ", answer.body)
                self.assertTrue(answer.headers["content-type"].startswith("text/plain"))
        for host in (
            "localhost:9000.evil.example",
            "evil.localhost:9000",
            "localhost:9000\u0661",
            "localhost",
        ):
            self.assertNotIn(b"8080", browser.get("/", host=host).body)

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
        """The page names no other host, and has no script or style in its markup."""
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
