"""The registry: registrations and introductions."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity, PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.outputs import Deliver, Disconnect, Output, PeerRegistered, PeerUnregistered
from punch.rendezvous.registry.registry import Introducing, Registry
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    ErrorCode,
    Establish,
    Incoming,
    Reject,
    Reply,
    Trickle,
)
from punch.wire.peers.sealed import Envelope

KEYS = [Identity.generate(lambda n, i=i: bytes([i]) * n) for i in range(1, 9)]  # type: ignore[misc]
ALICE, BOB, CAROL, *OTHERS = [key.peer_id for key in KEYS]
CALL, CALL2 = "0" * 32, "1" * 32


def envelope(to: PeerID, mark: int = 0) -> Envelope:
    """An envelope with arbitrary contents."""
    return Envelope(to, bytes([mark]) * 304, bytes(64))


class RegistryCase(SynchronousTestCase):
    """A registry and its outputs."""

    limits = RendezvousLimits()

    def setUp(self) -> None:
        self.now = 1000.0
        self.registry = Registry(self.limits)

    def join(self, peer: PeerID, connection: int, host: str = "203.0.113.1") -> None:
        """Register, as a session does."""
        self.registry.register(connection, peer, f"name {connection}", Accept.ASK, host, self.now)
        self.registry.resume(peer)

    def outputs(self) -> list[Output]:
        """All outputs that wait."""
        result = []
        while (output := self.registry.next_output()) is not None:
            result.append(output)
        return result

    def replies(self) -> dict[int, list[Reply]]:
        """The replies to deliver, with their connections."""
        result: dict[int, list[Reply]] = {}
        for output in self.outputs():
            if isinstance(output, Deliver):
                result.setdefault(output.connection, []).append(output.reply)
        return result

    def ask(self, peer: PeerID, connection: int, request: Introducing) -> None:
        """Make a request of a registered peer."""
        self.registry.request(peer, connection, request, self.now)

    def refused(self, peer: PeerID, connection: int, request: Introducing) -> ErrorCode:
        """The code with which a request is refused."""
        refusal: IntroductionRefusal = self.assertRaises(
            IntroductionRefusal, self.ask, peer, connection, request
        )
        self.assertEqual(self.outputs(), [])
        return refusal.code

    def ring(self, call: str = CALL) -> None:
        """Alice (1) calls Bob (2)."""
        self.join(ALICE, 1)
        self.join(BOB, 2)
        self.outputs()
        self.ask(ALICE, 1, Establish(call, BOB, envelope(BOB)))

    def answer(self) -> None:
        """Alice calls and Bob answers."""
        self.ring()
        self.ask(BOB, 2, Answer(CALL, ALICE, envelope(ALICE, 1)))
        self.outputs()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.registry.handle_timer(self.now)


class RegistrationTests(RegistryCase):
    """Registering, leaving and registering again."""

    def test_come_and_go(self) -> None:
        self.join(ALICE, 1)
        self.assertIn(ALICE, self.registry)
        self.registry.disconnected(ALICE, 1, "closed", self.now)
        self.assertNotIn(ALICE, self.registry)
        self.assertEqual(
            self.outputs(), [PeerRegistered(ALICE, "name 1", False), PeerUnregistered(ALICE, "closed")]
        )

    def test_newer_replaces_older_without_a_gap(self) -> None:
        self.join(ALICE, 1)
        self.outputs()
        self.join(ALICE, 2)
        told, registered = self.outputs()
        assert isinstance(told, Disconnect)
        self.assertEqual((told.connection, told.error.code), (1, ErrorCode.REPLACED))
        self.assertEqual(registered, PeerRegistered(ALICE, "name 2", True))
        self.registry.disconnected(ALICE, 1, "replaced", self.now)
        self.assertIn(ALICE, self.registry)
        self.assertEqual(self.outputs(), [])

    def test_replaced_connection_may_ask_for_nothing(self) -> None:
        self.join(ALICE, 1)
        self.join(BOB, 2)
        self.join(ALICE, 3)
        self.outputs()
        self.assertEqual(self.refused(ALICE, 1, Establish(CALL, BOB, envelope(BOB))), ErrorCode.FORBIDDEN)

    def test_name_of_another_peer_overwrites_nothing(self) -> None:
        self.registry.register(1, ALICE, "alice", Accept.ASK, "192.0.2.1", self.now)
        self.registry.register(2, BOB, "alice", Accept.ASK, "192.0.2.2", self.now)
        self.assertEqual(len(self.registry), 2)

    def test_ringing_call_is_told_again_to_a_callee_that_came_back(self) -> None:
        self.ring()
        self.outputs()
        self.join(BOB, 3)
        self.assertEqual(self.replies(), {3: [Incoming(CALL, ALICE, "name 1", envelope(BOB))]})
        self.ask(BOB, 3, Answer(CALL, ALICE, envelope(ALICE, 1)))
        self.assertEqual(self.replies(), {1: [Answered(CALL, BOB, envelope(ALICE, 1))]})

    def test_answer_is_told_again_to_a_caller_that_came_back(self) -> None:
        self.answer()
        self.join(ALICE, 3)
        self.assertEqual(self.replies(), {3: [Answered(CALL, BOB, envelope(ALICE, 1))]})
        self.join(BOB, 4)
        self.assertEqual(self.replies(), {})
        self.ask(BOB, 4, Trickle(CALL, ALICE, envelope(ALICE, 2)))
        self.assertEqual(self.replies(), {3: [Candidates(CALL, BOB, envelope(ALICE, 2))]})


class IntroductionTests(RegistryCase):
    """Introductions from the offer to the end."""

    def test_offer_and_answer_reach_the_other_side_as_they_are(self) -> None:
        self.ring()
        self.assertEqual(self.replies(), {2: [Incoming(CALL, ALICE, "name 1", envelope(BOB))]})
        self.ask(BOB, 2, Answer(CALL, ALICE, envelope(ALICE, 1)))
        self.assertEqual(self.replies(), {1: [Answered(CALL, BOB, envelope(ALICE, 1))]})

    def test_trickle_both_ways_in_order(self) -> None:
        self.ring()
        self.outputs()
        self.ask(ALICE, 1, Trickle(CALL, BOB, envelope(BOB, 1)))
        self.ask(BOB, 2, Answer(CALL, ALICE, envelope(ALICE)))
        self.ask(ALICE, 1, Trickle(CALL, BOB, envelope(BOB, 2)))
        self.ask(BOB, 2, Trickle(CALL, ALICE, envelope(ALICE, 3)))
        replies = self.replies()
        self.assertEqual(replies[2], [Candidates(CALL, ALICE, envelope(BOB, n)) for n in (1, 2)])
        self.assertEqual(replies[1][1:], [Candidates(CALL, BOB, envelope(ALICE, 3))])

    def test_unknown_callee(self) -> None:
        self.join(ALICE, 1)
        self.outputs()
        self.assertEqual(
            self.refused(ALICE, 1, Establish(CALL, BOB, envelope(BOB))), ErrorCode.NOT_REGISTERED
        )

    def test_own_id(self) -> None:
        self.join(ALICE, 1)
        self.outputs()
        self.assertEqual(self.refused(ALICE, 1, Establish(CALL, ALICE, envelope(ALICE))), ErrorCode.FORBIDDEN)

    def test_refused_and_busy_are_told_apart(self) -> None:
        for code in (ErrorCode.REFUSED, ErrorCode.BUSY):
            self.ring()
            self.outputs()
            self.ask(BOB, 2, Reject(CALL, ALICE, code))
            [ended] = self.replies()[1]
            assert isinstance(ended, Ended)
            self.assertEqual((ended.code, ended.sender), (code, BOB))
            self.assertEqual(self.registry.introduction_count, 0)

    def test_caller_may_not_answer_or_reject(self) -> None:
        self.ring()
        self.outputs()
        for request in (Answer(CALL, BOB, envelope(BOB)), Reject(CALL, BOB, ErrorCode.BUSY)):
            self.assertEqual(self.refused(ALICE, 1, request), ErrorCode.FORBIDDEN)

    def test_nobody_else_has_a_say(self) -> None:
        self.ring()
        self.join(CAROL, 3)
        self.outputs()
        self.ask(CAROL, 3, Cancel(CALL, BOB))
        self.ask(CAROL, 3, Trickle(CALL, ALICE, envelope(ALICE)))
        self.ask(CAROL, 3, Reject(CALL, ALICE, ErrorCode.REFUSED))
        self.assertEqual(self.outputs(), [])
        self.assertEqual(self.refused(CAROL, 3, Answer(CALL, ALICE, envelope(ALICE))), ErrorCode.CANCELLED)
        self.assertEqual(self.registry.introduction_count, 1)

    def test_same_call_id_in_another_pair_is_another_call(self) -> None:
        self.ring()
        self.join(CAROL, 3)
        self.outputs()
        self.ask(CAROL, 3, Establish(CALL, BOB, envelope(BOB, 9)))
        self.assertEqual(self.replies(), {2: [Incoming(CALL, CAROL, "name 3", envelope(BOB, 9))]})
        self.ask(BOB, 2, Answer(CALL, CAROL, envelope(CAROL)))
        self.assertEqual(list(self.replies()), [3])

    def test_call_id_cannot_be_used_twice(self) -> None:
        self.ring()
        self.outputs()
        self.assertEqual(self.refused(ALICE, 1, Establish(CALL, BOB, envelope(BOB))), ErrorCode.FORBIDDEN)
        self.assertEqual(self.refused(BOB, 2, Establish(CALL, ALICE, envelope(ALICE))), ErrorCode.FORBIDDEN)

    def test_cancel(self) -> None:
        for canceller, connection, other in ((ALICE, 1, BOB), (BOB, 2, ALICE)):
            self.answer()
            self.ask(canceller, connection, Cancel(CALL, other))
            [[ended]] = self.replies().values()
            assert isinstance(ended, Ended)
            self.assertEqual((ended.code, ended.sender), (ErrorCode.CANCELLED, canceller))
            self.assertEqual(self.registry.introduction_count, 0)

    def test_both_call_at_once(self) -> None:
        self.ring()
        self.ask(BOB, 2, Establish(CALL2, ALICE, envelope(ALICE)))
        self.assertEqual(sorted(self.replies()), [1, 2])
        self.assertEqual(self.registry.introduction_count, 2)

    def test_ringing_lasts_sixty_seconds(self) -> None:
        self.ring()
        self.outputs()
        self.assertEqual(self.registry.get_timer(), self.now + 60.0)
        self.wait(59.9)
        self.assertEqual(self.outputs(), [])
        self.wait(0.1)
        replies = self.replies()
        self.assertEqual(sorted(replies), [1, 2])
        for [ended] in replies.values():
            assert isinstance(ended, Ended)
            self.assertIs(ended.code, ErrorCode.TIMEOUT)
        self.assertEqual(self.registry.introduction_count, 0)
        self.assertIsNone(self.registry.get_timer())

    def test_answered_introduction_ends_quietly(self) -> None:
        self.ring()
        self.wait(30)
        self.ask(BOB, 2, Answer(CALL, ALICE, envelope(ALICE)))
        self.outputs()
        self.wait(59)
        self.ask(ALICE, 1, Trickle(CALL, BOB, envelope(BOB)))
        self.assertEqual(list(self.replies()), [2])
        self.wait(1)
        self.assertEqual(self.outputs(), [])
        self.assertEqual(self.registry.introduction_count, 0)

    def test_second_answer_changes_nothing(self) -> None:
        self.answer()
        self.ask(BOB, 2, Answer(CALL, ALICE, envelope(ALICE, 7)))
        self.assertEqual(self.outputs(), [])

    def test_answer_to_a_call_that_is_over(self) -> None:
        self.ring()
        self.ask(ALICE, 1, Cancel(CALL, BOB))
        self.outputs()
        self.assertEqual(self.refused(BOB, 2, Answer(CALL, ALICE, envelope(ALICE))), ErrorCode.CANCELLED)

    def test_late_messages_about_a_call_that_is_over_are_no_mistake(self) -> None:
        self.answer()
        self.ask(ALICE, 1, Cancel(CALL, BOB))
        self.outputs()
        self.ask(BOB, 2, Trickle(CALL, ALICE, envelope(ALICE)))
        self.ask(BOB, 2, Cancel(CALL, ALICE))
        self.ask(BOB, 2, Reject(CALL, ALICE, ErrorCode.REFUSED))
        self.assertEqual(self.outputs(), [])

    def test_gone(self) -> None:
        for peer, connection, other in ((ALICE, 1, 2), (BOB, 2, 1)):
            for start in (self.ring, self.answer):
                start()
                self.outputs()
                self.registry.disconnected(peer, connection, "closed", self.now)
                [ended] = self.replies()[other]
                assert isinstance(ended, Ended)
                self.assertEqual((ended.code, ended.sender), (ErrorCode.GONE, peer))
                self.assertEqual(self.registry.introduction_count, 0)
