"""Peers that were registered before a flood of more peers than a rendezvous takes."""

from __future__ import annotations

from punch.test.rendezvous.registry.test_protected_peers import (
    FLOODS,
    HOUR,
    NETWORK,
    Connections,
    Peers,
    ProtectedPeersCase,
)

SHARED_ADDRESS = ["192.0.2.1"] * 256
"""As many as one address may have."""


class ProtectedPeersTests(ProtectedPeersCase):
    """The same holds for registrations and for connections."""

    def check_patience(self, places: Peers | Connections) -> None:
        """
        60 addresses that had 256 identities each for an hour, or as many as they could get, give new peers
        places, which these keep while more come.
        """
        for host in FLOODS[0] * 256:
            places.come(host, 0.0)
        honest = [places.come("198.51.100.1", HOUR + number) for number in range(20)]
        self.assertEqual([each for each in honest if each not in places], [])
        self.flooded(places, FLOODS[0], HOUR + 60.0)
        self.assertEqual([each for each in honest if each not in places], [])

    def test_registrations_of_one_network(self) -> None:
        """500 peers of one /24, and floods from 60 addresses and 3,000."""
        for sources in FLOODS:
            self.check_earlier_peers(Peers(), sources, NETWORK)

    def test_one_shared_address(self) -> None:
        """256 peers behind one IPv4 address."""
        self.check_earlier_peers(Peers(), FLOODS[0], SHARED_ADDRESS)
        self.check_earlier_peers(Connections(), FLOODS[0], SHARED_ADDRESS)

    def test_patience(self) -> None:
        """Who was here early has no more than a share of the places, and no right to keep them."""
        for places in (Peers(), Connections()):
            self.check_patience(places)
