"""The one table of what is shown, left out and escaped."""

from __future__ import annotations

import runpy
import unicodedata
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import punch
from punch.sanitize import cut, printable, quoted, sanitize
from punch.test.apps.chat.chat_network import peer_id
from punch.ui.text.sentences import SHORT_LENGTH, shortened, shown_name

ROOT = Path(punch.__file__).parent


def flag(letters: str) -> str:
    """A flag of tags."""
    return "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in letters) + "\U000e007f"


class ShownTests(SynchronousTestCase):
    def test_honest_text(self) -> None:
        for text in (
            "hello\tworld",
            "שלום עולם",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a zero-width non-joiner
            "👩\u200d💻 ❤\ufe0f ☎\ufe0f 1\ufe0f\u20e3 🏳\ufe0f\u200d🌈 👍🏽 🇩🇪",
            flag("gbeng"),
            flag("gbsct") + flag("gbwls") + "x" + flag("ustx"),
        ):
            self.assertEqual(printable(text), text, ascii(text))

    def test_marks_and_isolates_are_left_out(self) -> None:
        self.assertEqual(printable("שלום\u200f!"), "שלום!")
        self.assertEqual(printable("a\u200eb\u061cc\u200f"), "abc")
        for begin in "\u2066\u2067\u2068":
            self.assertEqual(printable(f"a{begin}b\u2069c"), "abc")
            self.assertEqual(printable(f"{begin}a{begin}b\u2069c\u2069 d"), "abc d")
            self.assertEqual(printable(f"a{begin}b"), f"a\\u{ord(begin):04x}b")
            self.assertEqual(printable(f"a{begin}b\n\u2069"), f"a\\u{ord(begin):04x}b\\n\\u2069")
        self.assertEqual(printable("a\u2069b"), "a\\u2069b")

    def test_what_acts_is_escaped(self) -> None:
        for code in (0, 7, 8, 11, 27, 127, 0x80, 0x9B, 0x2028, 0x202A, 0x202E, 0x206A, 0xE000, 0xFFF9):
            self.assertEqual(printable(f"a{chr(code)}b"), f"a{chr(code).encode('unicode-escape').decode()}b")
        self.assertEqual(printable("a\ud800b"), "a\\ud800b")
        self.assertEqual(printable("a\r\nb\rc"), "a\\nb\\x0dc")

    def test_quoted(self) -> None:
        """The user's own words and files: in their script, and what is not seen in them as escapes."""
        for text in (
            "Ольга",
            "Отчёт.txt",
            "می\u200cخواهم.txt",
            "👩\u200d💻.jpg",
            "❤\ufe0f",
            flag("gbeng"),
            "it's",
        ):
            self.assertEqual(quoted(text), f"'{text}'", ascii(text))
        for text in (
            "a\u200bb",
            "\ufeffa",
            "a\u00adb",
            "\u2800",
            "\u3164",
            "a\x1b[2Jb",
            "\u202egpj.exe",
            "caf\udce9",
        ):
            shown = quoted(text)
            self.assertEqual(shown, f"'{text.encode('unicode-escape').decode()}'")
        self.assertEqual(quoted("a\nb\tc"), "'a\\nb\\tc'")
        self.assertEqual(quoted("שלום\u200f.txt"), "'שלום.txt'")
        self.assertEqual(quoted("x" * 9, 5), "'xxxx…'")

    def test_tags_that_make_no_flag(self) -> None:
        for text in (
            "\U000e0001",
            "a" + flag("gbeng")[1:],
            flag("gbeng")[:-1],
            flag("gb"),
            flag("gbenglandisbest"),
            flag("12eng"),
            "\U0001f600" + flag("gbeng")[1:],
            flag("GBENG"),
        ):
            self.assertNotRegex(printable(text), "[\U000e0000-\U000e007f]")
            self.assertIn("\\U000e00", printable(text))

    def test_every_character(self) -> None:
        """None that acts on a terminal comes through, and none that has letters is touched."""
        for first in range(0, 0x110000, 256):
            letters = ""
            for character in map(chr, range(first, first + 256)):
                category = unicodedata.category(character)
                if category in ("Cc", "Cs", "Co", "Zl", "Zp") and character not in "\t\n":
                    self.assertTrue(sanitize(character).startswith("\\"), hex(ord(character)))
                elif category[0] in "LMNPS" or category == "Zs":
                    letters += character
            self.assertEqual(sanitize(letters), letters, hex(first))

    def test_cut_texts(self) -> None:
        """Nothing is cut that is drawn as one, and so no part of it is shown as escapes."""
        for one in (
            flag("gbeng"),
            "👩\u200d👩\u200d👧",
            "👍🏽",
            "🇩🇪",
            "🇫🇷🇩🇪",
            "❤\ufe0f",
            "1\ufe0f\u20e3",
            "e\u0301\u0323",
            "\u2067ab\u2069",
        ):
            for before in range(SHORT_LENGTH - 8, SHORT_LENGTH + 2):
                shown = shortened("a" * before + one + "b" * 20)
                self.assertLessEqual(len(shown), SHORT_LENGTH)
                self.assertNotIn("\\", shown, ascii(one))
                rest = shown.rstrip("…").lstrip("a").rstrip("b")
                whole = ("", "🇫🇷", "a", "ab", printable(one))
                self.assertIn(rest, whole, ascii(one))
        self.assertEqual(cut("e" + "\u0301" * 100, 50), "e" + "\u0301" * 48 + "…", "too long to be honest")
        self.assertEqual(cut("🇩🇪" * 3, 6), "🇩🇪" * 3)
        self.assertEqual(cut("🇩🇪" * 3, 5), "🇩🇪" * 2 + "…")

    def test_flags_in_names(self) -> None:
        """Names are shown without what is not seen, and tags of a flag are."""
        peer = peer_id(2)
        self.assertEqual(shown_name(flag("gbeng") + " Bo\u200bb", peer), flag("gbeng") + " Bob")
        self.assertEqual(shown_name("a" + flag("gbeng")[1:], peer), "a")
        self.assertEqual(shown_name("a" * 36 + flag("gbeng"), peer), "a" * 36 + "…")

    def test_the_page_has_the_same_table(self) -> None:
        script = ROOT.parent / "tools" / "make_shown_js.py"
        if not script.exists():
            raise SkipTest("only in the source tree")
        written = (ROOT / "ui" / "web" / "static" / "shown.js").read_text("utf-8")
        self.assertEqual(written, runpy.run_path(str(script))["javascript"](), "run tools/make_shown_js.py")
