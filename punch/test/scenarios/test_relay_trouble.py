"""The relay and the way to it when something is wrong: lost packets, strangers, no room, a restart."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from punch.node.events import CallFailed, Connected, Disconnected
from punch.node.policy import RelayPolicy
from punch.rendezvous.config import RendezvousLimits
from punch.test.relayed import EASY, RelayTestCase
from punch.test.system import SERVICE, Peer, connect, introduce
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
)
from punch.wire.turn import encode_channel_data
from punch.wire.turn_uri import TurnTransport, TurnURI


class CarrierTests(RelayTestCase):
    """UDP, TCP or TLS: what answers first is taken, and what is better later."""

    def relays(self, peer: Peer) -> list[str]:
        """How the peer reaches its relays now."""
        return sorted(relay.source.partition("=")[2] for relay in peer.node._network.relays.current)

    def test_a_first_request_that_is_lost(self) -> None:
        """TCP wins; the late answer over UDP is taken all the same, and the link moves to it."""
        self.start()
        alice, bob = self.pair()
        start = self.net.now
        self.net.drop = lambda packet: (
            packet.protocol == "udp"
            and SERVICE in (packet.source[0], packet.destination[0])
            and self.net.now < start + 0.5
        )
        here, _ = connect(alice, bob)
        self.assertEqual(here.path, "relay")
        self.assertIn("tcp", self.relays(alice) + self.relays(bob))
        self.net.advance(3.0)
        self.assertIn("udp", self.relays(alice))
        self.assertIn("udp", self.relays(bob))
        for peer, other in ((alice, bob), (bob, alice)):
            session = peer.node._sessions.links[other.id]
            assert session.pair is not None
            best = max(
                session.pair.local.priority if session.pair.local.type.value == "relay" else 0,
                session.pair.remote.priority if session.pair.remote.type.value == "relay" else 0,
            )
            self.assertGreater(best >> 8 & 0xFFFF, 0x7FFF)
        self.chat(alice, bob)

    def test_udp_alone_where_it_works(self) -> None:
        """No TCP connection is made for nothing."""
        self.start()
        alice, bob = self.pair()
        connect(alice, bob)
        self.net.advance(1.0)
        self.assertEqual((self.relays(alice), self.relays(bob)), (["udp"], ["udp"]))


class HostileTests(RelayTestCase):
    """Who is not our relay can't play it."""

    def test_strangers_with_channel_data(self) -> None:
        """
        From another port of the relay's own host, from elsewhere, or to another socket: what looks like
        ChannelData, Data indications or answers of TURN is dropped, and the link goes on.
        """
        self.start()
        alice = self.peer(self.net.host("alice", "198.51.100.77", link=self.link))
        bob = self.peer(self.home("bob"))
        alice.node._around.relay_policy = RelayPolicy.ONLY
        connect(alice, bob)
        self.chat(alice, bob)
        (relay,) = alice.node._network.relays.current
        assert relay.base is not None
        heard: list[object] = []
        session = alice.node._sessions.links[bob.id]
        original = session.receive_link
        peer = Address(path.remote.host, path.remote.port) if (path := alice.last(Connected)) else None
        assert peer is not None
        indication = StunMessage(
            Method.DATA,
            MessageClass.INDICATION,
            bytes(12),
            ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, b"\x41" + bytes(30))),
        )
        forged = [
            encode_channel_data(0x4000 + number, b"\x41" + bytes(30), padded=False) for number in range(4)
        ]
        forged += [encode(indication), b"\x40", b"\x40\x00\xff\xff", b""]

        def spy(datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
            heard.extend((data, remote, local) for data in datagrams if len(data) == 31)
            original(datagrams, remote, local)

        self.patch(session, "receive_link", spy)
        stranger = self.net.host("stranger", "198.51.100.99", link=self.link)
        for host in (stranger, self.rendezvous.host):
            sender = DatagramProtocol()
            host.reactor.listenUDP(7777, sender)
            assert sender.transport is not None
            for data in forged:
                sender.transport.write(data, (relay.base.host, relay.base.port))
        self.net.advance(1.0)
        self.assertEqual(heard, [])
        self.chat(alice, bob)

    def test_a_stream_that_is_no_turn(self) -> None:
        """What answers at the relay's port speaks something else: the connection ends, and that was all."""
        self.start()
        alice = self.peer(self.home("alice", block_udp=True))
        bob = self.peer(self.home("bob", EASY))

        class Nonsense(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"SSH-2.0-OpenSSH_9.2p1\r\n" * 10)

        elsewhere = self.net.host("elsewhere", "198.51.100.50", link=self.link)
        elsewhere.reactor.listenTCP(443, Factory.forProtocol(Nonsense))
        known = alice.node._network.relays._servers
        bad = tuple(
            replace(server, url=TurnURI("198.51.100.50", 443, server.url.transport), pin=None)
            for server in known
            if server.url.transport is not TurnTransport.UDP
        )
        self.assertEqual(len(bad), 2)
        alice.node._network.relays.update(bad)
        introduce(alice, bob)
        alice.node.call(bob.id)
        self.net.advance(5.0)
        self.assertEqual(self.ports(), self.idle + 1)
        alice.node._network.relays.update(known)
        alice.wait_for(Connected, 10.0)


class FailureTests(RelayTestCase):
    """No relay to be had."""

    def test_none_offered(self) -> None:
        """A rendezvous that relays nothing: the sentence says that one would have helped."""
        self.start(relay=False)
        text = self.refuse(*self.pair())
        self.assertIn("the rendezvous has no relay to offer", text)
        self.assertIn("another network", text)

    def test_full(self) -> None:
        """A relay that has given away all that it has."""
        self.start(RendezvousLimits(relay_allocations=1))
        alice, bob = self.pair(block_udp=True)
        self.rendezvous.reports.clear()
        carol = self.peer(self.home("carol"))
        dave = self.peer(self.home("dave", EASY))
        connect(carol, dave)
        self.assertIn("no room", self.refuse(alice, bob))


class RestartTests(RelayTestCase):
    """The rendezvous, and the relay with it, goes and comes back."""

    def test_in_the_middle_of_a_relayed_link(self) -> None:
        """
        Over UDP and TCP: the same link goes on within five seconds of the return, nothing is lost. Over TCP
        nothing tells of the return but another try.
        """
        for block, outage in ((False, 1.0), (True, 1.0), (False, 4.0), (True, 4.0), (True, 100.0)):
            self.setUp()
            self.start()
            alice, bob = self.pair(block_udp=block)
            connect(alice, bob)
            link = alice.link_to(bob)
            self.net.advance(10.0)
            self.rendezvous.stop()
            alice.chat.send(bob.id, "while it is away")
            self.net.advance(outage)
            self.rendezvous.start()
            self.net.run_until(lambda: bob.messages, 5.0, f"the message ({block}, {outage})")  # noqa: B023
            self.chat(alice, bob)
            self.assertIs(alice.node.link(bob.id), link)
            self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])

    def test_attempts_that_hang(self) -> None:
        """Those of before the return are given up, all of them, and end without a word."""
        self.start()
        alice, bob = self.pair(block_udp=True)
        connect(alice, bob)
        self.rendezvous.host.down()
        alice.chat.send(bob.id, "while it is away")
        self.net.advance(40.0)
        pool = alice.node._network.relays
        hanging = list(pool._attempts)
        self.assertGreater(len(hanging), 1)
        pool.update(pool._servers)
        self.assertEqual([relay for relay in hanging if relay in pool._attempts], [])
        self.net.advance(15.0)
        gc.collect()  # Failures that nobody takes are told when they are collected
        self.rendezvous.host.up()
        self.net.run_until(lambda: bob.messages, 6.0, "the message")

    def test_in_the_middle_of_an_introduction(self) -> None:
        """At whatever moment: the call ends in a link or in a sentence, and the next one in a link."""
        self.start()
        for number in range(8):
            alice, bob = (
                self.peer(self.home(f"{name}-{number}", block_udp=bool(number % 2)))
                for name in ("alice", "bob")
            )
            introduce(alice, bob)
            alice.node.call(bob.id)
            self.net.advance(0.03 + 0.06 * number)
            self.rendezvous.stop()
            self.net.advance(0.5)
            self.rendezvous.start()
            alice.wait_for_end(120.0)
            self.net.advance(60.0)
            if alice.node.link(bob.id) is None:
                for peer in (alice, bob):
                    ends = [event.text for event in peer.of(CallFailed)]
                    ends += [event.text for event in peer.of(Disconnected)]
                    self.assertTrue(ends[-1].endswith("."), ends)
                connect(alice, bob)
            self.chat(alice, bob, 3)
            alice.stop()
            bob.stop()
