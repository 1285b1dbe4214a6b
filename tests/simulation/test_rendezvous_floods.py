"""Floods at a rendezvous: who was there before keeps its place, and others take turns."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import TURN, IntroductionRefusal
from punch.rendezvous.registry.outputs import Deliver
from punch.rendezvous.registry.registry import Introducing, Registry
from punch.test.rendezvous.registry.test_callee_fairness import CalleeCase
from punch.test.rendezvous.registry.test_fairness import (
    SIXTY,
    SIXTY_APART,
    IntroductionCase,
    RegistrationCase,
    peer,
)
from punch.test.rendezvous.registry.test_registry import KEYS, envelope
from punch.wire.control import Accept, Answer, Cancel, Error, ErrorCode, Establish, Reject, Trickle

PEERS = [key.peer_id for key in KEYS[:4]]

actions = st.tuples(
    st.sampled_from(["join", "leave", "establish", "answer", "trickle", "reject", "cancel", "wait"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 2),
)


class RegistrationTests(RegistrationCase):
    """Registrations in a flood."""

    def test_memory_of_who_comes_again_in_a_flood(self) -> None:
        """From the same address or from another network: they are not the newest for that."""
        regulars = [peer("regular", number) for number in range(60)]
        for number, each in enumerate(regulars):
            self.join(each, f"192.0.2.{number % 5}")
        self.wait(3600.0)
        for network in (2, 3):
            self.come_and_go(1600, network)
            for number, each in enumerate(regulars):
                self.wait(5.0)
                if each in self.registry:
                    self.leave(each)
                self.join(each, f"192.0.{network}.{number % 5}")
                self.come_and_go(20, (network, number))
            self.come_and_go(1600, -network)
            self.assertEqual([each for each in regulars if not self.registry.was_registered(each)], [])


class IntroductionTests(IntroductionCase):
    """Introductions in a flood."""

    def test_from_sixty_addresses(self) -> None:
        """The same for 60 addresses, of one network or of many."""
        for hosts in (SIXTY, SIXTY_APART):
            self.make_world()
            good = self.others()
            self.flood(hosts, 5)
            calls = [
                self.call(good[number % 20], good[(number + 1 + number // 20) % 20]) for number in range(95)
            ]
            self.assertNotIn(None, calls)
            self.assertLessEqual(self.registry.introduction_count, 2000)


class CalleeTests(CalleeCase):
    """Many strangers call one peer."""

    def test_strangers_of_many_networks_take_turns(self) -> None:
        """
        Sixty networks call again and again, and so keep all places. Once their calls have rung for a turn,
        each stranger's call of another network rings, and does so for a turn at least.
        """
        self.flood_for(30.0)
        for turn in range(3):
            stranger, host = peer("stranger", turn), f"198.51.{turn}.1"
            self.join(stranger, host)
            self.call(stranger, self.bob)
            if stranger not in self.asking.heard:
                # Calls that had rung for a minute have ended just before, and others ring in their places
                self.flood_for(TURN + 3.0)
                self.assert_rings(stranger, host)
            known = dict(self.ends(stranger))
            self.flood_for(TURN)
            self.assertEqual(self.ends(stranger), known)


class RegistryTests(SynchronousTestCase):
    """Any inputs in any order."""

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.lists(actions, max_size=60))
    def test_bookkeeping_holds(self, steps: list[tuple[str, int, int, int]]) -> None:
        registry = Registry(
            replace(
                RendezvousLimits(),
                introductions=5,
                calls_per_caller=2,
                calls_per_callee=2,
                calls_per_source=1,
            )
        )
        connections: dict[PeerID, int] = {}
        now, next_connection = 0.0, 0
        for action, one, other, number in steps:
            peer, to, call = PEERS[one], PEERS[other], f"{number:032x}"
            if action == "join":
                next_connection += 1
                connections[peer] = next_connection
                registry.register(next_connection, peer, "x", Accept.ASK, "192.0.2.1", now)
                registry.resume(peer)
            elif action == "leave":
                registry.disconnected(peer, connections.pop(peer, -1), "closed", now)
            elif action == "wait":
                now += 25.0
                registry.handle_timer(now)
            else:
                requests: dict[str, Introducing] = {
                    "establish": Establish(call, to, envelope(to)),
                    "answer": Answer(call, to, envelope(to)),
                    "trickle": Trickle(call, to, envelope(to)),
                    "reject": Reject(call, to, ErrorCode.REFUSED),
                    "cancel": Cancel(call, to),
                }
                try:
                    registry.request(peer, connections.get(peer, -1), requests[action], now)
                except IntroductionRefusal as refusal:
                    self.assertIsInstance(Error(refusal.code, refusal.text, call), Error)
            while (output := registry.next_output()) is not None:
                if isinstance(output, Deliver):
                    self.assertIn(output.connection, connections.values())
            self.assertEqual(len(registry), len(connections))
            self.assertLessEqual(registry.introduction_count, 5)
        for peer, connection in connections.items():
            registry.disconnected(peer, connection, "closed", now)
        self.assertEqual(registry.introduction_count, 0)
        self.assertIsNone(registry.get_timer())
        # All places are free again: each peer may ring as many others as at the beginning.
        for number, peer in enumerate(PEERS):
            registry.register(number, peer, "x", Accept.ASK, "192.0.2.1", now + 60.0)
        for peer, to, call in zip(PEERS[:2] * 2, PEERS, "abcd", strict=True):
            if peer != to:
                registry.request(peer, PEERS.index(peer), Establish(call * 32, to, envelope(to)), now + 60.0)
