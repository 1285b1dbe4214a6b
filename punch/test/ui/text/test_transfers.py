"""What a person reads of transfers."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.events import (
    Oddity,
    OddNames,
    TooManyTransfers,
    TransferProblem,
    UnknownTransfer,
    oddities,
)
from punch.apps.files.messages import EntryKind, FailureCode, FilesOffer, Item, TransferFailed
from punch.apps.files.source import SkipReason, SourceError, SourceProblem, text_source
from punch.ui.text.transfers import (
    failure_text,
    name_text,
    odd_name_lines,
    offer_lines,
    progress_text,
    skipped_sentence,
    source_error_sentence,
    time_text,
    too_many_transfers_sentence,
    unknown_transfer_sentence,
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
        self.assertEqual(name_text("photo\u200b.jpg"), "photo\\u200b.jpg")
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
            ("photo\u200b.jpg", [Oddity.INVISIBLE]),
            ("photo\u200d.jpg", [Oddity.INVISIBLE]),
            ("photo\ufe0f.jpg", [Oddity.INVISIBLE]),
            ("фото\u2060\u202e.jpg", [Oddity.CONTROL, Oddity.INVISIBLE]),
            ("写真\u200d\U000e0041.jpg", [Oddity.INVISIBLE]),
            ("a\u3164", [Oddity.INVISIBLE]),
            ("می\u200cخواهم.txt", []),
            ("क्\u200dष.txt", []),
            ("葛\U000e0100.txt", []),
            ("👩🏽\u200d🚀 ❤\ufe0f\u200d🔥 1\ufe0f\u20e3.png", []),
            ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f.png", []),
        ):
            self.assertEqual(oddities(name), found, name)

    def test_names_in_folders(self) -> None:
        """They are counted, but hidden ones; an item's own name is shown with the offer."""
        names = OddNames()
        for path in ("\u200b", "d/.git", "d/photo\u200b.jpg", "d/e\u200b/f", "d/e\u200b", "d/con"):
            names.add(path.encode())
        self.assertEqual(
            odd_name_lines(names),
            [
                "Names in folders that had invisible characters, which became _: 2, as photo\\u200b.jpg.",
                "Names in folders that can't be used in Windows: 1, as con.",
            ],
        )

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

    def test_what_cannot_be_sent(self) -> None:
        """One sentence or two for each, which names what it is about."""
        for problem in SourceProblem:
            sentence = source_error_sentence(SourceError(problem, "a\n{b}", "Input/output error"))
            self.assertTrue(sentence.isprintable() and sentence.endswith("."), sentence)
        for error, sentence in (
            (SourceError(SourceProblem.UNREADABLE, "a b"), "'a b' can't be read: you have no permission."),
            (
                SourceError(SourceProblem.NO_STATUS, "a\n{b}", "No such file or directory"),
                "'a\\n{b}' can't be sent: No such file or directory.",
            ),
            (
                self.assertRaises(SourceError, text_source, "x" * 40_000),
                "The text has 40,000 bytes, and can have 32,768: send it as a file, or as "
                "standard input (-).",
            ),
        ):
            self.assertEqual(source_error_sentence(error), sentence)
        for reason in SkipReason:
            self.assertIn("'d/a' is left out: it is ", skipped_sentence(Path("d/a"), reason))

    def test_what_cannot_be_done(self) -> None:
        """A sentence for each problem, with the number of the transfer."""
        for problem in TransferProblem:
            self.assertRegex(
                unknown_transfer_sentence(UnknownTransfer(problem, 17)),
                "^T.* transfer 17|^Transfer 17 .*[.]$",
            )
        self.assertTrue(too_many_transfers_sentence(TooManyTransfers(8)).startswith("8 transfers to others"))
