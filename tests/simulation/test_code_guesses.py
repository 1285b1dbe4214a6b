"""Codes: exchanges that are not finished, and guesses. SPAKE2 is written in Python and takes its time."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from punch.apps.codes.code import LIFE, Card, Code, CodeFailed, CodeFailure, CodePurpose
from punch.apps.codes.exchange import ANSWER_TIME, MAX_ATTEMPTS
from punch.test.apps.codes.test_exchange import ALICE, BOB, CODE, BodiesCase, ExchangeTestCase
from punch.test.strategies import SETTINGS
from punch.wire.control import Answer, Request
from punch.wire.peers.sealed import Envelope


class GuessTests(BodiesCase):
    """Guesses at one code."""

    def test_a_hundred_wrong_guesses(self) -> None:
        """Only the first is answered; none of the others learns anything, the right one neither."""
        guesses = [Code(48213, ("coyote", "tulip", "yodel")) for _ in range(99)]
        outcomes = []
        for guess in [*guesses, CODE]:
            redeemer = self.redeem(guess)
            self.carry(redeemer)
            assert isinstance(redeemer.outcome, CodeFailed)
            outcomes.append(redeemer.outcome.failure)
        self.assertEqual(outcomes, [CodeFailure.WRONG] + [CodeFailure.NOBODY] * 99)
        self.failed(self.issuer.outcome, CodeFailure.WRONG)
        self.assertEqual(sum(isinstance(request, Answer) for request in self.seen), 1)

    def test_begun_and_not_finished(self) -> None:
        """Who begins and does not guess learns nothing; the next may use the code, but not for ever."""
        for _ in range(MAX_ATTEMPTS - 1):
            self.carry(self.redeem(), turns=1)
        self.assertIs(self.issuer.outcome, None)
        redeemer = self.redeem()
        self.carry(redeemer)
        self.assertEqual(redeemer.outcome, Card(ALICE.peer_id, "alice", CodePurpose.CONTACT))
        self.issuer = self.issue()
        for _ in range(MAX_ATTEMPTS + 1):
            redeemer = self.redeem()
            self.carry(redeemer, turns=1)
        self.failed(redeemer.outcome, CodeFailure.NOBODY)
        self.failed(self.issuer.outcome, CodeFailure.TOO_MANY)
        self.assertTrue(self.issuer.over)


class ChangedMessageTests(ExchangeTestCase):
    """Messages that somebody changed on the way."""

    def test_every_changed_message_is_noticed(self) -> None:
        """A message that was changed gives nobody a card that is not the other side's."""
        for place in range(4):
            for bit in (0, 40, 100):
                self.issuer, self.seen = self.issue(), []
                count = 0

                def change(request: Request, place: int = place, bit: int = bit) -> Request:
                    nonlocal count
                    for name in ("offer", "answer", "envelope"):
                        envelope = getattr(request, name, None)
                        if envelope is not None:
                            count += 1
                            if count == place + 1:
                                body = bytearray(envelope.body)
                                body[bit] ^= 1
                                changed = replace(envelope, body=bytes(body))
                                return replace(request, **{name: changed})
                    return request

                redeemer = self.redeem()
                self.carry(redeemer, change=change)
                redeemer.handle_timer(self.now + ANSWER_TIME)
                for outcome, card in ((redeemer.outcome, ALICE), (self.issuer.outcome, BOB)):
                    if isinstance(outcome, Card):
                        self.assertEqual(outcome.peer, card.peer_id)
                self.assertNotIsInstance(redeemer.outcome if place != 2 else None, Card)

    @settings(SETTINGS, max_examples=12)
    @given(st.binary(max_size=64), st.sampled_from(["offer", "answer", "proof", "card"]))
    def test_nothing_raises(self, content: bytes, place: str) -> None:
        """Whatever is in an envelope, both sides end with an outcome."""
        self.now, self.random = 100.0, Random(7).randbytes
        self.issuer, self.seen = self.issue(), []
        places = iter(["offer", "answer", "proof", "card", "", "", "", ""])

        def change(request: Request) -> Request:
            for name in ("offer", "answer", "envelope"):
                if hasattr(request, name) and next(places) == place:
                    changed = Envelope(getattr(request, "to"), content, bytes(64))  # noqa: B009
                    return replace(request, **{name: changed})  # type: ignore[arg-type]
            return request

        redeemer = self.redeem()
        self.carry(redeemer, change=change)
        self.issuer.handle_timer(self.now + LIFE)
        redeemer.handle_timer(self.now + ANSWER_TIME)
        self.assertTrue(self.issuer.over and redeemer.over)
