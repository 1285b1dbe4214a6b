"""Whom a person means."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.contacts import AddressBook, UnknownPeer, find_peer, near_names
from punch.sentences import sentence_of
from punch.test.apps.chat.chat_network import peer_id

BOB, NORA = peer_id(2), peer_id(3)


class LookupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.book = AddressBook(None)
        self.book.rename(BOB, "bob")
        self.book.rename(NORA, "Nora")

    def unknown(self, text: str) -> str:
        sentence = sentence_of(self.assertRaises(UnknownPeer, find_peer, self.book, text))
        self.assertTrue(sentence.endswith((".", "?")), sentence)
        self.assertTrue(sentence.isprintable(), ascii(sentence))
        return sentence

    def test_what_is_not_seen_is_ignored(self) -> None:
        text = str(BOB)
        for unseen in "\u200b\u2060\xad\u200d\u200e\ufeff\u202a\u2066\U000e0041":
            for typed in (
                "bo" + unseen + "b",
                unseen + "BOB" + unseen,
                unseen + text,
                text[:20] + unseen + text[20:],
                unseen.join(text),
                f"{text[:28]} {unseen}-{text[28:].upper()}",
            ):
                self.assertEqual(find_peer(self.book, typed), BOB, ascii(typed))

    def test_a_name_that_nobody_has(self) -> None:
        for typed, near in (
            ("bo", ["bob"]),
            ("bobb", ["bob"]),
            ("NORO", ["Nora"]),
            ("b\u043eb", ["bob"]),  # Cyrillic
            ("n0ra", ["Nora"]),
            ("nobody", []),
            ("Ольга", []),
            ("a" * 20, []),
            ("no such name", []),
        ):
            sentence = self.unknown(typed)
            self.assertTrue(
                sentence.startswith(f"'{typed}' is neither a name in the address book nor"), sentence
            )
            self.assertNotIn("typo", sentence)
            if near:
                self.assertTrue(sentence.endswith(f"Did you mean {near[0]}?"), sentence)
            else:
                self.assertIn("punch peers", sentence)

    def test_an_id_with_a_typo_is_called_that(self) -> None:
        text = str(peer_id(9))
        for typed in (
            text[:-1],
            text + "a",
            text[:-1] + ("a" if text[-1] != "a" else "b"),
            text[:50],
            text[:30],
            "x" * 500,
        ):
            self.assertIn("typo", self.unknown(typed), typed)
        self.assertIn("empty", self.unknown(" \u200b "))
        self.assertIn("an address", self.unknown("punch://example.org:7001"))

    def test_near_names(self) -> None:
        self.assertEqual(
            near_names("alic", ["bob", "alice", "Alicia", "malice", "alix", "carol"])[0], "alice"
        )
        self.assertEqual(len(near_names("a", [f"a{number}" for number in range(100)])), 3)
        self.assertEqual(near_names("\x1b[31m", ["bob"]), [])
