"""What follows from observations of a NAT, and what nodes find out about their NATs, and when."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.natcheck.profile import (
    ANY_FILTERING,
    ANY_MAPPING,
    FEW_TAKEN,
    MAX_TAKEN,
    NEWEST,
    Filtering,
    Hairpinning,
    NatProfiles,
    Observation,
    common_step,
    difference,
    filtering_of,
    hairpinning_of,
    mapping_of,
    ports_of,
)
from punch.natcheck.transactions import ReflectorAddresses
from punch.net.udp.sockets import open_portable
from punch.node.network.nat_profiles import FRESH, NatObserver
from punch.test.internet import NAT, Host, InternetTestCase, Ports
from punch.test.internet import Mapping as Maps
from punch.test.node.netcheck_network import SECOND, SERVICE, NetcheckNetwork
from punch.wire.address import Address
from punch.wire.peers.nat_profile import MAX_OBSERVED, MAX_STEP, Mapping, NatProfile, PortAssignment

DEPENDENT = frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
ONE_ADDRESS = frozenset({Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT})
EIM, ADM, APDM = Mapping
EIF, ADF, APDF = Filtering
A, B, C, D = (Address("203.0.113.1", 1000 + number) for number in range(4))


class MappingTests(SynchronousTestCase):
    def test_table(self) -> None:
        """First and second port of the first address, then of the second; None where nothing is known."""
        for seen, possible in (
            ((A, A, A, A), {EIM}),
            ((A, A, B, B), {ADM}),
            ((A, B, C, D), {APDM}),
            ((A, A, B, C), {APDM}),
            ((A, B, A, B), {APDM}),
            ((A, None, A, None), {EIM}),
            ((A, None, B, None), {ADM, APDM}),
            ((A, A, None, None), {EIM, ADM}),
            ((A, B, None, None), {APDM}),
            ((A, None, None, B), set(ANY_MAPPING)),
            ((A, None, None, None), set(ANY_MAPPING)),
            ((A, A, None, B), {ADM}),
            ((A, A, None, A), {EIM}),
        ):
            self.assertEqual(mapping_of(*seen), possible, seen)


class FilteringTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Whether something from the other port, and from the other address, got in."""
        for (port, address), possible in {
            (True, True): {EIF},
            (True, False): {ADF},
            (False, False): {APDF},
            (False, None): {APDF},
            (True, None): {EIF, ADF},
            (None, True): {EIF},
            (None, False): {ADF, APDF},
            (None, None): set(ANY_FILTERING),
        }.items():
            self.assertEqual(filtering_of(port, address), possible)

    def test_never_nothing(self) -> None:
        """For every observation, at least one behaviour is possible."""
        answers = (True, False, None)
        for port, address in product(answers, answers):
            self.assertTrue(filtering_of(port, address))


class PortTests(SynchronousTestCase):
    def seen(self, *ports: tuple[int, int]) -> list[tuple[Address, Address]]:
        return [(Address("10.0.0.2", local), Address("203.0.113.1", mapped)) for local, mapped in ports]

    def test_table(self) -> None:
        for ports, expected in (
            ([(1, 1), (2, 2), (3, 3), (4, 4)], PortAssignment.PRESERVING),
            ([(1, 1), (2, 2), (3, 900), (4, 4)], PortAssignment.PRESERVING),
            ([(1, 50), (2, 51), (3, 52), (4, 53)], PortAssignment.SEQUENTIAL),
            ([(1, 53), (2, 50), (3, 90), (4, 51)], PortAssignment.SEQUENTIAL),
            ([(1, 65534), (2, 65535), (3, 1024), (4, 1025)], PortAssignment.RANDOM),
            ([(1, 65500), (2, 65535), (3, 100), (4, 101)], PortAssignment.SEQUENTIAL),
            ([(1, 1024), (2, 20000), (3, 40000), (4, 60000)], PortAssignment.RANDOM),
            ([(1, 1), (2, 2), (3, 3)], PortAssignment.UNKNOWN),
            ([], PortAssignment.UNKNOWN),
        ):
            self.assertEqual(ports_of(self.seen(*ports)), expected, ports)

    def test_random_ports_are_not_sequential(self) -> None:
        for seed in range(500):
            random = Random(seed)
            ports = [(number, random.randint(1024, 65535)) for number in range(6)]
            self.assertEqual(ports_of(self.seen(*ports)), PortAssignment.RANDOM)


class HairpinTests(SynchronousTestCase):
    def test_silence(self) -> None:
        """The loss of the datagram is a result only if it is known how the NAT treats it."""
        for mappings, filterings in product(({EIM}, {ADM}, {APDM}, ANY_MAPPING), ({EIF}, {ADF}, {APDF})):
            arguments = frozenset(mappings), frozenset(filterings)
            self.assertEqual(hairpinning_of(True, *arguments), Hairpinning.YES)
            known = mappings == {EIM} or filterings == {EIF}
            expected = Hairpinning.NO if known else Hairpinning.UNKNOWN
            self.assertEqual(hairpinning_of(False, *arguments), expected)


class StepTests(SynchronousTestCase):
    """`common_step` and `difference`."""

    def test_table(self) -> None:
        """The step of ports that were seen one after the other."""
        for ports, expected in (
            ([4000, 4001, 4002], 1),
            ([4000, 3999, 3998, 3997], -1),
            ([4000, 4002, 4004], 2),
            ([4000, 4004, 4006, 4012], 2),  # Others took some in between
            ([4000, 4003, 4005, 4006], 1),
            ([65534, 65535, 0, 1], 1),  # The range wraps around
            ([65534, 65535, 1024, 1025, 1026], 1),  # One jump in four
            ([1, 0, 65535], -1),
            ([4000, 4001], 0),  # A single difference is too little
            ([4000, 4001, 3990, 4011, 3999], 0),  # Up and down
            ([4000, 51234, 17777, 40001], 0),
            ([4000, 4500, 5000], 0),  # Too far apart
            ([4000, 4048, 4192, 4240], 48),  # Others took two in between
            ([4000, 4002, 4004, 5003, 5005], 2),  # One jump
            ([4000, 4000, 4000], 0),
            ([], 0),
        ):
            differences = [difference(*pair) for pair in pairwise(ports)]
            self.assertEqual(common_step(differences), expected, ports)

    def test_random_ports_in_a_block(self) -> None:
        """Ports near each other are no sequence, with four ports seen or six (one address or two)."""
        random = Random(1)
        for size, seen_ports, most in ((256, 4, 150), (512, 4, 50), (512, 6, 2), (1024, 4, 20), (2048, 6, 1)):
            found = 0
            for _ in range(1000):
                ports = random.sample(range(20_000, 20_000 + size), seen_ports)
                found += common_step([difference(*pair) for pair in pairwise(ports)]) != 0
            self.assertLessEqual(found, most, (size, seen_ports))

    def test_a_busy_sequence(self) -> None:
        """Others take up to `MAX_TAKEN` - 1 ports in between, or fewer if the step is large."""
        random = Random(1)
        for step in (1, -1, 2, 5, 48, -100, 128):
            most = MAX_TAKEN if abs(step) * MAX_TAKEN <= MAX_STEP else FEW_TAKEN
            steps = [random.randrange(1, most + 1) for _ in range(5)]
            self.assertEqual(common_step([step * each for each in [*steps, 1]]), step, steps)


def seen(*ports: int, host: str = "203.0.113.7", kept: int = 0) -> Observation:
    """An observation of a NAT whose mapping depends on the destination."""
    return Observation(host, True, DEPENDENT, kept, 3, ports)


class NatProfilesTests(SynchronousTestCase):
    """What is remembered of NATs."""

    def test_how_sure_and_how_old(self) -> None:
        """Observations add up, and a profile says how old it is."""
        profiles = NatProfiles()
        profiles.add("10.0.0.2", seen(4000, 4002, 4004), 5.0)
        profiles.add_ports("10.0.0.2", [4100, 4101, 4103], 20.0)
        self.assertEqual(
            profiles.current(33.0),
            [NatProfile("203.0.113.7", DEPENDENT, PortAssignment.SEQUENTIAL, 1, 1, 4, 13)],
        )
        self.assertEqual(profiles.age("10.0.0.2", 33.0), 13.0)
        for number in range(100):
            profiles.add_ports("10.0.0.2", [number, number + 1], 40.0)
        (profile,) = profiles.current(40.0)
        self.assertEqual((profile.agreeing, profile.observed), (MAX_OBSERVED, MAX_OBSERVED))

    def test_range(self) -> None:
        """The range of ports at which this host was seen lately."""
        profiles = NatProfiles()
        self.assertIsNone(profiles.port_range("10.0.0.2"))
        profiles.add("10.0.0.2", seen(4300, 4001), 5.0)
        self.assertIsNone(profiles.port_range("10.0.0.2"))
        profiles.add_ports("10.0.0.2", [4250], 6.0)
        self.assertEqual(profiles.port_range("10.0.0.2"), (4001, 4300))
        profiles.add_ports("10.0.0.2", [*range(9000, 9000 + NEWEST)], 7.0)
        self.assertEqual(profiles.port_range("10.0.0.2"), (9000, 8999 + NEWEST))
        profiles.add("10.0.0.2", seen(1, 2, host="203.0.113.8"), 8.0)
        self.assertIsNone(profiles.port_range("10.0.0.2"))

    def test_another_network(self) -> None:
        """Another public address is another NAT; addresses that are gone are forgotten."""
        profiles = NatProfiles()
        profiles.add("10.0.0.2", seen(4000, 4001, 4002), 5.0)
        profiles.add("10.0.0.2", seen(9000, 20000, 40000, host="203.0.113.8"), 6.0)
        (profile,) = profiles.current(6.0)
        self.assertEqual((profile.host, profile.ports), ("203.0.113.8", PortAssignment.RANDOM))
        profiles.keep(["10.9.9.9"])
        self.assertEqual(profiles.current(7.0), [])
        profiles.add_ports("10.0.0.2", [1, 2, 3], 8.0)
        self.assertIsNone(profiles.of("10.0.0.2", 8.0))

    def test_order_and_number(self) -> None:
        """The most preferred address comes first; two addresses behind one NAT are one profile."""
        profiles = NatProfiles()
        for local, host in (
            ("10.0.0.2", "203.0.113.7"),
            ("10.1.0.2", "203.0.113.8"),
            ("10.2.0.2", "203.0.113.7"),
        ):
            profiles.add(local, seen(1, 2, 3, host=host), 0.0)
        self.assertEqual([each.host for each in profiles.current(0.0)], ["203.0.113.7", "203.0.113.8"])

    def test_no_nat(self) -> None:
        """Without a NAT, nothing is mapped, and there is no step."""
        profiles = NatProfiles()
        profiles.add("198.51.100.9", Observation("198.51.100.9", False, ANY_MAPPING, 3, 3, (1, 2, 3)), 0.0)
        self.assertEqual(
            profiles.current(0.0),
            [NatProfile("198.51.100.9", frozenset(), PortAssignment.PRESERVING, observed=2)],
        )


class ObserverTests(InternetTestCase):
    """`NatObserver`, behind simulated NATs."""

    def observer(self, host: Host, second: bool = True, other: bool = True) -> NatObserver:
        """An observer on a host that asks as many reflectors as it may."""
        observer = NatObserver(
            host.reactor, self.net.monotonic, self.net.random_bytes("nat"), open_portable, lambda: None
        )
        hosts = [SERVICE, SECOND] if other else [SERVICE]
        observer.use(ReflectorAddresses.of(hosts, 3478, 3479 if second else 0))
        return observer

    def profile(self, nat: NAT | None, *, second: bool = True, other: bool = True) -> NatProfile:
        """What an observer finds out."""
        self.net = self.internet()
        self.network = NetcheckNetwork(self.net)
        host = self.host = (
            self.net.lan("home", "10.0.0.0/24", nat=nat).host("alice")
            if nat
            else self.net.host("alice", "198.51.100.77")
        )
        observer = self.observer(host, second, other)
        observer.keep([Address(host.addresses[0], 5000)])
        self.assertEqual(observer.current, [])
        self.net.run_until(lambda: bool(observer.current), 4.0, "a profile")
        (found,) = observer.current
        observer.close()
        self.net.advance(0.1)
        self.assertEqual(host.reactor.getDelayedCalls(), [])
        return found

    def test_allocation_in_sequence(self) -> None:
        """Any step, up and down, also while other hosts take ports."""
        for step, others in ((1, 0.0), (-1, 0.0), (2, 0.0), (2, 10.0), (-3, 10.0)):
            nat = NAT("203.0.113.7", Maps.APDM, ports=Ports.SEQUENTIAL, step=step, others=others)
            found = self.profile(nat)
            self.assertEqual(
                (found.host, found.mapping, found.ports, found.step),
                ("203.0.113.7", DEPENDENT, PortAssignment.SEQUENTIAL, step),
                (step, others),
            )
            self.assertEqual((found.observed, found.age), (5, 0))

    def test_mapping(self) -> None:
        """Which mapping behaviours are possible, by the number of reflectors."""
        for mapping, second, other, expected in (
            (Maps.EIM, True, True, {Mapping.ENDPOINT_INDEPENDENT}),
            (Maps.EIM, True, False, ONE_ADDRESS),
            (Maps.EIM, False, False, ANY_MAPPING),
            (Maps.ADM, True, True, {Mapping.ADDRESS_DEPENDENT}),
            (Maps.APDM, True, False, DEPENDENT),
        ):
            found = self.profile(NAT("203.0.113.7", mapping, ports=Ports.RANDOM), second=second, other=other)
            self.assertEqual(found.mapping, frozenset(expected), (mapping, second, other))
            self.assertEqual((found.ports, found.step), (PortAssignment.RANDOM, 0))

    def test_preserving(self) -> None:
        """New sockets keep their ports."""
        found = self.profile(NAT("203.0.113.7", Maps.EIM, ports=Ports.PRESERVING))
        self.assertEqual(found.ports, PortAssignment.PRESERVING)

    def test_no_nat(self) -> None:
        """Without a NAT, the profile has no mapping behaviour."""
        found = self.profile(None)
        self.assertEqual((found.host, found.mapping), ("198.51.100.77", frozenset()))

    def test_when(self) -> None:
        """
        A profile is observed again when it is old, when the node registers, and when the network has changed.
        """
        self.profile(NAT("203.0.113.7", Maps.APDM, ports=Ports.SEQUENTIAL))
        observer = self.observer(self.host)
        base = [Address(self.host.addresses[0], 5000)]
        asked: list[int] = []

        def packets() -> int:
            """How many requests the last `keep` caused."""
            self.net.trace = []
            observer.keep(base)
            self.net.advance(1.0)
            assert isinstance(self.net.trace, list)
            asked.append(sum(each.destination[0] in (SERVICE, SECOND) for each in self.net.trace))
            return asked[-1]

        self.assertGreater(packets(), 0)
        self.assertEqual(packets(), 0)
        self.net.advance(FRESH)
        self.assertGreater(packets(), 0)
        self.assertEqual(packets(), 0)
        observer.invalidate()
        self.assertGreater(packets(), 0)
        observer.keep(base, anew=True)
        self.assertEqual(observer.current, [])
        self.net.advance(1.0)
        self.assertEqual(observer.current[0].step, 1)
        observer.use(None)
        observer.keep(base, anew=True)
        self.net.advance(1.0)
        self.assertEqual(observer.current, [])
        observer.close()

    def test_silence(self) -> None:
        """Without an answer there is no profile, and all sockets are closed in the end."""
        self.net = self.internet()
        host = self.net.host("alice", "198.51.100.77")
        observer = self.observer(host)
        observer.keep([Address("198.51.100.77", 5000)])
        self.net.advance(10.0)
        self.assertEqual(observer.current, [])
        self.assertEqual(host.reactor.getDelayedCalls(), [])
        observer.close()
