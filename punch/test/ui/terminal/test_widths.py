"""How many columns a text takes, at most and at least."""

from __future__ import annotations

from prompt_toolkit.utils import get_cwidth
from twisted.trial.unittest import SynchronousTestCase

from punch.ui.terminal.widths import narrowest, widest


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
        """What prompt_toolkit's table says of a character lies between them."""
        for code in (*range(32, 127), *range(0xA0, 0x3100), *range(0x1F000, 0x1FB00)):
            character = chr(code)
            width = get_cwidth(character)
            self.assertLessEqual(narrowest(character), max(width, 1), hex(code))
            self.assertGreaterEqual(widest(character), width, hex(code))
