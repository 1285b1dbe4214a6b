"""Codes as they are made, printed and typed."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.codes.code import FIRST_NUMBER, LAST_NUMBER, WORDS, Code, CodeError, completions, words
from punch.ui.text.codes import code_error_sentence


class CodeTests(SynchronousTestCase):
    def test_the_words(self) -> None:
        """They are distinct, have no dash, and differ in their first three letters."""
        self.assertEqual(len(words()), 1295)
        self.assertEqual(len({word[:3] for word in words()}), 1295)
        self.assertTrue(all(word.isalpha() and word.isascii() and word.islower() for word in words()))

    def test_codes_are_random_and_read_as_they_are_printed(self) -> None:
        random = Random(1).randbytes
        codes = [Code.generate(random) for _ in range(200)]
        self.assertEqual(len({code.number for code in codes}), 200)
        self.assertGreater(len({word for code in codes for word in code.words}), 400)
        for code in codes:
            self.assertTrue(FIRST_NUMBER <= code.number <= LAST_NUMBER)
            self.assertEqual(len(code.words), WORDS)
            self.assertEqual(Code.parse(str(code)), code)

    def test_every_number_and_word_comes_up(self) -> None:
        """The ends of both ranges too; values that would make some more likely than others are not used."""
        most, least = b"\xff" * 4, bytes(4)
        values = iter([most, least, most, least, least, least])
        self.assertEqual(Code.generate(lambda size: next(values)), Code(FIRST_NUMBER, (words()[0],) * 3))
        highest = (LAST_NUMBER - FIRST_NUMBER).to_bytes(4, "big")
        last = (len(words()) - 1).to_bytes(4, "big")
        values = iter([highest, last, last, last])
        self.assertEqual(Code.generate(lambda size: next(values)), Code(LAST_NUMBER, (words()[-1],) * 3))

    def test_typed_in_other_ways(self) -> None:
        code = Code(48213, ("coyote", "tulip", "yogurt"))
        for text in (
            "48213-coyote-tulip-yogurt",
            " 48213 Coyote TULIP yogurt\n",
            "48213_coyote_tulip_yogurt",
            "48213 - coyote \N{EN DASH} tulip\N{NO-BREAK SPACE}yogurt.",
            "482\u200b13\N{EM DASH}coy\xadote, tulip, yogurt",
            "48213\N{MINUS SIGN}coyote\N{FULLWIDTH HYPHEN-MINUS}tulip\N{HORIZONTAL BAR}yogurt",
            "\uff14\uff18\uff12\uff11\uff13 \uff43oyote “tulip” yogurt!",
        ):
            self.assertEqual(Code.parse(text), code, ascii(text))

    def test_what_is_no_code(self) -> None:
        """Each sentence says what is wrong, on one line, and does not repeat the other words."""
        for text, part in (
            ("", "empty"),
            ("  \u200b ", "empty"),
            ("-", "empty"),
            ("coyote-tulip-yogurt", "a number of five digits"),
            ("4821-coyote-tulip-yogurt", "a number of five digits"),
            ("482133-coyote-tulip-yogurt", "a number of five digits"),
            ("04821-coyote-tulip-yogurt", "a number of five digits"),
            ("٤٨٢١٣-coyote-tulip-yogurt", "a number of five digits"),
            ("48213", "this one has 0"),
            ("48213-coyote-tulip", "this one has 2"),
            ("48213-coyote-tulip-yogurt-yodel", "this one has 4"),
            ("48213-мёд-tulip-yogurt", "'мёд' is not a word of any code."),
            ("48213-coyote-tulip-12", "'12' is not a word of any code."),
            ("48213-" + "x" * 10_000, "is not a word of any code."),
            ("48213-\x1b[31m-tulip-yogurt", "is not a word of any code."),
            ("punch://rendezvous.example.org:7001", "a number of five digits"),
            ("\ud800" * 5, "a number of five digits"),
        ):
            sentence = code_error_sentence(self.assertRaises(CodeError, Code.parse, text))
            self.assertIn(part, sentence)
            self.assertTrue(sentence.isprintable(), sentence)
            self.assertTrue(sentence.endswith((".", "?")), sentence)
            self.assertLess(len(sentence), 250)
            self.assertNotIn("tulip", sentence.replace("mayonnaise-coyote-tulip", ""))

    def test_a_mistyped_word(self) -> None:
        """The nearest word is named."""
        for typed, near in (
            ("coyot", "coyote"),
            ("coyotte", "coyote"),
            ("cyoote", "coyote"),
            ("yoghurt", "yogurt"),
            ("mayonaise", "mayonnaise"),
            ("may", "mayonnaise"),
            ("tul1p", "tulip"),
        ):
            sentence = code_error_sentence(
                self.assertRaises(CodeError, Code.parse, f"48213-{typed}-tulip-yogurt")
            )
            self.assertIn(f"Did you mean {near}?", sentence)
        sentence = code_error_sentence(self.assertRaises(CodeError, Code.parse, "48213-qqqqqqq-tulip-yogurt"))
        self.assertNotIn("Did you mean", sentence)

    def test_words_are_completed(self) -> None:
        """Three letters are enough for each word of the three."""
        for word in words():
            self.assertEqual(completions(f"48213-{word[:3]}"), (word[:3], [word]))
        self.assertEqual(completions(" 48213 coyote-Tulip_may"), ("may", ["mayonnaise"]))
        self.assertIn("coyote", completions("48213-c")[1])
        for text in ("", "48213", "48213-", "may", "x-may", "48213-coyote-tulip-may-c", "48213-qqq"):
            self.assertEqual(completions(text)[1], [], text)

    def test_the_key_of_a_number(self) -> None:
        """It depends on the number alone, and never changes: later releases have to find it."""
        one, other = Code(48213, ("coyote", "tulip", "yogurt")), Code(48213, ("tulip", "coyote", "yodel"))
        self.assertEqual(one.identity.peer_id, other.identity.peer_id)
        self.assertNotEqual(one.identity.peer_id, Code(48214, one.words).identity.peer_id)
        self.assertEqual(str(one.identity.peer_id)[:16], "tld2djrkdxrmkqwm")
