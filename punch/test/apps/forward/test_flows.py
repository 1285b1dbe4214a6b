"""Flows of datagrams: how they are sent, and when they end."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.flows import (
    IDLE_TIME,
    MAX_DATAGRAM,
    MAX_FLOWS,
    DatagramReader,
    FlowTable,
    encode_datagram,
)


class DatagramTests(SynchronousTestCase):
    def test_in_any_pieces(self) -> None:
        """Empty ones and the longest are there, too."""
        random = Random("datagrams")
        sent = [
            (random.getrandbits(32), random.randbytes(size))
            for size in (0, 1, 1200, MAX_DATAGRAM, 0, 5, random.randrange(MAX_DATAGRAM))
        ]
        data = b"".join(encode_datagram(*each) for each in sent)
        for size in (1, 5, 6, 7, 4096, len(data)):
            reader = DatagramReader()
            found: list[tuple[int, bytes]] = []
            for start in range(0, len(data), size):
                found += reader.receive(data[start : start + size])
            self.assertEqual(found, sent)


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ended: list[tuple[str, int]] = []
        self.table: FlowTable[str, int] = FlowTable(lambda key, value: self.ended.append((key, value)))

    def test_idle_flows_end(self) -> None:
        self.assertIsNone(self.table.get_timer())
        self.assertIsNone(self.table.use("a", 0.0))
        self.table.add("a", 1, 0.0)
        self.table.add("b", 2, 10.0)
        self.assertEqual(self.table.use("a", 20.0), 1)
        self.assertEqual(self.table.get_timer(), 10.0 + IDLE_TIME)
        self.table.handle_timer(9.9 + IDLE_TIME)
        self.assertEqual(self.ended, [])
        self.table.handle_timer(10.0 + IDLE_TIME)
        self.assertEqual((self.ended, len(self.table)), ([("b", 2)], 1))
        self.table.handle_timer(20.0 + IDLE_TIME)
        self.assertEqual((self.ended[1:], self.table.get_timer()), ([("a", 1)], None))
        self.assertFalse(self.table.end_oldest())

    def test_it_is_bounded(self) -> None:
        """The one that was silent longest gives way, not the oldest."""
        for number in range(MAX_FLOWS):
            self.table.add(str(number), number, float(number))
        self.table.use("0", 1000.0)
        self.table.add("more", 1, 1001.0)
        self.assertEqual((self.ended, len(self.table)), ([("1", 1)], MAX_FLOWS))
        self.table.end_all()
        self.assertEqual((len(self.ended), len(self.table)), (MAX_FLOWS + 1, 0))
