"""Direct paths between NATs whose ports can be predicted, and who can't start or aim the packets for them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

from punch.ice.limits import MAX_OPENING_BYTES, MAX_OPENINGS
from punch.ice.punching.prediction import MAX_AIMS, TARGETS
from punch.ice.punching.techniques import Technique
from punch.link.control_stream import OptionalFrameType
from punch.link.link import Link
from punch.test.internet import NAT, LinkSpec, Mapping, Ports, Unsolicited
from punch.test.internet.packet import Endpoint, Packet
from punch.test.scenarios.punching import HOMES, VICTIM, PunchingTestCase
from punch.test.scenarios.test_prediction import nat, sequential
from punch.test.system import SERVICE, Peer
from punch.wire.control import Accept
from punch.wire.peers.link_frames import Nats, Opened, Targets
from punch.wire.peers.nat_profile import Mapping as Maps
from punch.wire.peers.nat_profile import NatProfile, PortAssignment
from punch.wire.stun import Attribute, MessageClass, STUNError, parse
from tests.simulation.seeds import ALL, seeds

WITHIN = 5.0
"""Seconds after the call within which the path must be direct."""
LOSS_SEEDS = seeds(1, 20)


def linux() -> NAT:
    """Masquerading as Linux does it, at a router that takes unsolicited packets as its own."""
    return NAT(mapping=Mapping.APDM, ports=Ports.PRESERVING, overload=True, unsolicited=Unsolicited.ACCEPT)


def first_of_flow(ends: tuple[str, str], seen: set[tuple[Endpoint, Endpoint]], packet: Packet) -> bool:
    """Whether a packet from the first of these hosts to the second is the first one of its flow."""
    if (packet.source[0], packet.destination[0]) != ends or (packet.source, packet.destination) in seen:
        return False
    seen.add((packet.source, packet.destination))
    return True


def permits(packet: Packet, host: str) -> bool:
    """Whether a packet asks a relay to let in what an IP address sends (RFC 8656, section 9)."""
    try:
        message = parse(packet.payload) if packet.protocol == "udp" else None
    except STUNError:
        return False
    if message is None:
        return False
    peers = message.get_all(Attribute.XOR_PEER_ADDRESS)
    return message.message_class is MessageClass.REQUEST and any(each.host == host for each in peers)


class DirectTests(PunchingTestCase):
    """Sequential ports on one side or both, and anything but random ones on the other."""

    def check(
        self, left: NAT | None, right: NAT | None, seed: int = 1, link: LinkSpec | None = None, hops: int = 0
    ) -> None:
        """The path is direct in time, after few packets."""
        self.place(left, right, seed, link, hops=hops)
        seconds = self.seconds_to_direct(WITHIN if link is None else 25.0)
        case = (left, right, seed)
        assert seconds is not None, case
        for peer in self.peers:
            tried = self.status(peer)
            self.assertIs(tried.technique, Technique.PREDICTION)
            # Checks and their answers follow at the port that was right
            self.assertLessEqual(tried.packets, tried.attempts * (max(MAX_AIMS, TARGETS) + 12), case)
            self.assertLessEqual(tried.bytes, 130 * tried.packets, case)
        self.net.advance(2.0)
        self.assertNotIn("relay", self.paths, case)
        self.stop()

    def test_one_side(self) -> None:
        """The other side has one port for all destinations, at random; whoever calls."""
        self.check(nat(Mapping.EIM, Ports.RANDOM), sequential())
        self.check(sequential(-1, others=3.0), nat(Mapping.EIM, Ports.RANDOM))

    def test_a_firewall(self) -> None:
        """The other side has a public address behind a firewall."""
        self.check(sequential(2), None)

    def test_both_sides(self) -> None:
        """In different steps and directions, while other hosts take ports."""
        self.check(sequential(2, others=3.0), sequential(-1, others=3.0))

    def test_preserved_ports(self) -> None:
        """A NAT that keeps ports where it can."""
        self.check(nat(Mapping.APDM, Ports.PRESERVING), sequential())

    def test_a_router_that_takes_unsolicited_packets(self) -> None:
        """The packets of the side that opens don't arrive there, be that router near or far."""
        for hops in (0, 8):
            for ends in ((linux(), sequential()), (sequential(2), linux())):
                self.check(*ends, hops=hops)

    def test_lost_packets(self) -> None:
        """Where only one attempt in a while can work, one lost packet does not spoil it."""
        for ends in ((linux(), sequential()), (sequential(2), linux())):
            self.place(*ends)
            seen: set[tuple[Endpoint, Endpoint]] = set()
            self.net.drop = partial(first_of_flow, HOMES, seen)
            self.assertIsNotNone(self.seconds_to_direct(10.0), ends)
            self.stop()

    def test_loss(self) -> None:
        """With 10 % loss on each access link, each way, at least 19 of 20 calls (with PUNCH_SEEDS=all)."""
        for left, right in ((linux, sequential), (sequential, linux)):
            late = []
            for seed in LOSS_SEEDS:
                self.place(left(), right(), seed, LinkSpec(delay=0.025, loss=0.1))
                if self.seconds_to_direct(25.0) is None:
                    late.append(seed)
            self.assertLessEqual(len(late), len(LOSS_SEEDS) // 20, (left, late))

    def test_late_proofs(self) -> None:
        """
        The request to the relay of the side that aims to let in the other side's checks arrives late: those
        that were sent before prove nothing, and a later one does.
        """
        self.place(nat(Mapping.EIM, Ports.RANDOM), sequential())
        began = self.net.now
        self.net.drop = lambda packet: self.net.now < began + 3.0 and permits(packet, "203.0.113.2")
        self.assertIsNotNone(self.seconds_to_direct(12.0))
        self.stop()

    def test_by_address(self) -> None:
        """A mapping for each address, which one reflector can't tell from one for all."""
        self.check(sequential(mapping=Mapping.ADM), sequential(2))

    def test_an_ice_restart_later(self) -> None:
        """When one of the machines has another address besides, the path stays as it is."""
        self.place(sequential(), sequential(2))
        self.assertIsNotNone(self.seconds_to_direct(WITHIN))
        self.net.advance(10.0)
        attempts = self.status(self.alice).attempts
        host = self.alice.host
        host.move(host.interfaces[0].network, host.address, "192.168.1.77")
        for _ in range(60):
            self.net.advance(0.5)
            self.assertNotIn("relay", self.paths)
        self.assertEqual(self.status(self.alice).attempts, attempts)
        self.stop()

    def test_all(self) -> None:
        """All pairs, with many seeds, also with loss (PUNCH_SEEDS=all)."""
        if not ALL:
            return
        kinds: list[tuple[Mapping, Ports, int, float]] = [
            (Mapping.EIM, Ports.RANDOM, 1, 0.0),
            (Mapping.APDM, Ports.SEQUENTIAL, 1, 0.0),
            (Mapping.APDM, Ports.SEQUENTIAL, 2, 5.0),
            (Mapping.APDM, Ports.SEQUENTIAL, -1, 5.0),
            (Mapping.ADM, Ports.SEQUENTIAL, 1, 5.0),
            (Mapping.APDM, Ports.PRESERVING, 1, 0.0),
        ]
        for left, right in product(kinds, repeat=2):
            if left[0] is right[0] is Mapping.EIM:
                continue
            for seed in (1, 2, 3):
                self.check(nat(*left), nat(*right), seed)
            self.check(nat(*left), nat(*right), 4, LinkSpec(delay=0.025, loss=0.05))


class HostileTests(PunchingTestCase):
    """A peer on a link says what it should not."""

    def setUp(self) -> None:
        """Two peers on a relay, one of which opens; nothing goes directly between the two."""
        self.nat = sequential()
        self.place(sequential(), self.nat)
        self.allow_no_tcp()
        self.lose_direct()
        self.call()
        # Attempts of alice, until there is a pause that is long enough for another one
        self.net.advance(15.0)
        self.assertEqual(self.paths, {"relay"})
        self.attempt = 1000

    def say(self, to: Peer, frame_type: OptionalFrameType, payload: bytes) -> None:
        """Have the node of the other peer send this one a frame that it would not send itself."""
        other = self.bob if to is self.alice else self.alice
        other.link_to(to).send_control(frame_type, payload)

    def targets(self, host: str = "203.0.113.1", *ports: int, technique: str = "prediction") -> Targets:
        """What bob, who opens, is told as alice's targets."""
        self.attempt += 1
        return Targets(self.attempt, technique, host, ports or tuple(range(9500, 9508)))

    def sent(self, hosts: set[str] | None, seconds: float = 4.0) -> int:
        """Let time pass; returns how many packets go to ports of these hosts that were named."""
        self.net.trace = []
        self.net.advance(seconds)
        assert isinstance(self.net.trace, list)
        return sum(
            (hosts is None or each.destination[0] in hosts) and 9500 <= each.destination[1] < 9600
            for each in self.net.trace
        )

    def test_what_is_right(self) -> None:
        """The other tests send to nobody; this one shows that they would."""
        self.say(self.bob, OptionalFrameType.TARGETS, self.targets().encode())
        self.assertGreater(self.sent({"203.0.113.1"}), 0)

    def test_targets_elsewhere(self) -> None:
        """A victim, the service, the relay, the own addresses, and what is no address of one host."""
        for host in (
            VICTIM,
            SERVICE,
            "203.0.113.2",
            "203.0.113.9",
            "192.168.1.2",
            "192.168.2.2",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "100.64.0.1",
            "2001:db8::1",
            "::ffff:198.51.100.200",
        ):
            before = self.status(self.bob).packets
            self.say(self.bob, OptionalFrameType.TARGETS, self.targets(host).encode())
            self.assertEqual(self.sent(None, 0.5), 0, host)
            self.assertEqual(self.status(self.bob).packets, before, host)

    def test_a_nat_elsewhere(self) -> None:
        """A profile with a victim's address makes nobody send there: it was not proved to be received at."""
        lie = NatProfile(VICTIM, frozenset({Maps.ENDPOINT_INDEPENDENT}), PortAssignment.RANDOM)
        for peer in self.peers:
            self.say(peer, OptionalFrameType.NATS, Nats((lie,)).encode())
        self.say(self.bob, OptionalFrameType.TARGETS, self.targets(VICTIM).encode())
        self.net.trace = []
        self.net.advance(30.0)
        self.assertEqual([each for each in self.net.trace if each.destination[0] == VICTIM], [])

    def test_other_techniques(self) -> None:
        """A technique that the table does not choose is refused, and so is one that nobody knows."""
        for technique in ("ice", "relay", "spraying", "PREDICTION"):
            self.say(self.bob, OptionalFrameType.TARGETS, self.targets(technique=technique).encode())
            self.assertEqual(self.sent(None, 0.5), 0, technique)
        lie = NatProfile("203.0.113.1", frozenset({Maps.ADDRESS_AND_PORT_DEPENDENT}), PortAssignment.RANDOM)
        self.say(self.bob, OptionalFrameType.NATS, Nats((lie,)).encode())
        self.say(self.bob, OptionalFrameType.TARGETS, self.targets().encode())
        self.assertEqual(self.sent(None, 0.5), 0)

    def test_old_attempts_and_none(self) -> None:
        """An attempt counts once, and one without ports is none."""
        targets = self.targets()
        self.say(self.bob, OptionalFrameType.TARGETS, targets.encode())
        self.assertGreater(self.sent(None), 0)
        # It is not refused because of its time
        self.net.advance(60.0)
        self.say(self.bob, OptionalFrameType.TARGETS, targets.encode())
        self.assertEqual(self.sent(None), 0)
        self.attempt += 1
        nothing = Targets(self.attempt, "prediction", "203.0.113.1", ())
        self.say(self.bob, OptionalFrameType.TARGETS, nothing.encode())
        self.assertEqual(self.sent(None), 0)

    def test_the_wrong_side(self) -> None:
        """The side that aims opens nothing."""
        self.say(self.alice, OptionalFrameType.TARGETS, self.targets("203.0.113.2").encode())
        self.assertEqual(self.sent(None), 0)

    def test_open_without_targets(self) -> None:
        """OPENED that answers no attempt of ours is ignored, and so is one for another address."""
        for attempt in (1, 2, 3, 2**31 - 1):
            for host in (VICTIM, "203.0.113.2"):
                opened = Opened(attempt, host, ((9500, 9501), (9502,)))
                self.say(self.alice, OptionalFrameType.OPENED, opened.encode())
                self.assertEqual(self.sent(None, 0.2), 0, (attempt, host))

    def test_opened_elsewhere(self) -> None:
        """During an attempt of ours, too."""
        attempts = self.status(self.alice).attempts
        self.net.run_until(lambda: self.status(self.alice).attempts > attempts, 300.0, "another attempt")
        for _ in range(20):
            opened = Opened(attempts + 1, VICTIM, ((9500, 9501), (9502,)))
            self.say(self.alice, OptionalFrameType.OPENED, opened.encode())
            self.assertEqual(self.sent({VICTIM}, 0.02), 0)

    def test_again_and_again(self) -> None:
        """However often a peer asks, the limit for ten minutes holds."""
        self.net.trace = []
        for _ in range(60):
            self.say(self.bob, OptionalFrameType.TARGETS, self.targets().encode())
            self.net.advance(0.3)
        self.assertLessEqual(self.status(self.bob).packets, MAX_OPENINGS)
        self.assertLessEqual(self.status(self.bob).bytes, MAX_OPENING_BYTES)
        self.assertEqual(self.sent(None), 0)

    def test_many_at_once(self) -> None:
        """
        Of many attempts only one is made: nothing else is sent, to the targets or to a reflector. Another one
        that comes after it, but before the wait of the other side is half over, is refused, too.
        """
        attempts = self.status(self.bob).attempts
        self.net.trace = []
        for _ in range(100):
            self.say(self.bob, OptionalFrameType.TARGETS, self.targets().encode())
        self.net.advance(2.0)
        self.say(self.bob, OptionalFrameType.TARGETS, self.targets().encode())
        self.net.advance(2.0)
        self.assertEqual(self.status(self.bob).attempts, attempts + 1)
        sources = {
            each.source
            for each in self.net.trace
            if each.source[0] == "203.0.113.2" and 9500 <= each.destination[1] < 9600
        }
        self.assertLessEqual(len(sources), TARGETS)

    def test_the_slot(self) -> None:
        """While a peer has OPENED and sends nothing, this node makes attempts with others."""
        third = sequential()
        third.public = "203.0.113.3"
        lan = self.net.lan("carol", "192.168.3.0/24", nat=third)
        carol = Peer(self.net, lan.host("carol"), self.rendezvous.address, accept=Accept.ANYONE).register()
        homes = ("203.0.113.1", "203.0.113.2", "203.0.113.3")
        self.net.drop = lambda packet: packet.source[0] in homes and packet.destination[0] in homes
        self.net.advance(1.0)
        carol.call(self.bob.id)
        self.net.advance(15.0)
        (link,) = (each for each in self.bob.node.status.links if each.peer == carol.id)
        self.assertGreater(link.punching.attempts, 0)
        self.say(self.bob, OptionalFrameType.TARGETS, self.targets().encode())
        self.net.advance(2.0)
        carol.link_to(self.bob).send_control(OptionalFrameType.TARGETS, self.targets("203.0.113.3").encode())
        self.net.advance(0.2)
        (later,) = (each for each in self.bob.node.status.links if each.peer == carol.id)
        self.assertEqual(later.punching.attempts, link.punching.attempts + 1)
        carol.stop()

    def test_an_early_end(self) -> None:
        """An attempt for which no reflector answers is refused, so that the other side need not wait."""
        answers: list[Opened] = []

        def hears(link: Link, frame_type: int, payload: bytes) -> bool:
            if frame_type == OptionalFrameType.OPENED:
                answers.append(Opened.decode(payload))
            return True

        self.alice.hears = hears
        self.net.drop = lambda packet: (
            packet.destination[0] == "203.0.113.2"
            and (packet.source == (SERVICE, 3478) or packet.source[0] in HOMES)
        )
        targets = self.targets()
        self.say(self.bob, OptionalFrameType.TARGETS, targets.encode())
        self.net.advance(7.0)
        self.assertEqual(
            [each for each in answers if each.attempt == targets.attempt],
            [Opened(targets.attempt, targets.host, ())],
        )

    def test_another_network(self) -> None:
        """The other side is in another network, where nothing is lost between the two: the path is direct."""
        attempts = self.status(self.alice).attempts
        self.nat.renumber("203.0.113.77")
        self.net.run_until(lambda: "relay" not in self.paths, 90.0, "a direct path")
        self.assertGreater(self.status(self.alice).attempts, attempts)

    def test_there_and_back(self) -> None:
        """A peer that says again and again that it has moved and is back makes no attempt come sooner."""
        self.net.advance(8.0)
        (theirs, *_) = self.bob.node.status.nats
        moved = Nats((replace(theirs, host="203.0.113.77"),)).encode()
        back = Nats((theirs,)).encode()
        attempts = self.status(self.alice).attempts
        for _ in range(10):
            self.say(self.alice, OptionalFrameType.NATS, moved)
            self.say(self.alice, OptionalFrameType.NATS, back)
            self.net.advance(1.0)
        self.assertLessEqual(self.status(self.alice).attempts, attempts + 1)
        self.net.advance(200.0)
        self.assertGreater(self.status(self.alice).attempts, attempts)

    def test_malformed(self) -> None:
        """A payload that is wrong ends the link, as with other frames."""
        self.say(self.bob, OptionalFrameType.TARGETS, b'{"attempt": 1}')
        self.net.advance(1.0)
        self.assertIsNone(self.bob.node.link(self.alice.id))


class RelayTests(PunchingTestCase):
    """Where nothing is sent."""

    def test_the_limit(self) -> None:
        """
        If prediction fails again and again, the number of packets stays within the limit, and their rate
        within what docs/nat.md says.
        """
        self.place(sequential(), sequential())
        # What arrives at new sockets from the other side's address is lost
        self.lose_direct()
        self.net.trace = []
        self.call()
        self.net.advance(120.0)
        tries = [self.status(peer) for peer in self.peers]
        for tried in tries:
            self.assertGreaterEqual(tried.attempts, 5)
            self.assertLessEqual(tried.packets, min(MAX_OPENINGS, tried.attempts * MAX_AIMS))
            self.assertLessEqual(tried.bytes, MAX_OPENING_BYTES)
        self.assertEqual(self.paths, {"relay"})
        times = sorted(
            each.time
            for each in self.net.trace
            if each.source[0] == HOMES[0] and each.destination[0] == HOMES[1] and each.time > 5.0
        )
        for first, later in zip(times, times[MAX_AIMS + 8 :], strict=False):
            self.assertGreater(later - first, 0.9)
        self.stop()
