"""
A rendezvous that names hosts which only its peers can reach: nothing is sent there, on any code path.

Every test also has an address that may be used, to show that it sees what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twisted.internet.defer import succeed
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.logger import LogEvent, capturedLogs, formatEvent

from punch.identity import Identity
from punch.net.srv import LookUpService
from punch.net.udp.server import PlainPort
from punch.net.udp.socket_set import SocketSet
from punch.net.udp.sockets import DatagramSocket, open_portable
from punch.node.causes import RelayFailure
from punch.node.control.hosts import FRESH, HostPolicy
from punch.node.netcheck import USUAL_REFLECTOR, NetcheckRun
from punch.node.network.clat import Clat
from punch.node.network.relay import DatagramRelayClient, RelayClient, RelayContext
from punch.node.network.relay_pool import RelayPool
from punch.node.policies import RelayPolicy
from punch.rendezvous.reflector import Reflector
from punch.rendezvous.udp_server import UDPServer
from punch.test.internet import Host, Internet, InternetTestCase
from punch.test.node.control.scripted_service import ScriptedConnection, ScriptedService
from punch.test.node.control.simulated_proxy import SimulatedProxy
from punch.test.system import Peer
from punch.turn.client.requests import AllocationProblem
from punch.wire.address import Address
from punch.wire.control import Register, Relays, RenewRelays, Request, Welcome
from punch.wire.fields import is_visible
from punch.wire.proxy import ProxyAddress, ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress, ServiceRecord, pin_of
from punch.wire.stun import Attribute, encode, long_term_key, parse, success
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import RelayServer, TurnTransport, TurnURI

SERVICE, SERVICE6 = "198.51.100.1", "2001:db8::1"
GLOBAL, GLOBAL6 = "203.0.113.7", "2001:db8:7::7"
PORT = 7777
NAME = "relay.example.org"

FORBIDDEN = (
    "127.0.0.1",
    "::1",
    "10.1.2.3",
    "192.168.7.7",
    "169.254.169.254",
    "fd00::7",
    "64:ff9b::7f00:1",
    "64:ff9b::c0a8:707",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2606:4700::5efe:10.1.2.3",
)
"""Our own machine, our network, its devices, the metadata service of a cloud, and disguises of these."""
MAPPED = ("::ffff:127.0.0.1", "::ffff:192.168.7.7")
"""Other ways to write some of these."""


class ForbiddenHosts:
    """
    Listens at port `PORT` of the peer's own machine and of a host that has every other address.

    :ivar reached: the transports and addresses that something came to.
    """

    def __init__(self, net: Internet, machine: Host) -> None:
        self.reached: set[tuple[str, str]] = set()
        elsewhere = [host for host in FORBIDDEN if host not in ("127.0.0.1", "::1")]
        self.host = net.host("forbidden", *elsewhere, GLOBAL, GLOBAL6)
        for host, addresses in ((self.host, self.host.addresses), (machine, ["127.0.0.1", "::1"])):
            for address in addresses:
                host.reactor.listenUDP(PORT, _Datagrams(self, address), address)
                host.reactor.listenTCP(PORT, _connections(self, address), interface=address)

    def taken(self) -> set[tuple[str, str]]:
        """What was reached since it was asked last."""
        reached, self.reached = self.reached, set()
        return reached


class _Datagrams(DatagramProtocol):
    def __init__(self, forbidden: ForbiddenHosts, address: str) -> None:
        self._forbidden, self._address = forbidden, address

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self._forbidden.reached.add(("udp", self._address))


class _Allocating(DatagramProtocol):
    """A relay whose allocations have one relayed address."""

    def __init__(self, relayed: Address) -> None:
        self._relayed = relayed

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        request = parse(datagram)
        answer = success(request, (Attribute.XOR_RELAYED_ADDRESS, self._relayed), (Attribute.LIFETIME, 600))
        assert self.transport is not None
        self.transport.write(encode(answer, long_term_key("user", "realm", "secret")), addr)


def _connections(forbidden: ForbiddenHosts, address: str) -> Factory:
    class Connection(Protocol):
        def connectionMade(self) -> None:
            forbidden.reached.add(("tcp", address))

    return Factory.forProtocol(Connection)


def servers(host: str | None, transports: Iterable[TurnTransport]) -> tuple[RelayServer, ...]:
    """Relays that a rendezvous names."""
    return tuple(
        RelayServer(TurnURI(host, PORT, transport), "user", "secret", "realm", "nonce", 86400.0)
        for transport in transports
    )


def logged(events: Iterable[LogEvent], module: str) -> list[str]:
    """What a module has written into the log."""
    return [formatEvent(event) for event in events if event["log_namespace"].startswith(module)]


class _User:
    """Wants a relay."""

    def relay_found(self, relay: RelayClient) -> None:
        pass

    def relay_lost(self, local: Address) -> None:
        raise AssertionError("a forbidden host relays nothing")

    def relay_limited(self, local: Address, limit: RelayLimit) -> None:
        """As a link is told."""

    def relays_done(self) -> None:
        pass


class HostPolicyTestCase(InternetTestCase):
    """One machine with both address families, and the hosts that it must not reach."""

    def setUp(self) -> None:
        self.net: Internet = self.internet()
        self.machine = self.net.host("peer", "203.0.113.1", "2001:db8:1::1")
        self.forbidden = ForbiddenHosts(self.net, self.machine)


class PoolTests(HostPolicyTestCase):
    """The relays of a node."""

    def setUp(self) -> None:
        super().setUp()
        self.clat = Clat(
            self.machine.reactor,
            self.net.monotonic,
            lambda: self.machine.addresses,
            open_portable,
            lambda remote: self.machine.addresses[-1],
            lambda: None,
        )
        self.sockets = SocketSet(
            self.machine.reactor,
            self.clat.open_socket,
            self.clat.addresses,
            self.receive,
            lambda local, remote: None,
        )
        self.sockets.refresh()
        self.pools: list[RelayPool] = []

    def tearDown(self) -> None:
        for pool in self.pools:
            pool.stop()
        self.sockets.close()

    def receive(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        """Hand what came to the newest pool."""
        self.pools[-1].receive(datagrams, remote, socket.local)

    def reached(self, host: str, transport: TurnTransport) -> set[tuple[str, str]]:
        """Where the machine connects when a rendezvous names this one relay, and a call wants it."""
        policy = HostPolicy()
        policy.reached(SERVICE)
        pool = RelayPool(
            self.machine.reactor,
            monotonic=self.net.monotonic,
            random=self.net.random_bytes("pool"),
            roots=(),
            name="meet.example",
            bases=lambda: self.sockets.bases,
            send=self.sockets.send,
            received=lambda *arrived: None,
            renew=lambda: None,
            policy=policy,
            server_addresses=self.clat.server_addresses,
        )
        for other in self.pools:
            other.stop()
        self.net.advance(1.0)
        self.forbidden.taken()
        self.pools.append(pool)
        taken = policy.take(servers(host, [transport]), self.net.now)
        assert taken is not None
        pool.update(taken, SERVICE)
        pool.join(_User())
        self.net.advance(1.0)
        return self.forbidden.taken()

    def test_relays(self) -> None:
        """Over UDP, TCP and TLS, by address and by name."""
        for transport in TurnTransport:
            kind = "udp" if transport is TurnTransport.UDP else "tcp"
            for allowed in (GLOBAL, GLOBAL6):
                self.net.dns[NAME] = [allowed]
                for host in (allowed, NAME):
                    self.assertEqual(self.reached(host, transport), {(kind, allowed)}, (host, transport))
            for address in (*FORBIDDEN, *MAPPED):
                self.net.dns[NAME] = [address]
                for host in (address, NAME):
                    self.assertEqual(self.reached(host, transport), set(), (host, address, transport))

    def test_what_a_relay_says(self) -> None:
        """It can't write lines of its own, or commands for a terminal; and it is forgotten with the relay."""
        self.reached(GLOBAL, TurnTransport.TCP)
        (named,) = servers(GLOBAL, [TurnTransport.UDP])
        pool = self.pools[-1]
        relay = DatagramRelayClient(
            named,
            RelayContext(
                owner=pool,
                received=lambda *arrived: None,
                clock=self.machine.reactor,
                monotonic=self.net.monotonic,
                random=self.net.random_bytes("relay"),
            ),
            base=self.sockets.bases[0],
            address=Address(GLOBAL, PORT),
            send=self.sockets.send,
        )
        with capturedLogs() as events:
            pool.relay_failed(relay, AllocationProblem.REFUSED, "\x1b[2J\nroot logged in\u202e" + "x" * 700)
        (text,) = [
            formatEvent(event)
            for event in events
            if event["log_namespace"].startswith("punch.node.network.relay_pool")
        ]
        self.assertIn("root logged in", text)
        self.assertTrue(is_visible(text), text)
        self.assertLess(len(text), 250)
        self.assertIs(pool.failure, RelayFailure.REFUSED)
        pool.update(servers(GLOBAL6, [TurnTransport.UDP]), SERVICE)
        self.assertIsNone(pool.failure)

    def test_a_relay_that_gives_us_our_own_address(self) -> None:
        """
        It is not used: what it says came from anyone would seem to have come to our own socket. A relay that
        gives us an address of its own is.
        """
        host = self.net.host("relay", "203.0.113.9")
        base = next(base for base in self.sockets.bases if not base.is_ipv6)
        for relayed in (Address("203.0.113.9", 50000), base):
            port = host.reactor.listenUDP(PORT, _Allocating(relayed))
            self.reached("203.0.113.9", TurnTransport.UDP)
            port.stopListening()
            pool = self.pools[-1]
            used = [relay.local for relay in pool.current]
            self.assertEqual(used, [] if relayed == base else [relayed])
            self.assertIs(pool.failure, RelayFailure.REFUSED if relayed == base else None)

    def test_among_others(self) -> None:
        """A name that has allowed addresses and others: only the allowed ones are used."""
        self.net.dns[NAME] = [*FORBIDDEN[:5], GLOBAL, *FORBIDDEN[5:]]
        for transport in TurnTransport:
            kind = "udp" if transport is TurnTransport.UDP else "tcp"
            self.assertEqual(self.reached(NAME, transport), {(kind, GLOBAL)}, transport)

    def test_rebinding(self) -> None:
        """A name whose answer changes when it has been accepted."""
        for transport in TurnTransport:
            kind = "udp" if transport is TurnTransport.UDP else "tcp"
            self.net.dns[NAME] = [GLOBAL]
            self.assertEqual(self.reached(NAME, transport), {(kind, GLOBAL)})
            for address in ("127.0.0.1", "192.168.7.7", "fd00::7", "64:ff9b::7f00:1", GLOBAL6):
                self.net.dns[NAME] = [address]
                self.pools[-1].network_changed()
                self.net.advance(FRESH + 35.0)
                reached = self.forbidden.taken() - {(kind, GLOBAL)}
                expected = {(kind, GLOBAL6)} if address == GLOBAL6 else set()
                self.assertEqual(reached, expected, (address, transport))

    def test_translated(self) -> None:
        """Behind a NAT64 with a prefix of its own, IPv4 addresses are judged before they are translated."""
        prefix = "2001:db8:64::"
        self.machine.move(self.net.public, "2001:db8:1::1")
        self.net.dns["ipv4only.arpa"] = [prefix + "c000:aa", prefix + "c000:ab"]
        self.clat.reached("2001:db8:1::9")
        self.net.advance(1.0)
        self.sockets.refresh()
        behind = self.net.host("behind", prefix + "c0a8:707", prefix + "7f00:1", prefix + "cb00:7107")
        for address in behind.addresses:
            behind.reactor.listenUDP(PORT, _Datagrams(self.forbidden, address), address)
        for host, expected in {
            "192.168.7.7": set(),
            "127.0.0.1": set(),
            GLOBAL: {("udp", prefix + "cb00:7107")},
        }.items():
            self.net.dns[NAME] = [host]
            self.assertEqual(self.reached(NAME, TurnTransport.UDP), expected, host)


class NetcheckTests(HostPolicyTestCase):
    """`punch netcheck` asks reflectors and tries relays."""

    def setUp(self) -> None:
        super().setUp()
        key = Identity.generate(self.net.random_bytes("service key"))
        host = self.net.host("service", SERVICE, SERVICE6)
        for address in host.addresses:
            PlainPort(host.reactor, address, PORT, UDPServer(Reflector(), monotonic=self.net.monotonic))
        self.service = ScriptedService.with_key(host, key)
        self.service.answer = self.answer
        self.address = RendezvousAddress(SERVICE, 7001, pin_of(key.private_key.public_key()))
        self.reflectors: Sequence[str] = ()
        self.relays: tuple[RelayServer, ...] = ()

    def answer(self, connection: ScriptedConnection, request: Request) -> None:
        """Name reflectors and relays."""
        if isinstance(request, Register):
            assert connection.peer is not None
            reflectors = tuple(self.reflectors)
            connection.reply(Welcome(connection.peer, GLOBAL, PORT, 20.0, self.relays, 0, reflectors))
        elif isinstance(request, RenewRelays):
            connection.reply(Relays(()))
        else:
            self.service.obliging(connection, request)

    def reached(
        self, look_up_service: LookUpService | None = None, proxy: ProxySettings | None = None
    ) -> set[tuple[str, str]]:
        """Where netcheck connects."""
        run = NetcheckRun(
            reactor=self.machine.reactor,
            rendezvous=self.address,
            addresses=lambda: self.machine.addresses,
            open_socket=open_portable,
            random=self.net.random_bytes("netcheck"),
            monotonic=self.net.monotonic,
            roots=(),
            look_up_service=look_up_service,
            proxy=proxy,
        )
        self.net.wait(run.start(), 60.0, "a report")
        self.net.advance(1.0)
        return self.forbidden.taken()

    def test_reflectors(self) -> None:
        """Further addresses of the reflector."""
        for address in ("127.0.0.1", MAPPED[1], "169.254.169.254"):
            self.reflectors = (address, GLOBAL)
            self.assertEqual(self.reached(), {("udp", GLOBAL)}, address)
        for address in ("::1", "64:ff9b::c0a8:707", "2002:a9fe:a9fe::1"):
            self.reflectors = (SERVICE6, address, GLOBAL6)
            self.assertEqual(self.reached(), {("udp", GLOBAL6)}, address)

    def test_records(self) -> None:
        """The name in an SRV record leads to this machine, and no server can be reached over TCP."""
        self.address = RendezvousAddress("example.org", 7001, self.address.pin, has_services=True)
        records = [ServiceRecord(1, 0, NAME, 7001)]
        addresses = "127.0.0.1", "::1", "169.254.169.254", "64:ff9b::7f00:1", GLOBAL
        for address in addresses:
            host = self.machine if address in ("127.0.0.1", "::1") else self.forbidden.host
            host.reactor.listenUDP(USUAL_REFLECTOR, _Datagrams(self.forbidden, address), address)
        self.net.dns[NAME] = list(addresses)
        self.assertEqual(self.reached(lambda domain: succeed(records)), {("udp", GLOBAL)})

    def test_relays(self) -> None:
        """Relays at forbidden addresses are not used, nor relays at names that have such addresses."""
        for transport in TurnTransport:
            kind = "udp" if transport is TurnTransport.UDP else "tcp"
            self.relays = tuple(
                each for host in (*FORBIDDEN[:6], GLOBAL) for each in servers(host, [transport])
            )
            self.assertEqual(self.reached(), {(kind, GLOBAL)}, transport)
            names = []
            for number, address in enumerate((*FORBIDDEN[4:], GLOBAL)):
                names.append(f"{transport.value}{number}.example.org")
                self.net.dns[names[-1]] = [address]
            self.relays = tuple(each for host in names for each in servers(host, [transport]))
            self.assertEqual(self.reached(), {(kind, GLOBAL)}, transport)

    def test_relays_through_a_proxy(self) -> None:
        """A proxy looks names up in its own network: it is told only of those known and allowed here."""
        proxy = SimulatedProxy(self.net.host("proxy", "203.0.113.200"), "http")
        address = ProxyAddress.parse("http://203.0.113.200:3128")
        self.net.dns[NAME] = [GLOBAL]
        self.net.dns["inside.example.org"] = ["192.168.7.7"]
        names = NAME, "inside.example.org", "unknown.example.org"
        self.relays = tuple(each for name in names for each in servers(name, [TurnTransport.TCP]))
        for required in (True, False):
            self.reached(proxy=ProxySettings(address, "--proxy", required))
            self.assertEqual(set(proxy.targets), {(SERVICE, 7001), (NAME, PORT)})


class NodeTests(HostPolicyTestCase):
    """A whole node: what the rendezvous says goes to the policy, and its relays and reflectors through it."""

    def setUp(self) -> None:
        super().setUp()
        key = Identity.generate(self.net.random_bytes("service key"))
        self.service = ScriptedService.with_key(self.net.host("service", SERVICE), key)
        self.service.reflector = PORT
        self.address = RendezvousAddress("meet.example", 7001, pin_of(key.private_key.public_key()))
        self.bob = Identity.generate(self.net.random_bytes("bob")).peer_id

    def peer(self) -> Peer:
        """A registered peer that needs a relay for every call."""
        peer = Peer(self.net, self.machine, self.address, relay=RelayPolicy.ONLY)
        peer.start()
        self.net.run_until(lambda: self.service.requests, 5.0, "a registration")
        self.net.advance(1.0)
        return peer

    def test_relays(self) -> None:
        """While a call waits for a relay, the rendezvous names others."""
        self.net.dns["meet.example"] = [SERVICE]
        peer = self.peer()
        self.service.last.reply(Relays(servers(GLOBAL, TurnTransport)))
        self.net.advance(1.0)
        peer.call(self.bob)
        self.net.advance(1.0)
        self.assertEqual(self.forbidden.taken(), {("udp", GLOBAL), ("tcp", GLOBAL)})
        for number, address in enumerate((*FORBIDDEN, GLOBAL6)):
            name = f"host{number}.example.org"
            self.net.dns[name] = [address]
            named = (servers(host, TurnTransport) for host in (address, name))
            self.service.last.reply(Relays(tuple(server for each in named for server in each)))
            self.net.advance(1.0)
            expected = {("udp", GLOBAL6), ("tcp", GLOBAL6)} if address == GLOBAL6 else set()
            self.assertEqual(self.forbidden.taken() - {("udp", GLOBAL), ("tcp", GLOBAL)}, expected, address)
        peer.stop()

    def test_log(self) -> None:
        """Naming the same again and again, or too often, fills no log."""
        self.net.dns["meet.example"] = [SERVICE]
        peer = self.peer()
        with capturedLogs() as events:
            for _ in range(100):
                self.service.last.reply(Relays(servers("127.0.0.1", TurnTransport)))
            self.net.advance(5.0)
        lines = logged(events, "punch.node.network.network")
        self.assertEqual(len(lines), 2, lines)
        peer.stop()

    def test_reflectors(self) -> None:
        """The name of the rendezvous has another address, of the other family, for its reflector."""
        for address in ("::1", "fd00::7", "64:ff9b::c0a8:707", GLOBAL6):
            self.net.dns["meet.example"] = [SERVICE, address]
            peer = Peer(self.net, self.machine, self.address, salt=address).register()
            self.net.advance(1.0)
            expected = {("udp", GLOBAL6)} if address == GLOBAL6 else set()
            self.assertEqual(self.forbidden.taken(), expected, address)
            peer.stop()
