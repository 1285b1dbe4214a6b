"""The messages on the streams of pipes and of datagrams, and when flows end."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.messages import (
    IDLE_TIME,
    MAX_DATAGRAM,
    MAX_FLOWS,
    MAX_PIECE,
    DatagramReader,
    End,
    FlowTable,
    PipeError,
    PipeReader,
    PipeStatus,
    encode_datagram,
    encode_end,
    encode_piece,
    encode_status,
)


class MessageTests(SynchronousTestCase):
    def test_any_cut(self) -> None:
        data = bytes(range(256)) * 300
        said = b"".join([*encode_piece(data), encode_end(), encode_status(7)])
        for size in (1, 2, 3, 5, 1000, len(said)):
            reader = PipeReader()
            got = [part for at in range(0, len(said), size) for part in reader.receive(said[at : at + size])]
            self.assertEqual(b"".join(part for part in got if isinstance(part, bytes)), data)
            self.assertEqual([part for part in got if not isinstance(part, bytes)], [End(), PipeStatus(7)])

    def test_what_ends_a_pipe(self) -> None:
        for said, words in (
            ((MAX_PIECE + 1).to_bytes(4, "big"), "65,537 bytes"),
            (encode_end() + encode_end(), "after its end"),
            (encode_end() + b"".join(encode_piece(b"a")), "after its end"),
            (encode_status(0) + b"\0", "after its status"),
        ):
            reader = PipeReader()
            with self.assertRaisesRegex(PipeError, words):
                list(reader.receive(said))


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
