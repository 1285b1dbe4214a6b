"""Where a prompt stands in a terminal that has become narrower."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ui.terminal.reflow import reflows, rows_above


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
