"""The candidate pairs of a call, as applications see them."""

from __future__ import annotations

from punch.ice.checklist import SILENT, PairStatus
from punch.node.events import Checking, Connected
from punch.node.policies import RelayPolicy
from punch.test.scenarios.relayed import EASY, HARD, RelayTestCase
from punch.test.system import connect, introduce


class PairsTests(RelayTestCase):
    """`Node.pairs`, while a call becomes a link and the link moves."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def test_nothing_to_watch(self) -> None:
        alice, bob = self.pair()
        self.assertEqual(alice.node.pairs(bob.id), [])

    def test_from_checks_to_the_link(self) -> None:
        """First there are waiting pairs, in the end one that is selected: the one that the event names."""
        alice, bob = self.pair(EASY, EASY)
        introduce(alice, bob)
        alice.call(bob.id)
        alice.wait_for(Checking, 5.0)
        before = alice.node.pairs(bob.id)
        self.assertTrue(before)
        self.assertFalse([pair for pair in before if pair.selected or pair.state == "succeeded"])
        here = alice.wait_for(Connected, 5.0)
        self.net.advance(3.0)
        selected = self.selected(alice.node.pairs(bob.id))
        self.assertEqual((here.path.kind, selected.state), ("srflx", "succeeded"))
        self.assertEqual((selected.local.host, selected.remote.host), ("192.168.1.2", "203.0.113.2"))
        assert selected.seen_as is not None
        assert selected.rtt is not None
        self.assertEqual(selected.seen_as.host, "203.0.113.1")
        self.assertGreater(selected.rtt, 0.07)

    def test_through_the_relay(self) -> None:
        alice, bob = self.pair(HARD, HARD)
        connect(alice, bob)
        kinds = {self.kinds(peer.node.pairs(other.id)) for peer, other in ((alice, bob), (bob, alice))}
        self.assertTrue(any("relay" in pair for pair in kinds), kinds)

    def test_hidden_addresses_stay_hidden(self) -> None:
        alice = self.peer(self.home("alice"), relay=RelayPolicy.ONLY)
        bob = self.peer(self.home("bob"))
        connect(alice, bob)
        self.assertEqual({pair.local_kind.value for pair in alice.node.pairs(bob.id)}, {"relay"})
        self.assertEqual({pair.seen_as for pair in alice.node.pairs(bob.id)}, {None})

    def test_a_path_that_stops_answering(self) -> None:
        alice, bob = self.pair(EASY, EASY)
        connect(alice, bob)
        self.net.drop = lambda packet: True
        self.net.advance(4.0)
        self.assertIn(SILENT, {pair.state for pair in alice.node.pairs(bob.id)})
        bob.node.hangup(alice.id)
        self.net.drop = None
        self.net.advance(20.0)
        self.assertEqual(bob.node.pairs(alice.id), [])

    def selected(self, pairs: list[PairStatus]) -> PairStatus:
        (selected,) = [pair for pair in pairs if pair.selected]
        return selected

    def kinds(self, pairs: list[PairStatus]) -> tuple[str, str]:
        selected = self.selected(pairs)
        return selected.local_kind.value, selected.remote_kind.value
