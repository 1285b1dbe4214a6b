"""
A link that is sent anything at all: garbage, Retry, version negotiation, stateless resets, duplicates,
replays.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.link.events import StreamData
from punch.link.quic.packet import destination_id, is_client_initial, is_long, is_retry
from punch.link.quic.qh3 import Qh3Backend
from punch.test.link.link_pair import AioquicMixin, CoreEnd, LinkTestCase, Pipe, RogueCaller

SIZES = [0, 1, 2, 5, 6, 7, 8, 9, 16, 20, 21, 22, 25, 40, 63, 64, 100, 1199, 1200, 1201, 1500, 9000, 65507]
FIRST_BYTES = [0x00, 0x01, 0x16, 0x3F, 0x40, 0x4F, 0x7F, 0x80, 0xBF, 0xC0, 0xC3, 0xD0, 0xE0, 0xF0, 0xFF]


class PacketTests(SynchronousTestCase):
    def test_client_initial(self) -> None:
        data = Qh3Backend().client(0.0).datagrams_to_send(0.0)[0]
        self.assertTrue(is_client_initial(data))
        self.assertEqual(destination_id(data), data[6:14])
        self.assertTrue(is_long(data))
        self.assertFalse(is_retry(data))
        self.assertFalse(is_client_initial(data[:1199]))
        self.assertFalse(is_client_initial(data[:1] + b"\x6b\x33\x43\xcf" + data[5:]))
        self.assertFalse(is_client_initial(data[:5] + b"\x07" + data[6:]))
        self.assertFalse(is_client_initial(data[:5] + b"\x15" + data[6:]))
        self.assertFalse(is_client_initial(bytes([data[0] | 0x30]) + data[1:]))
        self.assertFalse(is_client_initial(bytes([data[0] & 0x3F]) + data[1:]))

    def test_every_truncation(self) -> None:
        data = Qh3Backend().client(0.0).datagrams_to_send(0.0)[0]
        for size in range(30):
            self.assertIn(destination_id(data[:size]), (None, data[6:14]))
            self.assertFalse(is_client_initial(data[:size]))

    @given(st.binary(max_size=1300))
    @settings(derandomize=True, deadline=None, max_examples=100)
    def test_anything(self, data: bytes) -> None:
        destination_id(data)
        is_client_initial(data)
        is_long(data)
        is_retry(data)


class GarbageTests(LinkTestCase):
    def garbage(self) -> list[bytes]:
        """Datagrams of every kind and size that make no sense."""
        made = [bytes(size) for size in SIZES] + [b"\xff" * size for size in SIZES]
        for first in FIRST_BYTES:
            made += [bytes([first]) + self.random.randbytes(size) for size in SIZES]
        for version in (b"\0\0\0\0", b"\0\0\0\x01", b"\x6b\x33\x43\xcf", b"\x0a\x0a\x0a\x0a"):
            for length in (0, 8, 20, 21, 255):
                header = b"\xc3" + version + bytes([length]) + self.random.randbytes(min(length, 64))
                made += [header, header + bytes([length]) + self.random.randbytes(1250)]
        return made

    def assert_alive(self, caller: CoreEnd, callee: CoreEnd, pipe: Pipe) -> None:
        for here, there in ((caller, callee), (callee, caller)):
            stream_id = here.core.streams.open_stream("x")
            here.core.streams.send(stream_id, b"still there")
            pipe.run(1.0)
            self.assertEqual(there.received[stream_id], b"still there")
            self.assertIsNone(here.closed)

    def test_on_a_proved_link(self) -> None:
        caller, callee, pipe = self.connect()
        pipe.run(1.0)
        for data in self.garbage():
            for node in (caller, callee):
                node.receive([data], pipe.now)
        for node in (caller, callee):
            node.receive(self.garbage(), pipe.now)
        self.assert_alive(caller, callee, pipe)

    def test_garbage_that_is_addressed_right(self) -> None:
        """Garbage with connection IDs that an observer of the path has seen changes nothing."""
        caller, callee, pipe = self.connect()
        pipe.run(1.0)
        for node in (caller, callee):
            for connection_id in node.core.connection_ids:
                for size in SIZES:
                    rest = self.random.randbytes(size)
                    for first in (0x40, 0x43, 0x5F, 0x7F):
                        node.receive([bytes([first]) + connection_id + rest], pipe.now)
                    for first in (0xC0, 0xD0, 0xE0, 0xF0):
                        header = bytes([first]) + b"\0\0\0\x01\x08" + connection_id
                        node.receive([header + b"\x08" + rest], pipe.now)
        self.assert_alive(caller, callee, pipe)

    def test_before_and_during_the_handshake(self) -> None:
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        for data in self.garbage():
            callee.receive([data], 0.0)
            caller.receive([data], 0.0)
        # Garbage that looks like an Initial may have taken a place until its five seconds are over.
        self.assertEqual(callee.events, [])
        pipe.run(6.0)
        self.assertEqual(callee.core.connection_ids, set())
        caller.core.start(pipe.now)
        while not (caller.proved and callee.proved):
            caller.receive(self.garbage()[:60], pipe.now)
            callee.receive([data for data in self.garbage()[:60] if not is_client_initial(data)], pipe.now)
            self.assertFalse(pipe.run(0.01) or pipe.now > 10)
        self.assert_alive(caller, callee, pipe)

    def test_flipped_bits_of_the_real_handshake(self) -> None:
        """Every datagram of the handshake comes with damaged copies of it around."""
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        nodes = (caller, callee)

        def damage(data: bytes, target: int) -> bool:
            for _ in range(4):
                copy = bytearray(data)
                copy[self.random.randrange(len(copy))] ^= 1 << self.random.randrange(8)
                # Routing comes first: a new connection ID would be a new connection, up to four.
                if bytes(copy[:22]) == data[:22]:
                    nodes[target].receive([bytes(copy)], pipe.now)
            return False

        pipe.lose = damage
        self.assertTrue(pipe.run(10.0, lambda: caller.proved and callee.proved))
        self.assert_alive(caller, callee, pipe)

    def test_duplicates_and_replays(self) -> None:
        caller, callee, pipe = self.connect()
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, b"once")
        pipe.run(1.0)
        for target, data in list(pipe.sent):
            pipe.nodes[target].receive([data, data], pipe.now)
        pipe.run(1.0)
        self.assertEqual(callee.of(StreamData), [StreamData(stream_id, b"once", False)])
        self.assert_alive(caller, callee, pipe)

    def test_version_negotiation(self) -> None:
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        first = caller.core.datagrams_to_send(0.0)[0]
        theirs, ours = first[6:14], first[15:23]
        for versions in (b"", b"\x6b\x33\x43\xcf", b"\x0a\x1a\x2a\x3a\0\0\0\x02"):
            packet = b"\xc0\0\0\0\0\x08" + ours + b"\x08" + theirs + versions
            caller.receive([packet], 0.0)
        self.assertEqual(caller.events, [])
        pipe.run(5.0, lambda: caller.proved and callee.proved)
        self.assert_alive(caller, callee, pipe)

    def test_we_answer_no_version_negotiation(self) -> None:
        """A packet of another version gets no answer, which would show that somebody listens."""
        callee = self.make_callee()
        data = bytearray(RogueCaller(self.backend.client(0.0)).send(0.0)[0])
        data[1:5] = b"\x0a\x0a\x0a\x0a"
        callee.receive([bytes(data)], 0.0)
        self.assertEqual(callee.core.datagrams_to_send(0.0), [])

    def test_retry(self) -> None:
        """A Retry changes nothing, even with a good integrity tag, which any observer can compute."""
        from qh3.quic.packet import get_retry_integrity_tag

        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        first = caller.core.datagrams_to_send(0.0)[0]
        theirs, ours = first[6:14], first[15:23]
        packet = b"\xf0\0\0\0\x01\x08" + ours + b"\x08" + b"attacker" + b"token"
        packet += get_retry_integrity_tag(packet, theirs, version=1)
        caller.receive([packet], 0.0)
        pipe.now = 1.0
        for data in caller.core.datagrams_to_send(1.0):
            self.assertEqual(destination_id(data), theirs)
        pipe.run(5.0, lambda: caller.proved and callee.proved)
        self.assert_alive(caller, callee, pipe)

    def test_forged_stateless_reset(self) -> None:
        caller, callee, pipe = self.connect()
        pipe.run(1.0)
        for node in (caller, callee):
            for size in (21, 38, 43, 100, 1200):
                packet = bytes([0x40 | self.random.randrange(64)]) + self.random.randbytes(size - 1)
                node.receive([packet], pipe.now)
                for connection_id in node.core.connection_ids:
                    node.receive([packet[:1] + connection_id + packet[9:]], pipe.now)
        self.assert_alive(caller, callee, pipe)

    def test_garbage_within_a_batch_of_good_datagrams(self) -> None:
        caller, callee, pipe = self.connect()
        pipe.run(1.0)
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, bytes(8000))
        mixed: list[bytes] = []
        for data in caller.core.datagrams_to_send(pipe.now):
            mixed += [b"", data, self.random.randbytes(1200)]
        callee.receive(mixed, pipe.now)
        self.assertGreater(len(callee.received[stream_id]), 3000)
        pipe.run(0.5)
        self.assertEqual(len(callee.received[stream_id]), 8000)

    def test_fuzzed_initials(self) -> None:
        """Initials with an encrypted part that is wrong take a place for some seconds, and do no more."""
        callee = self.make_callee()
        pattern = RogueCaller(self.backend.client(0.0)).send(0.0)[0]
        for step in range(40):
            data = bytearray(pattern)
            data[6:14] = self.random.randbytes(8)
            for _ in range(3):
                data[self.random.randrange(23, len(data))] = self.random.randrange(256)
            callee.receive([bytes(data)], step / 10)
            self.assertLessEqual(callee.core.connection_count, 4)
        for step in range(100):
            callee.timer(4 + step / 10)
            callee.send(4 + step / 10)
        self.assertEqual(callee.core.connection_count, 0)
        self.assertEqual(callee.events, [])


class AioquicGarbageTests(AioquicMixin, GarbageTests):
    __test__ = True
