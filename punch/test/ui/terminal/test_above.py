"""What is shown above a prompt: when the cursor may go up a row."""

from __future__ import annotations

import io

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import DummyInput
from prompt_toolkit.output.vt100 import Vt100_Output
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from punch.ui.terminal.prompt_above import Above

UP = "\x1b[A"


class AboveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.columns = 40
        self.written = io.StringIO()
        output = Vt100_Output(self.written, lambda: Size(rows=30, columns=self.columns), enable_cpr=False)
        app: Application[None] = Application(output=output, input=DummyInput())
        self.above = Above(app, output, reflows=True, in_reactor=lambda call: call())
        self.show("The first line also sets up the terminal", None)

    def show(self, text: str, key: object = "key", instead: bool = False) -> str:
        """What is written for a line."""
        done: Deferred[None] = Deferred()
        (self.above.replace if instead else self.above.show)(1, text, key, done)
        return self.take()

    def mark(self, beside: str, key: object = "key") -> str:
        """What is written for a mark."""
        self.above.mark(2, key, beside, "alone")
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
        """What stands there must surely be one row; what comes may be longer, and is not replaced again."""
        self.assertEqual(self.show("Calling bob", instead=True), "Calling bob\r\n")
        self.assertEqual(
            self.show("Calling bob: introduced", instead=True), f"{UP}\r\x1b[2KCalling bob: introduced\r\n"
        )
        long = "Connected to bob " + "x" * 40
        self.assertTrue(self.show(long, instead=True).startswith(UP))
        self.assertEqual(self.show("Calling bob", instead=True), "Calling bob\r\n")
        self.assertEqual(self.show("Calling eve", "other", instead=True), "Calling eve\r\n")
