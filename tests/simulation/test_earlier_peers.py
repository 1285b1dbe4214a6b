"""Peers that were registered before a flood, at a rendezvous on the simulated internet."""

from __future__ import annotations

from dataclasses import replace

from punch.identity import Identity
from punch.net.segmented_table import PROBATION
from punch.test.internet import Host, InternetTestCase
from punch.test.rendezvous.control_client import RecordingControlClient, connect_control, key_of
from punch.test.rendezvous.rendezvous_flood import LIMITS, PORT, Flood
from punch.test.system import SERVICE, Rendezvous
from punch.wire.control import Accept, Register


class EarlierPeersTests(InternetTestCase):
    """Peers of one network that were registered before a flood of fresh keys from many networks."""

    def client(self, host: Host) -> RecordingControlClient:
        """Register a fresh key."""
        identity = Identity.generate(self.net.random_bytes(f"key {len(self.clients)}"))
        client = connect_control(host.reactor, SERVICE, PORT, key_of(identity))
        self.clients.append(client)
        self.net.run_until(lambda: client.secured, 1.0, "the handshake is over")
        client.send(Register("honest", Accept.ASK))
        self.net.run_until(lambda: bool(client.of("welcome")), 1.0, "the peer is registered")
        return client

    def test_peers_of_one_network(self) -> None:
        """
        They are the largest source, and stay. Others register in less than a second while the flood lasts,
        also in their network, and stay as well.
        """
        self.net = self.internet()
        self.clients: list[RecordingControlClient] = []
        limits = replace(
            LIMITS,
            registrations=64,
            registrations_per_address=8,
            connections=96,
            handshakes=16,
            silence=600.0,
        )
        rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE), limits, relay=False)
        homes = [self.net.host(f"home-{number}", f"192.0.2.{number + 1}") for number in range(4)]
        for number in range(12):
            self.client(homes[number % 3])
        self.net.advance(2 * PROBATION)
        flood = Flood(self.net, [f"10.{number}.0.1" for number in range(20)], 0.05)
        flood.start(5)
        self.assertGreater(sum(attacker.refused for attacker in flood.attackers), 10)
        for host in (self.net.host("elsewhere", "192.0.3.1"), homes[3]):
            self.client(host)
            self.net.advance(2.0)
        self.assertEqual([client.ended for client in self.clients], [None] * 14)
        flood.stop()
        rendezvous.stop()
        self.net.advance(60.0)
