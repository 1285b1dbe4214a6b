"""Calls between peers of different processes: the pure core, without Redis."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.directory.messages import PeerRequest
from punch.rendezvous.directory.remote_calls import MAX_WAITING, RemoteCalls
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.outputs import LimitHit
from punch.rendezvous.registry.registry import SETTLE_TIME
from punch.test.rendezvous.directory.processes import ALICE, BOB, CALL, CAROL, Processes, envelope
from punch.test.strategies import IDENTITIES, SETTINGS
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
    Returned,
    Trickle,
)


class RemoteCallsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """Make two processes, and a peer at each."""
        self.net = Processes("one", "two")
        self.alice = self.net.register("one", ALICE)
        self.bob = self.net.register("two", BOB)

    def call(self) -> None:
        self.net.request("one", ALICE, self.alice, Establish(CALL, BOB, envelope(BOB)))

    def assert_empty(self) -> None:
        for remote_calls in self.net.remote_calls.values():
            self.assertEqual(len(remote_calls), 0)
            self.assertEqual(remote_calls.registry.introduction_count, 0)
            self.assertEqual(remote_calls.processes, set())
            self.assertIsNone(remote_calls.get_timer())

    def test_whole_introduction(self) -> None:
        self.call()
        self.net.request("two", BOB, self.bob, Answer(CALL, ALICE, envelope(ALICE)))
        self.net.request("one", ALICE, self.alice, Trickle(CALL, BOB, envelope(BOB, 1)))
        self.net.request("two", BOB, self.bob, Trickle(CALL, ALICE, envelope(ALICE, 1)))
        self.net.request("two", BOB, self.bob, Cancel(CALL, ALICE))
        self.assertEqual(
            self.net.replies(self.bob),
            [Incoming(CALL, ALICE, "name", envelope(BOB)), Candidates(CALL, ALICE, envelope(BOB, 1))],
        )
        answered, candidates, ended = self.net.replies(self.alice)
        self.assertEqual(answered, Answered(CALL, BOB, envelope(ALICE)))
        self.assertEqual(candidates, Candidates(CALL, BOB, envelope(ALICE, 1)))
        self.assertIsInstance(ended, Ended)
        self.assert_empty()

    def test_a_process_that_stops_waits_for_calls_to_others(self) -> None:
        """The caller's process, and that of the called peer, until the candidates have passed."""

        def unfinished(process: str) -> bool:
            registry = self.net.remote_calls[process].registry
            return (ALICE if process == "one" else BOB) in registry.unfinished(self.net.now)

        self.assertFalse(unfinished("one") or unfinished("two"))
        self.call()
        self.net.advance(10.0)
        self.assertTrue(unfinished("one") and unfinished("two"))
        self.net.request("two", BOB, self.bob, Answer(CALL, ALICE, envelope(ALICE)))
        self.net.advance(SETTLE_TIME - 0.5)
        self.assertTrue(unfinished("one") and unfinished("two"))
        self.net.advance(1.0)
        self.assertFalse(unfinished("one") or unfinished("two"))

    def test_candidates_wait_for_the_directory_in_order(self) -> None:
        self.net.holding = True
        self.call()
        for number in range(MAX_WAITING + 5):
            self.net.request("one", ALICE, self.alice, Trickle(CALL, BOB, envelope(BOB, number)))
        self.assertEqual(self.net.replies(self.bob), [])
        self.net.release_held()
        incoming, *candidates = self.net.replies(self.bob)
        self.assertIsInstance(incoming, Incoming)
        expected = [Candidates(CALL, ALICE, envelope(BOB, number)) for number in range(MAX_WAITING)]
        self.assertEqual(candidates, expected)

    def test_cancelled_before_it_was_located(self) -> None:
        self.net.holding = True
        self.call()
        self.net.request("one", ALICE, self.alice, Cancel(CALL, BOB))
        self.net.release_held()
        self.assertEqual(self.net.replies(self.bob), [])
        self.assert_empty()

    def test_refused(self) -> None:
        self.call()
        self.net.request("two", BOB, self.bob, Reject(CALL, ALICE, ErrorCode.REFUSED))
        (ended,) = self.net.replies(self.alice)
        self.assertEqual(ended, Ended(CALL, ErrorCode.REFUSED, "The called peer said no.", sender=BOB))
        self.assert_empty()

    def test_nobody_there(self) -> None:
        self.net.request("one", ALICE, self.alice, Establish(CALL, CAROL, envelope(CAROL)))
        (error,) = self.net.replies(self.alice)
        self.assertIsInstance(error, Error)
        self.assertEqual((error.code, error.call), (ErrorCode.NOT_REGISTERED, CALL))  # type: ignore[union-attr]
        self.assert_empty()

    def test_told_when_the_called_peer_is_back_at_another_process(self) -> None:
        """Once, and only who asked to be told; whatever it was that told that the peer is away."""
        del self.net.where[BOB]
        carol = self.net.register("one", CAROL, "192.0.2.3")
        for caller, connection, notify in ((ALICE, self.alice, True), (CAROL, carol, False)):
            self.net.request("one", caller, connection, Establish(CALL, BOB, envelope(BOB), notify=notify))
        self.assertEqual(self.net.awaiting, [("one", BOB)])
        self.net.register("two", BOB)
        self.net.register("two", BOB)
        self.assertEqual(self.net.replies(self.alice)[1:], [Returned(BOB)])
        self.assertEqual(len(self.net.replies(carol)), 1)
        # The directory had a stale entry, and the process that it named has gone.
        self.net.kill("two")
        self.net.remote_calls["three"] = RemoteCalls(self.net.limits)
        self.net.request("one", ALICE, self.alice, Establish(CALL, BOB, envelope(BOB), notify=True))
        self.assertEqual(self.net.awaiting, [("one", BOB)])
        self.net.register("three", BOB)
        self.assertEqual(self.net.replies(self.alice)[3:], [Returned(BOB)])

    def test_stale_entry(self) -> None:
        """The process that the directory names denies it, and the caller is told so."""
        self.net.where[CAROL] = "two"
        self.net.request("one", ALICE, self.alice, Establish(CALL, CAROL, envelope(CAROL)))
        (error,) = self.net.replies(self.alice)
        self.assertEqual(error.code, ErrorCode.NOT_REGISTERED)  # type: ignore[union-attr]
        self.assert_empty()

    def test_circle_of_stale_entries(self) -> None:
        """A process that does not have the peer asks no other one."""
        self.net.where[CAROL] = "two"
        self.net.remote_calls["three"] = RemoteCalls(self.net.limits)
        self.net.request("one", ALICE, self.alice, Establish(CALL, CAROL, envelope(CAROL)))
        self.net.where[CAROL] = "three"
        self.net.run()
        self.assert_empty()

    def test_process_of_the_callee_dies(self) -> None:
        self.call()
        self.net.kill("two")
        (error,) = self.net.replies(self.alice)
        self.assertEqual(error.code, ErrorCode.NOT_REGISTERED)  # type: ignore[union-attr]
        self.assert_empty()

    def test_request_that_is_lost(self) -> None:
        """The caller is told why its call is over; a lost request of an unknown call ends nothing."""
        self.call()
        calls = self.net.remote_calls["one"]
        other = Establish("9" * 32, BOB, envelope(BOB))
        calls.request_lost(PeerRequest(ALICE, "name", "192.0.2.1", other), "Ask again.", 0.0)
        self.assertEqual((len(calls), self.net.replies(self.alice)), (1, []))
        calls.request_lost(
            PeerRequest(ALICE, "name", "192.0.2.1", Establish(CALL, BOB, envelope(BOB))), "Ask again.", 0.0
        )
        self.net.run()
        (error,) = self.net.replies(self.alice)
        self.assertEqual(error, Error(ErrorCode.NOT_REGISTERED, "Ask again.", CALL))
        self.assertEqual(len(calls), 0)

    def test_process_of_the_caller_dies(self) -> None:
        self.call()
        self.net.kill("one")
        ended = self.net.replies(self.bob)[-1]
        self.assertEqual(ended.code, ErrorCode.GONE)  # type: ignore[union-attr]
        self.assert_empty()

    def test_caller_leaves(self) -> None:
        self.call()
        self.net.remote_calls["one"].registry.disconnected(ALICE, self.alice, "closed", self.net.now)
        self.net.run()
        ended = self.net.replies(self.bob)[-1]
        self.assertEqual(ended.code, ErrorCode.GONE)  # type: ignore[union-attr]
        self.assert_empty()

    def test_callee_leaves(self) -> None:
        self.call()
        self.net.remote_calls["two"].registry.disconnected(BOB, self.bob, "closed", self.net.now)
        self.net.run()
        self.assertEqual(self.net.replies(self.alice)[-1].code, ErrorCode.GONE)  # type: ignore[union-attr]
        self.assert_empty()

    def test_nobody_answers(self) -> None:
        self.call()
        self.net.advance(61.0)
        self.assertEqual(self.net.replies(self.alice)[-1].code, ErrorCode.TIMEOUT)  # type: ignore[union-attr]
        self.assert_empty()

    def denied(self, *peers: PeerID, address: str = "") -> None:
        """Process two denies these, and process one does not."""
        self.denied_at("two", *peers, address)

    def denied_at(self, process: str, *denied: PeerID | str) -> None:
        self.net.denied[process] = set(denied)
        self.net.remote_calls[process].end_denied(self.net.now)
        self.net.run()

    def test_denied_caller(self) -> None:
        """The called peer's process refuses the caller's ID, or its network: before, and during a call."""
        for during in (False, True):
            for peers, address in (((ALICE,), ""), ((), "192.0.2.1")):
                self.make_world()
                if during:
                    self.call()
                    self.denied(*peers, address=address)
                else:
                    self.denied(*peers, address=address)
                    self.call()
                (end,) = self.net.replies(self.alice)
                assert isinstance(end, (Ended, Error))
                self.assertEqual((end.code, end.call), (ErrorCode.DENIED, CALL))
                codes = [each.code for each in self.net.replies(self.bob) if isinstance(each, Ended)]
                self.assertEqual(codes, [ErrorCode.GONE] if during else [])
                self.assertEqual(len(self.net.replies(self.bob)), 2 if during else 0)
                self.assertEqual([hit.limit for _, hit in self.net.hits], [] if during else ["deny"])
                self.net.request("one", ALICE, self.alice, Trickle(CALL, BOB, envelope(BOB)))
                self.assertEqual(len(self.net.replies(self.bob)), 2 if during else 0)
                self.assert_empty()

    def test_denied_callee(self) -> None:
        """The caller's process refuses the called peer, which is at a process that does not."""
        call = Establish(CALL, ALICE, envelope(ALICE))
        self.net.request("two", BOB, self.bob, call)
        self.denied(ALICE)
        self.assertEqual(self.net.replies(self.bob)[-1].code, ErrorCode.GONE)  # type: ignore[union-attr]
        self.assertEqual(self.net.replies(self.alice)[-1].code, ErrorCode.CANCELLED)  # type: ignore[union-attr]
        self.assert_empty()
        refusal = self.assertRaises(IntroductionRefusal, self.net.request, "two", BOB, self.bob, call)
        self.assertEqual(refusal.code, ErrorCode.NOT_REGISTERED)
        self.assert_empty()

    def test_network_of_a_denied_callee(self) -> None:
        """The other process tells it with what the called peer says, which is not passed on then."""
        address = "198.51.100.7"
        for during in (False, True):
            self.make_world()
            bob = self.net.register("two", BOB, address)
            self.call()
            if not during:
                self.denied_at("one", address)
            self.net.request("two", BOB, bob, Answer(CALL, ALICE, envelope(ALICE)))
            if during:
                self.assertIsInstance(self.net.replies(self.alice)[-1], Answered)
                self.denied_at("one", address)
            code = ErrorCode.GONE if during else ErrorCode.NOT_REGISTERED
            self.assertEqual([each.code for each in self.net.replies(self.alice)[during:]], [code])  # type: ignore[union-attr]
            self.assertEqual(self.net.replies(bob)[-1].code, ErrorCode.CANCELLED)  # type: ignore[union-attr]
            self.assert_empty()

    def test_silent_process(self) -> None:
        """A process that tells nothing more keeps no caller waiting for ever."""
        self.call()
        self.net.remote_calls["two"] = RemoteCalls(self.net.limits)
        self.net.advance(66.0)
        self.assertEqual(self.net.replies(self.alice)[-1].code, ErrorCode.TIMEOUT)  # type: ignore[union-attr]
        self.assert_empty()

    def test_other_process_speaks_for_nobody_elses_call(self) -> None:
        self.call()
        self.net.remote_calls["three"] = RemoteCalls(self.net.limits)
        self.net.remote_calls["three"].send("one", ALICE, Answered(CALL, BOB, envelope(ALICE)))
        self.net.remote_calls["two"].send("one", ALICE, Answered(CALL, CAROL, envelope(ALICE)))
        self.net.run()
        self.assertEqual(self.net.replies(self.alice), [])

    def test_bounds(self) -> None:
        """A caller has so many calls to other processes at once, and one of each ID."""
        self.net.holding = True
        self.call()
        refusal = self.assertRaises(IntroductionRefusal, self.call)
        self.assertEqual(refusal.code, ErrorCode.FORBIDDEN)
        most = 4 * self.net.limits.calls_per_caller
        for number in range(1, most):
            request = Establish(f"{number:032x}", BOB, envelope(BOB))
            self.net.request("one", ALICE, self.alice, request)
        last = Establish("f" * 32, BOB, envelope(BOB))
        refusal = self.assertRaises(IntroductionRefusal, self.net.request, "one", ALICE, self.alice, last)
        self.assertEqual(refusal.code, ErrorCode.TOO_MANY)

    def test_replaced(self) -> None:
        self.net.remote_calls["two"].registry.replaced(BOB, self.net.now)
        self.net.run()
        self.assertEqual(self.net.replies(self.bob)[-1].code, ErrorCode.REPLACED)  # type: ignore[union-attr]
        self.assertNotIn(BOB, self.net.remote_calls["two"].registry)


class FairnessTests(SynchronousTestCase):
    """What the callers of one source can take from others."""

    def calls(self, net: Processes, process: str, caller: PeerID, connection: int, number: int) -> None:
        """Call Bob so often."""
        for each in range(number):
            request = Establish(f"{each:032x}", BOB, envelope(BOB))
            net.request(process, caller, connection, request)

    def test_one_source_does_not_fill_the_table(self) -> None:
        """The newest of its calls makes room for a caller elsewhere, and its caller is told."""
        limits = replace(RendezvousLimits(), introductions=16, introductions_per_address=16)
        net = Processes("one", "two", limits=limits)
        bob = net.register("two", BOB)
        alice, carol = net.register("one", ALICE), net.register("one", CAROL, "198.51.100.7")
        net.holding = True
        self.calls(net, "one", ALICE, alice, 14)
        refusal = self.assertRaises(IntroductionRefusal, self.call_late, net, alice)
        self.assertEqual(refusal.code, ErrorCode.TOO_MANY)
        net.request("one", CAROL, carol, Establish(CALL, BOB, envelope(BOB)))
        (told,) = net.replies(alice)
        assert isinstance(told, Ended)
        self.assertEqual((told.call, told.code, told.sender), (f"{13:032x}", ErrorCode.BUSY, BOB))
        self.assertEqual(net.hits, [("one", LimitHit(ALICE, "192.0.2.1", "calls"))])
        net.release_held()
        self.assertIn(Incoming(CALL, CAROL, "name", envelope(BOB)), net.replies(bob))

    def call_late(self, net: Processes, alice: int) -> None:
        net.request("one", ALICE, alice, Establish("e" * 32, BOB, envelope(BOB)))

    def test_places_are_kept_for_who_was_answered_before(self) -> None:
        """Though strangers at more addresses than there are places have all others."""
        limits = replace(RendezvousLimits(), introductions=8, introductions_per_address=8)
        net = Processes("one", "two", limits=limits)
        bob, carol = net.register("two", BOB), net.register("one", CAROL, "198.51.100.7")
        net.request("one", CAROL, carol, Establish(CALL, BOB, envelope(BOB)))
        net.request("two", BOB, bob, Answer(CALL, CAROL, envelope(CAROL)))
        net.request("one", CAROL, carol, Cancel(CALL, BOB))
        net.holding = True
        for number in range(10):
            connection = net.register("one", ALICE, f"10.{number}.0.1")
            with contextlib.suppress(IntroductionRefusal):
                call = f"{number:032x}"
                net.request("one", ALICE, connection, Establish(call, BOB, envelope(BOB)))
        self.assertEqual(len(net.remote_calls["one"]), 7)
        net.request("one", CAROL, carol, Establish("11" * 16, BOB, envelope(BOB)))
        self.assertEqual(len(net.remote_calls["one"]), 8)
        self.assertEqual(net.hits, [])

    def test_ended_calls_ask_no_more_than_others(self) -> None:
        """A caller that ends its calls at once, or comes back, has no more questions waiting."""
        limits = replace(RendezvousLimits(), introductions=64, introductions_per_address=8)
        net = Processes("one", "two", limits=limits)
        net.register("two", BOB)
        net.holding = True
        alice = net.register("one", ALICE)
        refused = 0
        for number in range(20):
            call = f"{number:032x}"
            try:
                net.request("one", ALICE, alice, Establish(call, BOB, envelope(BOB)))
                net.request("one", ALICE, alice, Cancel(call, BOB))
            except IntroductionRefusal as refusal:
                self.assertEqual(refusal.code, ErrorCode.TOO_MANY)
                refused += 1
                net.remote_calls["one"].registry.disconnected(ALICE, alice, "closed", net.now)
                alice = net.register("one", ALICE)
        self.assertEqual((len(net.held), refused), (8, 12))
        self.assertEqual(net.remote_calls["one"].registry.unfinished(net.now), set())
        self.assertEqual(net.replies(alice), [])
        net.release_held()
        self.assertEqual(net.replies(alice), [])
        self.assertEqual(len(net.remote_calls["one"]), 0)
        net.request("one", ALICE, alice, Establish(CALL, BOB, envelope(BOB)))
        self.assertEqual(net.remote_calls["two"].registry.introduction_count, 1)

    def test_the_other_process_learns_who_made_room(self) -> None:
        limits = replace(RendezvousLimits(), introductions=2, introductions_per_address=2)
        net = Processes("one", "two", "three", limits=limits)
        dave, eve = (identity.peer_id for identity in IDENTITIES[3:5])
        bob, at_three = net.register("two", BOB), net.register("three", dave)
        alice, carol = net.register("one", ALICE), net.register("one", CAROL, "198.51.100.7")
        for call, callee in ((CALL, BOB), ("11" * 16, dave)):
            net.request("one", ALICE, alice, Establish(call, callee, envelope(callee)))
        net.request("three", dave, at_three, Answer("11" * 16, ALICE, envelope(ALICE)))
        net.request("one", CAROL, carol, Establish("22" * 16, BOB, envelope(BOB)))
        ended = net.replies(at_three)[-1]
        assert isinstance(ended, Ended)
        self.assertEqual((ended.call, ended.code), ("11" * 16, ErrorCode.CANCELLED))
        self.assertEqual(net.remote_calls["three"].registry.introduction_count, 0)
        self.assertEqual(net.replies(alice)[-1].code, ErrorCode.CANCELLED)  # type: ignore[union-attr]
        self.assertEqual(len(net.replies(bob)), 2)
        # A place that is free again is used.
        net.request("one", CAROL, carol, Cancel("22" * 16, BOB))
        net.request("one", ALICE, alice, Establish("33" * 16, eve, envelope(eve)))
        self.assertEqual(net.replies(alice)[-1].code, ErrorCode.NOT_REGISTERED)  # type: ignore[union-attr]

    def test_a_source_is_one_at_all_processes(self) -> None:
        """Of its calls so many ring as from one process, the others are logged, and nobody else is muted."""
        net = Processes("one", "two", "three")
        bob = net.register("two", BOB)
        crowd = [identity.peer_id for identity in IDENTITIES[3:7]]
        for number, peer in enumerate(crowd):
            process = "one" if number % 2 else "three"
            self.calls(net, process, peer, net.register(process, peer), 3)
        ringing = [reply for reply in net.replies(bob) if isinstance(reply, Incoming)]
        self.assertEqual(len(ringing), net.limits.calls_per_source)
        self.assertEqual({(where, hit.address) for where, hit in net.hits}, {("two", "192.0.2.1")})
        self.assertEqual(len(net.hits), 12 - len(ringing))
        carol = net.register("one", CAROL, "198.51.100.7")
        self.calls(net, "one", CAROL, carol, 1)
        self.assertEqual(net.replies(bob)[-1].sender, CAROL)  # type: ignore[union-attr]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("register", "leave", "call", "answer", "trickle", "cancel", "reject", "kill", "wait"),
                *("directory away", "directory back"),
            ]
        ),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=40,
)


class ModelTests(SynchronousTestCase):
    """
    Any order of events, against a model: who is registered where, that nobody else is told of calls, and that
    nothing is left at the end. What the directory says is stale after a peer has left.
    """

    @settings(SETTINGS, max_examples=5000 if os.environ.get("PUNCH_SEEDS") == "all" else 50)
    @given(STEPS)
    def test_any_order(self, steps: list[tuple[str, int, int, int]]) -> None:
        net = Processes("0", "1", "2")
        peers = [ALICE, BOB, CAROL]
        at: dict[PeerID, tuple[str, int]] = {}
        seen = 0
        for step, one, two, three in steps:
            peer, other, process = peers[one], peers[two], str(three)
            where, connection = at.get(peer, ("", 0))
            call = f"{one:016x}{two:016x}"
            if step == "register" and process in net.remote_calls:
                if where and where != process:
                    net.remote_calls[where].registry.replaced(peer, net.now)
                at[peer] = process, net.register(process, peer)
            elif step == "kill" and len(net.remote_calls) > 1 and process in net.remote_calls:
                at = {each: place for each, place in at.items() if place[0] != process}
                net.kill(process)
            elif step == "wait":
                net.advance(30.0)
            elif step == "directory away":
                net.holding = True
            elif step == "directory back":
                net.release_held()
            elif where and step == "leave":
                net.remote_calls[where].registry.disconnected(peer, connection, "closed", net.now)
                del at[peer]
                net.run()
            elif where and step in ("call", "answer", "trickle", "cancel", "reject"):
                back = f"{two:016x}{one:016x}"
                request = {
                    "call": Establish(call, other, envelope(other)),
                    "answer": Answer(back, other, envelope(other)),
                    "trickle": Trickle(call, other, envelope(other)),
                    "cancel": Cancel(call, other),
                    "reject": Reject(back, other, ErrorCode.REFUSED),
                }[step]
                before = len(net.got)
                refused = False
                try:
                    net.request(where, peer, connection, request)
                except IntroductionRefusal:
                    refused = True
                    net.run()
                if step == "call" and other not in at and not refused and not net.holding:
                    told = [(each, reply) for _, each, reply in net.got[before:]]
                    (answer,) = [reply for each, reply in told if each == connection]
                    assert isinstance(answer, Error)
                    self.assertEqual(answer.code, ErrorCode.NOT_REGISTERED)
            for each, (place, _) in at.items():
                self.assertIn(each, net.remote_calls[place].registry)
            total = sum(len(remote_calls.registry) for remote_calls in net.remote_calls.values())
            self.assertEqual(total, len(at))
            for place, told_on, reply in net.got[seen:]:
                if isinstance(reply, (Incoming, Answered, Candidates)):
                    self.assertIn((place, told_on), at.values())
            seen = len(net.got)
        net.release_held()
        net.advance(70.0)
        net.advance(70.0)
        for remote_calls in net.remote_calls.values():
            self.assertEqual((len(remote_calls), remote_calls.registry.introduction_count), (0, 0))
            self.assertEqual(remote_calls.processes, set())
