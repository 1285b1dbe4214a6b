"""Clients of the rendezvous that are wrong in every way, on the simulated internet with real TLS."""

from __future__ import annotations

from OpenSSL import SSL

from punch.test.rendezvous.control_client import (
    connect_control,
    connect_raw,
    key_of,
    key_of_another_kind,
    keys_with_unreadable_certificates,
)
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.wire.control import Ping


class RefusalTests(RendezvousCase):
    """Clients that are wrong."""

    def test_without_a_certificate(self) -> None:
        client = self.connect(None)
        self.assertEqual((client.last["type"], client.last["code"]), ("error", "bad-certificate"))
        self.assertIn("certificate", client.last["text"])
        self.assertIsNotNone(client.ended)

    def test_with_a_key_of_another_kind(self) -> None:
        client = connect_control(self.home.reactor, SERVICE, 7001, key_of_another_kind())
        self.net.advance(0.5)
        self.assertEqual(client.last["code"], "bad-certificate")
        self.assertIn("Ed25519", client.last["text"])
        self.assertIsNotNone(client.ended)

    def test_with_a_certificate_that_cannot_be_read(self) -> None:
        """OpenSSL takes more than we can parse: it is refused like any other, and no error of ours."""
        for key in keys_with_unreadable_certificates(self.alice):
            client = connect_control(self.home.reactor, SERVICE, 7001, key)
            self.net.advance(0.5)
            self.assertEqual(client.last["code"], "bad-certificate")
            self.assertIsNotNone(client.ended)
        self.register(self.alice)

    def test_older_tls(self) -> None:
        client = self.connect(self.alice, maximum=SSL.TLS1_2_VERSION)
        self.assertFalse(client.secured)
        self.assertIsNotNone(client.ended)

    def test_other_protocols(self) -> None:
        for alpn in ([b"h2"], [b"punch/2"]):
            client = self.connect(self.alice, alpn=alpn)
            self.assertFalse(client.secured)
            assert client.ended is not None
            self.assertIn("no application protocol", str(client.ended.value).replace("_", " "))

    def test_a_relay_client_that_says_nothing(self) -> None:
        """`stun.turn` and no protocol at all are for TURN, which needs no certificate, but an allocation."""
        for alpn in ([b"stun.turn"], []):
            client = self.connect(None, alpn=alpn)
            self.assertTrue(client.secured)
            self.assertIsNone(client.ended)
            self.net.advance(11)
            self.assertIsNotNone(client.ended)
            self.assertEqual(client.data, b"")

    def test_our_protocol_among_others(self) -> None:
        client = self.connect(self.alice, alpn=[b"h2", b"punch/1"])
        self.assertIsNone(client.ended)

    def test_no_tls(self) -> None:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b'{"type":"register"}\n', b"\x02\x01\x00\x00", b"\x80"):
            client = connect_raw(self.home.reactor, SERVICE, 7001)
            self.net.advance(0.2)
            assert client.transport is not None
            client.transport.write(data)
            self.net.advance(0.5)
            self.assertIsNotNone(client.ended)
            self.assertEqual(client.data, b"")

    def test_broken_tls(self) -> None:
        for data in (b"\x16" * 500, b"\x16\x03\x01\x02\x00\x01" + bytes(600), b"\x16\x03\x01\xff\xff\x01"):
            client = connect_raw(self.home.reactor, SERVICE, 7001)
            self.net.advance(0.2)
            assert client.transport is not None
            client.transport.write(data)
            self.net.advance(11)
            self.assertIsNotNone(client.ended)
        self.register(self.alice)

    def test_lines_that_are_no_messages(self) -> None:
        for line, code in (
            (b" " * 16_385, "too-long"),
            (b"\xc3\x28", "malformed"),
            (b"[" * 10_000 + b"]" * 10_000, "too-long"),
            (b"[" * 8_000 + b"]" * 8_000, "malformed"),
            (b"\n" * 60_000, "malformed"),
        ):
            client = self.register(self.alice)
            client.send(line)
            self.net.advance(0.5)
            self.assertEqual(client.last["code"], code)
            self.assertEqual(len(client.of("error")), 1)
            self.assertIsNotNone(client.ended)
            bob = self.register(self.bob, self.office)
            self.assertIsNone(bob.ended)
            bob.abort()

    def test_line_that_never_ends(self) -> None:
        client = self.register(self.alice)
        assert client.transport is not None
        client.transport.write(b"x" * 17_000)
        self.net.advance(0.5)
        self.assertEqual(client.last["code"], "too-long")
        self.assertIsNotNone(client.ended)

    def test_what_comes_after_the_end_is_not_read(self) -> None:
        """Else whoever was refused could go on to make us work, for as long as the goodbye takes."""
        client = self.register(self.alice)
        client.send(b"")
        client.send(b"\n" * 2_000_000)
        self.net.advance(2)
        self.assertEqual(client.last["code"], "malformed")
        assert client.transport is not None
        self.assertIsNone(client.ended)
        unsent = sum(len(each.outgoing) for each in self.home.tcp.flows.values())
        self.assertGreater(unsent, 0)
        self.net.advance(3)
        self.assertIsNotNone(client.ended)
        self.register(self.alice)

    def test_longest_line(self) -> None:
        client = self.register(self.alice)
        client.send(b'{"type":"ping"}' + b" " * (16_384 - 15))
        self.net.advance(0.5)
        self.assertEqual(client.last["type"], "pong")

    def test_flood_of_messages(self) -> None:
        client = self.register(self.alice)
        client.send(*[Ping()] * 1_000)
        self.net.advance(1)
        self.assertEqual(client.last["code"], "rate")
        self.assertIsNotNone(client.ended)
        self.assertLess(len(client.of("pong")), 250)

    def test_peer_that_vanishes_in_the_handshake(self) -> None:
        for seconds in (0.0, 0.01, 0.03, 0.05, 0.1):
            client = connect_control(self.home.reactor, SERVICE, 7001, key_of(self.alice))
            self.net.advance(seconds)
            if client.transport is not None:
                client.abort()
            self.net.advance(1)
        self.assertEqual(self.service.open_connections, 0)
        self.register(self.alice)
