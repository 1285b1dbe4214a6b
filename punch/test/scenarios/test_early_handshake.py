"""
The first packets of a handshake together with the first checks: how much sooner the link is there.

`tests/simulation/test_early_handshake.py` has what it costs when they are lost, or the line is slow.
"""

from __future__ import annotations

from punch.node.calls.call_link import LASTED
from punch.test.scenarios.early import HOMES, D, EarlyTestCase
from punch.test.system import (
    introduce,
)


class TimeTests(EarlyTestCase):
    """How soon the link is there."""

    def test_the_second_link(self) -> None:
        """
        Two delays sooner on both sides than the first one. The caller sends two datagrams early, the callee
        answers with fewer bytes than three times as many, and each to one address.
        """
        alice, bob = self.start()
        introduce(alice, bob)
        introduce(bob, alice)
        first = self.connect()
        self.assertEqual(self.early_packets(), [])
        self.net.advance(5.0)
        self.stop()
        self.start()
        second = self.connect()
        self.assertAlmostEqual(first[0] - second[0], 2 * D, 6)
        self.assertAlmostEqual(first[1] - second[1], 2 * D, 6)
        self.assertAlmostEqual(second[1], 5 * D, 6)
        sizes = {
            link: [seen.size for seen in self.early_packets() if seen.link == link]
            for link in ("alice up", "bob up")
        }
        self.assertEqual(sizes["alice up"], [1228, 1228])
        self.assertTrue(0 < sum(sizes["bob up"]) <= 3 * 2400, sizes)
        self.assertEqual({seen.destination[0] for seen in self.early_packets()}, set(HOMES))
        self.stop()

    def test_when_a_path_is_remembered(self) -> None:
        """When it has lasted, or at the end of a shorter link."""
        for seconds, remembered in ((LASTED - 1.0, 0), (LASTED, 1)):
            for book in self.books:
                for peer in book:
                    book.forget(peer)
            alice, bob = self.start()
            introduce(alice, bob)
            introduce(bob, alice)
            self.connect()
            self.net.advance(seconds)
            books = list(zip(self.books, (bob, alice), strict=True))
            self.assertEqual([len(book.entry(peer.id).paths) for book, peer in books], [remembered] * 2)
            self.stop()
            self.assertEqual([len(book.entry(peer.id).paths) for book, peer in books], [1, 1])
