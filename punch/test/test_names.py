"""Names that look alike, names that look like an ID, and what is not seen."""

from __future__ import annotations

import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from punch import names, unicode_tables
from punch.test.apps.chat.chat_network import peer_id


class AlikeTests(SynchronousTestCase):
    """UTS #39 skeletons, in each case."""

    def test_alike(self) -> None:
        for one, other in (
            ("alice", "Alice"),
            ("alice", "ALICE"),
            ("alice", "ali\u034fce"),
            ("alice", "alice\u200b"),
            ("alice", "\u0430lice"),  # Cyrillic
            ("alice", "\u0391LICE"),  # Greek capital
            ("alice", "aIice"),
            ("alice", "ALlCE"),
            ("alice", "a1ice"),
            ("alice", "\uff41lice"),  # full width
            ("alice", "al\u0131ce"),  # dotless i
            ("alice", "\U0001d41alice"),  # mathematical bold
            ("alice", "a\u0301lice"),
            ("alice", "al\u0338ice"),
            ("alice", "alice\u0489"),  # Cyrillic
            ("alice", "alic\u0e47e"),  # Thai
            ("alice", "al\u05b4ice"),  # Hebrew
            ("alice", "a\u3099lice"),  # of kana
            ("Bob", "b0b"),
            ("BOB", "\u0412\u041e\u0412"),  # Cyrillic as a whole
            ("tom", "torn"),
            ("user1", "userl"),
            ("\u041e\u043b\u044c\u0433\u0430", "O\u043b\u044c\u0433a"),
            ("ﬁnn", "finn"),
            ("ﬁnn", "FINN"),
        ):
            self.assertTrue(names.alike(one, other), f"{one!a} {other!a}")
            self.assertTrue(names.alike(other, one), f"{one!a} {other!a}")

    def test_different(self) -> None:
        for one, other in (
            ("alice", "bob"),
            ("alice", "alices"),
            ("alice1", "alice2"),
            ("Andrea", "Andreas"),
            ("\u0410\u043d\u0434\u0440\u0435\u0439", "\u0421\u0435\u0440\u0433\u0435\u0439"),
            ("\u65e5\u672c", "\u4e2d\u56fd"),
            ("\u0905\u092e\u093f\u0924", "\u0905\u092e\u0940\u0924"),  # vowels of Devanagari are marks
            ("\u0e01\u0e32", "\u0e01\u0e33"),  # of Thai, too
            ("\u304c\u304f", "\u304b\u304f"),  # voiced and not
            ("\u05e9\u05b8\u05dc", "\u05e9\u05bc\u05dc"),  # points over letters of their own script
        ):
            self.assertFalse(names.alike(one, other), f"{one!a} {other!a}")

    def test_ascii_is_as_the_rest(self) -> None:
        """The quick comparison of ASCII names agrees with the table."""
        for code in range(33, 127):
            character = chr(code)
            self.assertEqual(
                names.skeletons(character),
                {
                    names.skeleton(form).casefold()
                    for form in (character, character.lower(), character.upper())
                },
            )

    def test_any_mark_over_latin_letters(self) -> None:
        """A mark over a Latin letter, of any script, does not make a name look different."""
        marks = [c for c in map(chr, range(0x20000)) if unicodedata.category(c)[0] == "M"]
        self.assertGreater(len(marks), 2000)
        for mark in marks[::16]:
            self.assertTrue(names.alike("ali\u0161", f"ali{mark}\u0161"), ascii(mark))

    def test_reserved(self) -> None:
        for word in (
            "you",
            "You",
            "Y0U",
            "y\u043eu",
            "you\u200b",
            "me",
            "all",
            "A11",
            "help",
            "quit",
            "yes",
            "y",
        ):
            self.assertTrue(names.is_reserved(word), ascii(word))
        for word in ("alice", "bob", "young", "tools", "Yves"):
            self.assertFalse(names.is_reserved(word), ascii(word))

    def test_mixed(self) -> None:
        for name in ("\u0430lice", "\u039fscar", "B\u043eb", "\u13aalice"):
            self.assertTrue(names.is_mixed(name), ascii(name))
        for name in ("alice", "Ольга", "Αλέξανδρος", "日本 Tokyo", "café", "bob2", "мир-2"):
            self.assertFalse(names.is_mixed(name), ascii(name))

    def test_like_an_id(self) -> None:
        text = str(peer_id(1))
        for name in (
            text,
            text[:24],
            text[:24].upper(),
            text[:28] + "_" + text[28:50],
            "_".join(text[:30]),
            ".".join((text[:10], text[10:20], text[20:30])),
            "\u0436" + text[:40],
            text[:30].replace("a", "\u0430").replace("o", "\u043e"),
            text[:20] + "\uff41\uff42\uff43\uff44",
            text[:24] + "\u0301",
            "\u0489".join(text[:30]),
            text[:24] + "9999",
        ):
            self.assertTrue(names.looks_like_an_id(name), ascii(name))
        for name in ("alice", "é" * 64, "日" * 40, "Maximilian-von-Thurn", "9" * 60, text[:20]):
            self.assertFalse(names.looks_like_an_id(name), ascii(name))


class UnseenTests(SynchronousTestCase):
    """What is not seen."""

    def test_left_out(self) -> None:
        unseen = (
            "\xad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u200b\u200d\u200e\u202e\u2060\u2066\u3164\ufe0f\ufeff"
            "\uffa0\ufff9\U0001d173\U000e0001\U000e0061\U000e0100\u2800\U00013441"
        )
        for character in unseen:
            self.assertEqual(names.without_ignorable(f"a{character}b"), "ab", ascii(character))
        self.assertEqual(names.without_ignorable("é日\u0301 ж"), "é日\u0301 ж")

    def test_all_format_characters(self) -> None:
        for code in range(0x110000):
            if unicodedata.category(chr(code)) == "Cf":
                self.assertEqual(names.without_ignorable(chr(code)), "")
                self.assertEqual(names.without_format(chr(code)), "")
        self.assertEqual(names.without_format("a\u034fb\u3164"), "a\u034fb\u3164")

    def test_the_tables(self) -> None:
        """They are of one version, and whole: UTS #39 has more than 6,000 confusable characters."""
        lines = unicode_tables.CONFUSABLES.split("\n")
        self.assertGreater(sum(len(line.split()) - 1 for line in lines if line), 6000)
        self.assertEqual(unicode_tables.VERSION.split(".")[0], "17")
        self.assertIn((0xE0000, 0xE0FFF), unicode_tables.DEFAULT_IGNORABLE)
