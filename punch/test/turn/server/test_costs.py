"""What is decoded and hashed of messages that nobody has authenticated, and of those that can't be right."""

from __future__ import annotations

from functools import partial
from time import process_time

from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.reflector import Reflector
from punch.test.costs import calls_of
from punch.test.turn.server.turn_server import ALICE, BOB, HERE, TurnServer, code_of
from punch.turn.server.core import UNAUTHENTICATED_BURST
from punch.wire.address import Address
from punch.wire.stun import MAX_ATTRIBUTES, Attribute, MessageClass, Method, StunMessage, encode, parse

MANY = tuple((Attribute.XOR_PEER_ADDRESS, Address(f"2001:db8::{number:x}", 1)) for number in range(1, 60))
"""Each is a hundred times as dear to decode as to pass over."""
METHODS = (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND)


class UnauthenticatedTests(SynchronousTestCase):
    """Requests over UDP, whose source may be forged."""

    def setUp(self) -> None:
        self.server = TurnServer()
        self.sources = 0

    def calls(self, data: bytes, code: int | None = None) -> int:
        """The cost of a request from an address that nobody has seen, and which error answers it."""
        self.sources += 1
        remote = Address(f"192.0.{self.sources}.1", 1000)
        calls = calls_of(lambda: self.server.core.receive([data], remote, HERE, self.server.now))
        (answer,) = self.server.core.outputs(self.server.now)[0]
        if code is not None:
            self.assertEqual(code_of(parse(answer.messages[0])), code)
        return calls

    def request(
        self, method: int, *attributes: tuple[int, object], key: bytes | None = None, pad: bool = False
    ) -> bytes:
        """A request with many attributes (`pad`), or without."""
        attributes = (*(MANY if pad else ()), *attributes)
        return encode(StunMessage(method, MessageClass.REQUEST, b"transaction.", attributes), key)

    def test_nothing_else_is_decoded(self) -> None:
        """A full message costs no more than an empty one, whatever is missing or wrong in it."""
        login = ((Attribute.USERNAME, "9999999999:alice"), (Attribute.REALM, "punch"))
        nonces = ("", "A" * 16, "A" * 127)
        cases = [((), None, 401), (login, b"key", 400)]
        cases += [((*login, (Attribute.NONCE, nonce)), b"key", 438) for nonce in nonces]
        cases += [(((Attribute.USERNAME, "x" * 508), *login[1:], (Attribute.NONCE, "n")), b"key", 401)]
        for method in METHODS:
            for attributes, key, code in cases:
                short, long = (
                    self.calls(self.request(method, *attributes, key=key, pad=pad), code)
                    for pad in (False, True)
                )
                self.assertLess(long, short + 10, (method, attributes))

    def test_too_much(self) -> None:
        """A message that is too long or has too many attributes is refused by that."""
        bare = self.calls(self.request(Method.ALLOCATE), 401)
        for attributes in ([(0x7FFF, bytes(60_000))], [(0x7FFF, b"")] * (MAX_ATTRIBUTES + 1)):
            self.assertLess(self.calls(self.request(Method.ALLOCATE, *attributes), 400), bare + 10)

    def test_the_time_of_a_large_message(self) -> None:
        """65 kB take hardly more time than 100 bytes: they are not hashed, and not looked through."""
        login = ((Attribute.USERNAME, "9999999999:alice"), (Attribute.REALM, "punch"), (Attribute.NONCE, "n"))
        small = self.time(self.request(Method.ALLOCATE, *login, key=b"key"))
        for attributes in ([(0x7FFF, bytes(60_000))], [(0x7FFF, b"")] * 15_000):
            large = self.time(self.request(Method.ALLOCATE, *attributes, *login, key=b"key"))
            # It was more than a hundred times as much.
            self.assertLess(large, 10 * small)

    def time(self, data: bytes) -> float:
        """Processor seconds for twenty such requests; the least of several measurements."""

        def measured() -> float:
            self.sources += 1
            remote = Address(f"192.0.{self.sources}.1", 1000)
            began = process_time()
            for _ in range(20):
                self.server.core.receive([data], remote, HERE, self.server.now)
            return process_time() - began

        return min(measured() for _ in range(5))

    def test_beyond_the_limit(self) -> None:
        """When the network of a source has used up its limit, no answer is made."""
        data = self.request(Method.ALLOCATE)
        receive, now = self.server.core.receive, self.server.now
        first = calls_of(lambda: receive([data], ALICE, HERE, now))
        for _ in range(int(UNAUTHENTICATED_BURST)):
            receive([data], ALICE, HERE, now)
        self.assertLess(calls_of(lambda: receive([data], ALICE, HERE, now)), first - 20)

    def test_send_indications(self) -> None:
        """Of a client, the first address and the first data are decoded, and the others have no meaning."""
        client = self.server.client()
        client.allocate()
        client.permit(BOB)
        costs = []
        for more in ((), MANY):
            attributes = ((Attribute.XOR_PEER_ADDRESS, BOB), (Attribute.DATA, b"data"), *more)
            message = StunMessage(Method.SEND, MessageClass.INDICATION, b"transaction.", attributes)
            data = encode(message, fingerprint=False)
            costs.append(calls_of(partial(client.send, data)))
            self.assertEqual(client.relayed, [(b"data", BOB)])
        self.assertLess(costs[1], costs[0] + 10)


class ReflectorTests(SynchronousTestCase):
    """Binding requests."""

    def test_too_many_attributes(self) -> None:
        """They are not looked through: five hundred would take a hundred times as long as none."""
        for kind in (Attribute.SOFTWARE, Attribute.PRIORITY, 0x8099):
            for number, answered in ((MAX_ATTRIBUTES, True), (MAX_ATTRIBUTES + 1, False), (240, False)):
                body = int(kind).to_bytes(2, "big") + b"\0\4abcd"
                data = (
                    b"\0\1"
                    + (8 * number).to_bytes(2, "big")
                    + b"\x21\x12\xa4\x42transaction."
                    + number * body
                )
                self.assertEqual(Reflector().handle(data, ALICE, 0.0) is not None, answered)

    def test_repeated_attributes(self) -> None:
        """Only the first of each type has a meaning."""
        costs = []
        for attributes in (MANY[:1], MANY):
            request = StunMessage(Method.BINDING, MessageClass.REQUEST, b"transaction.", attributes)
            data = encode(request, fingerprint=False)
            costs.append(calls_of(partial(Reflector().handle, data, ALICE, 0.0)))
        self.assertLess(costs[1], costs[0] + 10)
