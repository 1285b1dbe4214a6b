"""Notices and colours: the escape sequences for terminals."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ui.terminal.escapes import Notice, sequence


class NoticeTests(SynchronousTestCase):
    def test_what_is_written(self) -> None:
        evil = "a;b\x1b\\\x07\n\u202e" + "x" * 500
        self.assertEqual(sequence(Notice.BELL, evil), "\a")
        self.assertEqual(sequence(Notice.OFF, evil), "")
        for notice, begin in ((Notice.OSC9, "\x1b]9;"), (Notice.OSC777, "\x1b]777;notify;Punch;")):
            told = sequence(notice, evil)
            self.assertTrue(told.startswith(begin) and told.endswith("\x1b\\"), ascii(told))
            inside = told[len(begin) : -2]
            self.assertTrue(inside.isprintable() and len(inside) <= 100, ascii(inside))
        self.assertNotIn(";", sequence(Notice.OSC777, evil).removeprefix("\x1b]777;notify;Punch;"))
