"""Many lines at once on a control connection."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity, PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.control_protocol import ControlServerProtocol
from punch.rendezvous.control_session import ControlSession
from punch.rendezvous.registry.registry import Registry
from punch.test.rendezvous.control_client import key_of
from punch.test.rendezvous.test_control_session import Probes
from punch.wire.control import Accept, Error, Ping, Register
from punch.wire.control_lines import encode


class TLSTransport(StringTransport):
    """A transport whose other side has shown this certificate."""

    def __init__(self, certificate: x509.Certificate) -> None:
        super().__init__()
        self.certificate = certificate

    def getHandle(self) -> TLSTransport:
        return self

    def get_peer_certificate(self, *, as_cryptography: bool) -> x509.Certificate:
        return self.certificate


class Owner:
    """The service of a few connections."""

    def __init__(self, clock: Clock) -> None:
        self.clock: Any = clock
        self.monotonic = clock.seconds
        self.unread_bytes = 65536
        self.registry = Registry(RendezvousLimits())

    def denied(self, peer: PeerID, address: str) -> Error | None:
        return None

    def was_registered(self, peer: PeerID) -> bool:
        return self.registry.was_registered(peer)

    def opened(self, protocol: ControlServerProtocol, peer: PeerID, address: str) -> ControlSession:
        return ControlSession(
            self.registry,
            1,
            peer,
            address,
            reflector_port=0,
            limits=RendezvousLimits(),
            now=0.0,
            probing=Probes(),
        )

    def line_came(self, session: ControlSession) -> float:
        return 0.0

    def registry_changed(self) -> None:
        """Nothing is introduced here."""

    def lost(self, session: ControlSession) -> None:
        """Nothing is kept."""


def established(*, metered: bool = True, earlier: bool = False) -> None:
    """The connection may stay."""


class TurnTests(SynchronousTestCase):
    def test_many_lines_at_once(self) -> None:
        """A few are answered before others get their turn, the rest afterwards."""
        clock = Clock()
        protocol = ControlServerProtocol(Owner(clock), established)
        transport = TLSTransport(key_of(Identity.generate())[1])
        protocol.makeConnection(transport)
        protocol.dataReceived((encode(Ping()) + b"\n") * 50)
        self.assertLessEqual(transport.value().count(b"pong"), 10)
        clock.advance(0.0)
        self.assertEqual(transport.value().count(b"pong"), 50)
        # Then it reads at once again.
        protocol.dataReceived(encode(Ping()) + b"\n")
        self.assertEqual(transport.value().count(b"pong"), 51)
        protocol.connectionLost()

    def test_who_reads(self) -> None:
        """Before a transport can be full, and not for the few lines of most peers, it is asked to say so."""
        clock = Clock()
        protocol = ControlServerProtocol(Owner(clock), established)
        transport = TLSTransport(key_of(Identity.generate())[1])
        protocol.makeConnection(transport)
        protocol.dataReceived(encode(Register("alice", Accept.ASK)) + b"\n")
        for _ in range(100):
            clock.advance(1.0)
            protocol.dataReceived(encode(Ping()) + b"\n")
        self.assertIsNone(transport.producer)
        while transport.producer is None:
            self.assertLess(len(transport.value()), 65_536)
            clock.advance(1.0)
            protocol.dataReceived(encode(Ping()) + b"\n")
        protocol.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        protocol.resumeProducing()
        self.assertEqual(transport.producerState, "producing")
        protocol.connectionLost()
        self.assertIsNone(transport.producer)
