"""Links through the relay, on the simulated internet with everything else real."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from punch.peer.events import Connected, Disconnected, Failed, PathChanged
from punch.peer.policy import RelayPolicy
from punch.rendezvous.config import Limits
from punch.test.internet import Host, Internet, InternetTestCase, Lan, LinkSpec, Packet, Seen
from punch.test.nat_pairs import nat
from punch.test.system import SERVICE, Peer, Rendezvous, connect, introduce
from punch.test.test_system_nats import path_now
from punch.wire.address import Address
from punch.wire.relays import RelayTransport, RelayURL
from punch.wire.stun import Attribute, Message, MessageClass, Method, encode
from punch.wire.turn import encode_channel_data

HARD = "APDM/APDF"
EASY = "EIM/APDF"


class RelayTestCase(InternetTestCase):
    """Two homes, whose NATs are of some kind, and a rendezvous."""

    link = LinkSpec(delay=0.02)

    def setUp(self) -> None:
        self.net: Internet = self.internet()
        self.homes = 0

    def start(self, limits: Limits | None = None, *, control: str = "tcp:7001", relay: bool = True) -> None:
        """Start the rendezvous."""
        host = self.net.host("rendezvous", SERVICE)
        self.rendezvous = Rendezvous(self.net, host, limits, control=control, relay=relay)
        self.idle = self.ports()

    def ports(self) -> int:
        """What the rendezvous has open: one more for each allocation."""
        return len(self.rendezvous.host.reactor.open_ports)

    def home(self, name: str, kind: str = HARD, *, block_udp: bool = False) -> Host:
        """A host alone behind a NAT."""
        self.homes += 1
        router = nat(kind, f"203.0.113.{self.homes}")
        router.block_udp = block_udp
        return self.net.lan(name, f"192.168.{self.homes}.0/24", nat=router, link=self.link).host(name)

    def peer(self, host: Host, relay: RelayPolicy = RelayPolicy.AUTO) -> Peer:
        """A registered peer."""
        return Peer(self.net, host, self.rendezvous.address, relay=relay).register()

    def pair(self, one: str = HARD, other: str = HARD, block_udp: bool = False) -> tuple[Peer, Peer]:
        """Two registered peers."""
        return (
            self.peer(self.home("alice", one, block_udp=block_udp)),
            self.peer(self.home("bob", other, block_udp=block_udp)),
        )

    def chat(self, alice: Peer, bob: Peer, count: int = 20) -> None:
        """Messages cross, each way, in order."""
        wanted = len(alice.messages) + count, len(bob.messages) + count
        for number in range(count):
            alice.chat.send(bob.id, f"a{number}")
            bob.chat.send(alice.id, f"b{number}")
        self.net.run_until(lambda: (len(alice.messages), len(bob.messages)) == wanted, 20.0, "the messages")
        self.assertEqual(bob.texts()[-count:], [f"a{number}" for number in range(count)])
        self.assertEqual(alice.texts()[-count:], [f"b{number}" for number in range(count)])

    def refuse(self, caller: Peer, callee: Peer) -> str:
        """The call ends on both sides; returns the caller's sentence."""
        introduce(caller, callee)
        caller.node.call(callee.id)
        failed = caller.wait_for(Failed, 90.0)
        self.assertEqual(failed.reason, "unreachable")
        self.assertEqual(callee.wait_for(Failed, 90.0).reason, "unreachable")
        self.assertEqual(caller.of(Connected) + callee.of(Connected), [])
        return failed.text


class ConnectTests(RelayTestCase):
    """Whatever a network lets through, it is enough."""

    def test_one_open_tcp_port(self) -> None:
        """Nothing but TCP to port 443 leaves either network: connected within two seconds, and chatting."""
        self.start(control="tcp:443")

        def not_web(packet: Packet) -> bool:
            return packet.protocol != "tcp" or 443 not in (packet.source[1], packet.destination[1])

        inside = ("192.168.1.", "192.168.2.", "203.0.113.")
        self.net.drop = lambda packet: not_web(packet) and packet.source[0].startswith(inside)
        alice, bob = self.pair()
        start = self.net.now
        here, there = connect(alice, bob)
        self.assertLess(self.net.now - start, 2.0)
        self.assertEqual((here.path, there.path), ("relay", "relay"))
        self.assertEqual({here.local.host, here.remote.host}, {SERVICE})
        self.chat(alice, bob)

    def test_time_to_connect(self) -> None:
        """No slower than a direct link by more than a round trip or two."""
        self.start()
        alice, bob = self.pair()
        start = self.net.now
        connect(alice, bob)
        self.assertLess(self.net.now - start, 0.6)
        self.chat(alice, bob)

    def test_only_tls_gets_through(self) -> None:
        """A firewall that looks for TLS: plain TURN over TCP is cut off, TURN over TLS isn't."""
        self.start()
        trace: list[Seen] = []

        def plain(packet: Packet) -> bool:
            if packet.protocol == "udp":
                return True
            data = bytes(getattr(packet.payload, "data", b""))
            return bool(data) and data[0] in (0x00, 0x01) and data[4:8] == b"\x21\x12\xa4\x42"

        self.net.drop = plain
        self.net.trace = trace
        alice, bob = self.pair()
        here, _ = connect(alice, bob)
        self.assertEqual(here.path, "relay")
        self.chat(alice, bob)

    def test_a_hundred_kilobytes(self) -> None:
        """More than fits a TCP buffer, over a slow line that only lets TCP out."""
        self.link = LinkSpec(delay=0.02, rate=2_000_000)
        self.start()
        alice, bob = self.pair(block_udp=True)
        connect(alice, bob)
        text = "x" * 1000
        for _ in range(100):
            alice.chat.send(bob.id, text)
        self.net.run_until(lambda: len(alice.delivered) == 100, 30.0)
        self.assertEqual(bob.texts(), [text] * 100)


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
        indication = Message(
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
            replace(server, url=RelayURL("198.51.100.50", 443, server.url.transport), pin=None)
            for server in known
            if server.url.transport is not RelayTransport.UDP
        )
        self.assertEqual(len(bad), 2)
        alice.node._network.relays.update(bad)
        introduce(alice, bob)
        alice.node.call(bob.id)
        self.net.advance(5.0)
        self.assertEqual(self.ports(), self.idle + 1)
        alice.node._network.relays.update(known)
        alice.wait_for(Connected, 10.0)


class PolicyTests(RelayTestCase):
    """`--relay never` and `--relay only`."""

    def test_never(self) -> None:
        """On either side it is enough, whoever calls: nothing crosses a relay, and the sentence says why."""
        self.start()
        never, auto = RelayPolicy.NEVER, RelayPolicy.AUTO
        for number, (one, other) in enumerate([(never, auto), (auto, never), (never, never)]):
            alice = self.peer(self.home(f"alice-{number}"), one)
            bob = self.peer(self.home(f"bob-{number}"), other)
            text = self.refuse(alice, bob)
            self.assertIn("There is no path to", text)
            if one is never:
                self.assertIn("--relay never", text)

    def test_never_where_a_direct_path_exists(self) -> None:
        """Nothing is missed, and nothing is allocated."""
        self.start()
        alice = self.peer(self.home("alice", EASY), RelayPolicy.NEVER)
        bob = self.peer(self.home("bob", EASY), RelayPolicy.NEVER)
        here, _ = connect(alice, bob)
        self.assertNotEqual(here.path, "relay")
        self.assertEqual(self.ports(), self.idle)

    def test_only(self) -> None:
        """Where a direct path exists it isn't taken, and neither side's addresses reach the other."""
        self.start()
        alice = self.peer(self.home("alice", EASY), RelayPolicy.ONLY)
        bob = self.peer(self.home("bob", EASY))
        trace: list[Seen] = []
        self.net.trace = trace
        here, there = connect(alice, bob)
        self.net.advance(10.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))
        self.assertEqual((here.local.host, there.remote.host), (SERVICE, SERVICE))
        self.chat(alice, bob)
        between = {
            (seen.source[0], seen.destination[0])
            for seen in trace
            if SERVICE not in (seen.source[0], seen.destination[0])
        }
        self.assertEqual([pair for pair in between if "203.0.113.1" in pair], [])

    def changes(self, alice: Peer, bob: Peer, relayed: bool) -> None:
        """Another public address, another network, and sleep: the path is always of the kind that it was."""
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
            paths = [path_now(here, there), *(event.path for event in here.of(PathChanged))]
            self.assertEqual({path == "relay" for path in paths}, {relayed})
        self.assertIs(alice.link_to(bob), link)

    def test_only_through_changes(self) -> None:
        """Restarts tell no addresses either, and nothing passes by the relay."""
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
        """On one side it is enough: nothing goes through a relay, even if the path is gone for a moment."""
        self.start()
        alice = self.peer(self.home("alice", EASY), RelayPolicy.NEVER)
        bob = self.peer(self.home("bob", EASY))
        connect(alice, bob)
        self.changes(alice, bob, False)

    def test_only_without_a_relay(self) -> None:
        """There is no way, and the sentence says so."""
        self.start(relay=False)
        alice = self.peer(self.home("alice", EASY), RelayPolicy.ONLY)
        self.assertIn("no relay", self.refuse(alice, self.peer(self.home("bob", EASY))))


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
        self.start(Limits(relay_allocations=1))
        alice, bob = self.pair(block_udp=True)
        self.rendezvous.reports.clear()
        carol = self.peer(self.home("carol"))
        dave = self.peer(self.home("dave", EASY))
        connect(carol, dave)
        self.assertIn("no room", self.refuse(alice, bob))


class AllocationTests(RelayTestCase):
    """When relays are asked, and when they are left alone."""

    def test_given_back_when_a_direct_path_is_stable(self) -> None:
        """Some seconds after the link has become direct, the relay has nothing left of it."""
        self.start()
        alice, bob = self.pair(EASY, EASY)
        connect(alice, bob)
        self.assertEqual(self.ports(), self.idle + 2)
        self.net.advance(30.0)
        self.assertEqual(self.ports(), self.idle)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])
        self.chat(alice, bob)

    def test_given_back_after_the_call(self) -> None:
        """Some seconds after the last link that needed it."""
        self.start()
        alice, bob = self.pair()
        connect(alice, bob)
        self.net.advance(40.0)
        self.assertGreater(self.ports(), self.idle)
        alice.node.hangup(bob.id)
        self.net.advance(8.0)
        self.assertEqual(self.ports(), self.idle)

    def test_given_back_when_a_peer_stops(self) -> None:
        """At once, over UDP and TCP."""
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
        """Permissions, channels, nonces and credentials expire many times over, and nobody notices."""
        for number, block in enumerate((False, True)):
            self.setUp()
            self.start(Limits(relay_credentials_time=300.0, relay_nonce_time=90.0))
            alice, bob = self.pair(block_udp=block)
            connect(alice, bob)
            for _ in range(5):
                self.net.advance(300.0)
                self.chat(alice, bob, 3)
            self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [], number)
            self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))

    def test_an_idle_peer_allocates_nothing(self) -> None:
        """Being registered costs the relay nothing."""
        self.start()
        self.pair()
        self.net.advance(600.0)
        self.assertEqual(self.ports(), self.idle)


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
                    ends = [event.text for event in peer.of(Failed)]
                    ends += [event.text for event in peer.of(Disconnected)]
                    self.assertTrue(ends[-1].endswith("."), ends)
                connect(alice, bob)
            self.chat(alice, bob, 3)
            alice.stop()
            bob.stop()


class MoveTests(RelayTestCase):
    """From the relay to a direct path, with data on its way."""

    def test_a_direct_path_that_opens_late(self) -> None:
        """The relay carries the link at once; nothing is lost when it moves."""
        self.start()
        late = self.net.now + 3.0
        homes = ("203.0.113.1", "203.0.113.2")
        self.net.drop = lambda packet: (
            self.net.now < late and packet.source[0] in homes and packet.destination[0] in homes
        )
        alice, bob = self.pair(EASY, EASY)
        late = self.net.now + 2.0
        here, _ = connect(alice, bob)
        self.assertEqual(here.path, "relay")
        for number in range(200):
            alice.chat.send(bob.id, str(number))
            self.net.advance(0.02)
        self.net.run_until(lambda: len(bob.messages) == 200, 10.0)
        self.assertEqual(bob.texts(), [str(number) for number in range(200)])
        self.assertNotEqual(path_now(alice, bob), "relay")
        self.assertNotEqual(path_now(bob, alice), "relay")
        self.assertGreaterEqual(len(alice.of(PathChanged)), 1)
