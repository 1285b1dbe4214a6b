"""The reflector's second port and further addresses: listening, and what goes wrong with it."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import DatagramProtocol

from punch.identity import Identity
from punch.rendezvous.config import AlternateAddress, RendezvousConfig
from punch.rendezvous.service import RendezvousService
from punch.test.internet import InternetTestCase

SERVICE, SECOND = "198.51.100.1", "198.51.100.2"


class SecondReflectorTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.host = self.net.host("rendezvous", SERVICE, SECOND)
        self.reports: list[tuple[str, dict[str, object]]] = []

    def start(self, **changes: Any) -> RendezvousService:
        config = RendezvousConfig(
            identity=Identity.generate(self.net.random_bytes("key")),
            control="tcp:7001",
            host=SERVICE,
            relay=False,
            **changes,
        )
        service = RendezvousService(
            config,
            reactor=self.host.reactor,
            monotonic=self.net.monotonic,
            random=self.net.random_bytes("service"),
            report=lambda event, **fields: self.reports.append((event, fields)),
        )
        service.startService()
        self.net.advance(0.1)
        return service

    def bound(self) -> list[int]:
        """The UDP ports that are in use."""
        return sorted(port for port in range(3470, 3490) if self.host.udp.find((SERVICE, port)) is not None)

    def take(self, port: int) -> None:
        """Some other program has it."""
        self.host.reactor.listenUDP(port, DatagramProtocol())

    def test_default(self) -> None:
        """The port after the reflector's; all is closed in the end."""
        service = self.start()
        self.assertEqual(self.bound(), [3478, 3479])
        self.net.wait(service.stopService(), 2.0)
        self.assertEqual(self.bound(), [])

    def test_next_to_another_port(self) -> None:
        self.start(reflector_port=3482)
        self.assertEqual(self.bound(), [3482, 3483])

    def test_chosen(self) -> None:
        self.start(second_reflector_port=3485)
        self.assertEqual(self.bound(), [3478, 3485])

    def test_none(self) -> None:
        self.start(second_reflector=False)
        self.assertEqual(self.bound(), [3478])

    def test_taken(self) -> None:
        """If the default second port is taken, there is none; one that was asked for must be free."""
        self.take(3479)
        service = self.start()
        self.assertEqual([event for event, _ in self.reports], ["listening"])
        self.net.wait(service.stopService(), 2.0)
        self.reports.clear()
        self.start(second_reflector_port=3479)
        [(event, fields)] = self.reports
        self.assertEqual((event, fields["reason"]), ("failed", "port-in-use"))
        self.assertIn("3479", str(fields["text"]))
        self.assertIn("--second-reflector-port", str(fields["text"]))

    def test_further_addresses(self) -> None:
        """Both ports on both addresses."""
        self.start(reflector_host=SERVICE, alternate_addresses=[AlternateAddress(SECOND, SECOND)])
        for host in (SERVICE, SECOND):
            for port in (3478, 3479):
                self.assertIsNotNone(self.host.udp.find((host, port)), (host, port))

    def test_an_address_of_somebody_else(self) -> None:
        """Peers would be told of what is not there."""
        for host in (SERVICE, None):
            self.reports.clear()
            service = self.start(
                reflector_host=host, alternate_addresses=[AlternateAddress("192.0.2.9", "192.0.2.9")]
            )
            [(event, fields)] = self.reports
            self.assertEqual((event, fields["reason"]), ("failed", "endpoint"))
            self.assertIn("192.0.2.9", str(fields["text"]))
            self.assertIn("--alternate-address", str(fields["text"]))
            self.net.wait(service.stopService(), 2.0)
            self.assertEqual(self.bound(), [])
