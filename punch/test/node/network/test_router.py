"""Which call or link a datagram is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from punch.node.network.router import Router
from punch.wire.address import Address

REMOTE, LOCAL = Address("203.0.113.1", 4000), Address("192.0.2.1", 5000)


class Received:
    """Takes the place of the ICE transport of a link."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []

    def receive_link(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        self.batches.append(list(datagrams))


class Reflexive:
    def receive(self, data: bytes, remote: Address, local: Address) -> bool:
        return True


def short(connection_id: bytes, number: int, first: int = 0x40) -> bytes:
    return bytes([first]) + connection_id + bytes([number])


class RouterTests(SynchronousTestCase):
    """Batches with datagrams of several links, and of none."""

    def setUp(self) -> None:
        self.router = Router(cast(Any, Reflexive()), lambda datagrams, remote, local: datagrams)
        self.links = [Received(), Received()]
        self.ids = [bytes([number + 1]) * 8 for number in range(2)]
        for link, connection_id in zip(self.links, self.ids, strict=True):
            self.router.route(connection_id, cast(Any, link), True)

    def receive(self, *datagrams: bytes) -> list[list[list[bytes]]]:
        for link in self.links:
            link.batches.clear()
        self.router.receive(datagrams, REMOTE, LOCAL)
        return [link.batches for link in self.links]

    def test_turns(self) -> None:
        """Each link gets its own as one batch, in their order, whatever comes in between."""
        one, two = self.ids
        mine = [short(one, number, 0x40 + number) for number in range(0x40)]
        other = [short(two, number) for number in range(3)]
        noise = [
            b"",
            b"\x40",
            b"\x40" + one[:7],
            b"\x01" + one + bytes(20),
            b"\x80" + one + b"x",
            b"\x20" + one + b"x",
            short(b"nobody's", 1),
        ]
        batch = [*mine[:5], *noise, other[0], *mine[5:7], other[1], other[2], *mine[7:], *noise]
        self.assertEqual(self.receive(*batch), [[mine], [other]])

    def test_long_headers(self) -> None:
        """A long header is looked into each time: its connection ID is elsewhere."""
        one, two = self.ids
        handshake = b"\xe0\0\0\0\x01\x08" + one + b"x"
        # Bytes 1 to 8 of it are no connection ID, though a short header may have the same there.
        alike = short(handshake[1:9], 0)
        self.assertEqual(
            self.receive(handshake, alike, handshake, short(two, 0)), [[[handshake] * 2], [[short(two, 0)]]]
        )

    def test_removed(self) -> None:
        one, two = self.ids
        self.router.route(one, cast(Any, self.links[0]), False)
        self.assertEqual(self.receive(short(one, 0), short(two, 0)), [[], [[short(two, 0)]]])
        self.router.remove(cast(Any, self.links[1]))
        self.assertEqual(self.receive(short(two, 0)), [[], []])
