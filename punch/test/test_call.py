"""
The core of one call: what goes out, and what becomes of messages that somebody changed, mixed up or kept.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.peer.call import MAX_GAP, MAX_TRICKLES, Call, SeenEnvelopes, glare
from punch.peer.call_machine import (
    INTRODUCED_TIME,
    RING_TIME,
    CallEnded,
    CallEvent,
    Description,
    Introduction,
    MoreCandidates,
    Side,
)
from punch.peer.policy import Decision, decide
from punch.test.strategies import IDENTITIES, SETTINGS
from punch.wire.address import Address
from punch.wire.candidate import Candidate, CandidateType
from punch.wire.control import (
    Accept,
    Answer,
    Cancel,
    ErrorCode,
    Establish,
    Reject,
    Request,
    Trickle,
)
from punch.wire.sealed import (
    MAX_CANDIDATES,
    Envelope,
    Offer,
    SealError,
    TrickledCandidates,
    open_offer,
    seal_offer,
    seal_trickle,
)

ALICE, BOB, MALLORY = IDENTITIES[:3]
PASSWORD = "p" * 24
CERTIFICATE = b"c" * 32


def candidate(number: int) -> Candidate:
    """A host candidate."""
    return Candidate(CandidateType.HOST, Address(f"192.0.2.{number + 1}", 1000 + number), 100 + number, "1")


def description(name: str, *candidates: Candidate, complete: bool = False) -> Description:
    """What a side says of its agent."""
    return Description(name, f"{name}Ufrag", PASSWORD, 0.02, candidates, complete)


class Wire:
    """Both ends of one call, with the test in the middle."""

    def __init__(self, caller: Identity = ALICE, callee: Identity = BOB) -> None:
        self.now = 100.0
        self._drawn = 0
        self.caller = Call.outgoing(
            caller,
            callee.peer_id,
            description("alice", candidate(0)),
            random=self._random,
            now=self.now,
        )
        (establish,) = self.caller.messages_to_send()
        assert isinstance(establish, Establish)
        self.establish = establish
        self.callee = Call.incoming(
            callee,
            caller.peer_id,
            establish.call,
            establish.offer,
            random=self._random,
            now=self.now,
        )

    def _random(self, size: int) -> bytes:
        self._drawn += 1
        return bytes([self._drawn]) * size

    def accept(self, *candidates: Candidate) -> Envelope:
        """The callee says yes; its answer is not delivered."""
        self.callee.accept(description("bob", *candidates), CERTIFICATE, self.now)
        (answer,) = self.callee.messages_to_send()
        assert isinstance(answer, Answer)
        return answer.answer

    def introduce(self) -> tuple[Introduction, Introduction]:
        """Up to the introduction on both sides."""
        self.caller.receive_answer(self.accept(candidate(1)), self.now)
        here, there = self.caller.next_event(), self.callee.next_event()
        assert isinstance(here, Introduction)
        assert isinstance(there, Introduction)
        return here, there

    def trickle(self, sender: Call, *candidates: Candidate, complete: bool = False) -> Envelope:
        """One trickled message of a side; not delivered."""
        sender.add_candidates(candidates, complete, self.now)
        (message,) = (each for each in sender.messages_to_send() if isinstance(each, Trickle))
        return message.envelope


def events(call: Call) -> list[CallEvent]:
    """All that a call has to tell."""
    told = []
    while (event := call.next_event()) is not None:
        told.append(event)
    return told


def changed(envelope: Envelope, position: int = 20) -> Envelope:
    """The envelope with one bit of its body turned."""
    body = bytearray(envelope.body)
    body[position] ^= 1
    return replace(envelope, body=bytes(body))


class CallTests(SynchronousTestCase):
    """A call as it should be."""

    def test_introduction(self) -> None:
        """Both sides know each other's description and agree on what binds the link."""
        here, there = Wire().introduce()
        self.assertEqual(here.remote, description("bob", candidate(1)))
        self.assertEqual(there.remote, description("alice", candidate(0)))
        self.assertEqual(here.offer_digest, there.offer_digest)
        self.assertEqual(here.answer_digest, there.answer_digest)
        self.assertEqual((here.certificate_sha256, there.certificate_sha256), (CERTIFICATE, None))

    def test_names(self) -> None:
        """The name that counts is the signed one."""
        wire = Wire()
        self.assertEqual((wire.callee.name, wire.caller.name), ("alice", None))
        wire.introduce()
        self.assertEqual(wire.caller.name, "bob")

    def test_trickle_before_the_answer_waits(self) -> None:
        """What the caller finds while it rings is part of the introduction."""
        wire = Wire()
        for number in (1, 2):
            envelope = wire.trickle(wire.caller, candidate(number), complete=number == 2)
            wire.callee.receive_candidates(envelope, wire.now)
        self.assertEqual(events(wire.callee), [])
        wire.accept()
        (there,) = events(wire.callee)
        assert isinstance(there, Introduction)
        self.assertEqual(there.remote.candidates, (candidate(0), candidate(1), candidate(2)))
        self.assertTrue(there.remote.complete)

    def test_trickle_after_the_answer(self) -> None:
        """Both ways, also when the link is there already."""
        wire = Wire()
        wire.introduce()
        for sender, receiver in ((wire.caller, wire.callee), (wire.callee, wire.caller)):
            receiver.receive_candidates(wire.trickle(sender, candidate(5)), wire.now)
            self.assertEqual(events(receiver), [MoreCandidates((candidate(5),), False)])
        wire.caller.link_proved(wire.now)
        wire.callee.link_proved(wire.now)
        for sender, receiver in ((wire.caller, wire.callee), (wire.callee, wire.caller)):
            receiver.receive_candidates(wire.trickle(sender, candidate(6), complete=True), wire.now)
            self.assertEqual(events(receiver), [MoreCandidates((candidate(6),), True)])

    def test_callee_frees_the_rendezvous(self) -> None:
        """Only when the link is proved and neither side has more to say; the caller never does."""
        wire = Wire()
        wire.introduce()
        for call in (wire.caller, wire.callee):
            call.link_proved(wire.now)
            self.assertEqual(call.messages_to_send(), [])
        said = wire.trickle(wire.caller, complete=True)
        self.assertEqual(wire.caller.messages_to_send(), [])
        wire.callee.receive_candidates(said, wire.now)
        self.assertEqual(wire.callee.messages_to_send(), [])
        wire.callee.add_candidates((), True, wire.now)
        kinds = [type(message) for message in wire.callee.messages_to_send()]
        self.assertEqual(kinds, [Trickle, Cancel])
        wire.caller.receive_end(ErrorCode.CANCELLED, wire.now)
        self.assertEqual([event for event in events(wire.caller) if isinstance(event, CallEnded)], [])

    def test_at_most_32_candidates_leave(self) -> None:
        """One generation has 32 candidates, the offer's included."""
        wire = Wire()
        envelope = wire.trickle(wire.caller, *map(candidate, range(1, 50)))
        wire.callee.receive_candidates(envelope, wire.now)
        wire.accept()
        (there,) = events(wire.callee)
        assert isinstance(there, Introduction)
        self.assertEqual(len(there.remote.candidates), MAX_CANDIDATES)
        wire.caller.add_candidates((candidate(60),), False, wire.now)
        self.assertEqual(wire.caller.messages_to_send(), [])

    def test_ringing_ends(self) -> None:
        """After 60 s, on either side."""
        wire = Wire()
        for call, message in ((wire.caller, Cancel), (wire.callee, Reject)):
            self.assertEqual(call.get_timer(), wire.now + RING_TIME)
            call.handle_timer(wire.now + RING_TIME - 0.1)
            self.assertEqual(events(call), [])
            call.handle_timer(wire.now + RING_TIME)
            (end,) = events(call)
            assert isinstance(end, CallEnded)
            self.assertEqual(end.reason, "timeout")
            self.assertEqual([type(each) for each in call.messages_to_send()], [message])
            self.assertIsNone(call.get_timer())

    def test_linking_ends(self) -> None:
        """An introduction without a link ends by itself, silently towards the other side."""
        wire = Wire()
        wire.introduce()
        for call in (wire.caller, wire.callee):
            call.handle_timer(wire.now + INTRODUCED_TIME)
            (end,) = events(call)
            assert isinstance(end, CallEnded)
            self.assertEqual(end.reason, "unreachable")
            self.assertEqual(call.messages_to_send(), [])

    def test_a_link_has_no_deadline(self) -> None:
        """From the proof on, nothing of the call can end it."""
        wire = Wire()
        wire.introduce()
        wire.caller.link_proved(wire.now)
        self.assertIsNone(wire.caller.get_timer())
        for code in ErrorCode:
            wire.caller.receive_end(code, wire.now)
        wire.caller.receive_candidates(changed(wire.trickle(wire.callee, candidate(3))), wire.now)
        wire.caller.reject(ErrorCode.REFUSED, "x", "x", wire.now)
        self.assertEqual(events(wire.caller), [])
        self.assertEqual(wire.caller.messages_to_send(), [])

    def test_end_by_the_rendezvous(self) -> None:
        """Each code that ends a waiting call is told with a sentence of ours, not with the service's text."""
        for code in ErrorCode:
            for call in (Wire().caller, Wire().callee):
                call.receive_end(code, 100.0)
                (end,) = events(call)
                assert isinstance(end, CallEnded)
                self.assertEqual(end.reason, code.value)
                self.assertTrue(end.text.endswith("."))
                self.assertNotIn("{", end.text)
                self.assertEqual(call.messages_to_send(), [])

    def test_each_side_is_told_its_own_part(self) -> None:
        """Who called did not fail to answer: the sentence for the callee is not the caller's."""
        wire = Wire()
        for call, words in (
            (wire.caller, "did not answer within 60 s; ask them to"),
            (wire.callee, "was not accepted within 60 seconds; call them back"),
        ):
            call.receive_end(ErrorCode.TIMEOUT, wire.now)
            (end,) = events(call)
            assert isinstance(end, CallEnded)
            self.assertIn(words, end.text)

    def test_introduced_calls_outlive_the_rendezvous(self) -> None:
        """Only the other side's own word ends them."""
        wire = Wire()
        wire.introduce()
        for code in ErrorCode:
            if code is not ErrorCode.CANCELLED:
                wire.caller.receive_end(code, wire.now)
        self.assertEqual(events(wire.caller), [])
        wire.caller.receive_end(ErrorCode.CANCELLED, wire.now)
        (end,) = events(wire.caller)
        assert isinstance(end, CallEnded)
        self.assertEqual(end.reason, "cancelled")

    def test_reject(self) -> None:
        """The user says no, or too many ring."""
        for code in (ErrorCode.REFUSED, ErrorCode.BUSY):
            wire = Wire()
            wire.callee.reject(code, "cancelled", "No.", wire.now)
            (message,) = wire.callee.messages_to_send()
            assert isinstance(message, Reject)
            self.assertEqual((message.to, message.code), (ALICE.peer_id, code))
            self.assertEqual(events(wire.callee), [CallEnded("cancelled", "No.")])
            wire.callee.accept(description("bob"), CERTIFICATE, wire.now)
            self.assertEqual(wire.callee.messages_to_send(), [])

    def test_answer_again(self) -> None:
        """
        An answer that was lost with a control connection is repeated as it was, until the link is there.
        """
        wire = Wire()
        answer = wire.accept()
        wire.callee.repeat_answer()
        (again,) = wire.callee.messages_to_send()
        assert isinstance(again, Answer)
        self.assertEqual(again.answer, answer)
        wire.callee.link_proved(wire.now)
        wire.callee.repeat_answer()
        self.assertEqual(wire.callee.messages_to_send(), [])


class DishonestRendezvousTests(SynchronousTestCase):
    """What the one in the middle can do to a call is to end it."""

    def assert_broken(self, call: Call) -> None:
        """It ended for what came in, and says so to both sides."""
        (end,) = events(call)
        assert isinstance(end, CallEnded)
        self.assertEqual(end.reason, "protocol")
        self.assertIn("not what they sent", end.text)
        self.assertEqual(len(call.messages_to_send()), 1)
        self.assertIsNone(call.get_timer())

    def take(self, envelope: Envelope, sender: Identity = ALICE, receiver: Identity = BOB) -> Call:
        """What becomes of an offer."""
        return Call.incoming(
            receiver, sender.peer_id, "0" * 32, envelope, random=lambda size: bytes(size), now=0.0
        )

    def test_offers(self) -> None:
        """Changed, in another's name, or for somebody else: refused."""
        offer = Wire().establish.offer
        for envelope, sender, receiver in (
            (changed(offer), ALICE, BOB),
            (replace(offer, sig=bytes(64)), ALICE, BOB),
            (offer, MALLORY, BOB),
            (offer, ALICE, MALLORY),
            (replace(offer, to=MALLORY.peer_id), ALICE, MALLORY),
        ):
            self.assertRaises(SealError, self.take, envelope, sender, receiver)

    def test_reply_key_of_small_order(self) -> None:
        """A caller that sends a useless key gets no answer, and nothing crashes."""
        offer = Offer("alice", "ufrag", PASSWORD, (), bytes(32))
        call = self.take(seal_offer(ALICE, BOB.peer_id, offer))
        self.assertRaises(SealError, call.accept, description("bob"), CERTIFICATE, 0.0)

    def test_answers(self) -> None:
        """Changed, of another call, or by somebody else: the call ends, and no path is looked for."""
        other = Wire().accept()
        elsewhere = Wire(MALLORY, BOB).accept()
        for make in (
            lambda answer: changed(answer),
            lambda answer: replace(answer, sig=bytes(64)),
            lambda answer: elsewhere,
            lambda answer: replace(other, to=MALLORY.peer_id),
        ):
            wire = Wire()
            wire.caller.receive_answer(make(wire.accept()), wire.now)
            self.assert_broken(wire.caller)

    def test_answer_twice(self) -> None:
        """The second one changes nothing."""
        wire = Wire()
        answer = wire.accept()
        wire.caller.receive_answer(answer, wire.now)
        wire.caller.receive_answer(answer, wire.now)
        self.assertEqual([type(event) for event in events(wire.caller)], [Introduction])

    def test_answer_to_the_callee(self) -> None:
        """A called side has nothing to be answered."""
        wire = Wire()
        wire.callee.receive_answer(wire.accept(), wire.now)
        self.assertEqual([type(event) for event in events(wire.callee)], [Introduction])

    def test_changed_trickle(self) -> None:
        """In any state before the link."""
        wire = Wire()
        wire.callee.receive_candidates(changed(wire.trickle(wire.caller, candidate(1))), wire.now)
        self.assert_broken(wire.callee)
        wire = Wire()
        wire.introduce()
        wire.caller.receive_candidates(changed(wire.trickle(wire.callee, candidate(1))), wire.now)
        self.assert_broken(wire.caller)

    def test_replayed_trickle(self) -> None:
        """The same message again is not taken again."""
        wire = Wire()
        wire.introduce()
        envelope = wire.trickle(wire.callee, candidate(1))
        for _ in range(3):
            wire.caller.receive_candidates(envelope, wire.now)
        self.assertEqual(events(wire.caller), [MoreCandidates((candidate(1),), False)])

    def test_trickle_out_of_order(self) -> None:
        """Gaps are possible, going back is not."""
        wire = Wire()
        wire.introduce()
        first, second = (wire.trickle(wire.callee, candidate(number)) for number in (1, 2))
        wire.caller.receive_candidates(second, wire.now)
        self.assertEqual(events(wire.caller), [MoreCandidates((candidate(2),), False)])
        wire.caller.receive_candidates(first, wire.now)
        self.assert_broken(wire.caller)

    def test_large_gap(self) -> None:
        """More than a few in a row don't get lost."""
        wire = Wire()
        wire.introduce()
        envelopes = [wire.trickle(wire.callee, candidate(number)) for number in range(1, MAX_GAP + 2)]
        wire.caller.receive_candidates(envelopes[-1], wire.now)
        self.assert_broken(wire.caller)

    def test_trickle_of_another_call(self) -> None:
        """Call, offer and direction are part of what is signed."""
        wire, other = Wire(), Wire()
        wire.introduce()
        other.introduce()
        wire.caller.receive_candidates(other.trickle(other.callee, candidate(1)), wire.now)
        self.assert_broken(wire.caller)
        reflected = other.trickle(other.caller, candidate(1))
        other.caller.receive_candidates(reflected, other.now)
        self.assert_broken(other.caller)

    def test_too_many_candidates(self) -> None:
        """A peer that floods ends its call."""
        wire = Wire()
        wire.introduce()
        for number in range(MAX_CANDIDATES // 3 + 1):
            wire.caller.receive_candidates(self.flood(wire, number, *map(candidate, range(3))), wire.now)
        self.assertEqual(self.ends(wire), ["protocol"])

    def test_too_many_messages(self) -> None:
        """Nor may they be empty without end."""
        wire = Wire()
        wire.introduce()
        for number in range(MAX_TRICKLES + 1):
            self.assertEqual(self.ends(wire), [])
            wire.caller.receive_candidates(self.flood(wire, number), wire.now)
        self.assertEqual(self.ends(wire), ["protocol"])

    def flood(self, wire: Wire, number: int, *candidates: Candidate) -> Envelope:
        """A trickled message of a callee that knows no bounds."""
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

    def ends(self, wire: Wire) -> list[str]:
        """Why the caller's side ended, if it did."""
        return [event.reason for event in events(wire.caller) if isinstance(event, CallEnded)]

    @SETTINGS
    @given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3)), max_size=20))
    def test_any_order_of_anything(self, steps: list[tuple[int, int]]) -> None:
        """No order of messages, decisions and timers crashes a call, ends it twice or introduces it twice."""
        wire = Wire()
        sent: list[Request] = [wire.establish]
        told: dict[Side, list[CallEvent]] = {Side.CALLER: [], Side.CALLEE: []}
        for action, choice in steps:
            call = (wire.caller, wire.callee)[choice % 2]
            trickles = [each.envelope for each in sent if isinstance(each, Trickle)]
            answers = [each.answer for each in sent if isinstance(each, Answer)]
            if action == 0 and call is wire.callee:
                call.accept(description("bob", candidate(1)), CERTIFICATE, wire.now)
            elif action == 1:
                call.reject(ErrorCode.REFUSED, "cancelled", "No.", wire.now)
            elif action == 2:
                call.add_candidates((candidate(choice + 2),), choice == 3, wire.now)
            elif action == 3 and trickles:
                call.receive_candidates(trickles[choice % len(trickles)], wire.now)
            elif action == 4 and answers:
                call.receive_answer(answers[-1], wire.now)
            elif action == 5:
                call.receive_end(list(ErrorCode)[choice], wire.now)
            elif action == 6:
                call.receive_end(ErrorCode.CANCELLED, wire.now)
            elif action == 7:
                wire.now += 25.0
                call.handle_timer(wire.now)
            elif action == 8:
                call.link_proved(wire.now)
            elif action == 9:
                call.fail("unreachable", "No.", wire.now)
            elif action == 10 and trickles:
                call.receive_candidates(changed(trickles[0]), wire.now)
            elif action == 11:
                call.repeat_answer()
            for each in (wire.caller, wire.callee):
                sent += each.messages_to_send()
                told[each.side] += events(each)
        for happened in told.values():
            kinds = [type(event) for event in happened]
            self.assertLessEqual(kinds.count(Introduction), 1)
            self.assertLessEqual(kinds.count(CallEnded), 1)
            if CallEnded in kinds:
                self.assertIs(kinds[-1], CallEnded)


class RuleTests(SynchronousTestCase):
    """Who may call, which of two calls counts, what is remembered."""

    def test_glare(self) -> None:
        """The two sides never agree to be the same."""
        for one in IDENTITIES:
            for other in IDENTITIES:
                if one is not other:
                    sides = {glare(one.peer_id, other.peer_id), glare(other.peer_id, one.peer_id)}
                    self.assertEqual(sides, {Side.CALLER, Side.CALLEE})
        smaller, larger = sorted((ALICE.peer_id, BOB.peer_id))
        self.assertIs(glare(smaller, larger), Side.CALLER)

    def test_policy(self) -> None:
        """Known peers always; strangers as the user said."""
        for accept in Accept:
            self.assertIs(decide(accept, known=True), Decision.ACCEPT)
        self.assertIs(decide(Accept.ASK, known=False), Decision.ASK)
        self.assertIs(decide(Accept.KNOWN, known=False), Decision.REFUSE)
        self.assertIs(decide(Accept.ANYONE, known=False), Decision.ACCEPT)

    def test_seen_envelopes(self) -> None:
        """The memory is bounded: the oldest is forgotten first."""
        seen = SeenEnvelopes(3)
        self.assertEqual([seen.add(b"a"), seen.add(b"a")], [True, False])
        for digest in (b"b", b"c", b"d"):
            self.assertTrue(seen.add(digest))
        self.assertTrue(seen.add(b"a"))
        self.assertFalse(seen.add(b"d"))
