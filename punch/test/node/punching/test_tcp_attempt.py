"""Attempts over TCP: to which candidates we connect, what we learn there, and which ports are predicted."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.node.punching.tcp_attempt import MAX_TARGETS, predicted, targets
from punch.wire.address import Address, TCPAddress
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

OURS = TCPAddress("192.168.1.2", 40000)
OURS_IPV6 = TCPAddress("2a00:1:2:300::2", 40000)
SEEN = TCPAddress("203.0.113.1", 50000)


def named(host: str, port: int = 9000, kind: CandidateType = CandidateType.HOST) -> Candidate:
    """A candidate of the other side."""
    return Candidate(kind, TCPAddress(host, port), 1000, "1", tcp_type=TCPType.PASSIVE)


class TargetsTests(SynchronousTestCase):
    """To which of the addresses that the other side names we connect."""

    def found(self, *candidates: Candidate) -> list[tuple[Address, bool]]:
        """Where to connect, and whether that is near."""
        ours = OURS, OURS_IPV6
        found = targets(ours, {OURS: SEEN}, candidates, {each.host for each in ours})
        return [(target.remote, target.near) for target in found]

    def test_elsewhere(self) -> None:
        """Public addresses, of which few are taken."""
        hosts = ["198.51.100.7", "2a00:1:2:400::7", "198.51.100.8", "198.51.100.9"]
        expected = [(TCPAddress(host, 9000), False) for host in hosts[:MAX_TARGETS]]
        self.assertEqual(self.found(*map(named, hosts)), expected)

    def test_not_on_the_internet(self) -> None:
        """Nothing private, without the claim to be in our network, and no service below port 1024."""
        for host in ("10.0.0.1", "100.64.0.1", "198.18.0.1", "192.0.0.8", "127.0.0.1", "fd00::1", "fec0::1"):
            self.assertEqual(self.found(named(host)), [], host)
        self.assertEqual(self.found(named("198.51.100.7", 443)), [])

    def test_this_machine(self) -> None:
        """We never connect to this machine, even if the other side claims to be in our network."""
        claim = named(SEEN.host, 9001, CandidateType.SRFLX)
        for host in (OURS.host, OURS_IPV6.host):
            self.assertEqual(self.found(named(host), claim), [(claim.address, True)], host)

    def test_near(self) -> None:
        """Hosts in our network or with an address of it, and our router: nobody learns if they refuse."""
        claim = named(SEEN.host, 9001, CandidateType.SRFLX)
        private = named("192.168.1.3")
        self.assertEqual(self.found(claim, private), [(private.address, True), (claim.address, True)])
        neighbour = named("2a00:1:2:3ff::9")
        self.assertEqual(self.found(neighbour), [(neighbour.address, True)])


class PredictedTests(SynchronousTestCase):
    """Which port a NAT will give a connection."""

    def test_classes(self) -> None:
        """Preserved ports, sequences in both directions, and NATs whose port is not to be predicted."""
        asked, local = TCPAddress("192.168.1.2", 3000), TCPAddress("192.168.1.2", 4000)
        seen = TCPAddress("203.0.113.1", 5000)
        dependent, ports = frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT}), PortAssignment
        for profile, port in (
            (NatProfile("203.0.113.1", dependent, ports.PRESERVING), 4000),
            (NatProfile("203.0.113.1", dependent, ports.SEQUENTIAL, 2, 3, 3), 5002),
            (NatProfile("203.0.113.1", dependent, ports.SEQUENTIAL, -1, 3, 3), 4999),
            (NatProfile("203.0.113.1", dependent, ports.RANDOM), None),
            (NatProfile("203.0.113.1", frozenset({Mapping.ENDPOINT_INDEPENDENT}), ports.PRESERVING), None),
            (None, None),
        ):
            expected = None if port is None else TCPAddress("203.0.113.1", port)
            self.assertEqual(predicted(profile, asked, seen, local), expected, profile)

    def test_preserved_over_tcp_alone(self) -> None:
        """A NAT may allocate ports in sequence for UDP, and preserve those of TCP."""
        dependent = frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
        profile = NatProfile("203.0.113.1", dependent, PortAssignment.SEQUENTIAL, 1, 3, 3)
        asked, local = TCPAddress("192.168.1.2", 3000), TCPAddress("192.168.1.2", 4000)
        seen = TCPAddress("203.0.113.1", 3000)
        self.assertEqual(predicted(profile, asked, seen, local), TCPAddress("203.0.113.1", 4000))

    def test_at_the_ends_of_the_range(self) -> None:
        """No port outside the range is predicted: it is not known at which one a sequence begins again."""
        local = TCPAddress("192.168.1.2", 4000)
        for port, step in ((65535, 1), (1024, -1)):
            dependent = frozenset({Mapping.ADDRESS_DEPENDENT})
            profile = NatProfile("203.0.113.1", dependent, PortAssignment.SEQUENTIAL, step, 3, 3)
            asked, seen = TCPAddress("192.168.1.2", 3000), TCPAddress("203.0.113.1", port)
            self.assertIsNone(predicted(profile, asked, seen, local))
