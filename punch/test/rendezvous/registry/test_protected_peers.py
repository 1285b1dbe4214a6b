"""Peers that were registered before a flood of new ones, and peers that come while it lasts."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.net.rate_limits import NoRoom
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.outputs import Disconnect
from punch.rendezvous.registry.registry import Registry
from punch.rendezvous.tcp.connection_limiter import ConnectionLimiter
from punch.test.rendezvous.registry.test_fairness import peer
from punch.wire.control import Accept, ErrorCode

NETWORK = [f"192.0.2.{number % 20 + 1}" for number in range(500)]
"""500 honest peers at 20 addresses of one /24."""
HOUR = 3600.0


def addresses(networks: int, each: int) -> list[str]:
    """So many addresses in each of so many /24s."""
    return [
        f"10.{number >> 8}.{number & 255}.{address}" for address in range(each) for number in range(networks)
    ]


FLOODS = addresses(60, 1), addresses(750, 4)
"""Where floods come from: 60 addresses, and 3,000."""


class Peers:
    """The peers at a registry with the usual limits, by number."""

    def __init__(self) -> None:
        self.registry = Registry(RendezvousLimits())
        self.most = RendezvousLimits().registrations
        self._numbers: dict[int, object] = {}
        self._next = 0

    def come(self, host: str, now: float) -> int | None:
        """Register a peer with a fresh key; None: it is refused."""
        self._next += 1
        try:
            self.registry.register(self._next, peer(self._next), "x", Accept.ASK, host, now)
        except IntroductionRefusal:
            return None
        while (output := self.registry.next_output()) is not None:
            assert not isinstance(output, Disconnect) or output.error.code is ErrorCode.TOO_MANY
        return self._next

    def __contains__(self, number: int | None) -> bool:
        return number is not None and peer(number) in self.registry


class Connections:
    """Connections to a service that takes 3,000, as in the benchmark of the rendezvous."""

    most = 3000

    def __init__(self) -> None:
        self._limiter = ConnectionLimiter(RendezvousLimits(connections=self.most))

    def come(self, host: str, now: float) -> int | None:
        """Connect, and finish the handshake; None: the connection is closed."""
        number, _ = self._limiter.admit(host, now)
        if number is None:
            return None
        try:
            self._limiter.established(number, now)
        except NoRoom:
            self._limiter.closed(number)
            return None
        return number

    def __contains__(self, number: int | None) -> bool:
        try:
            return number is not None and bool(self._limiter.source(number))
        except KeyError:
            return False


class ProtectedPeersCase(SynchronousTestCase):
    """A flood of fresh keys on a table of registrations or connections."""

    def flooded(self, places: Peers | Connections, sources: list[str], now: float) -> None:
        """A flood of fresh keys from these addresses, of more than there are places."""
        for number in range(places.most * 6 // 5):
            places.come(sources[number % len(sources)], now + number / 1000)

    def check_earlier_peers(self, places: Peers | Connections, sources: list[str], honest: list[str]) -> None:
        """
        Those that were there before a flood stay. New ones get in while it lasts, also in their network.
        """
        earlier = [places.come(host, 0.0) for host in honest]
        self.flooded(places, sources, HOUR)
        self.assertEqual([each for each in earlier if each not in places], [])
        new = [places.come(host, HOUR + 30.0) for host in ("198.51.100.1", "192.0.2.200")]
        self.flooded(places, sources, HOUR + 60.0)
        self.assertEqual([each for each in (*earlier, *new) if each not in places], [])


class ProtectedPeersTests(ProtectedPeersCase):
    """Connections; `tests/simulation/test_protected_peers.py` has registrations."""

    def test_connections_of_one_network(self) -> None:
        """500 peers of one /24, and floods from 60 addresses and 3,000."""
        for sources in FLOODS:
            self.check_earlier_peers(Connections(), sources, NETWORK)
