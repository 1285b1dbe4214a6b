"""A pair that stops answering is left for the next best, and taken again when it answers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.events import (
    AgentState,
    ChecksUnanswered,
    ConsentLost,
    PairDisconnected,
    Recovered,
    Selected,
)
from punch.ice.pairs import PathKind
from punch.test.ice.ice_network import Host, IceNetwork
from punch.wire.address import Address
from punch.wire.stun import MessageClass, parse


class TwoPathsTests(SynchronousTestCase):
    """There is a path over IPv4 and one over IPv6."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1", "2001:db8::1")
        self.bob = self.network.host("bob", "192.0.2.2", "2001:db8::2", controlling=False)
        self.network.pair(self.alice, self.bob, gather=False)
        self.network.run(5)
        self.first = self.alice.path.local_base

    def block(self) -> None:
        """Nothing gets through on the family of the selected pair."""
        self.network.blocked = lambda source, target: source.is_ipv6 == self.first.is_ipv6

    def test_probe(self) -> None:
        """The side whose data is unanswered probes the pair and leaves it within two seconds."""
        self.block()
        cut = self.network.now
        self.alice.agent.path.probe(self.network.now)
        self.network.run(3.0, lambda: self.alice.path.local_base != self.first)
        self.assertLess(self.network.now - cut, 2.0)
        self.network.run(0.5)
        self.assertNotEqual(self.bob.path.local_base.is_ipv6, self.first.is_ipv6)
        self.assertEqual(self.alice.of(PairDisconnected) + self.bob.of(PairDisconnected), [])

    def test_the_controlled_side_may_be_first(self) -> None:
        """It moves at once, and stays there when the controlling side nominates the same path."""
        self.block()
        self.bob.agent.path.probe(self.network.now)
        self.network.run(2.0)
        self.assertNotEqual(self.bob.path.local_base.is_ipv6, self.first.is_ipv6)
        self.assertEqual(self.alice.path.local_base, self.first)
        self.alice.agent.path.probe(self.network.now)
        self.network.run(2.0)
        self.assertNotEqual(self.alice.path.local_base, self.first)

    def test_idle(self) -> None:
        """Consent checks notice that the path is dead: in 6 s, and the time of a probe."""
        self.block()
        cut = self.network.now
        self.network.run(20.0, lambda: self.alice.path.local_base != self.first)
        self.assertLess(self.network.now - cut, 8.1)

    def test_back_again(self) -> None:
        """The first pair, which is of the same kind, is not selected again when it answers. It is a spare."""
        self.block()
        self.alice.agent.path.probe(self.network.now)
        self.network.run(3.0)
        second = self.alice.path.local_base
        self.network.blocked = lambda source, target: False
        self.network.run(5.0)
        self.network.blocked = lambda source, target: source.is_ipv6 == second.is_ipv6
        self.alice.agent.path.probe(self.network.now)
        self.network.run(3.0)
        self.assertEqual(self.alice.path.local_base, self.first)

    def test_an_address_that_is_gone(self) -> None:
        """A pair whose local address is gone is left without probing."""
        self.block()
        self.alice.agent.bases_lost([self.first], self.network.now)
        self.network.run(0.1)
        self.assertNotEqual(self.alice.path.local_base, self.first)

    def test_a_loss_or_two_is_nothing(self) -> None:
        """Checks that get lost are repeated, and the pair stays selected."""
        since = self.network.now
        self.network.blocked = lambda source, target: self.network.now < since + 0.9
        self.alice.agent.path.probe(self.network.now)
        self.network.run(10.0)
        self.assertEqual(len(self.alice.of(Selected)), 1)
        self.assertEqual(len(self.alice.of(ChecksUnanswered)), 1)


class OnePathTests(SynchronousTestCase):
    """There is only one path."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1")
        self.bob = self.network.host("bob", "192.0.2.2", controlling=False)
        self.network.pair(self.alice, self.bob, gather=False)
        self.network.run(5)

    def test_doubt_and_recovery(self) -> None:
        """
        The pair stays selected, the agent reports it as disconnected, and checks it every two seconds until
        it answers.
        """
        self.network.blocked = lambda source, target: True
        cut = self.network.now
        self.alice.agent.path.probe(cut)
        self.network.run(10.0)
        self.assertEqual(len(self.alice.of(PairDisconnected)), 1)
        self.assertLess(self.alice.when(PairDisconnected) - cut, 1.6)
        self.assertIs(self.alice.agent.state, AgentState.CONNECTED)
        self.assertIsNotNone(self.alice.agent.selected)
        self.network.blocked = lambda source, target: False
        back = self.network.now
        self.network.run(5.0, lambda: bool(self.alice.of(Recovered)))
        self.assertLess(self.network.now - back, 2.2)
        self.network.run(60.0)
        self.assertEqual(len(self.alice.of(PairDisconnected) + self.alice.of(Recovered)), 2)
        self.assertEqual(self.alice.of(ConsentLost), [])

    def test_a_probe_that_is_answered(self) -> None:
        """A probe that is answered consists of one check."""
        self.network.run(2.0)
        sent = len(self.alice.sent)
        self.alice.agent.path.probe(self.network.now)
        self.alice.agent.path.probe(self.network.now)
        self.network.run(0.5)
        asked = [transmit for _, transmit in self.alice.sent[sent:]]
        asked = [each for each in asked if parse(each.data).message_class is MessageClass.REQUEST]
        self.assertEqual(len(asked), 1)
        self.assertEqual(self.alice.of(ChecksUnanswered), [])

    def test_a_new_address_takes_over(self) -> None:
        """The old address is gone. Checks leave from the new one, and the peer learns it from them."""
        new = Address("192.0.2.7", 7000)
        self.network.blocked = lambda source, target: self.alice.bases[0] in (source, target)
        self.alice.bases.append(new)
        self.alice.agent.add_local_address(new)
        self.alice.agent.bases_lost([self.alice.bases[0]], self.network.now)
        self.network.run(1.0)
        self.assertEqual(self.alice.path.local_base, new)
        self.assertEqual(self.bob.path.remote_address, new)


class HeldTests(SynchronousTestCase):
    """A direct path that was left is held as long as the relayed one works."""

    relay = Address("198.51.100.9", 50000)

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1")
        self.bob = self.network.host("bob", "192.0.2.2", controlling=False)
        self.alice.bases.append(self.relay)
        self.alice.agent.add_relayed(self.relay, None, "relay")
        self.network.pair(self.alice, self.bob, gather=False)
        self.network.run(5.0)
        self.assertEqual(self.kinds, (PathKind.HOST, PathKind.HOST))

    @property
    def kinds(self) -> tuple[PathKind, PathKind]:
        """The kinds of path that the two sides use."""
        return self.alice.path.kind, self.bob.path.kind

    def block(self, *, relayed: bool) -> None:
        """Nothing gets through on the relayed path, or on the direct one."""
        self.network.blocked = lambda source, target: (self.relay in (source, target)) == relayed

    def leave(self, host: Host, *, relayed: bool = False) -> None:
        """Have a side leave the relayed path, or the direct one, which works again afterwards."""
        self.block(relayed=relayed)
        host.agent.path.probe(self.network.now)
        self.network.run(2.0)
        self.network.blocked = lambda source, target: False

    def hold(self, *hosts: Host, seconds: float = 60.0) -> None:
        for host in hosts:
            host.agent.path.hold((PathKind.HOST, self.network.now + seconds), self.network.now)

    def test_until_the_time_is_over(self) -> None:
        self.leave(self.alice)
        self.hold(self.alice, self.bob)
        self.network.run(59.9)
        self.assertEqual(self.kinds, (PathKind.RELAYED, PathKind.RELAYED))
        self.network.run(0.3)
        self.assertEqual(self.kinds, (PathKind.HOST, PathKind.HOST))

    def test_better_ones_need_not_wait(self) -> None:
        self.leave(self.alice)
        self.alice.agent.path.hold((PathKind.TCP, self.network.now + 60.0), self.network.now)
        self.network.run(5.0)
        self.assertEqual(self.kinds, (PathKind.HOST, PathKind.HOST))

    def test_it_is_taken_at_once_if_nothing_else_works(self) -> None:
        self.leave(self.alice)
        self.hold(self.alice, self.bob)
        self.network.run(20.0)
        self.leave(self.alice, relayed=True)
        self.assertEqual(self.kinds, (PathKind.HOST, PathKind.HOST))

    def test_what_is_no_longer_held(self) -> None:
        """In another network, the path is taken at once."""
        self.leave(self.alice)
        self.hold(self.alice, self.bob)
        self.network.run(10.0)
        for host in (self.alice, self.bob):
            host.agent.path.hold(None, self.network.now)
        self.network.run(0.2)
        self.assertEqual(self.kinds, (PathKind.HOST, PathKind.HOST))

    def test_the_controlled_side(self) -> None:
        """It does not return to a pair that was nominated before, but follows a new nomination."""
        self.leave(self.bob)
        self.hold(self.bob)
        self.network.run(20.0)
        self.assertEqual(self.kinds, (PathKind.HOST, PathKind.RELAYED))
        self.leave(self.alice)
        self.network.run(5.0)
        self.assertEqual(self.kinds, (PathKind.HOST, PathKind.HOST))
