"""What strangers and hostile peers can do about attempts over TCP."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory

from punch.ice.budget import MAX_BYTES, MAX_CONNECTS, MAX_PACKETS
from punch.link.control_stream import ControlFrameType, OptionalFrameType
from punch.link.link import Link
from punch.node.network.tcp_connections import MAX_UNPROVED_OF_ONE
from punch.node.punching.tcp_attempt import CHECK_TIME, TIDY_GAP
from punch.test.internet import (
    NAT,
    Host,
    Ports,
)
from punch.test.scenarios.tcp_punching import ALICE, BOB, VICTIM, TCPTestCase
from punch.test.system import SERVICE, hear_nothing
from punch.wire.address import Address, TCPAddress
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType
from punch.wire.peers.link_frames import Restart, TCPCandidates


class Stranger(Protocol):
    """Connects, says something, and notes the end."""

    def __init__(self, say: bytes) -> None:
        self.say = say
        self.received = b""
        self.made_at = self.lost_at = 0.0
        self.now: Callable[[], float] = lambda: 0.0

    def connectionMade(self) -> None:
        self.made_at = self.now()
        assert self.transport is not None
        if self.say:
            self.transport.write(self.say)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost_at = self.now()


class _Service(Stranger):
    """Notes what it is sent, and may close the connection then."""

    closes = False

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.closes:
            assert self.transport is not None
            self.transport.loseConnection()


class Server(ServerFactory):
    """
    A service of somebody else, which accepts everybody.

    :ivar closes: whether it ends a connection on which a connectivity check comes.
    """

    noisy = False

    def __init__(self, now: Callable[[], float]) -> None:
        self.connections: list[Stranger] = []
        self.closes = False
        self._now = now

    def buildProtocol(self, addr: object) -> Stranger:
        stranger = _Service(b"")
        stranger.closes = self.closes
        stranger.now = self._now
        self.connections.append(stranger)
        return stranger


class _Strangers(ClientFactory):
    noisy = False

    def __init__(self, protocol: Stranger) -> None:
        self.stranger = protocol

    def buildProtocol(self, addr: object) -> Stranger:
        return self.stranger


class HostileTests(TCPTestCase):
    """Bob has a public address, and alice's SYNs are lost, so that bob's port stays open for a while."""

    def setUp(self) -> None:
        self.place(None)
        self.stranger = self.net.host("stranger", "198.51.100.66")
        self.lost = True
        self.net.drop = lambda packet: (
            self.lost
            and packet.protocol == "tcp"
            and {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        )
        self.call()
        self.wait(lambda: self.listening(self.bob), 5.0)
        (self.port,) = self.listening(self.bob)

    def connect(self, say: bytes, host: Host | None = None, port: int = 0) -> Stranger:
        """Have a stranger connect to bob's port, by default that of his first attempt."""
        protocol = Stranger(say)
        protocol.now = lambda: self.net.now
        (host or self.stranger).reactor.connectTCP(BOB, port or self.port, _Strangers(protocol))
        return protocol

    def test_strangers(self) -> None:
        """Garbage ends a connection at once, silence soon; neither hears anything. The call succeeds."""
        said = {
            "http": b"GET / HTTP/1.1\r\n\r\n",
            "long": b"\x07\xd1" + bytes(100),
            "empty": b"\0\0",
            "tls": b"\x16\x03\x01\x02\x00\x01",
            "silent": b"",
            "slow": b"\x04",
            "stun": b"\0\x14\0\x01\0\0\x21\x12\xa4\x42" + bytes(12),
            "quic": b"\0\x20" + b"\xc0\0\0\0\x01" + bytes(27),
        }
        strangers = {
            name: self.connect(text, self.net.host(name, f"198.51.100.{70 + number}"))
            for number, (name, text) in enumerate(said.items())
        }
        self.net.advance(0.5)
        for name in ("http", "long", "empty", "tls"):
            self.assertGreater(strangers[name].lost_at, 0.0, name)
        self.lost = False
        self.net.advance(CHECK_TIME + 2 * TIDY_GAP)
        for name, stranger in strangers.items():
            self.assertGreater(stranger.made_at, 0.0, name)
            self.assertGreater(stranger.lost_at, 0.0, name)
            self.assertLess(stranger.lost_at, stranger.made_at + CHECK_TIME + 2 * TIDY_GAP, name)
            self.assertEqual(stranger.received, b"", name)
        self.wait(lambda: self.over_tcp, 20.0)
        self.stop()

    def test_many(self) -> None:
        """One address has few connections, and takes no room of the other side."""
        strangers = [self.connect(b"") for _ in range(200)]
        self.net.advance(1.0)
        held = [each for each in strangers if each.made_at and not each.lost_at]
        self.assertEqual(len(held), MAX_UNPROVED_OF_ONE)
        self.lost = False
        self.wait(lambda: self.over_tcp, 20.0)
        self.stop()

    def test_nobody_is_expected(self) -> None:
        """When the attempt is over, bob listens no more."""
        self.lost = False
        self.wait(lambda: self.over_tcp, 10.0)
        self.net.advance(5.0)
        self.assertEqual(self.listening(self.bob), [])
        self.assertEqual(self.connect(b"").made_at, 0.0)
        self.stop()

    def test_victims(self) -> None:
        """
        Alice names others' addresses, again and again. Services below port 1024, private and loopback
        addresses get nothing, others at most the packets that any peer may cause.
        """
        self.net.trace = []
        self.net.advance(0.6)
        self.say(self.named(VICTIM, 22, 25, 443), 50)
        self.net.advance(3.0)
        self.assertEqual([each for each in self.net.trace if each.destination[0] == VICTIM], [])
        self.say(self.named(VICTIM, 8080), 51)
        self.net.advance(10.0)
        self.assertTrue([each for each in self.net.trace if each.destination == (VICTIM, 8080)])
        hosts = (VICTIM, SERVICE, "127.0.0.1", "10.0.0.1", "169.254.1.1", "192.168.1.2", "198.18.0.1", "::1")
        for number in range(24):
            self.say(self.named(hosts[number % 8], 22, 8000 + number, 9000 + number), 100 + number)
            self.net.advance(10.0)
        sent = [
            each
            for each in self.net.trace
            if each.source[0] == BOB and each.protocol == "tcp" and each.link == "bob up"
        ]
        there = [each for each in sent if each.destination[0] != SERVICE or each.destination[1] >= 8000]
        self.assertLessEqual(len(there), min(MAX_CONNECTS, MAX_PACKETS))
        self.assertLessEqual(sum(each.size for each in there), MAX_BYTES)
        self.assertEqual([each.destination for each in there if each.destination[1] < 1024], [])
        self.assertEqual({each.destination[0] for each in there} - {VICTIM, SERVICE, ALICE}, set())
        self.stop()

    def test_own_addresses(self) -> None:
        """Alice names bob's own address, where a service of his listens: he does not connect to it."""
        server = Server(lambda: self.net.now)
        self.bob.host.reactor.listenTCP(8006, server)
        self.net.advance(5.0)
        before = self.syns(self.bob)
        self.say(self.named(BOB, 8006), 50)
        self.net.advance(5.0)
        self.assertEqual(server.connections, [])
        self.assertEqual(self.syns(self.bob), before)

    def test_own_addresses_without_sockets(self) -> None:
        """The same is true of addresses that he uses for nothing else: there are too many, or deprecated."""
        self.stop()
        deprecated = "203.0.113.250"
        self.place(None, own_addresses=lambda: [BOB, deprecated])
        server = Server(lambda: self.net.now)
        self.net.host("deprecated", deprecated).reactor.listenTCP(8006, server)
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        self.call()
        self.net.advance(5.0)
        before = self.syns(self.bob)
        self.say(self.named(deprecated, 8006), 50)
        self.net.advance(5.0)
        self.assertEqual(server.connections, [])
        self.assertEqual(self.syns(self.bob), before)
        self.stop()

    def test_others_come_and_go(self) -> None:
        """Strangers who connect all the time do not keep another one's silent connection open."""
        silent = self.connect(b"")
        self.wait(lambda: silent.made_at, 1.0)
        hosts = [self.net.host(f"stranger {number}", f"198.51.100.{70 + number}") for number in range(40)]
        for host in hosts:
            for port in self.listening(self.bob):
                self.connect(b"\0\0", host, port)
            self.net.advance(0.2)
        self.assertGreater(silent.lost_at, 0.0)
        self.assertLess(silent.lost_at, silent.made_at + CHECK_TIME + 2 * TIDY_GAP)
        self.stop()

    def test_the_call_ends(self) -> None:
        """The link is closed while both sides ask how their ports are seen."""
        self.alice.node.hangup(self.bob.id)
        self.net.advance(1.0)
        self.assertEqual(self.listening(self.bob), [])
        self.stop()

    def test_again_and_again(self) -> None:
        """A peer that begins attempts without a pause has one answered now and then."""
        (link,) = self.bob.node.status.links
        before = link.tcp_punching.attempts
        for number in range(100):
            self.say((Candidate.parse("1 1 tcp 1 198.51.100.200 9999 typ srflx tcptype so"),), 100 + number)
            self.net.advance(0.1)
        (link,) = self.bob.node.status.links
        self.assertLessEqual(link.tcp_punching.attempts - before, 4)
        self.stop()


class VictimTests(TCPTestCase):
    """Alice says that she listens at ports of somebody else's, which accept connections."""

    def setUp(self) -> None:
        self.place(None)
        self.server = Server(lambda: self.net.now)
        self.ports = 8001, 8002, 8003
        for port in self.ports:
            self.victim.reactor.listenTCP(port, self.server)
        self.call()
        self.lies: list[bytes] = []
        self.alice.hears, self.bob.hears = self.alice_hears, self.bob_hears

    def alice_hears(self, link: Link, frame_type: int, payload: bytes) -> bool:
        """Answer what bob says about TCP, in place of alice's node."""
        if frame_type != OptionalFrameType.TCP:
            return True
        if (said := TCPCandidates.decode(payload)).candidates:
            self.lie(said.attempt)
        return False

    def bob_hears(self, link: Link, frame_type: int, payload: bytes) -> bool:
        """Nothing that alice's node says about TCP."""
        return frame_type != OptionalFrameType.TCP or payload in self.lies

    def lie(self, attempt: int) -> None:
        """Send bob the frame of a hostile alice."""
        self.lies.append(TCPCandidates(attempt, self.named(VICTIM, *self.ports)).encode())
        self.alice.link_to(self.bob).send_control(OptionalFrameType.TCP, self.lies[-1])

    def check(self, *, closes: bool) -> None:
        """For three minutes, bob connects few times, and sends one check on each connection."""
        self.server.closes = closes
        for number in range(18):
            self.lie(1000 * (1 + number))
            self.net.advance(10.0)
        connections = self.server.connections
        self.assertIn(len(connections), range(3, MAX_CONNECTS + 1))
        for each in connections:
            self.assertIn(len(each.received), range(50, 200))
            self.assertLess(each.lost_at - each.made_at, CHECK_TIME + 2 * TIDY_GAP)
            self.assertGreaterEqual(each.lost_at, each.made_at)
        self.assertEqual(self.syns(self.bob), len(connections))
        self.stop()

    def test_they_close(self) -> None:
        """Whoever accepts has not answered: its SYN still counts."""
        self.check(closes=True)

    def test_they_wait(self) -> None:
        """Where a connection is open, no further SYN goes."""
        self.check(closes=False)

    def test_after_udp(self) -> None:
        """Checks over UDP, SYNs, and checks on connections have one limit."""
        other = self.net.host("other", "198.51.100.201").addresses[0]
        self.server.closes = True
        self.net.trace = []
        self.alice.hears = hear_nothing
        candidates = tuple(
            Candidate(kind, Address(host, 9000 + number), 1000 + number, str(number))
            for kind, host in ((CandidateType.HOST, VICTIM), (CandidateType.RELAY, other))
            for number in range(8)
        )
        restart = Restart(1, "A" * 8, "A" * 24, candidates)
        self.alice.link_to(self.bob).send_control(ControlFrameType.RESTART, restart.encode())
        self.net.advance(2.0)
        for number in range(5):
            self.lie(1000 * (1 + number))
            self.net.advance(10.0)
        checks = [
            each
            for each in self.net.trace
            if each.protocol == "udp" and each.link in ("victim down", "other down")
        ]
        connections = self.server.connections
        self.assertGreater(len(checks), 10)
        self.assertGreater(len(connections), 2)
        answered = sum(bool(each.received) for each in connections)
        self.assertLessEqual(len(checks) + len(connections) + answered, MAX_PACKETS)
        self.stop()


class NeighbourTests(TCPTestCase):
    """Bob is behind a NAT, and alice says falsely that she is behind the same one."""

    def seen(self, answer: str) -> list[object]:
        """
        Have bob connect to a private address and to one of alice's. Returns all that alice can see: when he
        connects to hers, and when he listens, in seconds from the beginning.

        :param answer: what is at the private address.
        """
        self.place(NAT(ports=Ports.RANDOM))
        server, private, hers = Server(lambda: self.net.now), "192.168.2.50", "198.51.100.201"
        if answer != "nobody":
            host = self.lan.host("printer", private)
            if answer == "a service":
                host.reactor.listenTCP(8000, server)
        self.net.drop = lambda packet: (
            packet.protocol == "tcp" and {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        )
        self.call()
        self.net.trace = []
        began = self.net.now
        same = Candidate(CandidateType.SRFLX, TCPAddress(BOB, 1), 1, "1", tcp_type=TCPType.SIMULTANEOUS_OPEN)
        self.say((*self.named(private, 8000), *self.named(hers, 9000), same))
        listening = []
        for _ in range(100):
            listening.append(len(self.listening(self.bob)))
            self.net.advance(0.05)
        at = {
            host: [each.time - began for each in self.net.trace if each.destination[0] == host]
            for host in (private, hers)
        }
        self.assertTrue(at[private])
        self.assertTrue(at[hers])
        self.assertEqual(bool(server.connections), answer == "a service")
        self.stop()
        return [listening, [round(each, 3) for each in at[hers]]]

    def test_private_addresses(self) -> None:
        """Whether anybody is there, and refuses or accepts, changes nothing that alice can see."""
        nobody = self.seen("nobody")
        for answer in ("no service", "a service"):
            self.assertEqual(self.seen(answer), nobody, answer)
