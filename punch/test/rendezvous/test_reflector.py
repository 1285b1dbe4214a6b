"""Tests for punch.rendezvous.reflector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from punch.net.token_bucket import TokenBuckets
from punch.net.udp.server import PlainPort
from punch.rendezvous.reflector import BURST, CAPACITY, RATE, Reflector
from punch.rendezvous.udp_server import UDPServer
from punch.wire.address import Address
from punch.wire.stun import (
    MAX_ATTRIBUTES,
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)

TRANSACTION = bytes(range(100, 112))
PLAIN = bytes.fromhex("000100002112a442") + TRANSACTION
ALICE = Address("203.0.113.1", 50000)
HERE = Address("198.51.100.1", 3478)
ALICE6 = Address("2001:db8::a", 50000)


def question(*attributes: tuple[int, Any], fingerprint: bool = False, key: bytes | None = None) -> bytes:
    """A Binding request with these attributes."""
    request = StunMessage(Method.BINDING, MessageClass.REQUEST, TRANSACTION, attributes)
    return encode(request, key, fingerprint=fingerprint)


def generous() -> Reflector:
    """A reflector with limits that are not reached."""
    return Reflector(TokenBuckets(1e6, 1e6, 1000))


class AnswerTests(SynchronousTestCase):
    """Valid requests are answered with the reflexive address."""

    def answer(self, data: bytes, remote: tuple[str, int] = ALICE) -> bytes:
        """The answer to a request, checked for amplification."""
        answer = generous().handle(data, remote, 0.0)
        assert answer is not None
        self.assertLessEqual(len(answer), 3 * len(data))
        self.assertEqual(parse(answer).transaction_id, data[8:20])
        return answer

    def test_ipv4(self) -> None:
        """Exactly these 32 bytes for 20."""
        answer = self.answer(PLAIN)
        self.assertEqual(
            answer.hex(),
            "0101000c2112a442" + TRANSACTION.hex() + "00200008" + "0001e242" + "ea12d543",
        )
        self.assertEqual(len(answer), 32)
        self.assertEqual(
            parse(answer),
            StunMessage(
                Method.BINDING,
                MessageClass.SUCCESS,
                TRANSACTION,
                ((Attribute.XOR_MAPPED_ADDRESS, ALICE),),
            ),
        )

    def test_ipv6(self) -> None:
        """44 bytes for 20."""
        answer = self.answer(PLAIN, ALICE6)
        self.assertEqual(len(answer), 44)
        self.assertEqual(parse(answer).attributes, ((Attribute.XOR_MAPPED_ADDRESS, ALICE6),))

    def test_fast_path_agrees(self) -> None:
        """The fast path gives the same answer as the codec."""
        for host in ("0.0.0.0", "255.255.255.255", "203.0.113.9", "::1", "2001:db8:ffff::", "::203.0.113.9"):
            for port in (0, 1, 0x2112, 65535):
                mapped = (Attribute.XOR_MAPPED_ADDRESS, Address(host, port))
                expected = StunMessage(Method.BINDING, MessageClass.SUCCESS, TRANSACTION, (mapped,))
                answer = self.answer(PLAIN, (host, port))
                self.assertEqual(answer.hex(), encode(expected, fingerprint=False).hex())

    def test_mapped_ipv4(self) -> None:
        """An IPv4 client of a socket for both families gets its IPv4 address."""
        for data in (PLAIN, question(fingerprint=True)):
            answer = parse(self.answer(data, ("::ffff:203.0.113.1", 50000)))
            self.assertEqual(answer.get(Attribute.XOR_MAPPED_ADDRESS), ALICE)

    def test_zone(self) -> None:
        """A link-local address is returned without its zone."""
        for data in (PLAIN, question(fingerprint=True)):
            answer = parse(self.answer(data, ("fe80::1%eth0", 5)))
            self.assertEqual(answer.get(Attribute.XOR_MAPPED_ADDRESS), Address("fe80::1", 5))

    def test_fingerprint(self) -> None:
        """A request with a FINGERPRINT gets an answer with one."""
        data = question(fingerprint=True)
        answer = self.answer(data)
        self.assertTrue(parse(answer).has_fingerprint)
        self.assertEqual((len(data), len(answer)), (28, 40))
        self.assertFalse(parse(self.answer(question((Attribute.SOFTWARE, "x")))).has_fingerprint)

    def test_meaningless_attributes(self) -> None:
        """Known attributes without a meaning here are ignored: those of ICE, TURN and authentication."""
        for data in (
            question((Attribute.SOFTWARE, "client")),
            question((Attribute.PRIORITY, 1), (Attribute.USE_CANDIDATE, True)),
            question((Attribute.USERNAME, "a:b"), key=b"secret", fingerprint=True),
            question((Attribute.LIFETIME, 600)),
            question((0x8777, b"optional")),
            question((Attribute.CHANGE_REQUEST, 0)),
        ):
            answer = parse(self.answer(data))
            self.assertEqual(answer.attributes, ((Attribute.XOR_MAPPED_ADDRESS, ALICE),))
            self.assertFalse(answer.has_integrity())

    def test_unknown_attributes(self) -> None:
        """Unknown comprehension-required attributes are answered with 420, which lists them."""
        for fingerprint in (False, True):
            data = question((0x7777, b""), (0x8777, b""), (0x7778, b"x"), fingerprint=fingerprint)
            answer = parse(self.answer(data))
            self.assertIs(answer.message_class, MessageClass.ERROR)
            self.assertEqual(answer.get(Attribute.ERROR_CODE), (420, ""))
            self.assertEqual(answer.get(Attribute.UNKNOWN_ATTRIBUTES), (0x7777, 0x7778))
            self.assertNotIn(Attribute.XOR_MAPPED_ADDRESS, answer)
            self.assertEqual(answer.has_fingerprint, fingerprint)

    def test_many_unknown_attributes(self) -> None:
        """However many they are, the answer has at most three times the size of the request."""
        for count in (1, 2, 3, 10, MAX_ATTRIBUTES):
            data = question(*((0x4000 + number, b"") for number in range(count)))
            unknown = parse(self.answer(data)).get(Attribute.UNKNOWN_ATTRIBUTES)
            self.assertEqual(unknown, tuple(range(0x4000, 0x4000 + count)))

    def test_no_rfc5780(self) -> None:
        """Requests for another destination or a longer answer are answered with 420."""
        for attribute, value in [
            (Attribute.CHANGE_REQUEST, 2),
            (Attribute.CHANGE_REQUEST, 4),
            (Attribute.CHANGE_REQUEST, 6),
            (Attribute.RESPONSE_PORT, 53),
            (Attribute.PADDING, bytes(1500)),
        ]:
            answer = parse(self.answer(question((attribute, value))))
            self.assertEqual(answer.get(Attribute.ERROR_CODE), (420, ""))
            self.assertEqual(answer.get(Attribute.UNKNOWN_ATTRIBUTES), (attribute,))

    @given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=10), st.booleans())
    @settings(derandomize=True, deadline=None, max_examples=100)
    def test_never_amplifies(self, attributes: list[tuple[int, bytes]], six: bool) -> None:
        """Any attributes get no answer, or one of at most three times the size."""
        unknown = [(kind, value) for kind, value in attributes if kind not in set(Attribute)]
        data = question(*unknown)
        answer = generous().handle(data, ALICE6 if six else ALICE, 0.0)
        assert answer is not None
        self.assertLessEqual(len(answer), 3 * len(data))


class SilenceTests(SynchronousTestCase):
    """Everything else gets no answer."""

    def silent(self, *datagrams: bytes) -> None:
        """None of these is answered, from anywhere."""
        for data in datagrams:
            for remote in (ALICE, ALICE6):
                self.assertIsNone(generous().handle(data, remote, 0.0), data)

    def test_sizes(self) -> None:
        """Empty datagrams, and the largest ones."""
        self.silent(b"", bytes(1), bytes(19), bytes(20), bytes(65507), b"\xff" * 65507)
        self.silent(PLAIN + bytes(65507 - 20), PLAIN + b"\x00")

    def test_truncated(self) -> None:
        """Truncated requests."""
        whole = question((Attribute.SOFTWARE, "client"), (0x7777, b"abc"), fingerprint=True)
        self.silent(*(whole[:size] for size in range(len(whole))))
        self.silent(*(PLAIN[:size] for size in range(len(PLAIN))))

    def test_too_long(self) -> None:
        """A well-formed request that is longer than any sensible one."""
        self.silent(question((0x8777, bytes(2048))), question(*[(0x4000, b"")] * 1000))

    def test_other_classes(self) -> None:
        """Answers and indications are not answered: two reflectors never talk to each other."""
        for message_class in (MessageClass.INDICATION, MessageClass.SUCCESS, MessageClass.ERROR):
            for attributes in ((), ((0x7777, b""),)):
                message = StunMessage(Method.BINDING, message_class, TRANSACTION, attributes)
                self.silent(encode(message), encode(message, fingerprint=False))
        answer = generous().handle(PLAIN, ALICE, 0.0)
        assert answer is not None
        self.silent(answer)

    def test_other_methods(self) -> None:
        """The reflector has one method."""
        for method in (0, 2, *list(Method)[1:], 0xFFF):
            message = StunMessage(method, MessageClass.REQUEST, TRANSACTION)
            self.silent(encode(message), encode(message, fingerprint=False))

    def test_rfc3489(self) -> None:
        """A classic client, which has 16 bytes of transaction ID in place of the cookie."""
        self.silent(b"\x00\x01\x00\x00" + bytes(range(16)))
        self.silent(b"\x00\x01\x00\x08" + bytes(range(16)) + b"\x00\x03\x00\x04\x00\x00\x00\x00")

    def test_malformed(self) -> None:
        """A wrong FINGERPRINT, and attributes that can't be what they say."""
        good = question(fingerprint=True)
        self.silent(good[:-1] + bytes([good[-1] ^ 1]))
        header = PLAIN[:2] + b"\x00\x08" + PLAIN[4:]
        self.silent(
            header + b"\x00\x06\xff\xff\x00\x00\x00\x00",
            header + b"\x00\x25\x00\x04\x00\x00\x00\x00",
            header + b"\x00\x06\x00\x01\xff\x00\x00\x00",
        )

    @given(st.binary(max_size=100))
    @settings(derandomize=True, deadline=None, max_examples=100)
    def test_noise(self, data: bytes) -> None:
        """Noise raises nothing, and is answered by chance only if it is a request."""
        for body in (data, b"\x00\x01" + data, PLAIN[:8] + data):
            answer = generous().handle(body, ALICE, 0.0)
            if answer is not None:
                self.assertIs(parse(body).message_class, MessageClass.REQUEST)


class LimitTests(SynchronousTestCase):
    """Each prefix has a limit of its own."""

    def answered(self, reflector: Reflector, host: str, now: float = 0.0, count: int = 1) -> int:
        """How many of `count` questions from `host` are answered."""
        return sum(reflector.handle(PLAIN, (host, 1000 + n), now) is not None for n in range(count))

    def test_burst_and_rate(self) -> None:
        """The burst, and then the rate."""
        reflector = Reflector(TokenBuckets(10, 5, 100))
        self.assertEqual(self.answered(reflector, "203.0.113.1", count=20), 5)
        self.assertEqual(self.answered(reflector, "203.0.113.1", 0.3, count=20), 3)

    def test_prefixes(self) -> None:
        """A /24 and a /64 share one bucket each, others have their own; the two families never meet."""
        reflector = Reflector(TokenBuckets(1, 1, 100))
        for first, second in [
            ("203.0.113.1", "203.0.113.2"),
            ("203.0.112.1", "::ffff:203.0.112.9"),
            ("64:ff9b::192.0.2.1", "192.0.2.2"),
            ("2002:c633:6401::1", "2002:c633:64ff:ff00::1"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),
            ("2001:db8:0:2::1", "2001:db8:0:2::1"),
            ("::1", "::2"),
            ("0.0.0.1", "0.0.0.2"),
        ]:
            self.assertEqual(self.answered(reflector, first), 1, first)
            self.assertEqual(self.answered(reflector, second), 0, second)

    def test_wide_ipv6_prefixes(self) -> None:
        """A whole /56 gets twice what a /64 gets, a whole /48 four times as much."""
        for step, count in ((1, 2), (1 << 8, 4)):
            reflector = Reflector(TokenBuckets(1, 10, 1000))
            hosts = [f"2001:db8:7:{number * step:x}::1" for number in range(200)]
            self.assertEqual(sum(self.answered(reflector, host) for host in hosts), 10 * count)
            self.assertEqual(self.answered(reflector, "2001:db8:8::1"), 1)

    def test_every_kind_of_answer(self) -> None:
        """Error answers count as well."""
        reflector = Reflector(TokenBuckets(1, 2, 100))
        unknown = question((0x7777, b""))
        self.assertIsNotNone(reflector.handle(unknown, ALICE, 0.0))
        self.assertIsNotNone(reflector.handle(unknown, ALICE, 0.0))
        self.assertIsNone(reflector.handle(unknown, ALICE, 0.0))
        self.assertIsNone(reflector.handle(PLAIN, ALICE, 0.0))

    def test_noise_costs_nothing(self) -> None:
        """Datagrams that are no Binding requests do not count for their prefix."""
        reflector = Reflector(TokenBuckets(1, 1, 100))
        for _ in range(10):
            reflector.handle(b"noise", ALICE, 0.0)
        self.assertIsNotNone(reflector.handle(PLAIN, ALICE, 0.0))

    def test_default(self) -> None:
        """By default a reflector has limits, and a table of fixed size."""
        self.assertEqual(self.answered(Reflector(), "203.0.113.1", count=int(BURST) + 50), BURST)
        buckets = TokenBuckets(RATE, BURST, CAPACITY)
        reflector = Reflector(buckets)
        for number in range(CAPACITY + 1000):
            self.answered(reflector, f"10.{number >> 8}.{number & 255}.1")
        self.assertLessEqual(len(buckets), CAPACITY)


class FakePort:
    """Takes what a server sends. `error` is raised by the next `send`."""

    host = "0.0.0.0"
    port = 3478

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address, Address]] = []
        self.error: Exception | None = None

    def send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        if self.error is not None:
            raise self.error
        self.sent += [(data, remote, local) for data in datagrams]

    def close(self) -> Deferred[None]:
        return succeed(None)


class ServerTests(SynchronousTestCase):
    """The UDP server: answers go to the source, errors end nothing, and no address is logged."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.port = FakePort()
        self.server = UDPServer(Reflector(TokenBuckets(1, 3, 10)), monotonic=self.clock.seconds)
        capture = capturedLogs()
        self.events = capture.__enter__()
        self.addCleanup(capture.__exit__, None, None, None)

    def receive(self, *datagrams: bytes, remote: Address = ALICE) -> None:
        """These came in one turn."""
        self.server.received(datagrams, remote, HERE, self.port)
        self.server.turn_ended()

    def logged(self) -> list[LogEvent]:
        """What the server logged."""
        module = "punch.rendezvous.udp_server"
        return [event for event in self.events if event.get("log_namespace", "").startswith(module)]

    def test_answers(self) -> None:
        """An answer goes to the source of the request, from the address at which it arrived."""
        self.receive(PLAIN, b"noise", PLAIN)
        self.assertEqual(len(self.port.sent), 2)
        for data, remote, local in self.port.sent:
            self.assertEqual((remote, local), (ALICE, HERE))
            self.assertEqual(parse(data).get(Attribute.XOR_MAPPED_ADDRESS), ALICE)

    def test_time(self) -> None:
        """Buckets fill by the clock that was given."""
        for seconds, answers in [(0, 3), (2, 5), (0, 5), (1, 6)]:
            self.clock.advance(seconds)
            for _ in range(4):
                self.receive(PLAIN)
            self.assertEqual(len(self.port.sent), answers)

    def test_send_errors(self) -> None:
        """A datagram that can't be sent is lost, and that is all."""
        reactor = FailingReactor()
        port = PlainPort(cast(Any, reactor), "", 3478, self.server)
        for error in (OSError(101, "unreachable"), PermissionError(1, "no"), BlockingIOError(), ValueError()):
            reactor.error = error
            port.send([PLAIN, PLAIN], ALICE, HERE)
        self.assertEqual(reactor.attempts, 8)

    def test_mistakes(self) -> None:
        """A mistake of ours is logged by type and place, without the address, and less and less often."""
        for _ in range(9):
            self.receive(PLAIN, remote=Address("no address 203.0.113.77", 1))
        self.port.error = TypeError("what 203.0.113.77 wanted")
        self.receive(PLAIN)
        events = self.logged()
        self.assertEqual([event["count"] for event in events], [1, 2, 4, 8])
        self.assertEqual(events[0]["kind"], "ValueError")
        self.assertNotIn("203.0.113", repr(events))
        self.port.error = None
        self.receive(PLAIN)
        self.assertEqual(len(self.port.sent), 1)

    def test_mistakes_outside_of_the_reflector(self) -> None:
        """Not even these end the port, however a request comes."""

        def fail(what: object) -> NoReturn:
            raise RuntimeError(str(what))

        for server in (UDPServer(refuses=fail), UDPServer(answered=fail)):
            self.assertIsNone(server.answer(PLAIN, bytes((203, 0, 113, 77)), 1))
            server.received([PLAIN], ALICE, HERE, self.port)
        self.assertEqual([event["count"] for event in self.logged()], [1, 2, 1, 2])

    def test_nothing_is_logged(self) -> None:
        """No line is logged for requests or for datagrams that are no requests."""
        for data in (PLAIN, b"", bytes(65507), question((0x7777, b"")), b"\x16\x03\x01"):
            self.receive(data)
        self.assertEqual(self.logged(), [])


class FailingReactor:
    """Opens a UDP port on which nothing can be sent."""

    def __init__(self) -> None:
        self.error: Exception = OSError()
        self.attempts = 0

    def listenUDP(self, port: int, protocol: object, interface: str, maxPacketSize: int) -> FailingReactor:
        return self

    def getHost(self) -> IPv4Address:
        return IPv4Address("UDP", "0.0.0.0", 3478)

    def write(self, data: bytes, remote: tuple[str, int]) -> None:
        self.attempts += 1
        raise self.error
