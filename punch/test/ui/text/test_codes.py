"""The sentences about codes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.codes.code import Card, CodeFailed, CodeFailure, CodePurpose
from punch.node.causes import ControlProblem, ProblemCode
from punch.test.apps.chat.chat_network import peer_id
from punch.ui.text.codes import code_lines, failure_sentence, unregistered_sentence
from punch.wire.control import ErrorCode
from punch.wire.invitation import AdmissionRefusal
from punch.wire.rendezvous_address import RendezvousAddress


class SentenceTests(SynchronousTestCase):
    def test_every_failure(self) -> None:
        """One or more whole sentences for each, on both sides, with no place left empty."""
        for purpose in CodePurpose:
            for failure in CodeFailure:
                for issuer in (True, False):
                    card = Card(peer_id(1), "bob", CodePurpose.CONTACT)
                    sentence = failure_sentence(
                        CodeFailed(failure, card),
                        purpose,
                        issuer=issuer,
                        number=48213,
                        where="rendezvous.example.org:7001",
                    )
                    self.assertTrue(sentence.isprintable() and sentence.endswith("."), sentence)
                    self.assertNotIn("{", sentence)
                    self.assertNotIn("  ", sentence)
                    self.assertNotIn("bob", sentence)

    def test_what_is_named(self) -> None:
        """The number and the rendezvous for which nobody waits, and the command that makes a new code."""
        sentence = failure_sentence(
            CodeFailed(CodeFailure.NOBODY),
            CodePurpose.CONTACT,
            issuer=False,
            number=48213,
            where="a.example:1",
        )
        for part in ("48213", "a.example:1", "--rendezvous"):
            self.assertIn(part, sentence)
        sentence = failure_sentence(CodeFailed(CodeFailure.WRONG), CodePurpose.FILES, issuer=True)
        self.assertIn("punch send", sentence)
        card = Card(peer_id(1), "bob", CodePurpose.FILES)
        failed = CodeFailed(CodeFailure.OTHER_PURPOSE, card)
        sentence = failure_sentence(failed, CodePurpose.CONTACT, issuer=False)
        self.assertIn("punch receive", sentence)
        self.assertIn("punch join 48213-a-b-c", code_lines("48213-a-b-c", CodePurpose.CONTACT))

    def test_who_is_not_admitted(self) -> None:
        """Whom to ask, and what helps with an older release."""
        address = RendezvousAddress.parse("a.example:1")
        for refusal, help_ in (
            (AdmissionRefusal.NOT_INVITED, True),
            (AdmissionRefusal.NOT_LISTED, True),
            (AdmissionRefusal.REVOKED, False),
        ):
            problem = ControlProblem(
                ProblemCode.ERROR, address, ErrorCode.DENIED, "No.", refusal=refusal, contact="Ann"
            )
            sentence = unregistered_sentence(problem)
            self.assertIn("Ann", sentence)
            self.assertIn("a.example:1", sentence)
            self.assertEqual("punch peers add" in sentence, help_)
