"""Failures of the relay and of the path to it: lost packets, strangers, a full relay."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from punch.link.control_stream import OptionalFrameType
from punch.node.events import Connected, Disconnected, PathChanged, PathLost, PathSlowed
from punch.node.policies import RelayPolicy
from punch.rendezvous.config import RendezvousLimits
from punch.test.internet import Packet
from punch.test.scenarios.relayed import EASY, HARD, RelayTestCase
from punch.test.system import SERVICE, Peer, connect, introduce
from punch.ui.text.causes import event_sentence
from punch.wire.control import Relays
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import (
    RelayServer,
    TurnTransport,
    TurnURI,
    encode_channel_data,
    is_turn,
    parse_channel_data,
)

BINDING_REQUEST, BINDING_SUCCESS = b"\x00\x01", b"\x01\x01"
"""The first two bytes of the messages (RFC 8489, section 5)."""


def relayed_data(datagram: bytes) -> bytes | None:
    """What a datagram between a peer and its relay carries; None if it is another kind of message."""
    channel_data = parse_channel_data(datagram)
    if channel_data is not None:
        return channel_data.data
    if is_turn(datagram):
        data = parse(datagram).get(Attribute.DATA)
        return data if isinstance(data, bytes) else None
    return None


class TransportTests(RelayTestCase):
    """The transports to the relay: the first that answers is used, and a better one later."""

    def relays(self, peer: Peer) -> list[str]:
        """The transports over which the peer has relayed addresses now."""
        return sorted(relay.transport.value for relay in peer.node.status.relays)

    def test_a_first_request_that_is_lost(self) -> None:
        """TCP answers first; the late answer over UDP is used too, and the link moves to it."""
        self.start()
        alice, bob = self.pair()
        start = self.net.now
        self.net.drop = lambda packet: (
            packet.protocol == "udp"
            and SERVICE in (packet.source[0], packet.destination[0])
            and self.net.now < start + 0.5
        )
        here, _ = connect(alice, bob)
        self.assertEqual(here.path.kind, "relay")
        self.assertIn("tcp", self.relays(alice) + self.relays(bob))
        self.net.advance(3.0)
        self.assertIn("udp", self.relays(alice))
        self.assertIn("udp", self.relays(bob))
        over_udp = {
            relay.relayed
            for peer in (alice, bob)
            for relay in peer.node.status.relays
            if relay.transport is TurnTransport.UDP
        }
        for peer, other in ((alice, bob), (bob, alice)):
            (selected,) = (pair for pair in peer.node.pairs(other.id) if pair.selected)
            self.assertTrue({selected.local, selected.remote} & over_udp, selected)
        self.chat(alice, bob)

    def test_udp_alone_where_it_works(self) -> None:
        """Where UDP works, no TCP connection to the relay is made."""
        self.start()
        alice, bob = self.pair()
        connect(alice, bob)
        self.net.advance(1.0)
        self.assertEqual((self.relays(alice), self.relays(bob)), (["udp"], ["udp"]))


class HostileTests(RelayTestCase):
    """Strangers that pretend to be the relay."""

    def test_strangers_with_channel_data(self) -> None:
        """
        ChannelData and Data indications count only from the relay's own address and port.

        A connectivity check that the relay once forwarded to Alice is sent to her again. From another port of
        the relay's host and from another host it gets no answer; from the relay's address, forged, it does.
        """
        self.start()
        alice = self.peer(self.net.host("alice", "198.51.100.77", link=self.link), RelayPolicy.ONLY)
        bob = self.peer(self.home("bob"))
        checks: dict[bytes, Packet] = {}
        self.net.drop = lambda packet: self.keep_relayed_check(packet, alice, checks)
        connect(alice, bob)
        self.chat(alice, bob)
        (relay,) = alice.node.status.relays
        assert relay.socket is not None
        self.assertTrue(checks)
        newest = list(checks.values())[-1]
        inner = relayed_data(newest.data)
        assert inner is not None
        indication = StunMessage(
            Method.DATA,
            MessageClass.INDICATION,
            bytes(12),
            ((Attribute.XOR_PEER_ADDRESS, alice.last(Connected).path.remote), (Attribute.DATA, inner)),
        )
        forged = [encode_channel_data(0x4000 + number, inner, padded=False) for number in range(4)]
        forged += [newest.data, encode(indication), b"\x40", b"\x40\x00\xff\xff", b""]
        answers: list[Packet] = []
        self.net.drop = lambda packet: self.keep_relayed_answer(packet, alice, inner, answers)
        stranger = self.net.host("stranger", "198.51.100.99", link=self.link)
        for host in (stranger, self.rendezvous.host):
            sender = DatagramProtocol()
            host.reactor.listenUDP(7777, sender)
            assert sender.transport is not None
            for data in forged:
                sender.transport.write(data, (relay.socket.host, relay.socket.port))
        self.net.advance(1.0)
        self.assertEqual(answers, [])
        self.net.public.forward(newest)
        self.net.advance(1.0)
        self.assertEqual(len(answers), 1)
        self.net.drop = None
        self.chat(alice, bob)

    def keep_relayed_check(self, packet: Packet, alice: Peer, checks: dict[bytes, Packet]) -> bool:
        """Note the checks that the relay forwards to Alice; for `Internet.drop`, drops none."""
        if packet.protocol == "udp" and packet.destination[0] == alice.host.address:
            inner = relayed_data(packet.data)
            if inner is not None and inner[:2] == BINDING_REQUEST:
                checks[packet.data] = packet
        return False

    def keep_relayed_answer(self, packet: Packet, alice: Peer, check: bytes, answers: list[Packet]) -> bool:
        """Note Alice's answers to a check that go by the relay; for `Internet.drop`, drops none."""
        if packet.protocol == "udp" and packet.source[0] == alice.host.address:
            inner = relayed_data(packet.data)
            if inner is not None and inner[:2] == BINDING_SUCCESS and inner[4:20] == check[4:20]:
                answers.append(packet)
        return False

    def test_a_stream_that_is_no_turn(self) -> None:
        """If a relay speaks another protocol, the connection is closed, and others can be used."""
        self.start()
        alice = self.peer(self.home("alice", block_udp=True))
        bob = self.peer(self.home("bob", EASY))

        class SSHBanner(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"SSH-2.0-OpenSSH_9.2p1\r\n" * 10)

        elsewhere = self.net.host("elsewhere", "198.51.100.50", link=self.link)
        elsewhere.reactor.listenTCP(443, Factory.forProtocol(SSHBanner))
        bad = tuple(
            RelayServer(TurnURI("198.51.100.50", 443, transport), "user", "password", "realm", "nonce", 600.0)
            for transport in (TurnTransport.TCP, TurnTransport.TLS)
        )
        alice.node.control_reply(Relays(bad))
        introduce(alice, bob)
        alice.call(bob.id)
        self.net.advance(5.0)
        self.assertEqual(self.ports(), self.idle + 1)
        alice.node.network_changes.renew_relays()
        alice.wait_for(Connected, 10.0)


class FailureTests(RelayTestCase):
    """No relay is available."""

    def test_none_offered(self) -> None:
        """If the rendezvous offers no relay, the error says that one would have helped."""
        self.start(relay=False)
        text = self.refuse(*self.pair())
        self.assertIn("the rendezvous offers this peer no relay", text)
        self.assertIn("another network", text)

    def test_full(self) -> None:
        """If the relay has no allocation left, the error says so."""
        self.start(RendezvousLimits(relay_allocations=1))
        alice, bob = self.pair(block_udp=True)
        self.rendezvous.reports.clear()
        carol = self.peer(self.home("carol"))
        dave = self.peer(self.home("dave", EASY))
        connect(carol, dave)
        self.assertIn("no room", self.refuse(alice, bob))

    def test_a_quota_that_is_used_up(self) -> None:
        """A link that loses its path with the allocation says why, and goes on when there is one again."""
        self.start()
        alice, bob = self.pair()
        connect(alice, bob)
        link = alice.link_to(bob)
        assert self.rendezvous.service.relay is not None
        allocations = self.rendezvous.service.relay.core.allocations
        users = list(allocations.users)
        for limit in (0, None):
            allocations.quotas.own_limit = lambda user: limit  # noqa: B023
            for user in users:
                allocations.quotas.update_limit(user)
            if limit == 0:
                for peer in (alice, bob):
                    text = event_sentence(peer.wait_for(PathLost, 30.0))
                    self.assertIn("used up what the relay grants", text)
        self.net.run_until(lambda: alice.of(PathChanged) and bob.of(PathChanged), 120.0, "a path")
        self.chat(alice, bob)
        self.assertIs(alice.link_to(bob), link)


class SlowedCase(RelayTestCase):
    """A relay that has a limit for each peer."""

    def slowed(self, peer: Peer, other: Peer) -> RelayLimit | None:
        """What the status of a link says."""
        status = peer.link_to(other).status
        assert status is not None
        return status.slowed

    def other_side(self, kind: str) -> tuple[Peer, Peer, Callable[[bytes], None]]:
        """Two linked peers behind NATs of a kind, and what sends SLOWED frames to the first."""
        self.start()
        alice, bob = self.pair(kind, kind)
        connect(alice, bob)
        self.net.advance(10.0)

        def tell(payload: bytes) -> None:
            bob.link_to(alice).send_control(OptionalFrameType.SLOWED, payload)
            self.net.advance(1.0)

        return alice, bob, tell


class RateTests(SlowedCase):
    """The relay carries less than the link would."""

    def test_what_the_other_side_says(self) -> None:
        """The user is told once of a limit that is known here."""
        alice, bob, tell = self.other_side(HARD)
        tell(b"\x04")
        self.assertEqual((alice.of(PathSlowed), self.slowed(alice, bob)), ([], None))
        for _ in range(3):
            tell(bytes([RelayLimit.RELAY]))
        told = [(event.limit, event.there) for event in alice.of(PathSlowed)]
        self.assertEqual(told, [(RelayLimit.RELAY, True)])
        self.assertEqual(self.slowed(alice, bob), RelayLimit.RELAY)

    def test_what_the_other_side_says_of_a_direct_path(self) -> None:
        """No relay slows that. But a frame of another form ends the link."""
        alice, bob, tell = self.other_side(EASY)
        tell(bytes([RelayLimit.RELAY]))
        self.assertEqual((alice.of(PathSlowed), self.slowed(alice, bob)), ([], None))
        tell(b"")
        self.assertEqual([event.reason for event in alice.of(Disconnected)], ["protocol"])
