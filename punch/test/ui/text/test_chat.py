"""Each problem of a chat has a sentence, which says what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.events import ChatBroken
from punch.apps.chat.model import MAX_TEXT, ChatError, ChatProblem, StoreError
from punch.contacts import AddressBookError, AddressBookProblem, UnknownPeer
from punch.test.ui.front_ends import BOB
from punch.ui.text.chat import broken_sentence, chat_error_sentence


class SentenceTests(SynchronousTestCase):
    def test_each_problem(self) -> None:
        """All parts of an error that a sentence names are in it, and nothing is left to fill in."""
        cause = UnknownPeer(name="carol")
        for problem in ChatProblem:
            with self.subTest(problem):
                error = ChatError(
                    problem, peer=BOB, number=1234, text="why", path=Path("/state/x.sqlite"), cause=cause
                )
                sentence = chat_error_sentence(error)
                self.assertRegex(sentence, r"\.$")
                self.assertNotRegex(sentence, "[{}]|None")

    def test_what_is_named(self) -> None:
        for error, sentence in (
            (
                ChatError(ChatProblem.LONG_TEXT, number=65_536),
                f"The message has 65,536 bytes, the most is {MAX_TEXT:,}: send it in parts.",
            ),
            (ChatError(ChatProblem.BLOCKED, peer=BOB), f"You have blocked {BOB.short}: unblock them first."),
            (
                ChatError(ChatProblem.MESSAGES_WAIT, peer=BOB, number=1),
                f"1 message waits for {BOB.short}, who is called until they are delivered: wait for that, or "
                "erase them, then forget.",
            ),
            (
                ChatError(ChatProblem.UNSEEN_NAME, text="\u200b"),
                "The name '\\u200b' can't be used: nothing of it is visible.",
            ),
            (
                StoreError(ChatProblem.HISTORY_UNUSABLE, text="database or disk is full"),
                "The history in memory can't be used: database or disk is full. Make room or make it "
                "writable, choose another directory with --state-dir, or use --no-history.",
            ),
        ):
            with self.subTest(error.problem):
                self.assertEqual(chat_error_sentence(error), sentence)

    def test_the_code_of_a_cause(self) -> None:
        """Programs are told the code of what refuses a name or a change."""
        taken = AddressBookError(AddressBookProblem.NAME_TAKEN, name="carol", peer=BOB)
        self.assertEqual(ChatError(ChatProblem.CAUSE, cause=taken).code, "name-taken")
        self.assertEqual(ChatError(ChatProblem.SELF).code, "self")

    def test_a_chat_that_was_ended(self) -> None:
        sentence = broken_sentence(ChatBroken(BOB, "messages out of order"))
        self.assertEqual(sentence, f"The chat with {BOB.short} was ended: they sent messages out of order.")
