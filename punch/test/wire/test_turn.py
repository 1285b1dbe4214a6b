"""TURN: ChannelData, messages on a stream, and where relays are, in URIs and in control messages."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.sentences import sentence_of
from punch.wire.control import Relays, RenewRelays, Welcome
from punch.wire.control_lines import decode_reply, decode_request
from punch.wire.control_lines import encode as encode_line
from punch.wire.fields import FieldError
from punch.wire.framing import FramingError
from punch.wire.stun import (
    MessageClass,
    Method,
    StunMessage,
    encode,
)
from punch.wire.turn import (
    MAX_RELAYS,
    ChannelData,
    RelayServer,
    StreamSplitter,
    TurnTransport,
    TurnURI,
    TurnURIError,
    encode_channel_data,
    parse_channel_data,
)

BINDING = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12)))


class ChannelDataTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """ChannelData is written and read with and without padding, for all remainders."""
        for size in (0, 1, 2, 3, 4, 1200):
            data = bytes(range(256)) * 5
            for padded in (False, True):
                message = encode_channel_data(0x4001, data[:size], padded=padded)
                self.assertEqual(parse_channel_data(message), ChannelData(0x4001, data[:size]))
            self.assertEqual(len(message) % 4, 0)

    def test_what_is_none(self) -> None:
        """Cut short, or a number outside of RFC 8656's range."""
        good = encode_channel_data(0x4FFF, b"abc", padded=False)
        for end in range(len(good)):
            self.assertIsNone(parse_channel_data(good[:end]))
        for number in (0x3FFF, 0x5000, 0x7FFF):
            self.assertIsNone(parse_channel_data(encode_channel_data(number, b"abc", padded=False)))


class StreamTests(SynchronousTestCase):
    def test_any_cut(self) -> None:
        """However the stream is cut, the same messages come out."""
        random = Random(1)
        messages = [BINDING] + [
            encode_channel_data(0x4000 + size, random.randbytes(size), padded=False) for size in range(9)
        ]
        messages.append(BINDING)
        padded = b"".join(message + bytes(-len(message) & 3) for message in messages)
        for _ in range(50):
            splitter, found, rest = StreamSplitter(), [], padded
            while rest:
                size = random.randint(1, 40)
                found += splitter.feed(rest[:size])
                rest = rest[size:]
            self.assertEqual(found, messages)

    def test_garbage(self) -> None:
        """Refused as soon as it shows, so that it can't be waited for in vain."""
        for data in (b"SSH-2.0-x\r\n", b"\x16\x03\x01\x02\x00", b"\x50\x00\x00\x00", b"\xff" * 4):
            self.assertRaises(FramingError, StreamSplitter().feed, data)
        self.assertRaises(FramingError, StreamSplitter().feed, b"\0\x01\0\0\x21\x12\xa4\x43")
        self.assertRaises(FramingError, StreamSplitter().feed, b"\0\x01\0\x01")

    def test_too_long(self) -> None:
        """A header that announces too much is refused before anything of the rest is there."""
        for first in (b"\x00\x03", b"\x00\x04", b"\x00\x01", b"\x01\x03", b"\x00\x16", b"\x40\x00"):
            for size in (2028, 2032, 0xFFFC):
                header = first + size.to_bytes(2, "big")
                for bounds in ({"longest": 2048}, {"longest_request": 2048}, {}):
                    carries_data = first in (b"\x00\x16", b"\x40\x00")
                    whole = size + (4 if first == b"\x40\x00" else 20)
                    if whole > 2048 and bounds and not (carries_data and "longest_request" in bounds):
                        self.assertRaises(FramingError, StreamSplitter().feed, header, **bounds)
                    else:
                        self.assertEqual(StreamSplitter().feed(header, **bounds), [])


OWN = RelayServer(
    TurnURI(None, 3478, TurnTransport.UDP), "1900000000:x", "c2VjcmV0", "punch", "nonce", 3600.0
)
OTHER = RelayServer(
    TurnURI("2001:db8::7", 443, TurnTransport.TLS), "u", "p", "example.org", "", 60.0, pin=bytes(32)
)


class URLTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """RFC 7065, with its default ports."""
        cases = {
            "turn:example.org": TurnURI("example.org", 3478, TurnTransport.UDP),
            "turn:192.0.2.1:443?transport=tcp": TurnURI("192.0.2.1", 443, TurnTransport.TCP),
            "TURN:Example.org?transport=UDP": TurnURI("example.org", 3478, TurnTransport.UDP),
            "turns:[2001:db8::1]": TurnURI("2001:db8::1", 5349, TurnTransport.TLS),
            "turns:[2001:db8::1]:443?transport=tcp": TurnURI("2001:db8::1", 443, TurnTransport.TLS),
        }
        for text, url in cases.items():
            self.assertEqual(TurnURI.parse(text), url)
            self.assertEqual(TurnURI.parse(str(url)), url)

    def test_hosts(self) -> None:
        """Names and addresses, each in its one form."""
        cases = {
            "turn:localhost": "localhost",
            "turn:B\u00fccher.example.:3478": "xn--bcher-kva.example",
            "turn:[2001:DB8:0::1]:3478": "2001:db8::1",
            "turn:[::ffff:192.0.2.1]": "192.0.2.1",
            " turns:192.0.2.1 \n": "192.0.2.1",
        }
        for text, host in cases.items():
            self.assertEqual(TurnURI.parse(text).host, host)

    def test_what_is_none(self) -> None:
        """Each mistake is one sentence, about TURN URIs, that says what is wrong."""
        cases = {
            "": "no TURN URI", "turn": "no TURN URI", "stun:example.org": "no TURN URI",
            "example.org:3478": "no TURN URI", "https://example.org": "no TURN URI",
            "punch://example.org:7001": "no TURN URI", "turn:x.org?transport=": "no TURN URI",
            "turn:x.org?transport=udp&x=1": "no TURN URI", "turn:x.org?tls": "no TURN URI",
            "turn:": "host is missing", "turn::3478": "host is missing", "turn:[]:3478": "host is missing",
            "turn://example.org": "no slash", "turn:example.org/x": "no slash", "turn:punch://x": "no slash",
            "turn:user@example.org": "no user name", "turn:user:word@example.org": "no user name",
            "turn:x.org#1": "no fragment", "turn:[fe80::1%eth0]": "no interface",
            "turn:x.org?transport=sctp": "udp or tcp", "turn:x.org?transport=tls": "udp or tcp",
            "turns:x.org?transport=udp": "TLS over TCP",
            "turn:example.org:0": "1 to 65535", "turn:example.org:65536": "1 to 65535",
            "turn:example.org:": "1 to 65535", "turn:example.org:x": "1 to 65535",
            "turn:example.org:123456": "1 to 65535", "turn:[2001:db8::1]:-1": "1 to 65535",
            "turn:2001:db8::1": "in brackets", "turn:2001:db8::1:3478": "in brackets",
            "turn:[2001:db8::1": "host and port", "turn:[2001:db8::1]3478": "host and port",
            "turn:[192.0.2.1]": "no DNS name", "turn:a b": "no DNS name", "turn:-x-.org": "no DNS name",
            "turn:1.2.3": "no DNS name", "turn:256.0.0.1": "no DNS name", "turn:.": "no DNS name",
            "turn:x\0.org": "no DNS name", "turn:0.0.0.0": "no DNS name", "turn:224.0.0.1": "no DNS name",
            f"turn:{'x' * 300}.org": "no DNS name",
        }  # fmt: skip
        for text, word in cases.items():
            message = sentence_of(self.assertRaises(TurnURIError, TurnURI.parse, text))
            self.assertIn(word, message)
            self.assertTrue(message.endswith(".") and message.isprintable() and len(message) < 200, message)
            self.assertNotIn("punch://host", message)
            self.assertNotIn("rendezvous", message)


class MessageTests(SynchronousTestCase):
    def test_round_trips(self) -> None:
        """Relays are written and read in `welcome` and in the answer to a request for new credentials."""
        peer = Identity.generate(lambda size: bytes(size)).peer_id
        for reply in (
            Welcome(peer, "192.0.2.1", 3478, 20.0, relays=(OWN, OTHER)),
            Relays((OWN,)),
            Relays(()),
        ):
            self.assertEqual(decode_reply(encode_line(reply)), reply)
        self.assertEqual(decode_request(encode_line(RenewRelays())), RenewRelays())
        many = Relays((OTHER,) * MAX_RELAYS)
        self.assertEqual(decode_reply(encode_line(many)), many)

    def test_a_password_is_not_shown(self) -> None:
        """The `repr` of a relay, which logs and tracebacks show, does not contain its password."""
        self.assertNotIn("c2VjcmV0", repr(OWN))

    def test_hostile_fields(self) -> None:
        """Relays with a field that is missing or out of range are refused, so that none breaks the client."""
        good = OTHER.to_json()
        self.assertEqual(RelayServer.from_json(good), OTHER)
        self.assertEqual(RelayServer.from_json(replace(OTHER, pin=None).to_json()).pin, None)
        bad: list[tuple[str, object]] = [
            ("host", ""), ("host", "a/b"), ("host", 7), ("port", 0), ("port", 65536), ("port", "443"),
            ("host", "2001:db8::1%\r\nX: y"), ("host", "fe80::1%eth0"),
            ("transport", "sctp"), ("username", ""), ("username", "ä"), ("username", "x" * 513),
            ("password", "\x00"), ("realm", "x" * 128), ("nonce", "\n"), ("lifetime", 0), ("lifetime", 1e30),
            ("pin", "x"), ("pin", str(Identity.generate(lambda size: bytes(size)).peer_id)),
        ]  # fmt: skip
        for key, value in bad:
            self.assertRaises(FieldError, RelayServer.from_json, {**good, key: value})
        for key in ("port", "transport", "username", "password", "realm", "nonce", "lifetime"):
            less = {name: value for name, value in good.items() if name != key}
            self.assertRaises(FieldError, RelayServer.from_json, less)
