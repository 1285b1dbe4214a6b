"""The place of a registered peer that moves to another network."""

from __future__ import annotations

import contextlib

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.net.rate_limits import NoRoom
from punch.net.segmented_table import PROBATION
from punch.net.sources import source_of
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.places import RESERVE, RegistrationPlaces
from punch.test.rendezvous.registry.test_fairness import peer

HOME, FULL = "192.0.2.1", "198.51.100.1"
LATER = 10 * PROBATION


class MovingPeersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.displaced: list[PeerID] = []
        self.places = RegistrationPlaces(
            RendezvousLimits(registrations=RESERVE - 1, registrations_per_address=1), self.displace
        )

    def displace(self, one: PeerID, now: float) -> None:
        self.displaced.append(one)
        self.places.leave(one)

    def test_a_move_that_is_refused(self) -> None:
        """The other network has no place left. The peer keeps its own, which is protected, in a flood."""
        hosts = [HOME, "10.0.1.1", "10.0.2.1", "10.0.3.1", "192.0.2.2", "192.0.2.3", FULL]
        for number, host in enumerate(hosts):
            self.places.take(peer(number), source_of(host), None, float(number))
        for attempt in range(3):
            with self.assertRaises(NoRoom):
                self.places.take(peer(0), source_of(FULL), source_of(HOME), LATER + attempt)
        for number in range(100, 120):
            with contextlib.suppress(NoRoom):
                self.places.take(peer(number), source_of(f"10.1.{number}.1"), None, LATER + number)
        self.assertNotEqual(self.displaced, [])
        self.assertNotIn(peer(0), self.displaced)

    def test_a_move_when_all_places_are_taken(self) -> None:
        """The peer's own place becomes free."""
        for number in range(RESERVE - 1):
            self.places.take(peer(number), source_of(f"10.0.{number}.1"), None, float(number))
        self.places.take(peer(3), source_of(HOME), source_of("10.0.3.1"), LATER)
        self.assertEqual((self.displaced, len(self.places.tables[0])), ([], RESERVE - 1))
        self.assertEqual(self.places.tables[0].count(source_of(HOME)), 1)
