"""What the two sides of a code tell each other, and what a stranger gets from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.codes.code import LIFE, Card, Code, CodeFailed, CodeFailure, CodePurpose
from punch.apps.codes.exchange import (
    ANSWER_TIME,
    BODY_SIZE,
    FAREWELL_TIME,
    Issuer,
    Outcome,
    Redeemer,
)
from punch.identity import Identity, PeerID
from punch.wire.control import (
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Reject,
    Reply,
    Request,
    Trickle,
)
from punch.wire.control_lines import encode
from punch.wire.peers.sealed import Envelope

CODE = Code(48213, ("coyote", "tulip", "yogurt"))
NUMBER = CODE.identity.peer_id
KEYS = [Identity.generate(lambda size, i=i: bytes([i]) * size) for i in range(1, 6)]  # type: ignore[misc]
ALICE, BOB, CALLER, OTHER, MALLORY = KEYS

Change = Callable[[Request], Request]


def forward(request: Request, sender: PeerID) -> Reply:
    """What a rendezvous makes of a message for the peer that gets it."""
    if isinstance(request, Establish):
        return Incoming(request.call, sender, "code", request.offer)
    if isinstance(request, Answer):
        return Answered(request.call, sender, request.answer)
    if isinstance(request, Trickle):
        return Candidates(request.call, sender, request.envelope)
    assert isinstance(request, (Cancel, Reject))
    code = request.code if isinstance(request, Reject) else ErrorCode.CANCELLED
    return Ended(request.call, code, "It is over.", sender=sender)


class ExchangeTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 100.0
        self.seen: list[Request] = []
        self.random = Random(self.id()).randbytes
        self.issuer = self.issue()

    def issue(self, purpose: CodePurpose = CodePurpose.CONTACT) -> Issuer:
        return Issuer(CODE, ALICE, "alice", purpose, self.now, self.random)

    def redeem(
        self, code: Code = CODE, caller: Identity = CALLER, purpose: CodePurpose = CodePurpose.CONTACT
    ) -> Redeemer:
        return Redeemer(code, caller.peer_id, BOB, "bob", purpose, self.now, self.random)

    def carry(
        self,
        redeemer: Redeemer,
        caller: Identity = CALLER,
        change: Change = lambda request: request,
        turns: int = 4,
    ) -> None:
        """Carry messages between both sides; `change` is the rendezvous'."""
        for _ in range(turns):
            for request in map(change, redeemer.messages_to_send()):
                self.seen.append(request)
                self.issuer.receive(forward(request, caller.peer_id), self.now)
            for request in map(change, self.issuer.messages_to_send()):
                self.seen.append(request)
                redeemer.receive(forward(request, NUMBER), self.now)

    def failed(self, outcome: Outcome | None, failure: CodeFailure) -> None:
        assert isinstance(outcome, CodeFailed), outcome
        self.assertIs(outcome.failure, failure)


class BodiesCase(ExchangeTestCase):
    """Exchanges whose messages are looked at."""

    def bodies(self) -> list[bytes]:
        """What was in the envelopes."""
        values = (value for request in self.seen for value in vars(request).values())
        return [value.body for value in values if isinstance(value, Envelope)]


class ExchangeTests(BodiesCase):
    def test_the_right_code(self) -> None:
        """Each side gets the card of the other one."""
        redeemer = self.redeem()
        self.carry(redeemer)
        self.assertEqual(redeemer.outcome, Card(ALICE.peer_id, "alice", CodePurpose.CONTACT))
        self.assertEqual(self.issuer.outcome, Card(BOB.peer_id, "bob", CodePurpose.CONTACT))
        self.assertTrue(self.issuer.over and redeemer.over)

    def test_the_rendezvous_sees_neither_code_nor_cards(self) -> None:
        """All bodies have one size, and hold neither words, names nor IDs; every line is short enough."""
        self.carry(self.redeem())
        lines = b"".join(map(encode, self.seen))
        bodies = b"".join(self.bodies())
        self.assertEqual(len(bodies), 4 * BODY_SIZE)
        for secret in (*CODE.words, "alice", "bob", str(ALICE.peer_id), str(BOB.peer_id), "contact"):
            self.assertNotIn(secret.encode(), lines + bodies)
        self.assertNotIn(ALICE.peer_id.key, bodies)
        self.assertLessEqual(max(len(encode(request)) for request in self.seen), 4096)

    def test_the_longest_name(self) -> None:
        """It arrives, and the size of its card says nothing of it."""
        name = "\N{PILE OF POO}" * 64
        self.issuer = Issuer(CODE, ALICE, name, CodePurpose.CONTACT, self.now)
        redeemer = self.redeem()
        self.carry(redeemer)
        self.assertEqual(redeemer.outcome, Card(ALICE.peer_id, name, CodePurpose.CONTACT))
        self.assertEqual([len(body) for body in self.bodies()], [BODY_SIZE] * 4)

    def test_wrong_words(self) -> None:
        """Both are told, and the code is void: the right words come too late."""
        redeemer = self.redeem(Code(48213, ("coyote", "tulip", "yodel")))
        self.carry(redeemer)
        self.failed(redeemer.outcome, CodeFailure.WRONG)
        self.failed(self.issuer.outcome, CodeFailure.WRONG)
        late = self.redeem()
        self.carry(late)
        self.failed(late.outcome, CodeFailure.NOBODY)

    def test_used_twice(self) -> None:
        self.carry(self.redeem())
        second = self.redeem(caller=OTHER)
        self.carry(second, OTHER)
        self.failed(second.outcome, CodeFailure.NOBODY)
        self.assertEqual(self.issuer.outcome, Card(BOB.peer_id, "bob", CodePurpose.CONTACT))

    def test_expired(self) -> None:
        self.assertEqual(self.issuer.get_timer(), self.now + LIFE)
        self.issuer.handle_timer(self.now + LIFE - 0.1)
        self.assertIs(self.issuer.outcome, None)
        self.issuer.handle_timer(self.now + LIFE)
        self.failed(self.issuer.outcome, CodeFailure.EXPIRED)
        self.assertTrue(self.issuer.over)
        self.assertIs(self.issuer.get_timer(), None)
        late = self.redeem()
        self.carry(late)
        self.failed(late.outcome, CodeFailure.NOBODY)

    def test_the_newest_takes_the_place_of_one_before(self) -> None:
        """The one before is told; what it says later is not looked at."""
        first = self.redeem()
        (offer,) = first.messages_to_send()
        self.issuer.receive(forward(offer, CALLER.peer_id), self.now)
        (answer,) = self.issuer.messages_to_send()
        second = self.redeem(caller=OTHER)
        (offer,) = second.messages_to_send()
        self.issuer.receive(forward(offer, OTHER.peer_id), self.now)
        cancel, _ = sent = self.issuer.messages_to_send()
        assert isinstance(cancel, Cancel)
        self.assertEqual(cancel.to, CALLER.peer_id)
        first.receive(forward(answer, NUMBER), self.now)
        first.receive(forward(cancel, NUMBER), self.now)
        self.failed(first.outcome, CodeFailure.LOST)
        (proof,) = first.messages_to_send()
        self.issuer.receive(forward(proof, CALLER.peer_id), self.now)
        self.assertIs(self.issuer.outcome, None)
        second.receive(forward(sent[1], NUMBER), self.now)
        self.carry(second, OTHER)
        self.assertEqual(self.issuer.outcome, Card(BOB.peer_id, "bob", CodePurpose.CONTACT))

    def test_for_another_command(self) -> None:
        """Both are told what the code is for."""
        redeemer = self.redeem(purpose=CodePurpose.FILES)
        self.carry(redeemer)
        for outcome, theirs in (
            (redeemer.outcome, CodePurpose.CONTACT),
            (self.issuer.outcome, CodePurpose.FILES),
        ):
            self.failed(outcome, CodeFailure.OTHER_PURPOSE)
            assert isinstance(outcome, CodeFailed)
            assert outcome.card is not None
            self.assertIs(outcome.card.purpose, theirs)

    def test_another_version(self) -> None:
        """The other side says which version it knows, and the guess is not lost."""

        def later(request: Request) -> Request:
            if isinstance(request, Establish):
                body = request.offer.body.replace(b'"version":1', b'"version":2')
                return replace(request, offer=replace(request.offer, body=body))
            return request

        redeemer = self.redeem()
        self.carry(redeemer, change=later)
        self.failed(redeemer.outcome, CodeFailure.OTHER_VERSION)
        self.assertIs(self.issuer.outcome, None)
        self.carry(again := self.redeem())
        self.assertEqual(again.outcome, Card(ALICE.peer_id, "alice", CodePurpose.CONTACT))

    def test_nobody_there(self) -> None:
        """How the rendezvous refuses a call of a number, and how a call ends."""
        for code, failure in (
            (ErrorCode.NOT_REGISTERED, CodeFailure.NOBODY),
            (ErrorCode.REFUSED, CodeFailure.NOBODY),
            (ErrorCode.BUSY, CodeFailure.BUSY),
            (ErrorCode.RATE, CodeFailure.BUSY),
            (ErrorCode.GONE, CodeFailure.LOST),
            (ErrorCode.OTHER, CodeFailure.LOST),
        ):
            redeemer = self.redeem()
            (offer,) = redeemer.messages_to_send()
            assert isinstance(offer, Establish)
            redeemer.receive(Error(code, "No."), self.now)
            self.assertFalse(redeemer.over)
            redeemer.receive(Error(code, "No.", offer.call), self.now)
            self.failed(redeemer.outcome, failure)

    def test_silence(self) -> None:
        """The redeemer gives up in time; the issuer does not wait for its goodbye for ever."""
        redeemer = self.redeem()
        self.assertEqual(redeemer.get_timer(), self.now + ANSWER_TIME)
        redeemer.handle_timer(self.now + ANSWER_TIME)
        self.failed(redeemer.outcome, CodeFailure.LOST)
        self.assertIsInstance(redeemer.messages_to_send()[-1], Cancel)
        redeemer = self.redeem()
        self.carry(redeemer, turns=2, change=lambda each: each)
        self.issuer = self.issue()
        redeemer = self.redeem()
        (offer,) = redeemer.messages_to_send()
        self.issuer.receive(forward(offer, CALLER.peer_id), self.now)
        redeemer.receive(forward(self.issuer.messages_to_send()[0], NUMBER), self.now)
        self.issuer.receive(forward(redeemer.messages_to_send()[0], CALLER.peer_id), self.now)
        self.assertFalse(self.issuer.over)
        self.assertEqual(self.issuer.get_timer(), self.now + FAREWELL_TIME)
        self.issuer.handle_timer(self.now + FAREWELL_TIME)
        self.assertTrue(self.issuer.over)
        self.assertEqual(self.issuer.outcome, Card(BOB.peer_id, "bob", CodePurpose.CONTACT))

    def test_connections_that_are_lost(self) -> None:
        """An issuer waits on with the same code; a redeemer fails."""
        redeemer = self.redeem()
        self.carry(redeemer, turns=1)
        self.issuer.lost(self.now)
        self.assertFalse(self.issuer.over)
        redeemer.lost(self.now)
        self.failed(redeemer.outcome, CodeFailure.LOST)
        self.carry(again := self.redeem())
        self.assertIsInstance(again.outcome, Card)

    def test_the_number_is_taken(self) -> None:
        self.issuer.replaced()
        self.failed(self.issuer.outcome, CodeFailure.NUMBER_TAKEN)
        self.assertTrue(self.issuer.over)


class HostileTests(ExchangeTestCase):
    """What a dishonest rendezvous, or a stranger that knows the number, can do."""

    def test_somebody_in_between_passes_messages_on(self) -> None:
        """Both sides see other keys than those that are used: no guess is gained, and both fail."""
        redeemer = self.redeem()
        for request in redeemer.messages_to_send():
            self.issuer.receive(forward(request, MALLORY.peer_id), self.now)
        for request in self.issuer.messages_to_send():
            redeemer.receive(forward(request, NUMBER), self.now)
        for request in redeemer.messages_to_send():
            self.issuer.receive(forward(request, MALLORY.peer_id), self.now)
        for request in self.issuer.messages_to_send():
            redeemer.receive(forward(request, NUMBER), self.now)
        self.failed(self.issuer.outcome, CodeFailure.WRONG)
        self.failed(redeemer.outcome, CodeFailure.WRONG)

    def test_somebody_elses_id(self) -> None:
        """A card has to be signed by the key that it names, for this exchange."""

        class Liar(Identity):
            def __init__(self) -> None:
                super().__init__(MALLORY.private_key)
                self.peer_id = OTHER.peer_id

        redeemer = Redeemer(CODE, CALLER.peer_id, Liar(), "bob", CodePurpose.CONTACT, self.now)
        self.carry(redeemer)
        self.failed(self.issuer.outcome, CodeFailure.MALFORMED)
        self.issuer = Issuer(CODE, Liar(), "alice", CodePurpose.CONTACT, self.now)
        redeemer = self.redeem()
        self.carry(redeemer)
        self.failed(redeemer.outcome, CodeFailure.MALFORMED)

    def test_garbage_for_the_issuer(self) -> None:
        """It is refused, costs no guess, and takes no place."""
        good = self.redeem()
        (offer,) = good.messages_to_send()
        assert isinstance(offer, Establish)
        pake = offer.offer.body.split(b'"pake":"')[1].split(b'"')[0]
        bodies = [
            b"",
            b"\xff" * BODY_SIZE,
            b"[]",
            b'{"version":1}',
            b'{"version":1,"pake":7}',
            b'{"version":true,"pake":"' + pake + b'"}',
            b'{"pake":"' + pake + b'"}',
            b'{"version":1,"pake":"' + pake[:-4] + b'"}',
            b'{"version":1,"pake":"' + b"A" * 44 + b'"}',  # no side
            b'{"version":1,"pake":"Qg' + pake[2:] + b'"}',  # the issuer's side
            b'{"version":1,"pake":"QQ' + b"A" * 42 + b'"}',  # the neutral element, or no point
            b'{"version":1,"pake":"QQ' + b"_" * 42 + b'"}',
        ]
        for body in bodies:
            call = self.random(16).hex()
            self.issuer.receive(
                Incoming(call, MALLORY.peer_id, "x", Envelope(NUMBER, body, bytes(64))), self.now
            )
            (refusal,) = self.issuer.messages_to_send()
            self.assertEqual(refusal, Reject(call, MALLORY.peer_id, ErrorCode.REFUSED), body)
        self.issuer.receive(forward(offer, CALLER.peer_id), self.now)
        self.assertIsInstance(self.issuer.messages_to_send()[0], Answer)

    def test_messages_of_others(self) -> None:
        """Only the two peers of an exchange take part in it."""
        redeemer = self.redeem()
        self.carry(redeemer, turns=1)
        (offer, answer) = self.seen
        assert isinstance(offer, Establish)
        assert isinstance(answer, Answer)
        wrong = Candidates(offer.call, MALLORY.peer_id, Envelope(NUMBER, b"{}".ljust(BODY_SIZE), bytes(64)))
        self.issuer.receive(wrong, self.now)
        self.issuer.receive(Ended(offer.call, ErrorCode.GONE, "", sender=MALLORY.peer_id), self.now)
        redeemer.receive(wrong, self.now)
        self.issuer.receive(replace(wrong, call="0" * 32, sender=CALLER.peer_id), self.now)
        self.carry(redeemer)
        self.assertIsInstance(redeemer.outcome, Card)
        self.assertIsInstance(self.issuer.outcome, Card)
