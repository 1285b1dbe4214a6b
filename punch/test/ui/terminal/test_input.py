"""Typed keys and lines, told apart from pasted text."""

from __future__ import annotations

import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import SETTINGS
from punch.ui.terminal.input import (
    LONG_RUN,
    MAX_PASTE,
    PASTE_INTERVAL,
    REST_TIME,
    Focus,
    KeySplitter,
    Pasted,
    PastedLines,
    Pressed,
    clean_paste,
)
from punch.ui.terminal.line_history import MAX_LENGTH, MAX_LINES, LineHistory

BEGIN, END = b"\x1b[200~", b"\x1b[201~"


Piece = Pressed | Pasted | Focus


def joined(found: list[Piece]) -> list[Piece]:
    """With keys that follow each other as one."""
    whole: list[Piece] = []
    for piece in found:
        if whole and isinstance(piece, Pressed) and isinstance(whole[-1], Pressed):
            whole[-1] = Pressed(whole[-1].text + piece.text)
        else:
            whole.append(piece)
    return whole


class KeySplitterTests(SynchronousTestCase):
    def test_keys_and_a_paste(self) -> None:
        data = b"ab\x1b[A" + BEGIN + "grüß\x1b[31m\nhello".encode() + END + b"c\r"
        self.assertEqual(
            KeySplitter().feed(data),
            [Pressed("ab\x1b[A"), Pasted("grüß\x1b[31m\nhello", 15), Pressed("c\r")],
        )

    def test_several_lines_at_once(self) -> None:
        """Without marks they are a paste all the same: nobody types that. The last line end would send it."""
        for data, text in (
            (b"first\rsecond", "first\nsecond"),
            (b"first\r\nsecond\r\n", "first\nsecond"),
            (b"a\n\n\tb\r", "a\n\n\tb"),
            ("日本\ré\r".encode(), "日本\né"),
        ):
            found = KeySplitter().feed(data, 5.0, at_once=True)
            self.assertEqual(found, [Pasted(text, len(text), marked=False)])
            self.assertEqual(
                "".join(p.text for p in KeySplitter().feed(data, 5.0) if isinstance(p, Pressed)),
                data.decode(),
            )

    def test_what_is_typed_is_no_paste(self) -> None:
        for data in (b"hello\r", b"\r", b"\rhello", b"a\x1b[A\rb", b"y\r\r", b"a\x03\rb", b"\r\n"):
            found = KeySplitter().feed(data, 5.0, at_once=True)
            self.assertEqual(joined(found), [Pressed(data.decode())], data)

    def test_the_rest_of_several_lines(self) -> None:
        """It comes a moment later, in any pieces; Enter that is pressed after that is a key."""
        splitter = KeySplitter()
        pieces = [(5.0, b"a\rb\r"), (5.01, b"c"), (5.02, b"\r"), (5.03, b"d\re\r")]
        found = [piece for now, data in pieces for piece in splitter.feed(data, now, at_once=True)]
        self.assertTrue(all(isinstance(piece, Pasted) and not piece.marked for piece in found))
        self.assertEqual("".join(piece.text for piece in found if isinstance(piece, Pasted)), "a\nb\nc\nd\ne")
        self.assertEqual(splitter.feed(b"\r", 5.03 + REST_TIME / 2), [Pressed("\r")])
        self.assertEqual(splitter.feed(b"x\r", 5.03 + 3 * REST_TIME, at_once=True), [Pressed("x\r")])

    def test_focus(self) -> None:
        self.assertEqual(KeySplitter().feed(b"a\x1b[Ob\x1b[I"), [Focus(False), Focus(True), Pressed("ab")])

    @SETTINGS
    @given(st.lists(st.integers(1, 9), max_size=60))
    def test_in_any_pieces(self, sizes: list[int]) -> None:
        data = (
            "é\x1b[B".encode()
            + BEGIN
            + "日本\x1b[20x\x1b".encode()
            + END
            + b"x"
            + BEGIN
            + END
            + b"\x1b[3~\x1b"
        )
        splitter, found, start = KeySplitter(), [], 0
        for size in [*sizes, len(data)]:
            found += splitter.feed(data[start : start + size])
            start += size
        expected = KeySplitter().feed(data)
        if len(joined(found)) == len(joined(expected)):
            self.assertEqual(joined(found), joined(expected))
        else:
            # A mark that came in the middle of its first three bytes goes to the parser of keys, whole.
            text = "".join(piece.text for piece in found if not isinstance(piece, Focus))
            self.assertIn("日本", text)

    def test_a_lone_escape_is_a_key(self) -> None:
        self.assertEqual(KeySplitter().feed(b"\x1b"), [Pressed("\x1b")])

    def test_a_paste_of_ten_megabytes_costs_nothing(self) -> None:
        splitter = KeySplitter()
        found = splitter.feed(BEGIN)
        for _ in range(10_000):
            found += splitter.feed(b"x" * 1000)
            self.assertLess(splitter.kept_length, MAX_PASTE + 1001)
        found += splitter.feed(END + b"y")
        self.assertEqual(found, [Pasted("", 10_000_000), Pressed("y")])

    def test_the_longest_paste(self) -> None:
        splitter = KeySplitter()
        self.assertEqual(splitter.feed(BEGIN + b"x" * MAX_PASTE + END), [Pasted("x" * MAX_PASTE, MAX_PASTE)])
        self.assertEqual(splitter.feed(BEGIN + b"x" * (MAX_PASTE + 1) + END), [Pasted("", MAX_PASTE + 1)])

    def test_a_paste_without_marks(self) -> None:
        run = "x" * LONG_RUN
        self.assertEqual(
            KeySplitter().feed(f"a\r{run}\rb".encode()),
            [Pressed("a\r"), Pasted(run, LONG_RUN), Pressed("\rb")],
        )

    def test_what_is_not_utf_8(self) -> None:
        self.assertEqual(KeySplitter().feed(b"a\xffb"), [Pressed("a\ufffdb")])

    def test_pastes_are_tamed(self) -> None:
        self.assertEqual(clean_paste("a\r\nb\rc\td\x1b[31m\x00\x07é"), "a\nb\nc\td[31mé")


class LineHistoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_over_a_restart(self) -> None:
        history = LineHistory(self.path)
        for number, line in enumerate(("one", "two", "two", "  ", "grüß\nzwei")):
            history.add(line, number)
        self.assertEqual(list(LineHistory(self.path)), ["one", "two", "grüß\nzwei"])
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_bounds(self) -> None:
        history = LineHistory(self.path)
        self.assertFalse(history.add("x" * (MAX_LENGTH + 1), 0))
        for number in range(2 * MAX_LINES + 10):
            history.add(f"line {number}", number)
        self.assertEqual(len(history), MAX_LINES)
        self.assertEqual(list(LineHistory(self.path)), list(history))
        self.assertLess(len(self.path.read_bytes().splitlines()), 2 * MAX_LINES)

    def test_erased(self) -> None:
        history = LineHistory(self.path)
        history.add("secret", 1)
        history.erase()
        self.assertFalse(self.path.exists())
        history.add("other", 2)
        self.assertEqual(list(LineHistory(self.path)), ["other"])

    def test_retention(self) -> None:
        history = LineHistory(self.path)
        history.add("old", 1)
        history.add("new", 10)
        history.forget_before(5)
        self.assertEqual((list(history), list(LineHistory(self.path))), (["new"], ["new"]))

    def test_a_file_that_is_damaged(self) -> None:
        self.path.write_bytes(b'[1,"good"]\n[2,"cut\n\xff\n{}\n[1]\n["x","y"]\n[3,"also"]\n')
        self.assertEqual(list(LineHistory(self.path)), ["good", "also"])

    def test_a_file_that_cannot_be(self) -> None:
        self.path.mkdir()
        history = LineHistory(self.path)
        self.assertTrue(history.add("kept in memory", 1))
        self.assertEqual(list(history), ["kept in memory"])


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
        """Empty lines that come at once, as from an Enter key that is held down, are no paste."""
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
