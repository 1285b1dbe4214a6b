"""
Faults of the program that Punch grew from, as far as they concern peers; Punch must not have them.

Plaintext accepted on an encrypted channel; re-keying by anyone at any time; IDs never checked against keys; a
registration overwritten by whoever says the name; one stray packet ending the client; replies to malformed
packets; unbounded tables; IPv6 addresses unparsable; five tries 3 s apart, no keepalive.
"""

from __future__ import annotations

from twisted.internet.protocol import DatagramProtocol

from punch.ice.checks import IceCredentials
from punch.link.core import LinkCore
from punch.link.events import LinkRole
from punch.link.proof import LinkCertificate
from punch.node.events import (
    CallFailed,
    Connected,
    Disconnected,
    IncomingCall,
    Registered,
)
from punch.node.policies import RelayPolicy
from punch.test.internet import NAT, Host, LinkSpec, Packet
from punch.test.system import DualStackTestCase, Peer, SystemTestCase, connect, introduce
from punch.ui.text.causes import event_sentence
from punch.wire.address import Address
from punch.wire.framing import DatagramKind, classify
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)


class AttackerSocket(DatagramProtocol):
    """The socket of an attacker; records the answers that it gets."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        """An answer."""
        self.received.append(datagram)


class StrayPacketCase(SystemTestCase):
    """A system with somebody who sends what does not belong there."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.open_peer("alice")
        self.bob = self.open_peer("bob")
        self.attacker = self.net.host("attacker")
        self.stray = AttackerSocket()
        self.ufrag = ""
        self.net.drop = self.eavesdrop
        self.attacker.reactor.listenUDP(4444, self.stray)

    def open_peer(self, name: str) -> Peer:
        """A peer that anybody can send to."""
        peer = Peer(self.net, self.net.host(name, link=self.link), self.rendezvous.address, pacing=0.02)
        self.peers.append(peer)
        return peer.register()

    def target(self) -> Address:
        """Bob's socket."""
        return self.bob.node.status.sockets[0]

    def eavesdrop(self, packet: Packet) -> bool:
        """
        Note the user name fragment in the first connectivity check to Bob, as somebody on the way can; for
        `Internet.drop`.

        :return: False: no packet is dropped.
        """
        to_bob = packet.protocol == "udp" and packet.destination[0] == self.bob.host.address
        if to_bob and not self.ufrag and classify(packet.data) is DatagramKind.STUN:
            username = parse(packet.data).get(Attribute.USERNAME)
            if isinstance(username, str):
                self.ufrag = username.partition(":")[0]
        return False

    def send(self, data: bytes) -> None:
        """Send a datagram from the attacker to Bob."""
        transport, target = self.stray.transport, self.target()
        assert transport is not None
        transport.write(data, (target.host, target.port))

    def inject(self, data: bytes, source: Address) -> None:
        """Deliver a datagram with a forged source address to Bob."""
        target = self.target()
        packet = Packet("udp", (source.host, source.port), (target.host, target.port), data, len(data) + 28)
        self.net.public.forward(packet)

    def garbage(self) -> list[bytes]:
        """Datagrams with each first byte, of many lengths, and a STUN message truncated at each byte."""
        self.assertTrue(self.ufrag)
        credentials = IceCredentials("someone", "p" * 24)
        binding = encode(
            StunMessage(
                Method.BINDING,
                MessageClass.REQUEST,
                bytes(12),
                ((Attribute.USERNAME, f"{self.ufrag}:x"), (Attribute.PRIORITY, 1)),
            ),
            credentials.key,
        )
        noise = self.net.random("noise")
        return [
            b"",
            bytes(65_507),
            *(bytes([first]) * 40 for first in range(256)),
            *(binding[:length] for length in range(len(binding) + 1)),
            *(noise.randbytes(noise.randrange(1500)) for _ in range(200)),
            b"hello, this is a message in the clear\n",
        ]

    def assert_unharmed(self) -> None:
        """Check that the link has not ended, has delivered nothing, and still works."""
        for peer in (self.alice, self.bob):
            self.assertEqual(peer.of(Disconnected) + peer.of(CallFailed), [])
            self.assertEqual(len(peer.of(Connected)), 1)
        self.assertEqual(self.bob.messages, [])
        self.alice.chat.send(self.bob.id, "well")
        self.net.run_until(lambda: self.alice.delivered, 5.0)
        self.assertEqual(self.bob.texts(), ["well"])

    def initial(self) -> bytes:
        """The first datagram of a QUIC client that pretends to be Alice."""
        core = LinkCore(
            role=LinkRole.CALLER,
            identity=self.bob.identity,
            remote=self.alice.id,
            offer_digest=bytes(32),
            answer_digest=bytes(32),
            certificate_sha256=LinkCertificate.generate().sha256,
            now=self.net.now,
        )
        core.start(self.net.now)
        return core.datagrams_to_send(self.net.now)[0]

    def sizes(self) -> tuple[int, int]:
        """How many connection IDs Bob's node knows, and how many candidate pairs it has with Alice."""
        return self.bob.node.status.connection_ids, len(self.bob.node.pairs(self.alice.id))


class StrayPacketTests(StrayPacketCase):
    """Datagrams from strangers, and from the other side's address without its keys."""

    def test_strangers_get_silence(self) -> None:
        """Malformed packets end no link and get no answer."""
        connect(self.alice, self.bob)
        for data in self.garbage():
            self.send(data)
        self.net.advance(5.0)
        well_formed = [data for data in self.stray.received if data[:2] != b"\x01\x11"]
        self.assertEqual(well_formed, [])
        self.assertLessEqual(len(self.stray.received), 1)
        self.assert_unharmed()

    def test_plaintext_from_the_right_address(self) -> None:
        """
        Nothing that is not encrypted for this link is ever taken, even from the address of the other side.
        """
        connect(self.alice, self.bob)
        source = self.alice.node.status.sockets[0]
        for data in self.garbage():
            if len(data) < 1400:
                self.inject(data, source)
        self.net.advance(5.0)
        self.assert_unharmed()

    def test_nobody_changes_the_keys(self) -> None:
        """New handshakes from the right address do not change the keys of a link."""
        connect(self.alice, self.bob)
        source = self.alice.node.status.sockets[0]
        for _ in range(10):
            self.inject(self.initial(), source)
        self.net.advance(10.0)
        self.assert_unharmed()


class IdentityTests(SystemTestCase):
    """Identities: names and keys."""

    def test_two_peers_of_one_name(self) -> None:
        """Two peers with the same name are told apart, and each gets its own calls."""
        alice = self.peer("alice").register()
        first = Peer(self.net, self.host("one"), self.rendezvous.address, name="bob").register()
        second = Peer(self.net, self.host("two"), self.rendezvous.address, name="bob").register()
        self.peers += [first, second]
        connect(alice, first)
        self.assertEqual(second.of(IncomingCall), [])
        self.assertEqual(alice.last(Connected).peer, first.id)

    def test_an_id_is_a_key(self) -> None:
        """
        Whoever does not hold the key is not called under the ID: the registration comes from the certificate.
        """
        alice, bob = self.peer("alice").register(), self.peer("bob")
        mallory = Peer(self.net, self.host("mallory"), self.rendezvous.address, name=str(bob.id)).register()
        self.peers.append(mallory)
        alice.call(bob.id)
        self.assertEqual(alice.wait_for(CallFailed, 5.0).reason, "not-registered")
        self.assertEqual(mallory.of(IncomingCall), [])


class PersistenceTests(SystemTestCase):
    """Long waits, during which nothing may be given up."""

    def test_idle_peer_can_be_called(self) -> None:
        """An idle peer behind a NAT can be called after ten minutes."""
        alice, bob = self.pair()
        self.net.advance(600.0)
        self.assertEqual(len(bob.of(Registered)), 1)
        connect(alice, bob)

    def test_checks_are_not_given_up_after_seconds(self) -> None:
        """If UDP works only after 20 s, the call still connects, even without the relay."""
        direct = RelayPolicy.NEVER
        alice, bob = (
            Peer(self.net, self.host(name), self.rendezvous.address, pacing=0.02, relay=direct).register()
            for name in ("alice", "bob")
        )
        self.peers += [alice, bob]
        introduce(alice, bob)
        self.net.advance(2.0)
        start = self.net.now
        self.net.drop = lambda packet: packet.protocol == "udp" and self.net.now < start + 20.0
        alice.call(bob.id)
        alice.wait_for(Connected, 60.0)
        self.assertGreater(self.net.now, start + 20.0)

    def test_a_slow_answer(self) -> None:
        """A call that the user accepts after 55 s connects."""
        alice, bob = self.pair()
        alice.call(bob.id)
        bob.wait_for(IncomingCall, 5.0)
        self.net.advance(55.0)
        bob.node.accept(alice.id)
        alice.wait_for(Connected, 10.0)


class IPv6Tests(DualStackTestCase):
    """Links over IPv6, and peers with one address family each."""

    def start(self, host: Host, relay: RelayPolicy = RelayPolicy.AUTO) -> Peer:
        """A peer of the service that has both families."""
        peer = Peer(self.net, host, self.dual.address, pacing=0.02, relay=relay)
        self.peers.append(peer)
        return peer.register()

    def test_ipv6_only(self) -> None:
        """Two networks without IPv4, each behind a firewall, connect directly."""
        link = LinkSpec(delay=0.02)
        one = self.net.lan("one", ipv6="2001:db8:1::/64", link=link)
        two = self.net.lan("two", ipv6="2001:db8:2::/64", link=link)
        alice, bob = self.start(one.host("alice")), self.start(two.host("bob"))
        here, there = connect(alice, bob)
        self.assertEqual(here.path.kind, "host")
        self.assertIn(":", here.path.remote.host)
        self.assertEqual(there.path.local, here.path.remote)
        self.assertEqual(len(alice.node.status.reflectors), 2)

    def test_one_has_both(self) -> None:
        """If one side has both address families, the common one is used."""
        nat = NAT(public="203.0.113.1")
        one = self.net.lan("one", "192.168.1.0/24", ipv6="2001:db8:1::/64", nat=nat)
        two = self.net.lan("two", ipv6="2001:db8:2::/64")
        here, _ = connect(self.start(one.host("alice")), self.start(two.host("bob")))
        self.assertIn(":", here.path.remote.host)

    def test_no_family_in_common(self) -> None:
        """Without a common family the relay is used; if it may not be, the error names both families."""
        one = self.net.lan("one", "192.168.1.0/24", nat=NAT(public="203.0.113.1"))
        two = self.net.lan("two", ipv6="2001:db8:2::/64")
        here, _ = connect(self.start(one.host("anna")), self.start(two.host("ben")))
        self.assertEqual(here.path.kind, "relay")
        never = RelayPolicy.NEVER
        alice, bob = self.start(one.host("alice"), never), self.start(two.host("bob"), never)
        introduce(alice, bob)
        alice.call(bob.id)
        failed = alice.wait_for(CallFailed, 130.0)
        self.assertEqual(failed.reason, "unreachable")
        self.assertIn("IPv4", event_sentence(failed))
        self.assertIn("IPv6", event_sentence(failed))
