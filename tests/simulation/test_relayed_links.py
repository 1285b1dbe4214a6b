"""Links through relays that lose much, live long, share an allocation, or get a direct path later."""

from __future__ import annotations

from punch.node.events import Disconnected, PathChanged, Registered
from punch.node.policies import RelayPolicy
from punch.rendezvous.config import RendezvousLimits
from punch.test.internet import Lan, LinkSpec, Seen, SimulationTimeout
from punch.test.scenarios.nat_pairs import nat
from punch.test.scenarios.relayed import EASY, RelayTestCase
from punch.test.scenarios.test_nats import path_now
from punch.test.system import SERVICE, Peer, Rendezvous, connect


class TwoRelaysTests(RelayTestCase):
    """Each side reaches another relay."""

    RELAYS = ("198.51.100.2", "198.51.100.3")

    def test_heavy_loss(self) -> None:
        """
        Of the packets of either side, 30 % get lost, so that half of all checks get no answer, and those to
        the peer's relay, which only the peer's side reaches, get none. Calls find the path all the same: of
        the packets from peer to peer, two thirds get lost on their way over both relays, so that one call in
        30 finds none with the packets that it may send.
        """
        failed = []
        self.link = LinkSpec(delay=0.03, loss=1 - 0.7**0.5)
        for seed in range(1, 9):
            self.net = self.internet(seed)
            self.homes = 0
            for number, relay in enumerate(self.RELAYS):
                host = self.net.host(f"relay-{number}", relay)
                Rendezvous(self.net, host, name=relay, turn_secret=b"shared")
            self.rendezvous = Rendezvous(
                self.net,
                self.net.host("rendezvous", SERVICE),
                relay=False,
                turn=[f"turn:{relay}:3478" for relay in self.RELAYS],
                turn_secret=b"shared",
            )
            closed = {("203.0.113.1", self.RELAYS[1]), ("203.0.113.2", self.RELAYS[0])}
            self.net.drop = lambda packet: (packet.source[0], packet.destination[0]) in closed  # noqa: B023
            alice, bob = peers = [
                Peer(self.net, self.home(name), self.rendezvous.address).start() for name in ("alice", "bob")
            ]
            for peer in peers:
                peer.wait_for(Registered, 60.0)
            self.net.advance(5.0)
            try:
                here, _ = connect(alice, bob)
            except SimulationTimeout:
                failed.append(seed)
                continue
            relays = [
                relay.relayed.host for peer in peers for relay in peer.node.status.relays if relay.relayed
            ]
            self.assertEqual((here.path.kind, sorted(set(relays))), ("relay", list(self.RELAYS)), seed)
        self.assertLessEqual(len(failed), 1, failed)


class AllocationTests(RelayTestCase):
    """When relays are asked for allocations, and when these are given back."""

    def test_given_back_when_a_direct_path_is_stable(self) -> None:
        """Some seconds after the link has become direct, its allocation is given back."""
        self.start()
        alice, bob = self.pair(EASY, EASY)
        connect(alice, bob)
        self.assertEqual(self.ports(), self.idle + 2)
        self.net.advance(30.0)
        self.assertEqual(self.ports(), self.idle)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])
        self.chat(alice, bob)

    def test_given_back_after_the_call(self) -> None:
        """The allocation is given back some seconds after the last link that needed it."""
        self.start()
        alice, bob = self.pair()
        connect(alice, bob)
        self.net.advance(40.0)
        self.assertGreater(self.ports(), self.idle)
        alice.node.hangup(bob.id)
        self.net.advance(8.0)
        self.assertEqual(self.ports(), self.idle)

    def test_given_back_when_a_peer_stops(self) -> None:
        """A peer that stops gives its allocations back at once, over UDP and TCP."""
        self.start()
        for number, block in enumerate((False, True)):
            alice = self.peer(self.home(f"alice-{number}", block_udp=block))
            bob = self.peer(self.home(f"bob-{number}", block_udp=block))
            connect(alice, bob)
            alice.stop()
            bob.stop()
            self.net.advance(2.0)
            self.assertEqual(self.ports(), self.idle)

    def test_shared_by_links(self) -> None:
        """Ten links of one peer need one allocation of it."""
        self.start()
        alice = self.peer(self.home("alice"))
        others = [self.peer(self.home(f"peer-{number}")) for number in range(5)]
        for other in others:
            connect(alice, other)
        self.assertLessEqual(self.ports(), self.idle + 1 + len(others))
        for other in others:
            self.chat(alice, other, 3)

    def test_a_relayed_link_that_lives_long(self) -> None:
        """Permissions, channels, nonces and credentials are renewed many times without an interruption."""
        self.live_long(block_udp=False)

    def test_a_relayed_link_over_tcp_that_lives_long(self) -> None:
        self.live_long(block_udp=True)

    def live_long(self, *, block_udp: bool) -> None:
        """Ten minutes, with credentials and nonces that are good for one to three."""
        self.start(RendezvousLimits(relay_credentials_time=180.0, relay_nonce_time=54.0))
        alice, bob = self.pair(block_udp=block_udp)
        connect(alice, bob)
        for _ in range(2):
            self.net.advance(310.0)
            self.chat(alice, bob, 3)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))

    def test_an_idle_peer_allocates_nothing(self) -> None:
        """A registered peer without calls has no allocation."""
        self.start()
        self.pair()
        self.net.advance(600.0)
        self.assertEqual(self.ports(), self.idle)


class MoveTests(RelayTestCase):
    """Moving from the relay to a direct path while data is on its way."""

    def test_a_direct_path_that_opens_late(self) -> None:
        """The link begins on the relay, and nothing is lost when it moves."""
        self.start()
        late = self.net.now + 3.0
        homes = ("203.0.113.1", "203.0.113.2")
        self.net.drop = lambda packet: (
            self.net.now < late and packet.source[0] in homes and packet.destination[0] in homes
        )
        alice, bob = self.pair(EASY, EASY)
        late = self.net.now + 2.0
        here, _ = connect(alice, bob)
        self.assertEqual(here.path.kind, "relay")
        for number in range(200):
            alice.chat.send(bob.id, str(number))
            self.net.advance(0.02)
        self.net.run_until(lambda: len(bob.messages) == 200, 10.0)
        self.assertEqual(bob.texts(), [str(number) for number in range(200)])
        self.assertNotEqual(path_now(alice, bob), "relay")
        self.assertNotEqual(path_now(bob, alice), "relay")
        self.assertGreaterEqual(len(alice.of(PathChanged)), 1)


class ConnectTests(RelayTestCase):
    """Networks that let little through."""

    def test_a_hundred_kilobytes(self) -> None:
        """More data than fits into TCP's buffers, over a slow line that allows only TCP."""
        self.link = LinkSpec(delay=0.02, rate=2_000_000)
        self.start()
        alice, bob = self.pair(block_udp=True)
        connect(alice, bob)
        text = "x" * 1000
        for _ in range(100):
            alice.chat.send(bob.id, text)
        self.net.run_until(lambda: len(alice.delivered) == 100, 30.0)
        self.assertEqual(bob.texts(), [text] * 100)


class PolicyTests(RelayTestCase):
    """`--relay never` and `--relay only`."""

    def changes(self, alice: Peer, bob: Peer, relayed: bool) -> None:
        """After a new public address, a new network and sleep, the path is of the same kind as before."""
        link = alice.link_to(bob)
        network = alice.host.interfaces[0].network
        assert isinstance(network, Lan)
        assert network.nat is not None
        network.nat.renumber("203.0.113.101")
        self.chat(alice, bob)
        cafe = self.net.lan("cafe", "192.168.200.0/24", nat=nat(EASY, "203.0.113.102"), link=self.link)
        alice.host.move(cafe)
        self.chat(alice, bob)
        alice.host.sleep(400.0)
        self.net.advance(400.0)
        self.chat(alice, bob)
        self.net.advance(30.0)
        for here, there in ((alice, bob), (bob, alice)):
            paths = [path_now(here, there), *(event.path.kind for event in here.of(PathChanged))]
            self.assertEqual({path == "relay" for path in paths}, {relayed})
        self.assertIs(alice.link_to(bob), link)

    def test_only_through_changes(self) -> None:
        """ICE restarts reveal no addresses either, and all packets go through the relay."""
        self.start()
        alice = self.peer(self.home("alice", EASY), RelayPolicy.ONLY)
        bob = self.peer(self.home("bob", EASY))
        trace: list[Seen] = []
        self.net.trace = trace
        connect(alice, bob)
        self.changes(alice, bob, True)
        ends = {frozenset((seen.source[0], seen.destination[0])) for seen in trace}
        hers = {"203.0.113.1", "203.0.113.101", "203.0.113.102"}
        self.assertGreater(len([pair for pair in ends if pair & hers]), 2)
        self.assertEqual([pair for pair in ends if pair & hers and SERVICE not in pair], [])

    def test_never_through_changes(self) -> None:
        """With `never` on one side, no packet takes a relay, even if the path is lost for a moment."""
        self.start()
        alice = self.peer(self.home("alice", EASY), RelayPolicy.NEVER)
        bob = self.peer(self.home("bob", EASY))
        connect(alice, bob)
        self.changes(alice, bob, False)
