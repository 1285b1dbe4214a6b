"""Where relays are, in URIs and in control messages."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.wire.control import Relays, RenewRelays, Welcome
from punch.wire.control_codec import decode_reply, decode_request, encode
from punch.wire.fields import FieldError
from punch.wire.relays import MAX_RELAYS, RelayServer, RelayTransport, RelayURL, RelayURLError

OWN = RelayServer(
    RelayURL(None, 3478, RelayTransport.UDP), "1900000000:x", "c2VjcmV0", "punch", "nonce", 3600.0
)
OTHER = RelayServer(
    RelayURL("2001:db8::7", 443, RelayTransport.TLS), "u", "p", "example.org", "", 60.0, pin=bytes(32)
)


class URLTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """RFC 7065, with its default ports."""
        cases = {
            "turn:example.org": RelayURL("example.org", 3478, RelayTransport.UDP),
            "turn:192.0.2.1:443?transport=tcp": RelayURL("192.0.2.1", 443, RelayTransport.TCP),
            "TURN:Example.org?transport=UDP": RelayURL("example.org", 3478, RelayTransport.UDP),
            "turns:[2001:db8::1]": RelayURL("2001:db8::1", 5349, RelayTransport.TLS),
            "turns:[2001:db8::1]:443?transport=tcp": RelayURL("2001:db8::1", 443, RelayTransport.TLS),
        }
        for text, url in cases.items():
            self.assertEqual(RelayURL.parse(text), url)
            self.assertEqual(RelayURL.parse(str(url)), url)

    def test_what_is_none(self) -> None:
        """Each mistake is a sentence."""
        for text in (
            "", "turn:", "stun:example.org", "turn:example.org:0", "turn:a b", "turn:x.org?transport=sctp",
            "turns:x.org?transport=udp", "turn:2001:db8::1", "turn:user@example.org", "turn:example.org/x",
        ):  # fmt: skip
            error = self.assertRaises(RelayURLError, RelayURL.parse, text)
            self.assertTrue(str(error).endswith("."), error)


class MessageTests(SynchronousTestCase):
    def test_round_trips(self) -> None:
        """In `welcome` and in the answer to a request for new ones."""
        peer = Identity.generate(lambda size: bytes(size)).peer_id
        for reply in (
            Welcome(peer, "192.0.2.1", 3478, 20.0, relays=(OWN, OTHER)),
            Relays((OWN,)),
            Relays(()),
        ):
            self.assertEqual(decode_reply(encode(reply)), reply)
        self.assertEqual(decode_request(encode(RenewRelays())), RenewRelays())
        many = Relays((OTHER,) * MAX_RELAYS)
        self.assertEqual(decode_reply(encode(many)), many)

    def test_a_password_is_not_shown(self) -> None:
        """Logs and tracebacks show `repr`."""
        self.assertNotIn("c2VjcmV0", repr(OWN))

    def test_hostile_fields(self) -> None:
        """A dishonest rendezvous can't hand out what would break the client."""
        good = OTHER.to_json()
        self.assertEqual(RelayServer.from_json(good), OTHER)
        self.assertEqual(RelayServer.from_json(replace(OTHER, pin=None).to_json()).pin, None)
        bad: list[tuple[str, object]] = [
            ("host", ""), ("host", "a/b"), ("host", 7), ("port", 0), ("port", 65536), ("port", "443"),
            ("transport", "sctp"), ("username", ""), ("username", "ä"), ("username", "x" * 513),
            ("password", "\x00"), ("realm", "x" * 128), ("nonce", "\n"), ("lifetime", 0), ("lifetime", 1e30),
            ("pin", "x"), ("pin", str(Identity.generate(lambda size: bytes(size)).peer_id)),
        ]  # fmt: skip
        for key, value in bad:
            self.assertRaises(FieldError, RelayServer.from_json, {**good, key: value})
        for key in ("port", "transport", "username", "password", "realm", "nonce", "lifetime"):
            less = {name: value for name, value in good.items() if name != key}
            self.assertRaises(FieldError, RelayServer.from_json, less)
