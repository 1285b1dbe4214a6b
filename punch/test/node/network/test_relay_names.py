"""A relay that is known by name, and moves."""

from __future__ import annotations

from collections.abc import Sequence

from punch.node.control.hosts import FRESH, KEPT, HostAddresses
from punch.node.network.reflexive_addresses import ReflectorFinder
from punch.node.network.relay import RelayClient
from punch.node.network.relay_pool import RelayPool
from punch.test.rendezvous.relay_service_case import Datagrams
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.test.turn.server.test_forged import OTHER_SERVICE, TwoServicesCase
from punch.turn.server.authentication import issue
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import RelayServer, TurnTransport, TurnURI

NAME = "relay.example"


class RecordingRelayUser:
    """A session that keeps what it is told."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.lost = 0

    def relay_found(self, relay: RelayClient) -> None:
        self.found.append(relay.local.host)

    def relay_lost(self, local: Address) -> None:
        self.lost += 1

    def relay_limited(self, local: Address, limit: RelayLimit) -> None:
        """As a link is told."""

    def relays_done(self) -> None:
        """Nothing to do."""


class MovingRelayTests(TwoServicesCase):
    """`--turn turn:NAME:3478`, over UDP alone: it ends at one address, and begins at another."""

    def setUp(self) -> None:
        super().setUp()
        self.net.dns[NAME] = [SERVICE]
        self.user = RecordingRelayUser()
        self.asked_for_credentials = 0
        pools: list[RelayPool] = []

        class Socket(Datagrams):
            def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
                pools[0].receive([datagram], Address(*addr[:2]), self.address)

        socket = Socket(self.home, self.home.addresses[0])

        def send(datagrams: Sequence[bytes], remote: Address, _local: Address) -> None:
            for data in datagrams:
                socket.send(data, remote)

        self.pool = RelayPool(
            self.home.reactor,
            monotonic=self.net.monotonic,
            random=self.net.random_bytes("pool"),
            roots=None,
            name="rendezvous.example",
            bases=lambda: [socket.address],
            send=send,
            received=lambda *_: None,
            renew=lambda: None,
        )
        pools.append(self.pool)
        self.addCleanup(self.pool.stop)
        self.offer()
        self.pool.join(self.user)
        self.net.advance(1.0)
        self.assertEqual(self.user.found, [SERVICE])

    def offer(self) -> None:
        """The rendezvous gives credentials for it."""
        username, password = issue(self.secret, "user", self.net.monotonic() + 3600)
        url = TurnURI(NAME, 3478, TurnTransport.UDP)
        self.pool.update((RelayServer(url, username, password, "punch", "", 3600.0),), SERVICE)

    def end_first(self) -> None:
        self.net.wait(self.service.stopService(), 2.0)

    def test_the_name_is_looked_up_after_a_failure(self) -> None:
        self.end_first()
        self.net.dns[NAME] = [OTHER_SERVICE]
        for relay in self.pool.current:
            relay.probe()
        self.net.run_until(lambda: len(self.user.found) == 2, 30.0)
        self.assertEqual((self.user.found, self.user.lost), ([SERVICE, OTHER_SERVICE], 1))

    def test_the_name_follows_later(self) -> None:
        """Each failure has it looked up once more."""
        self.end_first()
        for relay in self.pool.current:
            relay.probe()
        self.net.advance(60.0)
        self.assertEqual(self.user.found, [SERVICE])
        self.net.dns[NAME] = [OTHER_SERVICE]
        self.net.run_until(lambda: len(self.user.found) == 2, 70.0)

    def test_new_credentials(self) -> None:
        """They have it looked up, and the new address is asked at once."""
        self.end_first()
        for relay in self.pool.current:
            relay.probe()
        self.net.advance(10.0)
        self.net.dns[NAME] = [OTHER_SERVICE]
        self.offer()
        self.net.advance(0.5)
        self.assertEqual(self.user.found, [SERVICE, OTHER_SERVICE])

    def test_another_network(self) -> None:
        self.end_first()
        for relay in self.pool.current:
            relay.probe()
        self.net.advance(10.0)
        self.net.dns[NAME] = [OTHER_SERVICE]
        self.pool.network_changed()
        self.net.advance(0.5)
        self.assertEqual(self.user.found, [SERVICE, OTHER_SERVICE])


class WayOutTests(RendezvousCase):
    """From which sockets relays are asked, of a machine with many interfaces."""

    def asked(self, bases: list[Address], relays: list[str]) -> list[tuple[str, str]]:
        """Which relays are asked first, each with the host of the socket, in order."""
        asked: list[tuple[str, str]] = []
        pool = RelayPool(
            self.home.reactor,
            monotonic=self.net.monotonic,
            random=self.net.random_bytes("pool"),
            roots=None,
            name="rendezvous.example",
            bases=lambda: bases,
            send=lambda _, remote, local: asked.append((local.host, remote.host)),
            received=lambda *_: None,
            renew=lambda: None,
        )
        self.addCleanup(pool.stop)
        urls = [TurnURI(host, 3478, TurnTransport.UDP) for host in relays]
        pool.update(tuple(RelayServer(url, "user", "secret", "punch", "", 3600.0) for url in urls), SERVICE)
        pool.join(RecordingRelayUser())
        return asked

    def test_it_comes_first(self) -> None:
        """Every relay is asked from the way out of its family before any is from another interface."""
        out, out6 = Address("192.168.1.2", 1000), Address("2001:db8:1::2", 1000)
        cut_off = [Address(f"10.{number}.0.2", 1000) for number in range(12)]
        cut_off6 = [Address(f"2001:db8:{number + 10}::2", 1000) for number in range(12)]
        bases = [out, *cut_off, out6, *cut_off6]
        relays = [f"198.51.100.{number}" for number in range(1, 4)]
        asked = self.asked(bases, [*relays, "2001:db8::9"])
        self.assertEqual(asked, [*((out.host, relay) for relay in relays), (out6.host, "2001:db8::9")])
        asked = self.asked(bases, relays[:2])
        first = [(out.host, relay) for relay in relays[:2]]
        self.assertEqual(asked, [*first, *((cut_off[0].host, relay) for relay in relays[:2])])


class CacheTests(RendezvousCase):
    """`HostAddresses`, and the reflectors of a rendezvous."""

    def test_an_end(self) -> None:
        """Addresses are looked up again after a while, and not used for ever without."""
        changes: list[int] = []
        hosts = HostAddresses(self.home.reactor, self.net.monotonic, lambda: changes.append(1))
        self.assertEqual((hosts.of("192.0.2.1"), hosts.of("2001:DB8::1")), (["192.0.2.1"], ["2001:db8::1"]))
        self.net.dns[NAME] = [SERVICE]
        self.assertEqual(hosts.of(NAME), [])
        self.net.advance(0.5)
        self.assertEqual((hosts.of(NAME), len(changes)), ([SERVICE], 1))
        self.net.dns[NAME] = [OTHER_SERVICE]
        self.net.advance(FRESH)
        self.assertEqual(hosts.of(NAME), [SERVICE])
        self.net.advance(0.5)
        self.assertEqual((hosts.of(NAME), len(changes)), ([OTHER_SERVICE], 2))
        del self.net.dns[NAME]
        self.net.advance(KEPT - 1)
        self.assertEqual(hosts.of(NAME), [OTHER_SERVICE])
        self.net.advance(2.0)
        self.assertEqual(hosts.of(NAME), [])
        hosts.keep(set())
        self.net.advance(1.0)
        self.assertEqual(len(changes), 2)

    def test_reflectors(self) -> None:
        """The other family's address follows the name when the network changes."""
        found: list[list[Address]] = []
        finder = ReflectorFinder(self.home.reactor, NAME, lambda host: True, found.append)
        self.net.dns[NAME] = [SERVICE, "2001:db8::1"]
        finder.find(SERVICE, 3478)
        self.net.advance(0.5)
        self.net.dns[NAME] = [SERVICE, "2001:db8::2"]
        finder.again()
        self.net.advance(0.5)
        self.assertEqual(
            [[str(each) for each in reflectors] for reflectors in found],
            [
                [f"{SERVICE}:3478"],
                [f"{SERVICE}:3478", "[2001:db8::1]:3478"],
                [f"{SERVICE}:3478", "[2001:db8::2]:3478"],
            ],
        )
