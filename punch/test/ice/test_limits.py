"""
What all peers together may make a node send to one host, and to all hosts; and what one peer may, to
predicted ports.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.agent import Agent
from punch.ice.budget import MAX_PACKETS, RESERVED, Budget, Budgets, PacketKind, Route
from punch.ice.checks import IceCredentials
from punch.ice.limits import (
    ALL_OPENINGS,
    ALL_SPRAYED,
    CHECKS,
    KEPT_FOR_FAMILIAR,
    MAX_HOSTS,
    MAX_OPENING_BYTES,
    MAX_OPENINGS,
    MAX_SPRAYED,
    OPENINGS,
    OPENINGS_FOR_CONTACTS,
    SPRAYED,
    WINDOW,
    OpeningBudget,
    TargetLimits,
)
from punch.identity import PeerID
from punch.test.ice.test_budget import address, route
from punch.test.ice.test_candidates import signalled
from punch.wire.address import Address

VICTIM = "203.0.113.7"


class NewPeersCase(SynchronousTestCase):
    """Peers that have never called before, all of which name one host."""

    def setUp(self) -> None:
        """A node, and no peers."""
        self.budgets = Budgets()
        self.peers = 0

    def peer(self, now: float = 0.0) -> Budget:
        """The budget of a peer that has not called before."""
        self.peers += 1
        return self.budgets.of(PeerID(self.peers.to_bytes(32, "big")), now)

    def checks(self, *hosts: str, peers: int = 45, now: float = 0.0) -> int:
        """How many checks so many peers can have sent to addresses that they name at these hosts."""
        return sum(
            peer.allows(Route(Address(host, 2000 + port)), 100, PacketKind.TRIGGERED, now)
            for peer in (self.peer(now) for _ in range(peers))
            for host in hosts
            for port in range(MAX_PACKETS)
        )

    def openings(self, host: str, now: float = 0.0) -> int:
        """How many packets go to ports of a host, for a peer that names it."""
        remote, budget = Address(host, 7), self.peer(now).openings
        return sum(budget.allows(remote, 100, now) for _ in range(2 * MAX_OPENINGS))

    def sprayed(self, host: str, now: float = 0.0) -> int:
        """How many packets a peer at this host can have sprayed."""
        remote, budget = Address(host, 7), self.peer(now).sprays
        return sum(budget.allows(remote, 100, now) for _ in range(2 * MAX_SPRAYED))

    def check_beginning(self, host: str, seconds: float) -> None:
        """A new peer may have ten packets sent there after so many seconds, and no earlier."""
        budget = self.peer().openings
        self.assertAlmostEqual(budget.may_begin_at(10, host, 0.0), seconds)
        self.assertFalse(budget.may_begin(10, host, seconds - 0.1))
        self.assertTrue(budget.may_begin(10, host, seconds))


class NewPeersTests(NewPeersCase):
    """Each packet is requested by a new peer."""

    def test_contacts(self) -> None:
        """
        Strangers can't use up what is sent for contacts, such as checks of a relay that all share, or
        attempts. What is sent for all contacts together is limited as well.
        """
        contacts: set[PeerID] = set()
        self.budgets = Budgets(contacts.__contains__)
        for _ in range(OPENINGS[1] // MAX_OPENINGS):
            self.openings(VICTIM)
        self.assertEqual(self.openings(VICTIM), 0)
        self.sprayed(VICTIM)
        self.assertEqual(self.sprayed(VICTIM), 0)
        self.checks(VICTIM)
        self.assertEqual(self.checks(VICTIM, peers=1), 0)
        contacts.update(PeerID(number.to_bytes(32, "big")) for number in range(1, 1000))
        self.assertEqual(self.checks(VICTIM), CHECKS[1] - KEPT_FOR_FAMILIAR)
        sent = [self.openings(VICTIM) for _ in range(20)]
        self.assertEqual((sent[0], sum(sent)), (MAX_OPENINGS, OPENINGS_FOR_CONTACTS[1]))
        self.assertEqual(self.sprayed(VICTIM), MAX_SPRAYED)
        # Somebody who becomes a contact, or none any more
        peer = PeerID((5000).to_bytes(32, "big"))
        self.assertFalse(self.budgets.of(peer, 0.0).sprays.may_begin(1, VICTIM, 0.0))
        contacts.add(peer)
        self.assertTrue(self.budgets.of(peer, 0.0).openings.may_begin(1, "203.0.113.8", 0.0))

    def test_checks(self) -> None:
        """So many may be sent at once, and so many a second. Other hosts have limits of their own."""
        rate, burst = CHECKS
        self.assertEqual(self.checks(VICTIM), burst - KEPT_FOR_FAMILIAR)
        self.assertEqual(self.checks(VICTIM, now=100.0), round(100 * rate))
        self.assertEqual(self.checks("203.0.113.8", peers=1, now=100.0), MAX_PACKETS - RESERVED)

    def test_networks(self) -> None:
        """An IPv6 /64 counts as one host."""
        addresses = [f"2001:db8:0:1::{number}" for number in range(2)]
        self.assertEqual(self.checks(*addresses), CHECKS[1] - KEPT_FOR_FAMILIAR)
        self.assertEqual(self.checks("2001:db8:0:2::1", peers=1), MAX_PACKETS - RESERVED)

    def test_an_earlier_direct_path(self) -> None:
        """A contact that was reached at an address is checked there, whatever others have had sent to it."""
        self.checks(VICTIM)
        there = Address(VICTIM, 2000)
        for familiar in ((), (VICTIM,)):
            agent = Agent(
                controlling=True,
                credentials=IceCredentials("abcd", "a" * 24),
                random=bytes,
                budget=self.peer(),
                familiar=familiar,
            )
            agent.add_local_address(Address("192.0.2.1", 1000))
            agent.set_remote(IceCredentials("efgh", "b" * 24), 0.05, 0.0)
            agent.add_remote_candidate(signalled(VICTIM, 2000), 0.0)
            sent = [transmit.remote for transmit in agent.datagrams_to_send(0.0)]
            self.assertEqual(sent, [there] if familiar else [])

    def test_openings(self) -> None:
        """Packets to ports that peers name are limited for each host, and for all hosts."""
        self.assertEqual(sum(self.openings(VICTIM) for _ in range(20)), OPENINGS[1])
        self.assertEqual(sum(self.openings(VICTIM, 100.0) for _ in range(20)), round(100 * OPENINGS[0]))
        others = sum(self.openings(f"198.51.100.{number}", 100.0) for number in range(1, 50))
        self.assertEqual(
            OPENINGS[1] + round(100 * OPENINGS[0]) + others, ALL_OPENINGS[1] + 100 * ALL_OPENINGS[0]
        )

    def test_when_openings_may_begin(self) -> None:
        """The time is right whichever limit is used up: that of a host, of all hosts, or of the peer."""
        for _ in range(5):
            self.openings(VICTIM)
        self.check_beginning(VICTIM, 10 / OPENINGS[0])
        for number in range(1, 50):
            self.openings(f"198.51.100.{number}")
        self.check_beginning("198.51.100.99", 10 / ALL_OPENINGS[0])
        budget = Budget().openings
        for number in range(MAX_OPENINGS - 9):
            self.assertTrue(budget.allows(Address(VICTIM, 7), 100, float(number)))
        self.assertEqual(budget.may_begin_at(9, VICTIM, 60.0), 60.0)
        self.assertEqual(budget.may_begin_at(10, VICTIM, 60.0), WINDOW)
        self.assertEqual(budget.may_begin_at(12, VICTIM, 60.0), WINDOW + 2.0)

    def test_sprays(self) -> None:
        """Sprayed packets are limited for each host, and for all hosts."""
        self.assertEqual(sum(self.sprayed(VICTIM) for _ in range(3)), SPRAYED[1])
        others = sum(self.sprayed(f"198.51.100.{number}") for number in range(1, 4))
        self.assertEqual(SPRAYED[1] + others, ALL_SPRAYED[1])
        self.assertEqual(self.sprayed("198.51.100.9", 100.0), round(100 * ALL_SPRAYED[0]))

    def test_a_path_is_found(self) -> None:
        """What was sprayed there no longer counts for that host, but still counts for all hosts."""
        remote, budget = Address(VICTIM, 7), self.peer()
        sent = sum(budget.sprays.allows(remote, 100, 0.0) for _ in range(MAX_SPRAYED))
        self.assertFalse(self.peer().sprays.may_begin(1, VICTIM, 0.0))
        budget.path_found(VICTIM)
        self.assertTrue(self.peer().sprays.may_begin(SPRAYED[1], VICTIM, 0.0))
        self.assertEqual(sent + self.sprayed(VICTIM) + self.sprayed("198.51.100.9"), ALL_SPRAYED[1])

    def test_bounds(self) -> None:
        """The host with the most packets is not forgotten, however many others there are."""
        limits = TargetLimits(CHECKS)
        for _ in range(CHECKS[1]):
            limits.charge(VICTIM, 0.0)
        for number in range(2 * MAX_HOSTS):
            limits.charge(f"198.18.{number >> 8}.{number & 255}", 0.0)
        self.assertFalse(limits.has(1, VICTIM, 0.0))
        # The first of the others made room
        self.assertTrue(limits.has(CHECKS[1], "198.18.0.0", 0.0))


class OpeningTests(SynchronousTestCase):
    """Packets to predicted ports are limited separately from checks."""

    def test_limits(self) -> None:
        """Their number and bytes are limited, and they stop counting after a time."""
        openings = OpeningBudget()
        sent = sum(openings.allows(address(number), 100, 0.0) for number in range(200))
        self.assertEqual(sent, MAX_OPENINGS)
        self.assertEqual(openings.left(0.0), 0)
        self.assertFalse(openings.allows(address(1), 100, WINDOW - 1.0))
        self.assertTrue(openings.allows(address(1), 100, WINDOW))
        self.assertEqual(openings.left(WINDOW), MAX_OPENINGS - 1)
        large = OpeningBudget()
        sent = sum(large.allows(address(number), 1172, 0.0) for number in range(200))
        self.assertEqual(sent, MAX_OPENING_BYTES // 1200)

    def test_before(self) -> None:
        """Whether there is room for all packets of an attempt, by their number and by their bytes."""
        openings = OpeningBudget()
        self.assertTrue(openings.has(MAX_OPENINGS, 100, address(1), 0.0))
        self.assertFalse(openings.has(MAX_OPENINGS + 1, 10, address(1), 0.0))
        large = MAX_OPENING_BYTES // 400
        self.assertTrue(openings.has(large, 372, address(1), 0.0))
        self.assertFalse(openings.has(large + 1, 372, address(1), 0.0))
        openings.charge(address(1), 372, 0.0)
        self.assertFalse(openings.has(large, 372, address(1), 0.0))
        self.assertEqual(openings.left(0.0), MAX_OPENINGS - 1)
        self.assertTrue(openings.has(large, 372, address(1), WINDOW))

    def test_separate(self) -> None:
        """What follows at such a socket counts there, if the peer has answered at this IP address."""
        budget = Budget()
        there, same_host = route(1), Route(Address(address(1).host, 7))
        for number in range(50):
            budget.allows(route(number), 100, PacketKind.ANSWER, 0.0)
        self.assertFalse(budget.allows(same_host, 100, PacketKind.TRIGGERED, 0.0, opening=True))
        budget.answered(Route(there.remote, address(9)), 0.0)
        for number in range(50):
            budget.allows(route(number), 100, PacketKind.ANSWER, 0.0)
        self.assertFalse(budget.allows(same_host, 100, PacketKind.TRIGGERED, 0.0))
        self.assertTrue(budget.allows(same_host, 100, PacketKind.TRIGGERED, 0.0, opening=True))
        self.assertEqual(budget.openings.left(0.0), MAX_OPENINGS - 1)
        sent = sum(budget.allows(same_host, 100, PacketKind.TRIGGERED, 0.0, opening=True) for _ in range(200))
        self.assertEqual(sent + 1, MAX_OPENINGS)

    def test_a_path_is_found(self) -> None:
        """What went to that IP address no longer counts; what went elsewhere does, of each kind."""
        budget = Budget()
        here, there = Address(address(1).host, 7), Address(address(2).host, 7)
        for remote in (here, there, here):
            budget.allows(Route(remote), 100, PacketKind.TRIGGERED, 0.0)
            for openings in (budget.openings, budget.sprays):
                self.assertTrue(openings.allows(remote, 100, 0.0))
        self.assertTrue(budget.openings.allows(there, MAX_OPENING_BYTES - 412, 0.0))
        self.assertFalse(budget.openings.has(1, 100, there, 0.0))
        budget.path_found(here.host)
        self.assertEqual(budget.openings.left(0.0), MAX_OPENINGS - 2)
        self.assertEqual(budget.sprays.left(0.0), MAX_SPRAYED - 1)
        # Of the bytes, 128 count for the first packet there, and all but 384 for the second
        self.assertTrue(budget.openings.has(2, 100, there, 0.0))
        self.assertFalse(budget.openings.has(3, 100, there, 0.0))
        for _ in range(3):
            budget.path_found(here.host)
        self.assertEqual(budget.sprays.left(0.0), MAX_SPRAYED - 1)
        budget.path_found(there.host)
        self.assertTrue(budget.is_idle(0.0))

    def test_kept(self) -> None:
        """A budget with openings that count is not idle."""
        budget = Budget()
        self.assertTrue(budget.is_idle(0.0))
        budget.openings.allows(address(1), 100, 0.0)
        self.assertFalse(budget.is_idle(1.0))
        self.assertTrue(budget.is_idle(WINDOW))
