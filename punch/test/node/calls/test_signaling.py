"""Tests of the signaling of one call: what it sends, and how it ends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.link.events import LinkRole
from punch.node.calls.calls import glare
from punch.node.calls.offer_freshness import SeenEnvelopes
from punch.node.calls.signaling import (
    INTRODUCED_TIME,
    CallEnded,
    Introduction,
    MoreCandidates,
)
from punch.node.causes import IntroductionEnded, SimpleCause
from punch.node.policies import Decision, decide
from punch.test.node.calls.call_pair import (
    ALICE,
    BOB,
    CERTIFICATE,
    CallPair,
    candidate,
    changed,
    description,
    events,
)
from punch.test.strategies import IDENTITIES
from punch.wire.control import RING_TIME, Accept, Answer, Cancel, ErrorCode, Reject, Trickle
from punch.wire.peers.candidate import MAX_CANDIDATES


class SignalingTests(SynchronousTestCase):
    """Calls whose messages arrive unaltered."""

    def test_introduction(self) -> None:
        """Both sides know each other's description and agree on what binds the link."""
        here, there = CallPair().introduce()
        self.assertEqual(here.remote, description("bob", candidate(1)))
        self.assertEqual(there.remote, description("alice", candidate(0)))
        self.assertEqual(here.offer_digest, there.offer_digest)
        self.assertEqual(here.answer_digest, there.answer_digest)
        self.assertEqual((here.certificate_sha256, there.certificate_sha256), (CERTIFICATE, None))

    def test_names(self) -> None:
        """The name is the one that the other side signed."""
        wire = CallPair()
        self.assertEqual((wire.callee.name, wire.caller.name), ("alice", None))
        wire.introduce()
        self.assertEqual(wire.caller.name, "bob")

    def test_trickle_before_the_answer_waits(self) -> None:
        """Candidates that the caller finds while the call rings are part of the introduction."""
        wire = CallPair()
        for number in (1, 2):
            envelope = wire.trickle(wire.caller, candidate(number), complete=number == 2)
            wire.callee.receive_candidates(envelope)
        self.assertEqual(events(wire.callee), [])
        wire.accept()
        (there,) = events(wire.callee)
        assert isinstance(there, Introduction)
        self.assertEqual(there.remote.candidates, (candidate(0), candidate(1), candidate(2)))
        self.assertTrue(there.remote.complete)

    def test_trickle_after_the_answer(self) -> None:
        """Candidates are trickled both ways, also when the link is proved already."""
        wire = CallPair()
        wire.introduce()
        for sender, receiver in ((wire.caller, wire.callee), (wire.callee, wire.caller)):
            receiver.receive_candidates(wire.trickle(sender, candidate(5)))
            self.assertEqual(events(receiver), [MoreCandidates((candidate(5),), False)])
        wire.caller.link_proved()
        wire.callee.link_proved()
        for sender, receiver in ((wire.caller, wire.callee), (wire.callee, wire.caller)):
            receiver.receive_candidates(wire.trickle(sender, candidate(6), complete=True))
            self.assertEqual(events(receiver), [MoreCandidates((candidate(6),), True)])

    def test_callee_frees_the_rendezvous(self) -> None:
        """
        The callee cancels once the link is proved and neither side has candidates left; the caller never
        does.
        """
        wire = CallPair()
        wire.introduce()
        for call in (wire.caller, wire.callee):
            call.link_proved()
            self.assertEqual(call.messages_to_send(), [])
        said = wire.trickle(wire.caller, complete=True)
        self.assertEqual(wire.caller.messages_to_send(), [])
        wire.callee.receive_candidates(said)
        self.assertEqual(wire.callee.messages_to_send(), [])
        wire.callee.add_candidates((), True)
        kinds = [type(message) for message in wire.callee.messages_to_send()]
        self.assertEqual(kinds, [Trickle, Cancel])
        wire.caller.receive_end(ErrorCode.CANCELLED)
        self.assertEqual([event for event in events(wire.caller) if isinstance(event, CallEnded)], [])

    def test_callee_frees_the_rendezvous_when_the_link_ends(self) -> None:
        """
        The callee cancels though candidates may follow; the caller, whose link is proved first, never does.
        """
        wire = CallPair()
        wire.introduce()
        for call, kinds in ((wire.caller, []), (wire.callee, [Cancel])):
            call.link_proved()
            self.assertEqual(call.messages_to_send(), [])
            for _ in range(2):
                call.link_ended()
            self.assertEqual([type(message) for message in call.messages_to_send()], kinds)

    def test_no_link_ended(self) -> None:
        """Before the link is proved, its end does not end the call, which has its own timer."""
        wire = CallPair()
        for call in (wire.caller, wire.callee):
            call.link_ended()
        wire.introduce()
        for call in (wire.caller, wire.callee):
            call.link_ended()
            self.assertEqual(call.messages_to_send(), [])
            call.handle_timer(wire.now + INTRODUCED_TIME)
            self.assertIsInstance(events(call)[-1], CallEnded)

    def test_at_most_32_candidates_leave(self) -> None:
        """One generation sends at most 32 candidates, those of the offer included."""
        wire = CallPair()
        envelope = wire.trickle(wire.caller, *map(candidate, range(1, 50)))
        wire.callee.receive_candidates(envelope)
        wire.accept()
        (there,) = events(wire.callee)
        assert isinstance(there, Introduction)
        self.assertEqual(len(there.remote.candidates), MAX_CANDIDATES)
        wire.caller.add_candidates((candidate(60),), False)
        self.assertEqual(wire.caller.messages_to_send(), [])

    def test_ringing_ends(self) -> None:
        """An unanswered call ends after 60 s on either side."""
        wire = CallPair()
        for call, message in ((wire.caller, Cancel), (wire.callee, Reject)):
            self.assertEqual(call.get_timer(), wire.now + RING_TIME)
            call.handle_timer(wire.now + RING_TIME - 0.1)
            self.assertEqual(events(call), [])
            call.handle_timer(wire.now + RING_TIME)
            (end,) = events(call)
            assert isinstance(end, CallEnded)
            self.assertEqual(end.cause.reason, "timeout")
            self.assertEqual([type(each) for each in call.messages_to_send()], [message])
            self.assertIsNone(call.get_timer())

    def test_linking_ends(self) -> None:
        """An introduced call without a link ends after 60 s, and the other side is not told."""
        wire = CallPair()
        wire.introduce()
        for call in (wire.caller, wire.callee):
            call.handle_timer(wire.now + INTRODUCED_TIME)
            (end,) = events(call)
            assert isinstance(end, CallEnded)
            self.assertEqual(end.cause.reason, "unreachable")
            self.assertEqual(call.messages_to_send(), [])

    def test_a_link_has_no_deadline(self) -> None:
        """Once the link is proved, no message ends the call, and with a path no timer does."""
        wire = CallPair()
        wire.introduce()
        wire.caller.link_proved()
        for code in ErrorCode:
            wire.caller.receive_end(code)
        wire.caller.receive_candidates(changed(wire.trickle(wire.callee, candidate(3))))
        self.assertEqual(events(wire.caller), [])
        wire.caller.path_found()
        self.assertIsNone(wire.caller.get_timer())
        wire.caller.reject(ErrorCode.REFUSED, SimpleCause.DECLINED)
        wire.caller.fail(SimpleCause.NO_LINK)
        self.assertEqual(events(wire.caller), [])

    def test_a_link_without_a_path(self) -> None:
        """It ends after the same 60 s, or before if no pair is left or the user does not want to wait."""
        for role in ("caller", "callee"):
            for end in (
                lambda call, now: call.handle_timer(now + INTRODUCED_TIME),
                lambda call, now: call.fail(SimpleCause.NO_LINK),
                lambda call, now: call.reject(ErrorCode.REFUSED, SimpleCause.GIVEN_UP),
            ):
                wire = CallPair()
                wire.introduce()
                call = getattr(wire, role)
                call.link_proved()
                call.handle_timer(wire.now + INTRODUCED_TIME - 0.1)
                self.assertEqual(events(call), [])
                end(call, wire.now)
                self.assertIsInstance(events(call)[-1], CallEnded)
                self.assertIsNone(call.get_timer())
        self.assertEqual(wire.caller.messages_to_send(), [])

    def test_end_by_the_rendezvous(self) -> None:
        """The cause is the code of the rendezvous, and whether the call rang here."""
        for code in ErrorCode:
            wire = CallPair()
            for call in (wire.caller, wire.callee):
                call.receive_end(code)
                cause = IntroductionEnded(code, rang=call is wire.callee)
                self.assertEqual(cause.reason, code.value)
                self.assertEqual(events(call), [CallEnded(cause)])
                self.assertEqual(call.messages_to_send(), [])

    def test_introduced_calls_outlive_the_rendezvous(self) -> None:
        """Once introduced, only the other side's cancellation ends a call."""
        wire = CallPair()
        wire.introduce()
        for code in ErrorCode:
            if code is not ErrorCode.CANCELLED:
                wire.caller.receive_end(code)
        self.assertEqual(events(wire.caller), [])
        wire.caller.receive_end(ErrorCode.CANCELLED)
        (end,) = events(wire.caller)
        assert isinstance(end, CallEnded)
        self.assertEqual(end.cause.reason, "cancelled")

    def test_reject(self) -> None:
        """A rejected call tells the other side the code, and cannot be accepted afterwards."""
        for code in (ErrorCode.REFUSED, ErrorCode.BUSY):
            wire = CallPair()
            wire.callee.reject(code, SimpleCause.DECLINED)
            (message,) = wire.callee.messages_to_send()
            assert isinstance(message, Reject)
            self.assertEqual((message.to, message.code), (ALICE.peer_id, code))
            self.assertEqual(events(wire.callee), [CallEnded(SimpleCause.DECLINED)])
            wire.callee.accept(description("bob"), CERTIFICATE, wire.now)
            self.assertEqual(wire.callee.messages_to_send(), [])

    def test_answer_again(self) -> None:
        """
        A lost answer is repeated unaltered until the link is proved.
        """
        wire = CallPair()
        answer = wire.accept()
        wire.callee.repeat_answer()
        (again,) = wire.callee.messages_to_send()
        assert isinstance(again, Answer)
        self.assertEqual(again.answer, answer)
        wire.callee.link_proved()
        wire.callee.repeat_answer()
        self.assertEqual(wire.callee.messages_to_send(), [])


class RuleTests(SynchronousTestCase):
    """Tests of who may call, of glare, and of the memory of envelopes."""

    def test_glare(self) -> None:
        """When both call each other, one is the caller and the other the callee."""
        for one in IDENTITIES:
            for other in IDENTITIES:
                if one is not other:
                    sides = {glare(one.peer_id, other.peer_id), glare(other.peer_id, one.peer_id)}
                    self.assertEqual(sides, {LinkRole.CALLER, LinkRole.CALLEE})
        smaller, larger = sorted((ALICE.peer_id, BOB.peer_id))
        self.assertIs(glare(smaller, larger), LinkRole.CALLER)

    def test_policy(self) -> None:
        """Known peers may always call; `accept` decides on others."""
        for accept in Accept:
            self.assertIs(decide(accept, known=True), Decision.ACCEPT)
        self.assertIs(decide(Accept.ASK, known=False), Decision.ASK)
        self.assertIs(decide(Accept.KNOWN, known=False), Decision.REFUSE)
        self.assertIs(decide(Accept.ANYONE, known=False), Decision.ACCEPT)

    def test_seen_envelopes(self) -> None:
        """The memory is bounded, and forgets the oldest first."""
        seen = SeenEnvelopes(3)
        self.assertEqual([seen.add(b"a"), seen.add(b"a")], [True, False])
        for digest in (b"b", b"c", b"d"):
            self.assertTrue(seen.add(digest))
        self.assertTrue(seen.add(b"a"))
        self.assertFalse(seen.add(b"d"))
