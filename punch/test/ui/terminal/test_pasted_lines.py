"""What was typed and what was pasted, where a terminal gives whole lines."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.ui.terminal.keys import MAX_PASTE
from punch.ui.terminal.pasted_lines import PASTE_INTERVAL, REST_TIME, PastedLines


class PastedLinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.typed: list[bytes] = []
        self.pasted: list[bytes] = []
        self.rest = b""
        self.lines = PastedLines(self.clock, self.typed.append, self.pasted.append, lambda: self.rest)

    def test_typed_one_after_the_other(self) -> None:
        for line in (b"one\n", b"\n", b"two\n"):
            self.lines.add(line)
            self.clock.advance(PASTE_INTERVAL)
        self.assertEqual((self.typed, self.pasted), ([b"one\n", b"\n", b"two\n"], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lines_that_come_at_once(self) -> None:
        for line in (b"one\n", b"\n", b"two\n"):
            self.lines.add(line)
            self.clock.advance(PASTE_INTERVAL / 2)
        self.lines.add(b"three\n")
        self.clock.advance(REST_TIME - 0.01)
        self.lines.add(b"four\n")
        self.rest = b"and"
        self.clock.advance(REST_TIME)
        self.assertEqual((self.typed, self.pasted), ([], [b"one\n\ntwo\nthree\nfour\nand"]))

    def test_in_one_read(self) -> None:
        self.lines.add(b"one\ntwo\n")
        self.clock.advance(REST_TIME)
        self.assertEqual((self.typed, self.pasted), ([], [b"one\ntwo\n"]))

    def test_empty_lines_are_no_paste(self) -> None:
        """As of an Enter key that is held down."""
        self.lines.add(b"one\n")
        self.lines.add(b"\n")
        self.lines.add(b"  \n")
        self.rest = b"half"
        self.clock.advance(PASTE_INTERVAL)
        self.assertEqual((self.typed, self.pasted), ([b"one\n\n  \n"], []))

    def test_the_end_of_the_input(self) -> None:
        self.lines.add(b"one\n")
        self.lines.flush()
        self.lines.add(b"two\n")
        self.lines.add(b"three")
        self.lines.flush()
        self.lines.flush()
        self.assertEqual((self.typed, self.pasted), ([b"one\n"], [b"two\nthree"]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_much(self) -> None:
        for _ in range(3):
            for _ in range(MAX_PASTE // 8 + 1):
                self.lines.add(b"1234567\n")
            self.clock.advance(REST_TIME)
        self.lines.add(b"typed\n")
        self.clock.advance(PASTE_INTERVAL)
        self.assertEqual((self.typed, self.pasted), ([b"typed\n"], [b""] * 3))

    def test_nothing_is_left_on_the_clock(self) -> None:
        self.lines.add(b"one\n")
        self.lines.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
