"""Control messages: what is read, what is refused and why."""

from __future__ import annotations

import json
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.test.costs import calls_of
from punch.test.strategies import (
    IDENTITIES,
    REPLIES,
    REQUESTS,
    SETTINGS,
    identity,
    messages,
    replies,
    requests,
)
from punch.wire.control import (
    Accept,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Message,
    Ping,
    Probed,
    ProbeOutcome,
    Register,
    Reject,
    Relays,
    Reply,
    Request,
    Welcome,
    new_call,
)
from punch.wire.control_lines import (
    MAX_LINE,
    ControlError,
    Malformed,
    UnknownType,
    decode_reply,
    decode_request,
    encode,
)
from punch.wire.fields import check_name, is_visible
from punch.wire.peers.sealed import MAX_BODY, Envelope
from punch.wire.turn import RelayServer, TurnTransport, TurnURI

ALICE, BOB = (known.peer_id for known in IDENTITIES[:2])
CALL = "00112233445566778899aabbccddeeff"
ENVELOPE = Envelope(BOB, bytes(304), bytes(64))
REGISTER = {"type": "register", "version": 1, "name": "alice", "accept": "ask"}
ESTABLISH = {"type": "establish", "call": CALL, "to": str(BOB), "offer": ENVELOPE.to_json()}
WELCOME = {
    "type": "welcome",
    "version": 1,
    "id": str(ALICE),
    "address": "192.0.2.1",
    "reflector": 3478,
    "keepalive": 20,
}
ERROR = {"type": "error", "code": "gone", "text": "Gone."}

BAD_NAMES = [
    "",
    " ",
    " alice",
    "alice ",
    "a" * 65,
    "a\nb",
    "a\tb",
    "a\0b",
    "a\x7fb",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",  # the one-character form of the same
    "\u202eecila",  # right-to-left override
    "\u2066a\u2069",  # isolates
    "a\u200bb",  # an invisible space
    "a\u2028b",
    "a\u00a0b",
    "\ufeffa",
    "\ue000",
]


def line(value: object) -> bytes:
    """Any JSON value as another program might write it."""
    return json.dumps(value).encode("ascii")


class RoundTripTests(SynchronousTestCase):
    """Every message that can be written can be read by the other side, and by it alone."""

    def test_all(self) -> None:
        """None of the protocol is left out below."""
        self.assertEqual(set(REQUESTS), set(get_args(Request)))
        self.assertEqual(set(REPLIES), set(get_args(Reply)))

    @SETTINGS
    @given(requests)
    def test_requests(self, message: Request) -> None:
        """A service reads what a peer writes."""
        self.assertEqual(decode_request(encode(message)), message)

    @SETTINGS
    @given(replies)
    def test_replies(self, message: Reply) -> None:
        """A peer reads what a service writes."""
        self.assertEqual(decode_reply(encode(message)), message)

    @SETTINGS
    @given(messages)
    def test_one_line(self, message: Message) -> None:
        """No message is longer than a line may be, and none has a line break in it."""
        data = encode(message)
        self.assertLessEqual(len(data), MAX_LINE)
        self.assertTrue(data.isascii() and data.decode("ascii").isprintable())

    @SETTINGS
    @given(requests, st.text(st.characters(codec="utf-8"), max_size=20), st.integers(0, 9) | st.booleans())
    def test_unknown_fields(self, message: Request, key: str, value: object) -> None:
        """A field that isn't known changes nothing."""
        fields = json.loads(encode(message))
        if key not in fields:
            self.assertEqual(decode_request(line({**fields, key: value})), message)

    @SETTINGS
    @given(messages)
    def test_missing_fields(self, message: Message) -> None:
        """Leaving out any one field never makes another message of the same fields."""
        fields = json.loads(encode(message))
        for key in fields:
            rest = {other: fields[other] for other in fields if other != key}
            for decode in (decode_request, decode_reply):
                try:
                    self.assertNotEqual(decode(line(rest)), message)
                except ControlError as error:
                    self.assert_can_be_sent(error)

    @SETTINGS
    @given(messages, st.randoms(use_true_random=False), st.none() | st.integers() | st.text(max_size=9))
    def test_wrong_types(self, message: Message, random: Any, wrong: object) -> None:
        """Any field replaced by anything: a message or a `ControlError`, never another exception."""
        fields = json.loads(encode(message))
        fields[random.choice(sorted(fields))] = random.choice([wrong, [wrong], {"to": wrong}, True, 1.5, -1])
        self.assert_decodes(line(fields))

    @SETTINGS
    @given(
        st.binary(max_size=100) | st.binary(max_size=20).map(lambda data: b'{"type":"ping",' + data + b"}")
    )
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are a message or a `ControlError`."""
        self.assert_decodes(data)

    def assert_decodes(self, data: bytes) -> None:
        """Either side reads a message, or says why not in a text that can be sent."""
        for decode in (decode_request, decode_reply):
            try:
                decode(data)
            except ControlError as error:
                self.assert_can_be_sent(error)

    def assert_can_be_sent(self, error: ControlError) -> None:
        """The error can be told to the other program, as it is."""
        message = Error(error.code, error.text)
        self.assertEqual(decode_reply(encode(message)), message)


class RefusedTests(SynchronousTestCase):
    """Each way in which a line can be wrong."""

    def malformed(self, data: bytes, because: str, code: ErrorCode = ErrorCode.MALFORMED) -> None:
        """A service closes the connection on this line, and says why."""
        error = self.assertRaises(Malformed, decode_request, data)
        self.assertEqual(error.code, code)
        self.assertIn(because, error.text)
        self.assertTrue(error.text.isprintable() and error.text.endswith("."), error.text)

    def field(self, template: dict[str, Any], key: str, value: object, because: str) -> None:
        """A message with this value in this field is refused, by whichever side reads it."""
        decode = decode_reply if template in (WELCOME, ERROR) else decode_request
        decode(line(template))
        error = self.assertRaises(Malformed, decode, line({**template, key: value}))
        self.assertIn(f"{key} {because}", error.text)

    def test_length(self) -> None:
        """16 KiB are taken, one byte more is not, whatever is in it."""
        padding = b" " * (MAX_LINE - len(line({"type": "ping"})))
        self.assertEqual(decode_request(line({"type": "ping"}) + padding), Ping())
        self.malformed(line({"type": "ping"}) + padding + b" ", "16384 bytes", ErrorCode.TOO_LONG)
        self.malformed(b"x" * (MAX_LINE + 1), "16384 bytes", ErrorCode.TOO_LONG)

    def test_not_json(self) -> None:
        """Bytes that are no JSON, or JSON that others may read in another way."""
        self.malformed(b"", "not JSON")
        self.malformed(b"GET / HTTP/1.1\r", "not JSON")
        self.malformed(b'{"type":"ping"', "not JSON")
        self.malformed(b'{"type":"\xff"}', "invalid UTF-8")
        self.malformed(b"[" * 10_000, "deep")
        self.malformed(b'{"type":"ping","x":' + b"[" * 8_000 + b"]" * 8_000 + b"}", "deep")
        self.malformed(b'{"type":"ping","x":NaN}', "NaN")
        self.malformed(b'{"type":"ping","x":1e999}', "too large")
        self.malformed(b'{"type":"ping","x":' + b"9" * 5_000 + b"}", "too large")
        self.malformed(b'{"type":"ping","type":"register"}', "twice")
        self.malformed(b'{"type":"ping","x":"\\ud800"}', "surrogate")

    def test_not_a_message(self) -> None:
        """JSON that is no object with a type."""
        for value in ([], "ping", 1, None, True, [{"type": "ping"}]):
            self.malformed(line(value), "must be an object")
        self.malformed(line({}), "type is missing")
        for wrong in (1, None, ["ping"], {"ping": 1}):
            self.malformed(line({"type": wrong}), "type must be a string")

    def test_unknown_type(self) -> None:
        """Told apart from what is malformed, and never echoed raw."""
        for name in ("", "Ping", "ping ", "welcome", "frobnicate", "\x1b[2J", "x" * 5000):
            error = self.assertRaises(UnknownType, decode_request, line({"type": name, "call": CALL}))
            self.assertEqual((error.code, error.call), (ErrorCode.UNKNOWN_TYPE, CALL))
            self.assertTrue(error.text.isprintable() and len(error.text) < 200, error.text)
        for call in ("x", 1, None, CALL.upper()):
            self.assertIsNone(
                self.assertRaises(UnknownType, decode_request, line({"type": "x", "call": call})).call
            )
        self.assertRaises(UnknownType, decode_reply, line(REGISTER))

    def test_version(self) -> None:
        """Another version is named before anything else is looked at."""
        self.malformed(line({"type": "register", "version": 2}), "version 2", ErrorCode.VERSION)
        error = self.assertRaises(Malformed, decode_reply, line({"type": "welcome", "version": 7}))
        self.assertEqual(error.code, ErrorCode.VERSION)
        for wrong in (0, -1, "1", 1.0, True, None, 2**40):
            self.field(REGISTER, "version", wrong, "must be")

    def test_names(self) -> None:
        """Names contain no character that moves a cursor or is invisible."""
        for name in BAD_NAMES:
            self.assertRaises(Malformed, decode_request, line({**REGISTER, "name": name}))
            message = str(self.assertRaises(ValueError, check_name, name))
            self.assertTrue(message.isprintable() and message.endswith("."), message)
        for wrong in (1, None, ["alice"]):
            self.field(REGISTER, "name", wrong, "must be a string")
        for good in (
            "a",
            "a" * 64,
            "Zo\u00eb",
            "\u674e\u96f7",
            "Anna B",
            "\U0001f600",
            "\u0430\u043d\u043d\u0430",
        ):
            self.assertEqual(check_name(good), good)
            self.assertEqual(decode_request(line({**REGISTER, "name": good})), Register(good, Accept.ASK))

    def test_accept(self) -> None:
        """The policy is one of three words."""
        for wrong in ("Ask", "", "all"):
            self.field(REGISTER, "accept", wrong, "must be ask, known, anyone")
        self.field(REGISTER, "accept", None, "must be a string")

    def test_calls(self) -> None:
        """32 lower-case hexadecimal digits."""
        for wrong in ("", CALL[:-1], CALL + "0", CALL.upper(), CALL[:-1] + "g", CALL[:-1] + "\n", 1, None):
            self.field(ESTABLISH, "call", wrong, "must be")

    def test_peers(self) -> None:
        """A peer ID in its one form; a typo is named."""
        typo = str(BOB)[:-5] + ("a" if str(BOB)[-5] != "a" else "b") + str(BOB)[-4:]
        self.field(ESTABLISH, "to", typo, "is not a peer ID. There is a typo")
        self.field(ESTABLISH, "to", str(BOB).upper(), "must be a peer ID in lower case")
        self.field(ESTABLISH, "to", f"{BOB} ", "must be a peer ID in lower case")
        self.field(ESTABLISH, "to", 1, "must be a string")

    def test_weak_keys(self) -> None:
        """A peer refuses a key that is not usable. A service looks for it, and finds no such peer."""
        weak = PeerID(bytes(32))
        self.field(WELCOME, "id", str(weak), "is not a peer ID")
        offer = Envelope(weak, ENVELOPE.body, ENVELOPE.sig)
        incoming = Incoming(CALL, ALICE, "alice", offer)
        self.assertRaises(Malformed, decode_reply, encode(incoming))
        establish = Establish(CALL, weak, offer)
        self.assertEqual(decode_request(encode(establish)), establish)

    def test_unknown_peers_cost_no_more(self) -> None:
        """To name ever other peers costs a service no more than to name one: no key is checked."""

        def cost(peer: PeerID) -> int:
            request = encode(Establish(CALL, peer, Envelope(peer, ENVELOPE.body, ENVELOPE.sig)))
            return calls_of(lambda: decode_request(request))

        first, second = (identity(seed).peer_id for seed in (7001, 7002))
        cost(ALICE)
        self.assertEqual([cost(first), cost(second)], [cost(first), cost(first)])

    def test_envelopes(self) -> None:
        """Recipient, body and signature, each in its one form and size."""
        good: dict[str, Any] = ENVELOPE.to_json()
        for key, wrong, because in (
            ("to", "x", "offer to is not a peer ID"),
            ("sig", "A" * 85, "offer sig must be base64url"),
            ("sig", "A" * 84, "offer sig must have 64 bytes"),
            ("sig", "A" * 85 + "B", "offer sig is not in canonical base64url"),
            ("sig", "A" * 87, "offer sig has more than 64 bytes"),
            ("sig", good["sig"] + "==", "offer sig has more than 64 bytes"),
            ("body", "AAAA", "offer body must have 304"),
            ("body", good["body"][:-1] + "=", "offer body must be base64url"),
            ("body", good["body"][:-1] + "+", "offer body must be base64url"),
            ("body", "A" * 15000, f"offer body has more than {MAX_BODY} bytes"),
            ("body", 1, "offer body must be a string"),
        ):
            self.malformed(line({**ESTABLISH, "offer": {**good, key: wrong}}), because)
        for key in good:
            rest = {other: good[other] for other in good if other != key}
            self.malformed(line({**ESTABLISH, "offer": rest}), f"offer {key} is missing")
        self.field(ESTABLISH, "offer", "x", "must be an object")

    def test_recipients_agree(self) -> None:
        """The message and its envelope are for the same peer."""
        self.malformed(line({**ESTABLISH, "to": str(ALICE)}), "not the peer that the envelope is for")
        for type_, key in (("answer", "answer"), ("candidate", "envelope")):
            value = {"type": type_, "call": CALL, "to": str(ALICE), key: ENVELOPE.to_json()}
            self.malformed(line(value), "not the peer that the envelope is for")

    def test_reject(self) -> None:
        """A peer says refused or busy; the other codes are the service's."""
        reject = {"type": "reject", "call": CALL, "to": str(BOB), "code": "refused"}
        self.assertEqual(decode_request(line(reject)), Reject(CALL, BOB, ErrorCode.REFUSED))
        for wrong in ("gone", "other", "REFUSED", ""):
            self.field(reject, "code", wrong, "must be refused, busy")

    def test_welcome(self) -> None:
        """Numbers in their ranges, and an IP address."""
        self.assertEqual(decode_reply(line(WELCOME)), Welcome(ALICE, "192.0.2.1", 3478, 20.0))
        self.assertEqual(
            decode_reply(line({**WELCOME, "address": "2001:DB8::0:1"})),
            Welcome(ALICE, "2001:db8::1", 3478, 20.0),
        )
        for wrong in ("example.org", "192.0.2.1:5", "", "1.2.3", "fe80::1%eth0", "2001:db8::1%\x1b[2J"):
            self.field(WELCOME, "address", wrong, "must be an IP address")
        for port in (-1, 65536, 3478.0, "3478", True):
            self.field(WELCOME, "reflector", port, "must be")
        for keepalive in (0, -1, 1e9, "20", True, None):
            self.field(WELCOME, "keepalive", keepalive, "must be")

    def test_error(self) -> None:
        """A code that a newer service may have is taken for `OTHER`; the text must be fit to show."""
        self.assertEqual(decode_reply(line(ERROR)), Error(ErrorCode.GONE, "Gone."))
        self.assertEqual(decode_reply(line({**ERROR, "code": "on-fire"})), Error(ErrorCode.OTHER, "Gone."))
        for wrong in ("", "On Fire", "\x1b", "x" * 33):
            self.field(ERROR, "code", wrong, "must be a short word")
        self.field(ERROR, "text", "\x1b[2J", "has a character that can't be shown")
        self.field(ERROR, "text", "x" * 501, "has more than 500 characters")
        self.field(ERROR, "call", "x", "must be 32")

    def test_optional(self) -> None:
        """`Ended` names the peer if there is one."""
        for sender in (None, ALICE):
            ended = Ended(CALL, ErrorCode.TIMEOUT, "Nobody answered.", sender=sender)
            self.assertEqual(decode_reply(encode(ended)), ended)
            self.assertEqual(b'"from"' in encode(ended), sender is not None)


class HostileReplyTests(SynchronousTestCase):
    """What a service puts into any field of any reply, and what a person may read of it."""

    PEER = IDENTITIES[0].peer_id
    ENVELOPE = Envelope(PEER, bytes(400), bytes(64))
    RELAY = RelayServer(
        TurnURI("relay.example", 3478, TurnTransport.TLS), "user", "word", "realm", "nonce", 60.0, bytes(32)
    )
    CALL = "0" * 32
    REPLIES = (
        Welcome(PEER, "192.0.2.1", 3478, 20.0, (RELAY,), 3479, ("192.0.2.2",)),
        Relays((RELAY,)),
        Incoming(CALL, PEER, "name", ENVELOPE),
        Answered(CALL, PEER, ENVELOPE),
        Candidates(CALL, PEER, ENVELOPE),
        Ended(CALL, ErrorCode.GONE, "Gone.", sender=PEER),
        Error(ErrorCode.RATE, "Too many.", CALL),
        Probed(bytes(12), ProbeOutcome.SENT),
    )
    SEQUENCES = "\x1b]0;x\x07", "a\u202eb\u2028", "\0\r\n"

    def test_texts(self) -> None:
        """Control characters are taken in no field, and no error repeats them, or is long."""
        for reply in self.REPLIES:
            content = json.loads(encode(reply))
            for path in leaves(content):
                for sequence in self.SEQUENCES:
                    for text in (sequence, str(at(content, path))[:20] + sequence, sequence * 200):
                        line = json.dumps(changed(content, path, text)).encode()
                        problem = self.assertRaises(ControlError, decode_reply, line)
                        self.assertTrue(is_visible(problem.text), (path, problem.text))
                        self.assertLess(len(problem.text), 300, path)

    def test_numbers(self) -> None:
        """Out of range, of another type, or no number at all."""
        for reply in self.REPLIES:
            content = json.loads(encode(reply))
            for path in leaves(content):
                if not isinstance(at(content, path), (int, float)):
                    continue
                for number in ("-1", "1e300", "1e999", "NaN", "-Infinity", "9" * 400, "true", "null", '"7"'):
                    line = json.dumps(changed(content, path, "?")).replace('"?"', number).encode()
                    self.assertRaises(Malformed, decode_reply, line)


def leaves(value: Any) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON value that are no array and no object."""
    if isinstance(value, dict):
        return [(key, *path) for key, each in value.items() for path in leaves(each)]
    if isinstance(value, list):
        return [(index, *path) for index, each in enumerate(value) for path in leaves(each)]
    return [()]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """Return the value at a path."""
    for step in path:
        value = value[step]
    return value


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with another value at a path."""
    copy = json.loads(json.dumps(value))
    at(copy, path[:-1])[path[-1]] = new
    return copy


class WritingTests(SynchronousTestCase):
    """What `encode` writes."""

    def test_form(self) -> None:
        """The very bytes that docs/protocol.md shows."""
        self.assertEqual(
            encode(Register("alice", Accept.KNOWN)),
            b'{"type":"register","version":1,"name":"alice","accept":"known"}',
        )
        self.assertEqual(encode(Ping()), b'{"type":"ping"}')
        self.assertEqual(
            encode(Cancel(CALL, BOB)), f'{{"type":"cancel","call":"{CALL}","to":"{BOB}"}}'.encode()
        )

    def test_text_is_cleaned(self) -> None:
        """Our own error texts may quote a stranger: what can't be shown is replaced, the end cut off."""
        message = decode_reply(encode(Error(ErrorCode.RATE, "\x1b[2J\u202e" + "x" * 1000)))
        assert isinstance(message, Error)
        self.assertEqual(message.text[:6], "\ufffd[2J\ufffdx")
        self.assertEqual(len(message.text), 500)

    def test_too_long(self) -> None:
        """A message that is longer than a line may be is not encoded."""
        envelope = Envelope(BOB, bytes(MAX_LINE), bytes(64))
        self.assertRaises(ValueError, encode, Establish(CALL, BOB, envelope))

    def test_new_call(self) -> None:
        """A call ID comes from the random source that was given."""
        self.assertEqual(new_call(bytes), "0" * 32)
        self.assertNotEqual(new_call(), new_call())
