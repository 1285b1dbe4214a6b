"""The sockets of attempts, and the ICE sessions whose paths they carry."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.budget import Budget
from punch.ice.events import Event
from punch.ice.generations import Generations
from punch.ice.limits import SentPackets
from punch.node.paths.local_candidates import Openings
from punch.node.punching.attempt import UNUSED_TIME, AttemptSockets
from punch.test.ice.ice_network import IceNetwork


class TimerTests(SynchronousTestCase):
    def test_a_session_that_loses_its_pair(self) -> None:
        """A socket is closed by the timer; what the session tells of that is fetched at once."""
        ice = IceNetwork()
        alice, bob = ice.host("alice", "192.0.2.1"), ice.host("bob", "192.0.2.2", controlling=False)
        other = ice.host("other", "192.0.2.3")
        ice.pair(alice, bob)
        ice.run(1.0)
        base = alice.bases[0]
        generations = Generations(alice.agent)
        # The parts of a call and of the network that the timer needs
        transport: Any = SimpleNamespace(generations=generations)
        closed: list[object] = []
        sockets: Any = SimpleNamespace(
            bases=[base], open_extra=lambda local, take: base, close_extra=closed.append
        )
        network: Any = SimpleNamespace(sockets=sockets)
        told: list[Event] = []

        def changed() -> None:
            while (event := transport.generations.next_event(ice.now)) is not None:
                told.append(event)

        attempts = AttemptSockets(network, transport, SentPackets(), lambda: ice.now, lambda: None, changed)
        self.assertEqual(attempts.open("192.0.2.1"), base)
        transport.openings = Openings(generations, Budget(), sockets, lambda: ice.now)
        attempts.path_changed(ice.now)
        self.assertEqual(attempts.selected, bob.bases[0])
        # The link takes another session's path; that of an ICE restart still has this one
        transport.generations = Generations(other.agent)
        transport.generations.begin(alice.agent, 1, ice.now)
        transport.openings = Openings(transport.generations, Budget(), sockets, lambda: ice.now)
        attempts.path_changed(ice.now)
        self.assertEqual(attempts.left, bob.bases[0])
        changed()
        told.clear()
        attempts.handle_timer(ice.now + UNUSED_TIME)
        self.assertEqual(closed, [base])
        self.assertIsNone(alice.agent.selected)
        self.assertNotEqual(told, [])
