"""Direct paths from behind a NAT with random ports, and when nothing is sprayed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from typing import Any

from punch.ice.punching.spraying import BURST, MAX_PACKETS, MIN_SOCKETS, OPENED, RATE, SOCKETS, TARGETS
from punch.ice.punching.techniques import LIFETIME, SIMULTANEOUS_OPENS, Technique
from punch.link.control_stream import OptionalFrameType
from punch.link.link import Link
from punch.net.udp.sockets import DatagramSocket, Reach, open_socket
from punch.node.policies import SprayPolicy
from punch.node.punching.attempt import REQUEST_SIZE, UNUSED_TIME
from punch.node.punching.coordinator import PunchingStatus
from punch.node.punching.schedule import SETTLE
from punch.test.internet import NAT, Filtering, LinkSpec, Mapping, Ports, Unsolicited
from punch.test.internet.packet import Packet
from punch.test.scenarios.punching import HOMES, PunchingTestCase
from punch.test.system import SERVICE, hear_nothing
from punch.wire.address import Address
from tests.simulation.seeds import ALL

WITHIN = 20.0
"""Seconds after the call within which the path must be direct."""
SEEDS = range(1, 101) if ALL else range(1, 2)
FILTER_SEEDS = range(1, 21) if ALL else range(10, 11)
BLOCK_SEEDS = range(1, 21) if ALL else range(1, 3)
COLLIDING_SEEDS = range(1, 21) if ALL else range(1, 2)
LOSS_SEEDS = range(1, 11) if ALL else range(1, 2)
SECOND = "203.0.113.9"
"""The public address of a second NAT of one of the two."""
AUTO, NEVER = SprayPolicy.AUTO, SprayPolicy.NEVER


def random_ports(public: str | None = None) -> NAT:
    """A NAT with another port for each destination, at random, that filters by port."""
    return NAT(public, mapping=Mapping.APDM, filtering=Filtering.APDF, ports=Ports.RANDOM)


def one_port(public: str | None = None) -> NAT:
    """A NAT with one port for all destinations, that filters by port."""
    return NAT(public, mapping=Mapping.EIM, filtering=Filtering.APDF, ports=Ports.RANDOM)


def block(size: int, mapping: Mapping = Mapping.APDM) -> NAT:
    """A carrier's NAT with a block of ports for the subscriber, in which their order is random (RFC 7422)."""
    return NAT(
        mapping=mapping, filtering=Filtering.APDF, ports=Ports.RANDOM, port_range=(20_000, 19_999 + size)
    )


def by_address(public: str | None = None) -> NAT:
    """A NAT with another port for each address, at random, that filters by port."""
    return NAT(public, mapping=Mapping.ADM, filtering=Filtering.APDF, ports=Ports.RANDOM)


def taking(ports: Ports = Ports.PRESERVING) -> NAT:
    """A router with Linux that takes unsolicited packets for its own."""
    return NAT(mapping=Mapping.APDM, ports=ports, overload=True, unsolicited=Unsolicited.ACCEPT)


class DirectTests(PunchingTestCase):
    """Random ports on one side, and filtering by port on the other."""

    def check(
        self, left: NAT, right: NAT, seed: int = 1, link: LinkSpec | None = None, hops: int = 0
    ) -> bool:
        """Whether the path is direct in time; after no more packets than one attempt may take."""
        self.place(left, right, seed, link, hops=hops)
        seconds = self.seconds_to_direct(WITHIN)
        for peer in self.peers:
            tried = self.status(peer)
            self.assertIs(tried.technique, Technique.SPRAYING)
            # Checks and answers follow at the port that was hit
            self.assertLessEqual(tried.packets, MAX_PACKETS + 20)
        self.net.advance(2.0)
        if seconds is not None:
            self.assertNotIn("relay", self.paths)
            # All sockets are closed but that of the node and that of the path
            self.assertLessEqual(max(len(peer.host.reactor.open_ports) for peer in self.peers), 5)
        self.stop()
        return seconds is not None

    def test_seeds(self) -> None:
        """At least 95 of 100 calls, whoever calls (all with PUNCH_SEEDS=all)."""
        late = []
        for seed in SEEDS:
            ends = random_ports(), one_port()
            if not self.check(*(ends if seed % 2 else ends[::-1]), seed):
                late.append(seed)
        self.assertLessEqual(len(late), len(SEEDS) // 20, late)

    def test_blocks_of_a_carrier(self) -> None:
        """
        Ports are guessed near those that were seen, and a fraction of the block is enough: it has to do for
        other programs as well (20 seeds each with PUNCH_SEEDS=all).
        """
        late = []
        for size, seed in product((512, 1024, 2048), BLOCK_SEEDS):
            nat = block(size, Mapping.APDM if seed % 3 else Mapping.ADM)
            self.place(*((one_port(), nat) if seed % 2 else (nat, one_port())), seed)
            # Nothing is let through, so that all ports are opened
            self.lose_direct()
            self.call()
            self.net.advance(SETTLE + 5.0)
            self.assertLessEqual(len(nat.mappings(self.net.now)), size // 3, (size, seed))
            self.stop()
            nat = block(size, Mapping.APDM if seed % 3 else Mapping.ADM)
            if not self.check(*((one_port(), nat) if seed % 2 else (nat, one_port())), seed):
                late.append((size, seed))
        self.assertLessEqual(len(late), 3 * len(BLOCK_SEEDS) // 20, late)

    def test_a_router_that_takes_unsolicited_packets(self) -> None:
        """The first packets do not arrive, or those to the second socket come after the probes."""
        self.assertTrue(self.check(taking(), random_ports(), hops=8))
        if ALL:
            self.assertTrue(self.check(taking(), random_ports(), hops=0))

    def test_two_routers_that_take_unsolicited_packets(self) -> None:
        """
        They are next to each other, so packets with a low TTL arrive. The other router discards those for the
        second socket all the same, so what is then sent from there is let in.
        """
        late = [
            seed for seed in COLLIDING_SEEDS if not self.check(taking(), taking(ports=Ports.RANDOM), seed)
        ]
        self.assertLessEqual(len(late), len(COLLIDING_SEEDS) // 4, late)

    def test_a_nat_that_lets_others_in(self) -> None:
        """
        Checks of the side that aims come in at ports that are open for its other socket; their answers leave
        from ports that it does not let in. So they end nothing.
        """
        late = [
            (filtering, seed)
            for filtering, seed in product((Filtering.EIF, Filtering.ADF), FILTER_SEEDS)
            if not self.check(
                one_port(), NAT(mapping=Mapping.APDM, filtering=filtering, ports=Ports.RANDOM), seed
            )
        ]
        self.assertLessEqual(len(late), len(FILTER_SEEDS) // 10, late)

    def test_loss(self) -> None:
        """With 5 % and 10 % loss on each access link, each way (ten seeds with PUNCH_SEEDS=all)."""
        for loss in (0.05, 0.1):
            late = [
                seed
                for seed in LOSS_SEEDS
                if not self.check(one_port(), random_ports(), seed, LinkSpec(delay=0.025, loss=loss))
            ]
            self.assertLessEqual(len(late), len(LOSS_SEEDS) // 10, (loss, late))

    def test_no_room_in_the_kernel(self) -> None:
        """What it does not take is lost, and the attempt goes on."""
        asked = 0

        class Congested:
            """A socket that takes four of five packets with a low TTL."""

            def __init__(self, socket: DatagramSocket) -> None:
                self._socket = socket

            def __getattr__(self, name: str) -> Any:
                return getattr(self._socket, name)

            def send_limited(self, data: bytes, remote: Address, reach: Reach) -> bool:
                nonlocal asked
                asked += 1
                return bool(asked % 5) and self._socket.send_limited(data, remote, reach)

        def open_congested(*arguments: Any) -> Any:
            return Congested(open_socket(*arguments))

        self.place(one_port(), random_ports(), open_socket=open_congested)
        self.assertIsNotNone(self.seconds_to_direct(WITHIN))
        self.assertGreater(asked, 20)
        self.stop()

    def test_messages_meanwhile(self) -> None:
        """Messages arrive, once and in order; and no second has more packets than docs/nat.md says."""
        self.place(one_port(), random_ports())
        self.lose_direct()
        self.call()
        self.net.trace = []
        for number in range(32):
            self.alice.chat.send(self.bob.id, f"a{number}")
            self.bob.chat.send(self.alice.id, f"b{number}")
            self.net.advance(0.5)
        self.net.advance(2.0)
        self.assertEqual(self.bob.texts(), [f"a{number}" for number in range(32)])
        self.assertEqual(self.alice.texts(), [f"b{number}" for number in range(32)])
        sent = self.status(self.alice), self.status(self.bob)
        self.assertEqual(
            [(each.attempts, each.packets) for each in sent], [(1, MAX_PACKETS), (1, OPENED * SOCKETS)]
        )
        self.assertLess(sum(each.bytes for each in sent), 350_000)
        for here, there in (HOMES, HOMES[::-1]):
            times = sorted(
                each.time
                for each in self.net.trace
                if each.source[0] == here and each.destination[0] == there and "uplink up" in each.link
            )
            self.assertGreater(len(times), OPENED * SOCKETS - 1)
            for first, later in zip(times, times[round(RATE) + BURST + 1 :], strict=False):
                self.assertGreater(later - first, 0.99)
        # The next attempt comes after half a minute, and is the last one for five minutes
        self.net.advance(45.0)
        self.assertEqual([self.status(peer).attempts for peer in self.peers], [2, 2])
        self.net.advance(60.0)
        self.assertEqual([self.status(peer).attempts for peer in self.peers], [2, 2])
        self.stop()

    def test_an_ice_restart_meanwhile(self) -> None:
        """
        With long round trips, an attempt is not over when ICE is restarted to improve the path: it goes on,
        and the path that it finds is kept.
        """
        self.place(one_port(), random_ports(), link=LinkSpec(delay=0.3))
        self.lose_direct()
        self.call()
        self.net.advance(15.5)
        self.net.drop = None
        self.net.run_until(lambda: "relay" not in self.paths, 10.0, "a direct path")
        for _ in range(15):
            self.net.advance(1.0)
            self.assertNotIn("relay", self.paths)
        self.assertEqual([self.status(peer).attempts for peer in self.peers], [1, 1])
        self.stop()

    def test_a_short_outage(self) -> None:
        """
        The path that was found does not answer for some seconds, in which the link takes the relay: then it
        takes the same path again, without another attempt. While there still is a relayed pair, and when the
        relays have been given back, so that ICE is restarted.
        """
        for passed in (2.0, 40.0):
            self.place(one_port(), random_ports())
            self.assertIsNotNone(self.seconds_to_direct(WITHIN))
            self.net.advance(passed)
            found, attempts = self.ends, [self.status(peer).attempts for peer in self.peers]
            self.lose_direct()
            self.net.run_until(lambda: self.paths == {"relay"}, 12.0, "the relay")
            self.net.drop = None
            self.net.run_until(lambda: "relay" not in self.paths, 8.0, "the direct path")
            self.net.advance(30.0)
            self.assertEqual(self.ends, found)
            self.assertEqual([self.status(peer).attempts for peer in self.peers], attempts)
            self.stop()

    def test_an_outage_while_nats_are_observed_anew(self) -> None:
        """
        One machine has slept, and observes its NAT anew. The link takes the relay before the reflector has
        answered: that is no other network, so the path that was found is still kept and returns.
        """
        for number in (0, 1):
            self.place(one_port(), random_ports())
            self.assertIsNotNone(self.seconds_to_direct(WITHIN))
            self.net.advance(2.0)
            found, attempts = self.ends, [self.status(peer).attempts for peer in self.peers]
            self.peers[number].host.sleep(7.0)
            self.net.drop = (
                lambda packet: (
                    packet.protocol == "udp"
                    and packet.source[0] in HOMES
                    and (
                        packet.destination[0] in HOMES
                        # A Binding request for the reflector
                        or (packet.destination[0] == SERVICE and bytes(packet.payload[:2]) == b"\x00\x01")
                    )
                )
            )
            self.net.run_until(lambda: self.paths == {"relay"}, 30.0, "the relay")
            self.net.drop = None
            self.net.run_until(lambda: "relay" not in self.paths, 12.0, "the direct path")
            self.net.advance(30.0)
            self.assertEqual(self.ends, found)
            self.assertEqual([self.status(peer).attempts for peer in self.peers], attempts)
            self.stop()

    def test_one_of_two_nats_is_observed_later(self) -> None:
        """
        A machine with two addresses, behind a NAT each, has slept. What it hears of the second NAT comes
        later: that is no other network, neither for this side nor for the other one.
        """
        for number, nat in enumerate((one_port, random_ports)):
            self.place(one_port(), random_ports())
            second = self.net.lan("second", "192.168.9.0/24", nat=nat(SECOND))
            self.peers[number].host.attach(second)
            self.net.advance(5.0)
            self.assertIsNotNone(self.seconds_to_direct(WITHIN))
            self.net.advance(2.0)
            found, attempts = self.ends, [self.status(peer).attempts for peer in self.peers]
            self.peers[number].host.sleep(7.0)
            homes = {*HOMES, SECOND}

            def between(packet: Packet, homes: set[str] = homes) -> bool:
                udp = packet.protocol == "udp" and packet.source[0] in homes
                return udp and packet.destination[0] in homes

            def asks_late(packet: Packet) -> bool:
                asks = packet.protocol == "udp" and packet.source[0] == SECOND
                return between(packet) or (asks and bytes(packet.payload[:2]) == b"\x00\x01")

            self.net.drop = asks_late
            self.net.run_until(lambda: self.paths == {"relay"}, 30.0, "the relay")
            self.net.drop = between
            self.net.advance(2.0)
            self.net.drop = None
            self.net.run_until(lambda: "relay" not in self.paths, 12.0, "the direct path")
            self.net.advance(30.0)
            self.assertEqual(self.ends, found)
            self.assertEqual([self.status(peer).attempts for peer in self.peers], attempts)
            self.stop()

    def test_a_long_outage(self) -> None:
        """
        If the path does not return, its socket is closed after a while, and another attempt finds another.
        """
        self.place(one_port(), random_ports())
        self.assertIsNotNone(self.seconds_to_direct(WITHIN))
        self.net.advance(40.0)
        found = self.ends
        ports = {local.port for local, _ in found}
        self.net.drop = lambda packet: ports & {packet.source[1], packet.destination[1]} != set()
        self.net.run_until(lambda: self.paths == {"relay"}, 12.0, "the relay")
        self.net.run_until(lambda: "relay" not in self.paths, 40.0, "another direct path")
        self.net.advance(UNUSED_TIME)
        self.assertFalse(set(found) & set(self.ends))
        self.assertLessEqual(max(len(peer.host.reactor.open_ports) for peer in self.peers), 5)
        self.stop()


class TwoNATsTests(PunchingTestCase):
    """A machine with a cable and Wi-Fi, each behind a NAT of its own."""

    def test_the_second_one_is_better(self) -> None:
        """Attempts are made from there, and found by both sides."""
        for number in (0, 1):
            self.place(random_ports(), random_ports())
            second = self.net.lan("second", "192.168.9.0/24", nat=one_port(SECOND))
            self.peers[number].host.attach(second)
            self.net.advance(5.0)
            self.assertIsNotNone(self.seconds_to_direct(25.0))
            locals_ = [local.host for local, _ in self.ends]
            self.assertEqual(locals_[number], SECOND)
            self.stop()


class OlderPeerTests(PunchingTestCase):
    """
    A machine behind two NATs, and a peer whose release takes the first profile of each side, and refuses
    every other technique.
    """

    def place_two(self, number: int, left: NAT, right: NAT) -> None:
        """Place two peers, one of them also behind a NAT with one port, and let nothing through directly."""
        self.place(left, right)
        homes = {*HOMES, SECOND}
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} <= homes
        self.nats: list[dict[str, Any]] = []
        self.call()
        self.bob.hears = self.record
        second = self.net.lan("second", "192.168.9.0/24", nat=one_port(SECOND))
        self.peers[number].host.attach(second)
        self.net.advance(5.0)

    def record(self, link: Link, frame_type: int, payload: bytes) -> bool:
        """Keep what alice says about her NATs, and have bob hear nothing."""
        if frame_type == OptionalFrameType.NATS:
            self.nats.append(json.loads(payload))
        return False

    def test_its_peer_has_two(self) -> None:
        """What is told first makes the older release choose what we choose."""
        self.place_two(0, random_ports(), one_port())
        self.assertIs(self.status(self.alice).technique, Technique.SIMULTANEOUS_OPEN)
        # Between the first one and that of bob, simultaneous open; with the other one first, spraying
        told = self.nats[-1]["nats"]
        self.assertEqual([each["host"] for each in told], [SECOND, HOMES[0]])
        self.stop()

    def test_it_has_two(self) -> None:
        """Its first one counts, until it says that it chooses among all."""
        self.place_two(1, one_port(), random_ports())
        profile = {"mapping": ["address-and-port-dependent"], "ports": "random", "step": 0}
        known = {"agreeing": 0, "observed": 5, "age": 1}
        one = {"mapping": ["endpoint-independent"], "ports": "random", "step": 0}
        # As a release before the choice among all pairs says it
        older = {"nats": [{"host": HOMES[1], **profile, **known}, {"host": SECOND, **one, **known}]}
        for fields, expected in (
            (older, Technique.SPRAYING),
            ({**older, "pairs": True}, Technique.SIMULTANEOUS_OPEN),
            ({**older, "pairs": False}, Technique.SPRAYING),
        ):
            frame = json.dumps(fields).encode()
            self.bob.link_to(self.alice).send_control(OptionalFrameType.NATS, frame)
            self.net.advance(1.0)
            self.assertIs(self.status(self.alice).technique, expected)
        self.stop()


class UncertainMappingTests(PunchingTestCase):
    """
    Random ports where reflectors can't tell whether they depend on the destination: the service has one
    address, or only one of its ports can be reached.
    """

    closed = False

    def check_found(self, left: NAT | None, right: NAT | None, within: float) -> None:
        """The path is direct in time, found by spraying."""
        self.place(left, right)
        self.net.drop = self._is_closed if self.closed else None
        self.assertIsNotNone(self.seconds_to_direct(within))
        self.assertIs(self.status(self.alice).technique, Technique.SPRAYING)
        for peer in self.peers:
            self.assertLess(self.status(peer).packets, 2 * MAX_PACKETS)
        self.stop()

    def _is_closed(self, packet: Packet) -> bool:
        """Whether this is a request to another port of the reflector than the first one."""
        host, port = packet.destination
        other = host == SERVICE and port != self.rendezvous.service.reflector_port
        return other and packet.protocol == "udp" and len(packet.payload) == REQUEST_SIZE

    def test_one_address(self) -> None:
        """A mapping that depends on the address looks like an independent one."""
        self.check_found(by_address(), None, 25.0)
        self.check_found(None, by_address(), 25.0)

    def test_one_port(self) -> None:
        """So does one that depends on the port. That the other port does not answer takes a while."""
        self.closed = True
        self.check_found(random_ports(), None, 60.0)

    def test_both_sides(self) -> None:
        """The other one may be the one that depends on the address: that is tried next."""
        self.check_found(by_address(), one_port(), 60.0)
        self.check_found(one_port(), by_address(), 60.0)

    def test_neither_side(self) -> None:
        """If nothing gets through although both are independent, each side has sprayed once, and no more."""
        self.place(one_port(), one_port())
        self.lose_direct()
        self.call()
        self.net.advance(70.0)
        sent = [self.status(peer).packets for peer in self.peers]
        for packets in sent:
            self.assertGreater(packets, MAX_PACKETS)
        self.net.advance(120.0)
        for before, peer in zip(sent, self.peers, strict=True):
            self.assertIs(self.status(peer).technique, Technique.SIMULTANEOUS_OPEN)
            self.assertLess(self.status(peer).packets - before, 100)
        self.stop()


class OffTests(PunchingTestCase):
    """Where nothing is sent."""

    def check(self, spray: Sequence[SprayPolicy]) -> None:
        """Nothing goes from home to home but the checks of ICE."""
        self.place(one_port(), random_ports(), spray=spray)
        self.net.trace = []
        self.assertIsNone(self.seconds_to_direct(5.0))
        for peer, policy in zip(self.peers, spray, strict=True):
            status = self.status(peer)
            self.assertEqual(status.packets, 0)
            self.assertIs(status.technique, Technique.RELAY if policy is NEVER else Technique.SPRAYING)
            # The node's own sockets, and those that a refused attempt has opened
            self.assertLess(len(peer.host.reactor.open_ports), 8)
        ports = {each.destination for each in self.net.trace if each.destination[0] in HOMES}
        self.assertLess(len(ports), 20)
        self.stop()

    def test_never(self) -> None:
        """It is switched off on either side, or on both."""
        self.check((NEVER, NEVER))
        self.check((AUTO, NEVER))
        self.check((NEVER, AUTO))

    def test_never_where_reflectors_cannot_tell(self) -> None:
        """A side that asks for spraying in vain goes on with simultaneous opens."""
        self.place(by_address(), one_port(), spray=(AUTO, NEVER))
        self.call()
        self.net.run_until(
            lambda: self.status(self.alice).technique is Technique.SPRAYING, 60.0, "an assumption"
        )
        self.net.advance(LIFETIME + 1.0)
        attempts = self.status(self.alice).attempts
        self.net.advance(60.0)
        for peer in self.peers:
            self.assertIs(self.status(peer).technique, Technique.SIMULTANEOUS_OPEN)
        self.assertGreater(self.status(self.alice).attempts, attempts)
        self.stop()

    def test_no_room_for_sockets(self) -> None:
        """Nobody is asked to spray at ports that can't be opened."""
        self.place(by_address(), None, descriptors=lambda: 64)
        self.call()
        self.net.advance(60.0)
        self.assertGreater(self.status(self.alice).attempts, SIMULTANEOUS_OPENS)
        for peer in self.peers:
            self.assertIs(self.status(peer).technique, Technique.SIMULTANEOUS_OPEN)
        self.stop()

    def test_random_on_both_sides(self) -> None:
        """Nothing is tried: the link stays on the relay."""
        self.place(random_ports(), random_ports())
        self.assertIsNone(self.seconds_to_direct(4.0))
        for peer in self.peers:
            self.assertEqual(self.status(peer), PunchingStatus(Technique.RELAY, 0, 0, 0))
        self.stop()

    def test_an_older_release(self) -> None:
        """One that knows nothing of this does not answer, and gets nothing."""
        self.place(one_port(), random_ports())
        self.call()
        self.bob.hears = hear_nothing
        self.net.advance(15.0)
        self.assertGreater(self.status(self.alice).attempts, 1)
        self.assertEqual(self.status(self.alice).packets, 0)
        self.stop()


class DescriptorTests(PunchingTestCase):
    """A process that may open few descriptors."""

    def check(self, free: int) -> int:
        """Returns how many packets bob sends in his first attempt."""
        self.place(one_port(), random_ports(), descriptors=lambda: free)
        self.lose_direct()
        self.call()
        self.net.advance(6.0)
        packets = self.status(self.bob).packets
        self.stop()
        return packets

    def test_few(self) -> None:
        """Fewer sockets, or none at all."""
        self.assertEqual(self.check(150), TARGETS * 75)
        self.assertEqual(self.check(2 * MIN_SOCKETS - 1), 0)
