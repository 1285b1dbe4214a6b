"""How the ICE agent ends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.events import AgentState, CheckingFailure, ConsentLost, PathFailed
from punch.ice.pacing import MAX_CHECKING, PAC_TIMEOUT
from punch.test.ice.ice_network import REFLECTOR, Host, IceNetwork
from punch.wire.stun import encode, error, parse

DELAY = 0.05
NONE, IPV4, IPV6 = frozenset[str](), frozenset({"IPv4"}), frozenset({"IPv6"})


class FailureTests(SynchronousTestCase):
    """When there is no path: not too early (RFC 8863), not too late, and with a reason."""

    def failure(self, alice: Host, end: float) -> CheckingFailure | None:
        (event,) = alice.of(PathFailed)
        assert isinstance(event, PathFailed)
        self.assertIs(alice.agent.state, AgentState.FAILED)
        self.assertIsNone(alice.agent.get_timer())
        self.assertLessEqual(alice.when(PathFailed), end)
        return event.failure

    def test_nothing_gets_through(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.blocked = lambda source, target: True
        network.pair(alice, bob, gather=False)
        began = network.now
        network.run(PAC_TIMEOUT - 0.1)
        self.assertEqual(alice.of(PathFailed), [])
        network.run(PAC_TIMEOUT)
        self.assertEqual(self.failure(alice, began + PAC_TIMEOUT + 0.1), CheckingFailure(IPV4, IPV4, 1))

    def test_all_pairs_failed_early_but_patience_finds_a_path(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.blocked = lambda source, target: True
        network.introduce(alice, bob)
        network.run(0.1)
        ((_, check),) = alice.sent
        refused = error(parse(check.data), 400, "Bad Request")
        network.inject(alice, encode(refused, bob.agent.credentials.key), check.remote)
        network.run(10)
        self.assertEqual(len(alice.sent), 1)
        self.assertIs(alice.agent.state, AgentState.CHECKING)
        network.blocked = lambda source, target: False
        network.introduce(bob, alice)
        network.run(1)
        self.assertTrue(network.connected())

    def test_no_candidates(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), IceNetwork().host("bob")
        began = network.now
        network.introduce(alice, bob)
        network.run(PAC_TIMEOUT)
        self.assertEqual(self.failure(alice, began + PAC_TIMEOUT), CheckingFailure(IPV4, NONE, 0))
        network = IceNetwork()
        nobody, bob = network.host("nobody"), IceNetwork().host("bob", "192.0.2.2")
        network.introduce(nobody, bob)
        network.run(MAX_CHECKING)
        self.assertEqual(self.failure(nobody, network.now), CheckingFailure(NONE, IPV4, 0))

    def test_families_that_do_not_match(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), IceNetwork().host("bob", "2001:db8::2")
        network.introduce(alice, bob)
        network.run(PAC_TIMEOUT)
        self.assertEqual(self.failure(alice, network.now), CheckingFailure(IPV4, IPV6, 0))

    def test_a_peer_that_never_says_it_is_done(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), IceNetwork().host("bob", "192.0.2.2", "192.0.2.3")
        network.introduce(alice, bob, end=False)
        network.run(MAX_CHECKING - 0.1)
        self.assertEqual(alice.of(PathFailed), [])
        network.run(1)
        self.assertEqual(self.failure(alice, network.now), CheckingFailure(IPV4, IPV4, 2))

    def test_a_failed_agent_is_silent(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.blocked = lambda source, target: True
        network.pair(alice, bob, gather=False)
        network.run(MAX_CHECKING + 1)
        request = bob.sent[-1][1].data
        self.assertFalse(alice.agent.wants(request))
        self.assertEqual(network.inject(alice, request, bob.bases[0]), [])

    def test_closing(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.pair(alice, bob)
        network.run(1)
        alice.agent.close(network.now)
        alice.agent.close(network.now)
        self.assertIs(alice.agent.state, AgentState.CLOSED)
        self.assertIsNone(alice.agent.get_timer())
        sent = len(alice.sent)
        network.run(100)
        self.assertEqual(len(alice.sent), sent)
        self.assertEqual(len(bob.of(ConsentLost)), 1)

    def test_closing_before_anything(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1")
        alice.agent.gather([REFLECTOR], network.now)
        alice.agent.close(network.now)
        self.assertEqual(alice.agent.datagrams_to_send(network.now), [])

    def test_an_ended_session_starts_no_more(self) -> None:
        """An ended session starts no checks, and only `close` changes its state."""
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        alice.agent.close(network.now)
        network.introduce(alice, bob)
        network.run(1)
        self.assertIs(alice.agent.state, AgentState.CLOSED)
        network.blocked = lambda source, target: True
        network.introduce(bob, alice)
        network.run(MAX_CHECKING + 1)
        self.assertIs(bob.agent.state, AgentState.FAILED)
        network.introduce(bob, alice)
        self.assertIs(bob.agent.state, AgentState.FAILED)
        bob.agent.close(network.now)
        self.assertIs(bob.agent.state, AgentState.CLOSED)
