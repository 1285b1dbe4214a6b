"""Control messages and addresses of the system, as bytes."""

from __future__ import annotations

import socket
from struct import pack

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.net.udp.message_batch import control_messages, one_control_message, sender_of
from punch.test.strategies import SETTINGS


class ControlMessageTests(SynchronousTestCase):
    @SETTINGS
    @given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=40)), max_size=3))
    def test_round_trip(self, messages: list[tuple[int, int, bytes]]) -> None:
        """What was joined is split again."""
        self.assertEqual(control_messages(b"".join(map(one_control_message, messages))), messages)

    @SETTINGS
    @given(st.binary(max_size=128))
    def test_anything(self, data: bytes) -> None:
        """Any bytes can be split."""
        self.assertLessEqual(len(control_messages(data)), 8)


class SenderTests(SynchronousTestCase):
    def test_ipv4(self) -> None:
        name = pack("=H", socket.AF_INET) + pack("!H4s8x", 4711, bytes((192, 0, 2, 7)))
        self.assertEqual(sender_of(name, False), ("192.0.2.7", 4711))

    def test_ipv6(self) -> None:
        host = socket.inet_pton(socket.AF_INET6, "2001:db8::7")
        name = pack("=H", socket.AF_INET6) + pack("!HI16s", 4711, 0, host) + pack("=I", 0)
        self.assertEqual(sender_of(name, True), ("2001:db8::7", 4711))

    def test_zone(self) -> None:
        """A link-local address is of no use without its interface."""
        host = socket.inet_pton(socket.AF_INET6, "fe80::7")
        name = pack("=H", socket.AF_INET6) + pack("!HI16s", 1, 0, host) + pack("=I", 1)
        self.assertIn(sender_of(name, True)[0], {"fe80::7%lo", "fe80::7%1", "fe80::7%lo0"})
