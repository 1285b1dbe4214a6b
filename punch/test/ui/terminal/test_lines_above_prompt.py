"""What is shown above a prompt, and how many rows and columns text takes there."""

from __future__ import annotations

import io

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import DummyInput
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from punch.ui.terminal.escapes import reflows
from punch.ui.terminal.lines_above_prompt import LinesAbovePrompt, narrowest, rows_above, widest

UP = "\x1b[A"


class AboveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.columns = 40
        self.written = io.StringIO()
        output = Vt100_Output(self.written, lambda: Size(rows=30, columns=self.columns), enable_cpr=False)
        app: Application[None] = Application(output=output, input=DummyInput())
        self.above = LinesAbovePrompt(app, output, reflows=True, in_reactor=lambda call: call())
        self.show("The first line also sets up the terminal", None)

    def show(self, text: str, key: object = "key", instead: bool = False) -> str:
        """What is written for a line."""
        done: Deferred[None] = Deferred()
        (self.above.replace if instead else self.above.show)(1, text, key, done)
        return self.take()

    def mark(self, beside: str, key: object = "key") -> str:
        """What is written for a mark."""
        self.above.put_beside(2, key, beside, "alone")
        return self.take()

    def take(self) -> str:
        self.above.end()
        text = self.written.getvalue()
        self.written.seek(0)
        self.written.truncate()
        return text

    def test_beside_a_line_that_took_one_row(self) -> None:
        self.show("you: hello")
        self.assertEqual(self.mark("  ✓ read"), f"{UP}\r\x1b[2Kyou: hello  ✓ read\r\n")
        self.show("\x1b[1myou:\x1b[0m ok")
        self.assertTrue(self.mark("  \x1b[32m✓ read\x1b[0m").startswith(UP))

    def test_never_where_terminals_disagree(self) -> None:
        """By some tables each of these fits into one row, and some terminals wrap it."""
        for text in (
            "❤\ufe0f" * 17,
            "☎\ufe0f" * 17,
            "1\ufe0f\u20e3" * 14,
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f" * 5,
            "👩\u200d💻" * 9,
            "🇩🇪" * 9,
            "e\u0301" * 17,
            "\u0915\u094d\u0937" * 8,
            "…" * 17,
            "a\tb\tc\td\te",
            "x" * 36,
        ):
            self.show(f"you: {text}")
            self.assertEqual(self.mark("  ✓ read"), "alone\r\n", ascii(text))

    def test_not_beside_another_line(self) -> None:
        self.show("you: hello")
        self.show("bob: hi", "other")
        self.assertEqual(self.mark("  ✓"), "alone\r\n")
        self.show("two\nlines")
        self.assertEqual(self.mark("  ✓"), "alone\r\n")
        self.show("you: hello")
        self.columns = 39
        self.assertEqual(self.mark("  ✓"), "alone\r\n")
        self.show("you: hello")
        self.above.forget()
        self.assertEqual(self.mark("  ✓"), "alone\r\n")

    def test_a_line_instead_of_another(self) -> None:
        """A line can be replaced if it surely takes one row; a longer one is not replaced again."""
        self.assertEqual(self.show("Calling bob", instead=True), "Calling bob\r\n")
        self.assertEqual(
            self.show("Calling bob: introduced", instead=True), f"{UP}\r\x1b[2KCalling bob: introduced\r\n"
        )
        long = "Connected to bob " + "x" * 40
        self.assertTrue(self.show(long, instead=True).startswith(UP))
        self.assertEqual(self.show("Calling bob", instead=True), "Calling bob\r\n")
        self.assertEqual(self.show("Calling eve", "other", instead=True), "Calling eve\r\n")


class ReflowTests(SynchronousTestCase):
    def test_what_still_fits(self) -> None:
        self.assertEqual(rows_above([[]], 0, 40), 0)
        self.assertEqual(rows_above([[1] * 40], 39, 40), 0)
        self.assertEqual(rows_above([[1] * 40, [1] * 30, [1] * 5], 5, 40), 2)

    def test_what_is_wrapped(self) -> None:
        self.assertEqual(rows_above([[1] * 41], 40, 40), 1)
        self.assertEqual(rows_above([[1] * 100], 10, 40), 0)
        self.assertEqual(rows_above([[1] * 100], 99, 40), 2)
        self.assertEqual(rows_above([[1] * 100, [1] * 81, [1] * 50], 45, 40), 3 + 3 + 1)

    def test_the_cursor_behind_the_end(self) -> None:
        """At the last column it has no row of its own, and spaces at the end are not drawn."""
        self.assertEqual(rows_above([[1] * 40], 40, 40), 0)
        self.assertEqual(rows_above([[1] * 80], 83, 40), 1)

    def test_wide_characters(self) -> None:
        """One that does not fit at the end of a row goes to the next as a whole."""
        self.assertEqual(rows_above([[2] * 20], 40, 40), 0)
        self.assertEqual(rows_above([[1] + [2] * 20], 41, 40), 1)
        self.assertEqual(rows_above([[2] * 6], 12, 5), 2)

    def test_terminals(self) -> None:
        self.assertTrue(reflows({"TERM": "xterm-256color"}))
        self.assertFalse(reflows({"TERM": "xterm", "XTERM_VERSION": "XTerm(379)"}))
        self.assertFalse(reflows({"TERM": "linux"}))
        self.assertFalse(reflows({"TERM": "screen", "STY": "1.pts-0"}))
        self.assertTrue(reflows({"TERM": "screen", "TMUX": "/tmp/tmux", "XTERM_VERSION": "XTerm(379)"}))


class WidthTests(SynchronousTestCase):
    def test_plain_text_is_sure(self) -> None:
        for text in ("hello, world", "Zoë", "שלום"):
            self.assertEqual((widest(text), sum(map(narrowest, text))), (len(text), len(text)), text)

    def test_what_terminals_disagree_about(self) -> None:
        """Between the bounds is what any of them does: a picture, its parts one by one, or a box."""
        for text, least, most in (
            ("❤\ufe0f", 1, 2),
            ("☎\ufe0f", 1, 2),
            ("1\ufe0f\u20e3", 1, 3),
            ("👩\u200d💻", 2, 4),
            ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", 1, 8),
            ("👍\U0001f3fd", 1, 4),
            ("🇩🇪", 1, 4),
            ("e\u0301", 1, 2),
            ("…", 1, 2),
            ("日本", 4, 4),
            ("\u0915\u094d\u0937", 1, 3),
        ):
            self.assertGreaterEqual(widest(text), most, ascii(text))
            self.assertLessEqual(sum(map(narrowest, text)), max(least, 1) if least > 2 else 4, ascii(text))

    def test_bounds_of_every_character(self) -> None:
        """The width that prompt_toolkit assumes is between our bounds for each character."""
        for code in (*range(32, 127), *range(0xA0, 0x3100), *range(0x1F000, 0x1FB00)):
            character = chr(code)
            width = get_cwidth(character)
            self.assertLessEqual(narrowest(character), max(width, 1), hex(code))
            self.assertGreaterEqual(widest(character), width, hex(code))
