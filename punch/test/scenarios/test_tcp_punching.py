"""Direct paths over TCP where no UDP gets out, and what strangers and hostile peers can do about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory

from punch.ice.budget import CONNECTS, MAX_BYTES, MAX_PACKETS
from punch.link.frames import ControlFrameType, OptionalFrameType
from punch.node.events import Disconnected, PathChanged
from punch.node.path import RelayPolicy
from punch.node.tcp_connections import MAX_UNPROVED_OF_ONE
from punch.node.tcp_punching import CHECK_TIME, TIDY_GAP
from punch.test.internet import (
    NAT,
    Filtering,
    Firewall,
    Host,
    InternetTestCase,
    LinkSpec,
    Mapping,
    Ports,
    Unsolicited,
)
from punch.test.system import SERVICE, Connected, Peer, Rendezvous
from punch.wire.address import Address, TCPAddress
from punch.wire.control import Accept
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType
from punch.wire.peers.ice_restart import Restart
from punch.wire.peers.punching import TCPCandidates
from punch.wire.proxy import ProxyAddress, ProxySettings

WITHIN = 5.0
"""Seconds after the call within which the path must be direct."""
VICTIM = "198.51.100.200"
ALICE, BOB = "203.0.113.1", "203.0.113.2"


def no_udp(**options: Any) -> NAT:
    """An ordinary NAT, except that no UDP gets out."""
    return NAT(ports=Ports.RANDOM, block_udp=True, **options)


class TCPTestCase(InternetTestCase):
    """Alice, whose network passes no UDP, and bob."""

    def place(
        self,
        right: NAT | Firewall | None,
        *,
        left: NAT | None = None,
        link: LinkSpec | None = None,
        seed: int = 1,
        **options: Any,
    ) -> None:
        """Register both. None: bob has a public address."""
        self.net = self.internet(seed)
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.victim = self.net.host("victim", VICTIM)
        link = link or LinkSpec(delay=0.025)
        self.blocked = left or no_udp()
        self.blocked.public = ALICE
        here = self.net.lan("alice", "192.168.1.0/24", nat=self.blocked, link=link).host("alice")
        there: Host
        if right is None:
            there = self.net.host("bob", BOB, link=link)
        elif isinstance(right, Firewall):
            there = self.net.lan("bob", "203.9.116.0/24", firewall=right, link=link).host("bob")
        else:
            right.public = BOB
            self.lan = self.net.lan("bob", "192.168.2.0/24", nat=right, link=link)
            there = self.lan.host("bob")
        self.alice, self.bob = self.peers = [
            Peer(self.net, host, self.rendezvous.address, accept=Accept.ANYONE, **options).register()
            for host in (here, there)
        ]
        self.net.advance(5.0)

    def call(self, caller: int = 0) -> float:
        """Have one call the other; returns when that was."""
        began = self.net.now
        self.peers[caller].call(self.peers[1 - caller].id)
        for peer in self.peers:
            peer.wait_for(Connected, 15.0)
        return began

    def path(self, peer: Peer) -> tuple[str, str]:
        """The kind of path that a peer uses, and its transport protocol."""
        other = self.bob if peer is self.alice else self.alice
        status = peer.link_to(other).status
        assert status is not None
        return status.path.kind, status.path.protocol

    @property
    def over_tcp(self) -> bool:
        """Whether both sides use a direct path over TCP."""
        return all(self.path(peer) == ("prflx", "tcp") for peer in self.peers)

    @property
    def relayed(self) -> bool:
        """Whether either side is on a relay."""
        return any(self.path(peer)[0] == "relay" for peer in self.peers)

    def syns(self, peer: Peer) -> int:
        """How many SYNs a peer says that it has sent to the other one."""
        (link,) = peer.node.status.links
        return link.tcp_punching.packets

    def wait(self, condition: Callable[[], object], timeout: float) -> None:
        """Let time pass until something is so."""
        deadline = self.net.now + timeout
        while not condition():
            self.assertLess(self.net.now, deadline)
            self.net.advance(0.05)

    def listening(self, peer: Peer) -> list[int]:
        """The TCP ports at which a peer listens."""
        return [port.getHost().port for port in peer.host.reactor.open_ports if port.getHost().type == "TCP"]

    def say(self, candidates: tuple[Candidate, ...], attempt: int = 50) -> None:
        """Have bob receive a TCP frame of alice."""
        on_control = self.bob.link_to(self.alice).on_control
        assert on_control is not None
        on_control(OptionalFrameType.TCP, TCPCandidates(attempt, candidates).encode())

    def named(self, host: str, *ports: int) -> tuple[Candidate, ...]:
        """Candidates at an address."""
        return tuple(
            Candidate(CandidateType.HOST, TCPAddress(host, port), 1000, "1", tcp_type=TCPType.PASSIVE)
            for port in ports
        )

    def stop(self) -> None:
        """Stop the peers and check that nothing is left of them."""
        for peer in self.peers:
            peer.stop()
        self.net.advance(10.0)
        for peer in self.peers:
            self.assertEqual(peer.host.reactor.getDelayedCalls(), [], peer.name)
            self.assertEqual(peer.host.reactor.open_ports, [], peer.name)


class DirectTests(TCPTestCase):
    """Partners whose NATs let TCP be punched."""

    def check(self, right: NAT | Firewall | None, caller: int = 0, **options: Any) -> None:
        """The path is direct 5 s after the call, and 25 s after it, and carries data."""
        self.place(right, **options)
        began = self.call(caller)
        self.wait(lambda: self.over_tcp, began + WITHIN - self.net.now)
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), CONNECTS)
        self.net.advance(began + 25.0 - self.net.now)
        self.assertTrue(self.over_tcp)
        self.alice.chat.send(self.bob.id, "over TCP")
        self.wait(lambda: self.bob.messages, 1.0)
        for peer in self.peers:
            self.assertEqual(self.listening(peer), [])
        # It tells nothing about UDP, by which the next call begins
        paths = [
            path for peer in self.peers for other in peer.known for path in peer.known.entry(other).paths
        ]
        self.assertEqual([path for path in paths if path.direct], [])
        self.stop()

    def test_home(self) -> None:
        """A NAT with one port for all, whoever calls."""
        for caller in (0, 1):
            self.check(NAT(ports=Ports.RANDOM), caller)

    def test_both(self) -> None:
        """No UDP on both sides: both begin."""
        self.check(no_udp())

    def test_public(self) -> None:
        """Everybody reaches bob, who listens; alice connects."""
        self.check(None, 1)

    def test_firewall(self) -> None:
        """A public address behind a firewall."""
        self.check(Firewall(filtering=Filtering.APDF))

    def test_refusing(self) -> None:
        """NATs that answer SYNs that nobody asked for with a reset, with and without delay."""
        self.check(NAT(ports=Ports.RANDOM, unsolicited=Unsolicited.REJECT))
        self.check(
            NAT(ports=Ports.RANDOM, unsolicited=Unsolicited.REJECT),
            left=no_udp(unsolicited=Unsolicited.REJECT),
            link=LinkSpec(delay=0.001),
        )


class RelayTests(TCPTestCase):
    """Where nothing is direct, or nothing is tried."""

    def test_random_ports(self) -> None:
        """Bob's NAT has another port for each destination: few SYNs, and the link stays on the relay."""
        self.place(NAT(ports=Ports.RANDOM, mapping=Mapping.APDM))
        self.call()
        self.net.advance(60.0)
        self.assertEqual({self.path(peer)[0] for peer in self.peers}, {"relay"})
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), CONNECTS)
        self.stop()

    def test_udp_works(self) -> None:
        """An ordinary call, direct or not, listens nowhere and connects nowhere."""
        for left, right in (
            (NAT(ports=Ports.RANDOM), NAT(ports=Ports.RANDOM)),
            (NAT(mapping=Mapping.APDM, ports=Ports.RANDOM), NAT(mapping=Mapping.APDM, ports=Ports.RANDOM)),
        ):
            self.place(right, left=left)
            self.net.trace = []
            self.call()
            self.net.advance(20.0)
            self.assertEqual([self.path(peer)[1] for peer in self.peers], ["udp", "udp"])
            tcp = {(each.source, each.destination) for each in self.net.trace if each.protocol == "tcp"}
            # Both have their one connection to the rendezvous, seen on each side of the NAT
            self.assertLessEqual(len(tcp), 8)
            for peer in self.peers:
                (link,) = peer.node.status.links
                self.assertEqual(link.tcp_punching.attempts, 0)
            self.stop()

    def test_hidden_addresses(self) -> None:
        """With `--relay only`, the other side never learns our addresses."""
        self.place(None, relay=RelayPolicy.ONLY)
        self.call()
        self.net.advance(10.0)
        for peer in self.peers:
            (link,) = peer.node.status.links
            self.assertEqual(link.tcp_punching.attempts, 0)
        self.stop()

    def test_an_older_release(self) -> None:
        """One that skips the frame: alice tries seldom, and sends no SYN."""
        self.place(NAT(ports=Ports.RANDOM))
        self.call()
        link = self.bob.link_to(self.alice)
        on_control = link.on_control
        assert on_control is not None
        link.on_control = lambda frame_type, payload: (
            None if frame_type == OptionalFrameType.TCP else on_control(frame_type, payload)
        )
        self.net.advance(60.0)
        self.assertEqual(self.syns(self.alice), 0)
        (summary,) = self.alice.node.status.links
        self.assertIn(summary.tcp_punching.attempts, range(3, 7))
        self.assertEqual({self.path(peer)[0] for peer in self.peers}, {"relay"})
        self.stop()


class ChangeTests(TCPTestCase):
    """A path over TCP that ends, or is no longer the best."""

    def setUp(self) -> None:
        self.place(NAT(ports=Ports.RANDOM))
        self.call()
        self.wait(lambda: self.over_tcp, WITHIN)

    def reset(self) -> None:
        """A router between the two ends their connection."""
        for peer in self.peers:
            for socket in list(peer.host.tcp.flows.values()):
                if socket.remote[0] in (ALICE, BOB):
                    socket.reset()

    def test_the_connection_ends(self) -> None:
        """A router resets it: the link goes on at once over another path, and becomes direct again."""
        self.net.advance(25.0)
        self.reset()
        changed = len(self.alice.of(PathChanged))
        self.alice.chat.send(self.bob.id, "still there?")
        self.wait(lambda: self.bob.messages, 3.0)
        self.wait(lambda: len(self.alice.of(PathChanged)) > changed + 1 and self.over_tcp, 10.0)
        self.assertEqual([*self.alice.of(Disconnected), *self.bob.of(Disconnected)], [])
        self.stop()

    def test_it_ends_again_and_again(self) -> None:
        """Attempts come as seldom as if none had succeeded, until a path has lasted for a minute."""
        (link,) = self.alice.node.status.links
        before = link.tcp_punching.attempts
        until = self.net.now + 60.0
        while self.net.now < until:
            if self.over_tcp:
                self.reset()
            self.net.advance(0.5)
        (link,) = self.alice.node.status.links
        # After 1, 5, 10, 20 and 40 s
        self.assertIn(link.tcp_punching.attempts - before, range(2, 6))
        self.wait(lambda: self.over_tcp, 90.0)
        self.net.advance(90.0)
        self.assertTrue(self.over_tcp)
        self.reset()
        self.wait(lambda: self.relayed, 5.0)
        self.wait(lambda: self.over_tcp, 5.0)
        self.stop()

    def test_udp_works_again(self) -> None:
        """An ICE restart finds the better path, and the connection is closed."""
        self.net.advance(60.0)
        self.assertTrue(self.over_tcp)
        self.blocked.block_udp = False
        self.wait(lambda: {self.path(peer)[1] for peer in self.peers} == {"udp"}, 90.0)
        self.assertFalse(self.relayed)
        self.net.advance(25.0)
        for peer in self.peers:
            self.assertFalse(self.relayed)
            remotes = {remote[0] for _, remote in peer.host.tcp.flows}
            self.assertEqual(remotes, {SERVICE})
        self.stop()

    def test_silence(self) -> None:
        """Nothing passes between the two any more, and no reset says so: consent finds out."""
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        self.alice.chat.send(self.bob.id, "still there?")
        self.wait(lambda: self.bob.messages and self.relayed, 10.0)
        self.stop()


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
        Alice names others' addresses, again and again. Services below port 1024, private, loopback and own
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
        hosts = (VICTIM, SERVICE, "127.0.0.1", "10.0.0.1", "169.254.1.1", "192.168.1.2", BOB, "::1")
        for number in range(24):
            self.say(self.named(hosts[number % 8], 22, 8000 + number, 9000 + number), 100 + number)
            self.net.advance(10.0)
        sent = [
            each
            for each in self.net.trace
            if each.source[0] == BOB and each.protocol == "tcp" and each.link == "bob up"
        ]
        there = [each for each in sent if each.destination[0] != SERVICE or each.destination[1] >= 8000]
        self.assertLessEqual(len(there), min(CONNECTS, MAX_PACKETS))
        self.assertLessEqual(sum(each.size for each in there), MAX_BYTES)
        self.assertEqual([each.destination for each in there if each.destination[1] < 1024], [])
        self.assertEqual({each.destination[0] for each in there} - {VICTIM, SERVICE, ALICE}, set())
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
        theirs, ours = self.bob.link_to(self.alice), self.alice.link_to(self.bob)
        receive, answer = theirs.on_control, ours.on_control
        assert receive is not None
        assert answer is not None
        self.receive, self.answer = receive, answer

        def theirs_received(frame_type: int, payload: bytes) -> None:
            if frame_type != OptionalFrameType.TCP:
                self.receive(frame_type, payload)

        def ours_received(frame_type: int, payload: bytes) -> None:
            if frame_type != OptionalFrameType.TCP:
                self.answer(frame_type, payload)
            elif (said := TCPCandidates.decode(payload)).candidates:
                self.lie(said.attempt)

        theirs.on_control, ours.on_control = theirs_received, ours_received

    def lie(self, attempt: int) -> None:
        """Have bob receive alice's frame."""
        said = TCPCandidates(attempt, self.named(VICTIM, *self.ports))
        self.receive(OptionalFrameType.TCP, said.encode())

    def check(self, *, closes: bool) -> None:
        """For three minutes, bob connects few times, and sends one check on each connection."""
        self.server.closes = closes
        for number in range(18):
            self.lie(1000 * (1 + number))
            self.net.advance(10.0)
        connections = self.server.connections
        self.assertIn(len(connections), range(3, CONNECTS + 1))
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
        self.alice.link_to(self.bob).on_control = None
        candidates = tuple(
            Candidate(kind, Address(host, 9000 + number), 1000 + number, str(number))
            for kind, host in ((CandidateType.HOST, VICTIM), (CandidateType.RELAY, other))
            for number in range(8)
        )
        self.receive(ControlFrameType.RESTART, Restart(1, "A" * 8, "A" * 24, candidates).encode())
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


class MoveTests(TCPTestCase):
    """A peer moves that has been on the relay for long."""

    def test_to_a_network_without_udp(self) -> None:
        """The next attempt comes as soon as the first one of a new link, and not after five minutes."""
        bad = [NAT(mapping=Mapping.APDM, ports=Ports.RANDOM) for _ in range(2)]
        self.place(bad[0], left=bad[1])
        self.call()
        self.net.advance(330.0)
        self.assertEqual([self.path(peer) for peer in self.peers], [("relay", "udp")] * 2)
        cafe = no_udp(public="203.0.113.77")
        self.alice.host.move(self.net.lan("cafe", "192.168.3.0/24", nat=cafe, link=LinkSpec(delay=0.025)))
        self.wait(lambda: self.alice.node.status.links[0].tcp_punching.attempts, 30.0)
        self.stop()


class ProxyTests(TCPTestCase):
    """A network with a proxy."""

    def test_nothing_beside_it(self) -> None:
        """No TCP connection goes past a proxy."""
        proxy = ProxySettings(ProxyAddress.parse("http://198.51.100.9:3128"), "--proxy", required=False)
        self.place(None, proxy=proxy)
        self.call()
        self.net.advance(10.0)
        for peer in self.peers:
            (link,) = peer.node.status.links
            self.assertEqual(link.tcp_punching.attempts, 0)
        self.stop()
