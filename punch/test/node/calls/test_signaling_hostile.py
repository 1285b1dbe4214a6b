"""Tests of signaling with messages that were altered, misdelivered, replayed or held back."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.link.events import LinkRole
from punch.node.calls.description import MAX_GAP, MAX_TRICKLES
from punch.node.calls.signaling import (
    CallEnded,
    Introduction,
    MoreCandidates,
    Signaling,
    SignalingEvent,
)
from punch.node.causes import NoPathFound, SimpleCause
from punch.test.node.calls.call_pair import (
    ALICE,
    BOB,
    CERTIFICATE,
    MALLORY,
    PASSWORD,
    CallPair,
    candidate,
    changed,
    description,
    events,
)
from punch.test.strategies import SETTINGS
from punch.wire.control import Answer, ErrorCode, Request, Trickle
from punch.wire.peers.candidate import MAX_CANDIDATES, Candidate
from punch.wire.peers.sealed import (
    Envelope,
    Offer,
    SealError,
    TrickledCandidates,
    open_offer,
    seal_offer,
    seal_trickle,
)


class DishonestRendezvousTests(SynchronousTestCase):
    """A dishonest rendezvous can end a call, and do nothing else to it."""

    def assert_broken(self, call: Signaling) -> None:
        """Assert that the call ended with the reason `protocol`, and told the other side."""
        (end,) = events(call)
        assert isinstance(end, CallEnded)
        self.assertIs(end.cause, SimpleCause.TAMPERED)
        self.assertEqual(len(call.messages_to_send()), 1)
        self.assertIsNone(call.get_timer())

    def take(self, envelope: Envelope, sender: Identity = ALICE, receiver: Identity = BOB) -> Signaling:
        """Open an offer."""
        return Signaling.incoming(receiver, sender.peer_id, "0" * 32, envelope, now=0.0)

    def test_offers(self) -> None:
        """Offers that were altered, signed by another peer, or sealed to another peer are refused."""
        offer = CallPair().establish.offer
        for envelope, sender, receiver in (
            (changed(offer), ALICE, BOB),
            (replace(offer, sig=bytes(64)), ALICE, BOB),
            (offer, MALLORY, BOB),
            (offer, ALICE, MALLORY),
            (replace(offer, to=MALLORY.peer_id), ALICE, MALLORY),
        ):
            self.assertRaises(SealError, self.take, envelope, sender, receiver)

    def test_reply_key_of_small_order(self) -> None:
        """A call whose reply key is of small order cannot be accepted."""
        offer = Offer("alice", "ufrag", PASSWORD, (), bytes(32))
        call = self.take(seal_offer(ALICE, BOB.peer_id, offer))
        self.assertRaises(SealError, call.accept, description("bob"), CERTIFICATE, 0.0)

    def test_answers(self) -> None:
        """An answer that was altered, or belongs to another call or peer, ends the call."""
        other = CallPair().accept()
        elsewhere = CallPair(MALLORY, BOB).accept()
        for make in (
            lambda answer: changed(answer),
            lambda answer: replace(answer, sig=bytes(64)),
            lambda answer: elsewhere,
            lambda answer: replace(other, to=MALLORY.peer_id),
        ):
            wire = CallPair()
            wire.caller.receive_answer(make(wire.accept()), wire.now)
            self.assert_broken(wire.caller)

    def test_answer_twice(self) -> None:
        """A second copy of the answer is ignored."""
        wire = CallPair()
        answer = wire.accept()
        wire.caller.receive_answer(answer, wire.now)
        wire.caller.receive_answer(answer, wire.now)
        self.assertEqual([type(event) for event in events(wire.caller)], [Introduction])

    def test_answer_to_the_callee(self) -> None:
        """The callee ignores an answer."""
        wire = CallPair()
        wire.callee.receive_answer(wire.accept(), wire.now)
        self.assertEqual([type(event) for event in events(wire.callee)], [Introduction])

    def test_changed_trickle(self) -> None:
        """An altered trickled message ends the call in any state before the link is proved."""
        wire = CallPair()
        wire.callee.receive_candidates(changed(wire.trickle(wire.caller, candidate(1))))
        self.assert_broken(wire.callee)
        wire = CallPair()
        wire.introduce()
        wire.caller.receive_candidates(changed(wire.trickle(wire.callee, candidate(1))))
        self.assert_broken(wire.caller)

    def test_replayed_trickle(self) -> None:
        """A second copy of a trickled message is ignored."""
        wire = CallPair()
        wire.introduce()
        envelope = wire.trickle(wire.callee, candidate(1))
        for _ in range(3):
            wire.caller.receive_candidates(envelope)
        self.assertEqual(events(wire.caller), [MoreCandidates((candidate(1),), False)])

    def test_trickle_out_of_order(self) -> None:
        """Trickled messages may be missing, but not out of order."""
        wire = CallPair()
        wire.introduce()
        first, second = (wire.trickle(wire.callee, candidate(number)) for number in (1, 2))
        wire.caller.receive_candidates(second)
        self.assertEqual(events(wire.caller), [MoreCandidates((candidate(2),), False)])
        wire.caller.receive_candidates(first)
        self.assert_broken(wire.caller)

    def test_large_gap(self) -> None:
        """If `MAX_GAP` consecutive trickled messages are missing, the next one ends the call."""
        wire = CallPair()
        wire.introduce()
        envelopes = [wire.trickle(wire.callee, candidate(number)) for number in range(1, MAX_GAP + 2)]
        wire.caller.receive_candidates(envelopes[-1])
        self.assert_broken(wire.caller)

    def test_trickle_of_another_call(self) -> None:
        """A trickled message of another call, or of the other direction, ends the call."""
        wire, other = CallPair(), CallPair()
        wire.introduce()
        other.introduce()
        wire.caller.receive_candidates(other.trickle(other.callee, candidate(1)))
        self.assert_broken(wire.caller)
        reflected = other.trickle(other.caller, candidate(1))
        other.caller.receive_candidates(reflected)
        self.assert_broken(other.caller)

    def test_too_many_candidates(self) -> None:
        """More than 32 candidates end the call."""
        wire = CallPair()
        wire.introduce()
        for number in range(MAX_CANDIDATES // 3 + 1):
            wire.caller.receive_candidates(self.flood(wire, number, *map(candidate, range(3))))
        self.assertEqual(self.ends(wire), ["protocol"])

    def test_too_many_messages(self) -> None:
        """More than `MAX_TRICKLES` messages end the call, even empty ones."""
        wire = CallPair()
        wire.introduce()
        for number in range(MAX_TRICKLES + 1):
            self.assertEqual(self.ends(wire), [])
            wire.caller.receive_candidates(self.flood(wire, number))
        self.assertEqual(self.ends(wire), ["protocol"])

    def flood(self, wire: CallPair, number: int, *candidates: Candidate) -> Envelope:
        """Return a trickled message of a callee that ignores the limits."""
        offer = open_offer(BOB, ALICE.peer_id, wire.establish.offer)
        return seal_trickle(
            BOB,
            ALICE.peer_id,
            X25519PublicKey.from_public_bytes(offer.reply_key),
            wire.establish.call,
            wire.establish.offer.digest(),
            number,
            TrickledCandidates(candidates, False),
        )

    def ends(self, wire: CallPair) -> list[str]:
        """Return the reasons for which the caller's side ended."""
        return [event.cause.reason for event in events(wire.caller) if isinstance(event, CallEnded)]

    @SETTINGS
    @given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3)), max_size=20))
    def test_any_order_of_anything(self, steps: list[tuple[int, int]]) -> None:
        """No order of messages, decisions and timers raises, or introduces or ends a call twice."""
        wire = CallPair()
        sent: list[Request] = [wire.establish]
        told: dict[LinkRole, list[SignalingEvent]] = {LinkRole.CALLER: [], LinkRole.CALLEE: []}
        for action, choice in steps:
            call = (wire.caller, wire.callee)[choice % 2]
            trickles = [each.envelope for each in sent if isinstance(each, Trickle)]
            answers = [each.answer for each in sent if isinstance(each, Answer)]
            if action == 0 and call is wire.callee:
                call.accept(description("bob", candidate(1)), CERTIFICATE, wire.now)
            elif action == 1:
                call.reject(ErrorCode.REFUSED, SimpleCause.DECLINED)
            elif action == 2:
                call.add_candidates((candidate(choice + 2),), choice == 3)
            elif action == 3 and trickles:
                call.receive_candidates(trickles[choice % len(trickles)])
            elif action == 4 and answers:
                call.receive_answer(answers[-1], wire.now)
            elif action == 5:
                call.receive_end(list(ErrorCode)[choice])
            elif action == 6:
                call.receive_end(ErrorCode.CANCELLED)
            elif action == 7:
                wire.now += 25.0
                call.handle_timer(wire.now)
            elif action == 8:
                call.link_proved()
            elif action == 9:
                call.fail(NoPathFound())
            elif action == 10 and trickles:
                call.receive_candidates(changed(trickles[0]))
            elif action == 11:
                call.repeat_answer()
            for each in (wire.caller, wire.callee):
                sent += each.messages_to_send()
                told[each.role] += events(each)
        for happened in told.values():
            kinds = [type(event) for event in happened]
            self.assertLessEqual(kinds.count(Introduction), 1)
            self.assertLessEqual(kinds.count(CallEnded), 1)
            if CallEnded in kinds:
                self.assertIs(kinds[-1], CallEnded)
