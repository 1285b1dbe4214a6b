"""Which answers to a web request are those of a captive portal."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.natcheck.captive_portal import (
    LONGEST,
    needs_look_up,
    portal_request,
    redirects_to,
    requires_sign_in,
)

HOST = "rendezvous.example.org"


def is_portal(answer: bytes, host: str) -> bool:
    """Whether the answer is that of a portal, as far as is known without a look-up."""
    other = redirects_to(answer, host)
    return requires_sign_in(answer) or (other is not None and not needs_look_up(host, other))


class CaptivePortalTests(SynchronousTestCase):
    def test_request(self) -> None:
        self.assertEqual(
            portal_request(HOST),
            b"GET / HTTP/1.1\r\nHost: rendezvous.example.org\r\nConnection: close\r\n\r\n",
        )
        self.assertIn(b"Host: [2001:db8::1]\r\n", portal_request("2001:db8::1"))

    def test_portals(self) -> None:
        """Portals say that they are one (RFC 6585), or send the browser to another host."""
        for answer in (
            b"HTTP/1.1 511 Network Authentication Required\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/login\r\n\r\n",
            b"HTTP/1.0 307 x\r\nServer: y\r\nlocation:https://login.hotel.example/?u=1\r\n\r\nhello",
        ):
            self.assertTrue(is_portal(answer, HOST), answer)

    def test_addresses(self) -> None:
        """A web server that is asked by its IP address sends browsers to its name."""
        answer = b"HTTP/1.1 301 x\r\nLocation: https://rendezvous.example.org/\r\n\r\n"
        for host in ("192.0.2.1", "2001:db8::1"):
            self.assertFalse(is_portal(answer, host), host)
            self.assertTrue(is_portal(b"HTTP/1.1 511 x\r\n\r\n", host), host)
        elsewhere = b"HTTP/1.1 302 x\r\nLocation: http://10.0.0.1/login\r\n\r\n"
        self.assertTrue(is_portal(elsewhere, "192.0.2.1"))
        self.assertFalse(is_portal(elsewhere, "10.0.0.1"))
        self.assertTrue(is_portal(answer, "unrendezvous.example.org"))
        self.assertTrue(is_portal(b"HTTP/1.1 302 x\r\nLocation: http://login.example.org/\r\n\r\n", HOST))

    def test_names_to_look_up(self) -> None:
        """
        If a server that is asked by its address sends to a name, the addresses of the name decide. In other
        cases no look-up is needed.
        """
        for place, other in (
            (b"http://login.hotel.example/", "login.hotel.example"),
            (b"https://Login.Hotel.Example.:8443/x", "login.hotel.example"),
            (b"http://" + b"x" * 64 + b".example/", None),
            (b"http://" + b"x." * 140 + b"example/", None),
            (b"http://a b/", None),
            (b"http://..example/", None),
        ):
            answer = b"HTTP/1.1 302 x\r\nLocation: " + place + b"\r\n\r\n"
            self.assertEqual(redirects_to(answer, "192.0.2.1"), other, place)
        self.assertTrue(needs_look_up("192.0.2.1", "login.hotel.example"))
        self.assertFalse(needs_look_up("192.0.2.1", "10.0.0.1"))
        self.assertFalse(needs_look_up(HOST, "login.hotel.example"))

    def test_others(self) -> None:
        """Answers of web servers of the host itself, and what is no answer at all."""
        for answer in (
            b"",
            b"HTTP/1.1 200 OK\r\n\r\nWelcome",
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"HTTP/1.1 301 x\r\nLocation: https://rendezvous.example.org/\r\n\r\n",
            b"HTTP/1.1 301 x\r\nLocation: https://Rendezvous.Example.ORG/\r\n\r\n",
            b"HTTP/1.1 301 x\r\nLocation: https://www.rendezvous.example.org/\r\n\r\n",
            b"HTTP/1.1 301 x\r\nLocation: https://example.org/\r\n\r\n",
            b"HTTP/1.1 301 x\r\nLocation: https://rendezvous.example.org./\r\n\r\n",
            b"HTTP/1.1 302 x\r\nLocation: /login\r\n\r\n",
            b"HTTP/1.1 302 x\r\n\r\n",
            b"HTTP/1.1 302 x\r\nLocation: http://[::1/\r\n\r\n",
            b"HTTP/1.1 302 x\r\nLocation: http://\xff/\r\n\r\n",
            b"HTTP/1.1 abc\r\nLocation: http://10.0.0.1/\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1 302 x\r\n" + b"x" * LONGEST + b"\r\nLocation: http://10.0.0.1/\r\n\r\n",
            b"HTTP/1.1",
        ):
            self.assertFalse(is_portal(answer, HOST), answer)
