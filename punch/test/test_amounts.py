"""Amounts as people write and read them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.amounts import MAX_BYTES, format_bytes, format_count, format_duration, number_of_bytes, seconds


class AmountTests(SynchronousTestCase):
    """What is read, and what is refused with a sentence."""

    def test_bytes(self) -> None:
        for text, number in (("1", 1), ("500M", 500_000_000), ("10G", 10**10), ("1.5TB", 1_500_000_000_000)):
            self.assertEqual(number_of_bytes(text), number)
        self.assertEqual(number_of_bytes("1000T"), MAX_BYTES)

    def test_bytes_that_are_none(self) -> None:
        for text in (
            "0",
            "0G",
            "-1G",
            "1e9",
            "nan",
            "1001T",
            "9" * 15 + "T",
            "9" * 400,
            "",
            "G",
            "1 G B",
            "١G",
        ):
            problem = self.assertRaises(ValueError, number_of_bytes, text)
            self.assertTrue(str(problem).startswith("takes "), problem)

    def test_times(self) -> None:
        for text, number in (("1m", 60), ("12h", 43_200), ("7d", 604_800), ("4w", 2_419_200)):
            self.assertEqual(seconds(text), number)
        for text in ("0d", "-1d", "7", "30s", "99999w", "1.5d", "", "d"):
            problem = self.assertRaises(ValueError, seconds, text)
            self.assertTrue(str(problem).startswith("takes "), problem)

    def test_shown(self) -> None:
        for number, text in (
            (0, "0 bytes"),
            (0.4, "0 bytes"),
            (1, "1 byte"),
            (1.2, "1 byte"),
            (999, "999 bytes"),
            (999.6, "1.0 kB"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_960, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (1_234_567_890, "1.2 GB"),
            (262e9, "262 GB"),
            (10**15, "1.0 PB"),
            (10**18, "1000 PB"),
        ):
            self.assertEqual(format_bytes(number), text)

    def test_durations(self) -> None:
        for number, text in ((5, "5 s"), (300, "5 min"), (3700, "1 h 1 min"), (190_000, "2 d 4 h")):
            self.assertEqual(format_duration(number), text)

    def test_counts(self) -> None:
        self.assertEqual(format_count(1234567), "1,234,567")
