"""What is shown while files are sent: lines, bars, and a question."""

from __future__ import annotations

import io
from importlib.util import find_spec

from twisted.trial.unittest import SynchronousTestCase

from punch.ui.transfer_progress import LINE_INTERVAL, Display


class Screen(io.StringIO):
    """What was written, and what stands in the last line of it."""

    def write_line(self, text: str, end: str = "\n") -> None:
        self.write(text + end)

    @property
    def last(self) -> str:
        return self.getvalue().rpartition("\n")[2].rpartition("\r")[2]


class DisplayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.screen = Screen()

    def test_lines(self) -> None:
        """Without a terminal, progress is a line from time to time."""
        display = Display(self.screen.write_line, None)
        progress = display.follow("to bob", 1000, 5.0)
        progress.look(0, 5.0)
        progress.look(500, 5.0 + LINE_INTERVAL)
        progress.look(600, 6.0 + LINE_INTERVAL)
        self.assertEqual(self.screen.getvalue(), "to bob: 50 % of 1.0 kB, 50 bytes/s, 10 s left\n")

    def test_a_line_above_an_open_question(self) -> None:
        display = Display(self.screen.write_line, None)
        display.ask("Accept? ")
        display.line("Received.")
        self.assertEqual(self.screen.getvalue(), "Accept? \nReceived.\nAccept? ")
        display.answered(entered=False)
        display.line("Next.")
        self.assertTrue(self.screen.getvalue().endswith("\nAccept? \nNext.\n"))

    def test_bars(self) -> None:
        """No bar is drawn over a line, or over a question."""
        if find_spec("tqdm") is None:
            self.skipTest("tqdm is not installed")
        display = Display(self.screen.write_line, self.screen)
        progress = display.follow("to bob", 1000, 5.0)
        progress.look(100, 5.0)
        self.assertIn("to bob", self.screen.last)
        display.line("A line")
        self.assertTrue(self.screen.getvalue().endswith("\rA line\n"), self.screen.getvalue())
        progress.look(200, 5.2)
        self.assertIn("to bob", self.screen.last)
        display.ask("Accept? ")
        self.assertTrue(self.screen.getvalue().endswith("\rAccept? "), self.screen.getvalue())
        progress.look(300, 5.4)
        other = display.follow("from eve", 1000, 5.4)
        other.look(1, 5.4)
        other.close()
        self.assertTrue(self.screen.getvalue().endswith("\rAccept? "), self.screen.getvalue())
        display.answered()
        progress.look(400, 5.6)
        self.assertIn("to bob", self.screen.last)
        progress.close()
        self.assertEqual(self.screen.last.strip(), "")
