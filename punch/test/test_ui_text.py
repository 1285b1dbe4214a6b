"""The line being typed, and text made fit to be shown."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.test.front_ends import BOB
from punch.ui.line_editor import EndOfInput, Entered, LineEditor, display_width
from punch.ui.sentences import printable, shown_name
from punch.ui.stdio import split_text
from punch.ui.terminal import Style


class LineEditorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.editor = LineEditor(lambda: 20)

    def line(self, keys: bytes) -> str:
        """The line that these keys make."""
        actions = self.editor.feed(keys + b"\r")
        assert isinstance(actions[-1], Entered)
        return actions[-1].text

    def test_editing(self) -> None:
        cases: list[tuple[bytes, str]] = [
            (b"abc", "abc"),
            (b"abd\x7fc", "abc"),
            ("grüß👩".encode(), "grüß👩"),
            (b"bc\x01a", "abc"),
            (b"ac\x1b[Db", "abc"),
            (b"ac\x1bODb\x1b[C!", "abc!"),
            (b"one two  \x17three", "one three"),
            (b"junk\x15abc", "abc"),
            (b"abcdef\x1b[D\x1b[D\x1b[D\x0b", "abc"),
            (b"abxc\x1b[D\x1b[D\x1b[3~", "abc"),
            (b"abc\x1b[H\x1b[F!", "abc!"),
            (b"a\tb\x00\x1b[5~c\x1bxd", "a bcd"),
            (b"\x7f\x08\x1b[D\x17", ""),
        ]
        for keys, text in cases:
            with self.subTest(keys):
                self.assertEqual(self.line(keys), text)

    def test_lines_in_one_piece(self) -> None:
        self.assertEqual(self.editor.feed(b"a\nb\r\x04"), [Entered("a"), Entered("b"), EndOfInput()])

    def test_characters_in_pieces(self) -> None:
        for byte in "é€".encode():
            self.editor.feed(bytes([byte]))
        self.assertEqual(self.line(b""), "é€")

    def test_history(self) -> None:
        for word in (b"one", b"two"):
            self.line(word)
        self.assertEqual(self.line(b"draft\x1b[A\x1b[A\x1b[A"), "one")
        self.assertEqual(self.line(b"draft\x1b[A\x1b[B"), "draft")

    def test_drawing(self) -> None:
        self.editor.feed(b"hello")
        self.assertEqual(self.editor.draw(), "\r\x1b[K> hello")
        self.editor.feed(b"\x1b[D\x1b[D")
        self.assertEqual(self.editor.draw(), "\r\x1b[K> hello\x1b[2D")

    def test_a_long_line_scrolls(self) -> None:
        self.editor.feed(b"x" * 30 + b"end")
        drawn = self.editor.draw()
        self.assertTrue(drawn.endswith("xend"), drawn)
        self.assertLess(display_width(drawn.replace("\r\x1b[K", "")), 20)

    def test_wide_characters(self) -> None:
        self.assertEqual(display_width("日本e\u0301"), 5)
        self.editor.feed("日本語日本語日本語日本語".encode())
        self.assertLess(display_width(self.editor.draw().replace("\r\x1b[K", "")), 20)


class TextTests(SynchronousTestCase):
    def test_printable(self) -> None:
        cases = {
            "plain ü 👍": "plain ü 👍",
            "\x1b[2J": "\\x1b[2J",
            "a\r\nb": "a\\nb",
            "\x9b31m": "\\x9b31m",
            "\u202eevil": "\\u202eevil",
            "\u2028": "\\u2028",
            "\U000f0000": "\\U000f0000",
        }
        for text, shown in cases.items():
            self.assertEqual(printable(text), shown)

    def test_names(self) -> None:
        self.assertEqual(shown_name("", BOB), BOB.short)
        self.assertEqual(shown_name("  a \n b ", BOB), "a \\n b")
        self.assertEqual(len(shown_name("x" * 500, BOB)), 40)

    def test_split(self) -> None:
        self.assertEqual(split_text("aé", 2), ["a", "é"])
        self.assertEqual(split_text("", 2), [""])
        self.assertEqual(split_text("abcd", 2), ["ab", "cd"])

    def test_colour_only_where_it_is_wanted(self) -> None:
        self.assertTrue(Style.choose({"TERM": "xterm"}, True).colour)
        for environ, terminal in (
            ({"TERM": "xterm"}, False),
            ({"TERM": "xterm", "NO_COLOR": "1"}, True),
            ({"TERM": "dumb"}, True),
            ({}, True),
        ):
            self.assertFalse(Style.choose(environ, terminal).colour)
