"""Text and names of peers as they are shown."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.sanitize import printable
from punch.test.ui.front_ends import BOB
from punch.ui.send_queue import split_text
from punch.ui.terminal.escapes import Style
from punch.ui.text.sentences import shown_name


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
            ({"TERM": "unknown"}, True),
            ({"TERM": ""}, True),
            ({}, True),
        ):
            self.assertFalse(Style.choose(environ, terminal).colour)
