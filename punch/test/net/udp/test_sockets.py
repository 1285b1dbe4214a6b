"""The portable socket on the simulated internet, and how datagrams are put together for one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from punch.net.udp.segmentation import MAX_BATCH, MAX_SEGMENTS, batch_end
from punch.net.udp.sockets import PortableSocket, datagram_address, open_portable, open_socket
from punch.test.internet.host import Host
from punch.test.internet.links import LinkSpec
from punch.test.internet.testcase import InternetTestCase
from punch.wire.address import Address


class Inbox:
    """Keeps what a socket hands over."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[bytes], Address]] = []

    def __call__(self, datagrams: Sequence[bytes], remote: Address, socket: object) -> None:
        self.batches.append((list(datagrams), remote))

    @property
    def data(self) -> list[bytes]:
        return [data for datagrams, _ in self.batches for data in datagrams]


class PortableTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.alice = self.net.host("alice", "198.51.100.1", "2001:db8::1")
        self.bob = self.net.host("bob", "198.51.100.2", "2001:db8::2")

    def open(self, host: Host, address: int = 0, port: int = 0) -> tuple[Any, Inbox]:
        inbox = Inbox()
        return open_socket(host.reactor, host.addresses[address], port, inbox), inbox

    def test_a_simulated_reactor_gets_the_portable_one(self) -> None:
        socket, _ = self.open(self.alice)
        self.assertIsInstance(socket, PortableSocket)

    def test_both_families(self) -> None:
        for family in (0, 1):
            here, _ = self.open(self.alice, family)
            there, inbox = self.open(self.bob, family)
            self.assertEqual(here.local.host, self.alice.addresses[family])
            here.send([b"one", b"", b"three"], there.local)
            self.net.advance(0.1)
            self.assertEqual(inbox.batches, [([b"one", b"", b"three"], here.local)])

    def test_what_comes_in_one_turn_is_one_batch_for_each_sender(self) -> None:
        first, _ = self.open(self.alice)
        second, _ = self.open(self.alice)
        there, inbox = self.open(self.bob)
        for number in range(3):
            first.send([b"a%d" % number], there.local)
            second.send([b"b%d" % number], there.local)
        self.net.advance(0.1)
        self.assertEqual(
            inbox.batches,
            [([b"a0", b"a1", b"a2"], first.local), ([b"b0", b"b1", b"b2"], second.local)],
        )

    def test_any_send_error_is_a_loss(self) -> None:
        here, _ = self.open(self.alice)
        there, inbox = self.open(self.bob)
        here.send([b"x"], Address("2001:db8::2", 9))
        here.send([b"x"], Address("192.0.2.77", 9))
        here.send([b"x"], Address("198.51.100.2", 0))
        here.send([b"x" * 70_000, b"good"], there.local)
        here.send([b"x"], Address("not an address", 9))
        self.net.advance(0.1)
        self.assertEqual(inbox.data, [b"good"])

    def test_large_datagrams(self) -> None:
        net = self.internet()
        hosts = [net.host(f"h{number}", link=LinkSpec(mtu=65536)) for number in range(2)]
        here, _ = self.open(hosts[0])
        there, inbox = self.open(hosts[1])
        here.send([b"x" * 65507], there.local)
        net.advance(0.1)
        self.assertEqual([len(data) for data in inbox.data], [65507])

    def test_port_in_use(self) -> None:
        taken, _ = self.open(self.alice)
        with self.assertRaises(CannotListenError):
            self.open(self.alice, 0, taken.local.port)
        with self.assertRaises(CannotListenError):
            open_portable(self.alice.reactor, "203.0.113.77", 0, Inbox())

    def test_closed(self) -> None:
        here, inbox = self.open(self.alice)
        there, _ = self.open(self.bob)
        there.send([b"on its way"], here.local)
        here.close()
        here.close()
        here.send([b"x"], there.local)
        self.net.advance(0.1)
        self.assertEqual(inbox.batches, [])
        again, _ = self.open(self.alice, 0, here.local.port)
        self.assertEqual(again.local, here.local)

    def test_closed_while_a_batch_waits(self) -> None:
        inbox = Inbox()
        here = open_portable(self.alice.reactor, "198.51.100.1", 0, inbox)
        assert isinstance(here, PortableSocket)
        here.datagramReceived(b"x", ("198.51.100.2", 9))
        here.close()
        self.net.advance(0.1)
        self.assertEqual(inbox.batches, [])

    def test_closed_by_the_receiver(self) -> None:
        """A receiver that closes the socket in a call gets no other call."""
        batches: list[Sequence[bytes]] = []

        def receive(datagrams: Sequence[bytes], remote: Address, socket: Any) -> None:
            batches.append(datagrams)
            socket.close()

        here = open_portable(self.alice.reactor, "198.51.100.1", 0, receive)
        for _ in range(2):
            self.open(self.bob)[0].send([b"x"], here.local)
        self.net.advance(0.1)
        self.assertEqual(len(batches), 1)

    def test_a_receiver_that_fails(self) -> None:
        """It is logged; what others sent arrives, and so does what comes later."""
        heard: list[bytes] = []

        def receive(datagrams: Sequence[bytes], remote: Address, socket: object) -> None:
            heard.extend(datagrams)
            raise ZeroDivisionError("a fault of the receiver")

        here = open_portable(self.alice.reactor, "198.51.100.1", 0, receive)
        for _ in range(2):
            for data in (b"a", b"b"):
                self.open(self.bob)[0].send([data], here.local)
            self.net.advance(0.1)
        self.assertEqual(heard, [b"a", b"b", b"a", b"b"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 4)


class AddressTests(SynchronousTestCase):
    def test_forms(self) -> None:
        self.assertEqual(datagram_address(("192.0.2.1", 9)), Address("192.0.2.1", 9))
        self.assertEqual(datagram_address(("2001:DB8::1", 9, 0, 0)), Address("2001:db8::1", 9))
        self.assertEqual(datagram_address(("fe80::1%eth0", 9, 0, 2)), Address("fe80::1", 9))
        self.assertEqual(datagram_address(("::ffff:192.0.2.1", 9)), Address("192.0.2.1", 9))
        for wrong in (None, "/path", ("name", 9), ("192.0.2.1",), ("192.0.2.1", 70000)):
            self.assertIsNone(datagram_address(wrong))


class BatchTests(SynchronousTestCase):
    def split(self, sizes: list[int]) -> list[list[int]]:
        result, start = [], 0
        while start < len(sizes):
            end = batch_end(sizes, start)
            result.append(sizes[start:end])
            start = end
        return result

    def test_equal_sizes_and_a_shorter_last(self) -> None:
        self.assertEqual(self.split([3, 3, 2, 3, 4, 4, 0, 0, 1]), [[3, 3, 2], [3], [4, 4], [0], [0], [1]])
        self.assertEqual([len(batch) for batch in self.split([1200] * 130)], [54, 54, 22])
        self.assertEqual([len(batch) for batch in self.split([100] * 130)], [64, 64, 2])
        self.assertEqual(self.split([65507, 65507, 1]), [[65507], [65507], [1]])

    @given(st.lists(st.sampled_from([0, 1, 50, 1199, 1200, 9000, 65507, 70000]), max_size=150))
    @settings(derandomize=True, deadline=None, max_examples=100)
    def test_all_and_only_what_the_kernel_takes(self, sizes: list[int]) -> None:
        batches = self.split(sizes)
        self.assertEqual([size for batch in batches for size in batch], sizes)
        for batch in batches:
            self.assertLessEqual(len(batch), MAX_SEGMENTS)
            if len(batch) > 1:
                self.assertLessEqual(sum(batch), MAX_BATCH)
                self.assertEqual(set(batch[:-1]), {batch[0]})
                self.assertTrue(0 < batch[-1] <= batch[0])
