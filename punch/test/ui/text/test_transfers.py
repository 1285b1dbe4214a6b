"""What a person reads of transfers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.messages import EntryKind, FailureCode, FilesOffer, Item, TransferFailed
from punch.ui.text.transfers import (
    Oddity,
    failure_text,
    name_text,
    oddities,
    offer_lines,
    progress_text,
    time_text,
)


class TextTests(SynchronousTestCase):
    def test_times(self) -> None:
        for seconds, text in (
            (0.2, "0 s"),
            (59.4, "59 s"),
            (59.6, "1 min 0 s"),
            (200, "3 min 20 s"),
            (7500, "2 h 5 min"),
        ):
            self.assertEqual(time_text(seconds), text)

    def test_an_offer(self) -> None:
        file = Item("a.txt", EntryKind.FILE, 5, 1)
        folder = Item("photos", EntryKind.FOLDER, 2_000_000, 1)
        self.assertEqual(
            offer_lines(FilesOffer((file,), 1, ()), "bob"), ["bob wants to send you a.txt (5 bytes)."]
        )
        self.assertEqual(
            offer_lines(FilesOffer((file, folder), 3, ()), "bob"),
            [
                "bob wants to send you 2 items, 2.0 MB in all:",
                "  a.txt (5 bytes)",
                "  photos (a folder, 1 file, 2.0 MB)",
            ],
        )
        self.assertEqual(
            offer_lines(FilesOffer((Item("d", EntryKind.FOLDER, 0, 0),), 1_000_000, ()), "bob"),
            ["bob wants to send you d (a folder, 0 files, 0 bytes), with 999,999 folders and links in it."],
        )
        self.assertEqual(
            offer_lines(FilesOffer((file, folder), 4, ()), "bob")[0],
            "bob wants to send you 2 items, 2.0 MB in all, with 1 folder or link in them:",
        )
        pipe = Item("stdin", EntryKind.FILE, None, 1)
        self.assertEqual(
            offer_lines(FilesOffer((pipe, file), 2, ()), "bob")[0], "bob wants to send you 2 items:"
        )

    def test_a_text(self) -> None:
        """It is not shown before the user wants to see it."""
        offer = FilesOffer((Item("text.txt", EntryKind.FILE, None, 1),), 1, (), "\x1b[2J" * 300)
        self.assertEqual(offer_lines(offer, "bob"), ["bob wants to send you a text of 1,200 characters."])

    def test_names_are_harmless(self) -> None:
        self.assertEqual(name_text("a\x1b[2J\nb"), "a\\x1b[2J\\nb")
        self.assertLessEqual(len(name_text("x" * 255)), 101)

    def test_odd_names(self) -> None:
        for name, found in (
            ("a.txt", []),
            (".bashrc", [Oddity.HIDDEN]),
            ("gnp\u202etxt.exe", [Oddity.CONTROL]),
            ("a\nb", [Oddity.CONTROL]),
            ("CON", [Oddity.WINDOWS]),
            ("com1.txt", [Oddity.WINDOWS]),
            ("console", []),
            ("a:b", [Oddity.WINDOWS]),
            ("a.", [Oddity.WINDOWS]),
            (" a", [Oddity.SPACE]),
        ):
            self.assertEqual(oddities(name), found, name)

    def test_progress(self) -> None:
        self.assertEqual(progress_text(500, 1000, 100), "50 % of 1.0 kB, 100 bytes/s, 5 s left")
        self.assertEqual(progress_text(0, 1000, 0), "0 % of 1.0 kB, 0 bytes/s")
        self.assertEqual(progress_text(0, 0, 0), "100 % of 0 bytes, 0 bytes/s")
        self.assertEqual(progress_text(500, None, 100), "500 bytes, 100 bytes/s")

    def test_every_failure_has_a_sentence(self) -> None:
        for code in FailureCode:
            for by_peer in (False, True):
                text = failure_text(TransferFailed(code, "a\x1bb", "x\ny", by_peer), "bob")
                self.assertRegex(text, r"^[A-Zab].*\.$")
                self.assertNotIn("\x1b", text)
                self.assertNotIn("{", text)
