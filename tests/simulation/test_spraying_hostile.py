"""Peers and strangers that want to start spraying, aim it at others, or have more packets sent."""

from __future__ import annotations

from punch.ice.budget import MAX_PACKETS as MAX_PACKETS_OF_CHECKS
from punch.ice.limits import MAX_SPRAYED, MAX_SPRAYED_BYTES, SPRAYED
from punch.ice.punching.spraying import MAX_PACKETS, MIN_SOCKETS, OPENED, RATE, SOCKETS, TARGETS
from punch.identity import Identity
from punch.link.control_stream import OptionalFrameType
from punch.link.events import CloseCode
from punch.link.link import Link
from punch.test.internet import NAT, LinkSpec
from punch.test.internet.packet import Packet
from punch.test.scenarios.punching import HOMES, VICTIM, PunchingTestCase
from punch.test.system import SERVICE, Connected, Peer
from punch.wire.control import Accept
from punch.wire.peers.link_frames import MAX_COUNT, Begin, Nats, Opened, Targets
from punch.wire.peers.nat_profile import Mapping as Maps
from punch.wire.peers.nat_profile import NatProfile, PortAssignment
from tests.simulation.test_spraying import AUTO, NEVER, block, one_port, random_ports

FORMS = (
    *("64:ff9b::c633:64c8", "2002:c633:64c8::1", "2001:db8::5efe:c633:64c8", "::c633:64c8"),
    *("64:ff9b::cb00:7101", "2002:cb00:7101::1", "2001:db8::5efe:cb00:7101", "64:ff9b::cb00:7102"),
)
"""
Other forms of the addresses of the victim and of both homes, at which the peers have proved to receive. (An
IPv4-mapped address is read as the IPv4 address.)
"""


class HostileOpenerTests(PunchingTestCase):
    """What a hostile peer tells the side with random ports, which never asks for anything itself."""

    def setUp(self) -> None:
        """Two peers on a relay. Alice does not spray herself; nothing goes directly between the two."""
        self.place(one_port(), random_ports(), spray=(NEVER, AUTO))
        self.allow_no_tcp()
        self.lose_direct()
        self.call()
        self.net.advance(3.0)
        self.assertEqual(self.paths, {"relay"})
        self.attempt = 1000

    def say(self, frame_type: OptionalFrameType, payload: bytes) -> None:
        """Have alice's node send bob's a frame that it would not send itself."""
        self.alice.link_to(self.bob).send_control(frame_type, payload)

    def targets(self, *ports: int, host: str = HOMES[0], technique: str = "spraying") -> Targets:
        """What bob is told as alice's targets."""
        self.attempt += 1
        return Targets(self.attempt, technique, host, ports or (9500, 9501))

    def ask(self, targets: Targets, seconds: float = 0.5) -> int:
        """Ask bob, and let time pass; returns how many packets go to ports that were named."""
        self.net.trace = []
        self.say(OptionalFrameType.TARGETS, targets.encode())
        self.net.advance(seconds)
        assert isinstance(self.net.trace, list)
        return sum(9500 <= each.destination[1] < 9600 for each in self.net.trace)

    def refused(self, targets: Targets) -> None:
        """Bob sends nothing, and opens no sockets."""
        before = self.status(self.bob)
        self.assertEqual(self.ask(targets), 0, targets)
        self.assertEqual(self.status(self.bob), before)
        self.assertLess(len(self.bob.host.reactor.open_ports), 8)

    def test_what_is_right(self) -> None:
        """The other tests send nothing; this one shows that they would. All sockets are closed at the end."""
        self.assertGreater(self.ask(self.targets()), RATE / 4)
        self.assertGreater(len(self.bob.host.reactor.open_ports), SOCKETS)
        self.net.advance(40.0)
        self.assertEqual(self.status(self.bob).packets, TARGETS * SOCKETS)
        self.assertLess(len(self.bob.host.reactor.open_ports), 8)

    def test_elsewhere(self) -> None:
        """A victim, the service, the own addresses, and what is no address of one host."""
        for host in (
            VICTIM,
            SERVICE,
            *("203.0.113.2", "203.0.113.9", "192.168.1.2", "192.168.2.2", "127.0.0.1", "0.0.0.0"),
            *("224.0.0.1", "255.255.255.255", "100.64.0.1", "2001:db8::1", "::ffff:198.51.100.200"),
            *FORMS,
        ):
            self.refused(self.targets(host=host))

    def test_a_nat_elsewhere(self) -> None:
        """A profile with a victim's address makes nobody send there: it was not proved to be received at."""
        lie = NatProfile(VICTIM, frozenset({Maps.ENDPOINT_INDEPENDENT}), PortAssignment.RANDOM)
        self.say(OptionalFrameType.NATS, Nats((lie,)).encode())
        self.refused(self.targets(host=VICTIM))

    def test_another_nat(self) -> None:
        """If the table has another technique for what the other side says of its NAT, that is refused."""
        for mapping, ports in (
            (frozenset({Maps.ADDRESS_AND_PORT_DEPENDENT}), PortAssignment.RANDOM),
            (frozenset({Maps.ADDRESS_AND_PORT_DEPENDENT}), PortAssignment.PRESERVING),
        ):
            lie = NatProfile(HOMES[0], mapping, ports)
            self.say(OptionalFrameType.NATS, Nats((lie,)).encode())
            self.net.advance(0.1)
            self.refused(self.targets())

    def test_other_techniques(self) -> None:
        """What the table does not choose."""
        for technique in ("prediction", "simultaneous-open", "ice", "relay", "SPRAYING"):
            self.refused(self.targets(technique=technique))

    def test_other_numbers_of_ports(self) -> None:
        """Two, and no others."""
        for ports in ((9500,), (9500, 9501, 9502), tuple(range(9500, 9510))):
            self.refused(self.targets(*ports))
        self.attempt += 1
        self.refused(Targets(self.attempt, "spraying", HOMES[0], ()))

    def test_old_attempts(self) -> None:
        """An attempt counts once."""
        targets = self.targets()
        self.assertGreater(self.ask(targets), 0)
        self.net.advance(400.0)
        self.refused(targets)
        self.attempt = 5
        self.refused(self.targets())

    def test_again_and_again(self) -> None:
        """However often a peer asks, the waits and the limit for ten minutes hold."""
        for _ in range(60):
            self.ask(self.targets(), 0.2)
        self.assertEqual(self.status(self.bob).attempts, 1)
        for _ in range(20):
            self.ask(self.targets(), 10.0)
        self.assertLessEqual(self.status(self.bob).attempts, 3)
        self.assertLessEqual(self.status(self.bob).packets, MAX_SPRAYED)
        self.assertLessEqual(self.status(self.bob).bytes, MAX_SPRAYED_BYTES)

    def test_moving_again_and_again(self) -> None:
        """A peer that says of its NAT every minute that it is another one gets no more attempts."""
        for number in range(9):
            other = NatProfile(
                f"203.0.113.{50 + number}", frozenset({Maps.ENDPOINT_INDEPENDENT}), PortAssignment.RANDOM
            )
            self.say(OptionalFrameType.NATS, Nats((other,)).encode())
            for _ in range(6):
                self.ask(self.targets(), 10.0)
        self.assertLessEqual(self.status(self.bob).attempts, 3)

    def test_begin(self) -> None:
        """BEGIN without an attempt, or for another one, starts nothing; that of this one, the second half."""
        self.net.trace = []
        for number in (1, 999, 1001, 2**31 - 1):
            self.say(OptionalFrameType.BEGIN, Begin(number).encode())
        self.net.advance(0.5)
        self.assertEqual(self.status(self.bob).packets, 0)
        targets = self.targets()
        self.ask(targets, 5.0)
        self.assertEqual(self.status(self.bob).packets, TARGETS * SOCKETS)
        self.say(OptionalFrameType.BEGIN, Begin(targets.attempt - 1).encode())
        self.net.advance(1.0)
        self.assertEqual(self.status(self.bob).packets, TARGETS * SOCKETS)
        for _ in range(3):
            self.say(OptionalFrameType.BEGIN, Begin(targets.attempt).encode())
        self.net.advance(5.0)
        self.assertEqual(self.status(self.bob).packets, OPENED * SOCKETS)

    def test_the_link_ends(self) -> None:
        """Nothing is sent any more, and all sockets are closed."""
        self.ask(self.targets(), 0.5)
        self.assertGreater(len(self.bob.host.reactor.open_ports), SOCKETS)
        self.bob.link_to(self.alice).close(CloseCode.OK, "")
        self.net.advance(0.5)
        self.net.trace = []
        self.net.advance(2.0)
        self.assertLess(len(self.bob.host.reactor.open_ports), 8)
        assert isinstance(self.net.trace, list)
        self.assertEqual([each for each in self.net.trace if 9500 <= each.destination[1] < 9600], [])
        self.stop()

    def test_malformed(self) -> None:
        """A payload that is wrong ends the link, as with other frames."""
        self.say(OptionalFrameType.BEGIN, b'{"attempt": 0}')
        self.net.advance(1.0)
        self.assertIsNone(self.bob.node.link(self.alice.id))

    def test_another_attempt(self) -> None:
        """While a node makes an attempt with one peer, it refuses those of others."""
        carol = self.call_by_carol()
        self.net.advance(4.0)
        self.ask(self.targets())
        self.assertEqual(self.ask_from(carol, 1), (0, 0))
        # Afterwards it is carol's turn
        self.net.advance(40.0)
        self.assertGreater(self.ask_from(carol, 2)[0], 0)
        carol.stop()

    def test_a_peer_that_lets_us_wait(self) -> None:
        """When all packets of an attempt have been sent, this node makes the next one, with another peer."""
        self.assertGreater(self.packets_to_another(1024), 0)

    def test_descriptors_of_two_attempts(self) -> None:
        """The next attempt is refused if both together would take more than half of the descriptors."""
        self.assertEqual(self.packets_to_another(2 * SOCKETS + 80), 0)

    def call_by_carol(self) -> Peer:
        """A third peer, who calls bob from a home of her own."""
        lan = self.net.lan("carol", "192.168.3.0/24", nat=one_port("203.0.113.3"))
        carol = Peer(
            self.net, lan.host("carol"), self.rendezvous.address, accept=Accept.ANYONE, spray=NEVER
        ).register()
        carol.call(self.bob.id)
        return carol

    def ask_from(self, carol: Peer, attempt: int, seconds: float = 0.5) -> tuple[int, int]:
        """Have carol's node ask bob's; returns how many packets go to each of the two ports that it names."""
        self.net.trace = []
        asked = Targets(attempt, "spraying", "203.0.113.3", (9600, 9601))
        carol.link_to(self.bob).send_control(OptionalFrameType.TARGETS, asked.encode())
        self.net.advance(seconds)
        assert isinstance(self.net.trace, list)
        ports = [each.destination[1] for each in self.net.trace]
        return ports.count(9600), ports.count(9601)

    def packets_to_another(self, descriptors: int) -> int:
        """How many packets bob sends to carol while his attempt with alice only waits."""
        self.place(
            one_port(),
            random_ports(),
            link=LinkSpec(delay=0.5),
            spray=(NEVER, AUTO),
            descriptors=lambda: descriptors - len(self.bob.host.reactor.open_ports),
        )
        self.allow_no_tcp()
        self.lose_direct()
        self.call()
        carol = self.call_by_carol()
        self.net.advance(8.0)
        targets = self.targets()
        self.ask(targets, 4.5)
        self.say(OptionalFrameType.BEGIN, Begin(targets.attempt).encode())
        self.net.advance(2.8)
        tried = next(link.punching for link in self.bob.node.status.links if link.peer == self.alice.id)
        self.assertEqual(tried.packets, OPENED * SOCKETS)
        sent, _ = self.ask_from(carol, 1, 1.5)
        carol.stop()
        return sent


class HostileAimTests(PunchingTestCase):
    """What a hostile peer answers the side that aims."""

    def setUp(self) -> None:
        self.prepare(random_ports())

    def prepare(self, nat: NAT) -> None:
        """Alice wants to spray, bob behind this NAT does not; what he answers is made up here."""
        self.place(one_port(), nat, spray=(AUTO, NEVER))
        self.allow_no_tcp()
        self.lose_direct()
        self.call()
        self.attempts: list[int] = []

        def hears(link: Link, frame_type: int, payload: bytes) -> bool:
            if frame_type == OptionalFrameType.TARGETS:
                self.attempts.append(Targets.decode(payload).attempt)
            return False

        self.bob.hears = hears

    def answer(self, opened: Opened) -> int:
        """Have alice receive this; returns to how many ports but the service's she sends in a second."""
        self.net.trace = []
        self.bob.link_to(self.alice).send_control(OptionalFrameType.OPENED, opened.encode())
        self.net.advance(1.0)
        assert isinstance(self.net.trace, list)
        sent = {each.destination for each in self.net.trace if each.source[0] == HOMES[0]}
        return len([each for each in sent if each[0] != SERVICE])

    def next_attempt(self) -> int:
        """Wait until alice asks; returns the number of her attempt."""
        before = len(self.attempts)
        self.net.run_until(lambda: len(self.attempts) > before, 60.0, "an attempt")
        return self.attempts[-1]

    def test_what_is_right(self) -> None:
        """If bob agreed, she would send; when the limit is used up, she asks no more."""
        self.assertGreater(self.answer(Opened(self.next_attempt(), HOMES[1], (), SOCKETS)), 100)
        self.net.advance(20.0)
        self.assertEqual(self.status(self.alice).packets, MAX_PACKETS)

    def test_a_block_of_somebody_else(self) -> None:
        """
        Ports are guessed within a range that bob names if it is his, but not at those of another subscriber
        of his carrier.
        """
        guessed = []
        for near in ((20_000, 20_400), (40_000, 40_400)):
            self.prepare(block(512))
            opened = Opened(self.next_attempt(), HOMES[1], (), MIN_SOCKETS, near)
            self.assertGreater(self.answer(opened), 100)
            assert isinstance(self.net.trace, list)
            ports = {each.destination[1] for each in self.net.trace if each.destination[0] == HOMES[1]}
            guessed.append(sum(near[0] - 1000 <= port <= near[1] + 1000 for port in ports))
            self.stop()
        self.assertGreater(guessed[0], 100)
        # 2,401 of 64,512 ports are guessed as often as all others
        self.assertLess(guessed[1], 20)

    def test_elsewhere(self) -> None:
        """An address at which bob has not proved to receive."""
        for host in (VICTIM, SERVICE, HOMES[0]):
            self.assertLess(self.answer(Opened(self.next_attempt(), host, (), SOCKETS)), 8, host)
        self.assertEqual(self.status(self.alice).packets, 0)

    def test_another_form(self) -> None:
        """An address at which bob has proved to receive, as a NAT64 would translate it, and by 6to4."""
        for host in (FORMS[-1], "2002:cb00:7102::1"):
            self.assertLess(self.answer(Opened(self.next_attempt(), host, (), SOCKETS)), 8, host)
        self.assertEqual(self.status(self.alice).packets, 0)

    def test_without_an_attempt(self) -> None:
        """OPENED that answers nothing, or refuses."""
        for attempt in (1, 2, 2**31 - 1):
            self.assertLess(self.answer(Opened(attempt, HOMES[1], (), SOCKETS)), 8)
        number = self.next_attempt()
        for wrong in (Opened(number - 1, HOMES[1], (), SOCKETS), Opened(number, HOMES[1], (), 0)):
            self.assertLess(self.answer(wrong), 8)
        # It is refused, and can't be agreed to any more
        self.assertLess(self.answer(Opened(number, HOMES[1], (), SOCKETS)), 8)
        self.assertEqual(self.status(self.alice).packets, 0)

    def test_hardly_any_open_ports(self) -> None:
        """So few that guesses find none: nobody honest asks for that."""
        for count in (1, MIN_SOCKETS - 1):
            self.assertLess(self.answer(Opened(self.next_attempt(), HOMES[1], (), count)), 8, count)
        self.assertEqual(self.status(self.alice).packets, 0)

    def test_ports_of_another_technique(self) -> None:
        """Ports that are named are none of this technique."""
        self.assertLess(self.answer(Opened(self.next_attempt(), HOMES[1], ((9500,), (9501,)))), 8)
        self.assertEqual(self.status(self.alice).packets, 0)

    def test_new_identities(self) -> None:
        """
        Who hangs up and returns under other keys gets no more packets sent to an address than one peer does,
        but for those that the limit of that address gains meanwhile.
        """
        sent = 0

        def count(packet: Packet) -> bool:
            nonlocal sent
            between = packet.source[0] in HOMES and packet.destination[0] in HOMES
            sent += between and packet.source[0] == HOMES[0]
            return between

        self.bob.stop()
        began, self.net.drop = self.net.now, count
        for number in range(4):
            peer = Peer(
                self.net,
                self.bob.host,
                self.rendezvous.address,
                accept=Accept.ANYONE,
                identity=Identity.generate(self.net.random_bytes(f"another key {number}")),
                spray=NEVER,
            ).register()
            peer.call(self.alice.id)
            peer.wait_for(Connected, 15.0)
            self.agree_to_all(peer)
            self.net.advance(16.0)
            peer.stop()
        # The checks of ICE are some more
        most = SPRAYED[1] + SPRAYED[0] * (self.net.now - began) + 4 * MAX_PACKETS_OF_CHECKS
        self.assertGreater(sent, MAX_PACKETS)
        self.assertLess(sent, most)

    def agree_to_all(self, peer: Peer) -> None:
        """Have a peer agree to each attempt of alice, and send nothing."""

        def hears(link: Link, frame_type: int, payload: bytes) -> bool:
            if frame_type == OptionalFrameType.TARGETS:
                opened = Opened(Targets.decode(payload).attempt, HOMES[1], (), SOCKETS)
                link.try_send_control(OptionalFrameType.OPENED, opened.encode())
            return False

        peer.hears = hears

    def test_too_many(self) -> None:
        """A number of sockets that nobody has ends the link."""
        wrong = Opened(1, HOMES[1], (), MAX_COUNT + 1).encode()
        self.bob.link_to(self.alice).send_control(OptionalFrameType.OPENED, wrong)
        self.net.advance(1.0)
        self.assertIsNone(self.alice.node.link(self.bob.id))

    def test_the_wrong_side(self) -> None:
        """The side with one port for all opens nothing."""
        self.bob.link_to(self.alice).send_control(
            OptionalFrameType.TARGETS, Targets(1000, "spraying", HOMES[1], (9500, 9501)).encode()
        )
        self.net.trace = []
        self.net.advance(0.5)
        self.assertEqual([each for each in self.net.trace if each.destination[1] in (9500, 9501)], [])
