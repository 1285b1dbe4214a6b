"""The table of special-purpose networks, row by row and in every disguise; and what a rendezvous may name."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from twisted.trial.unittest import SynchronousTestCase

from punch.net.reactor import look_up
from punch.node.control.hosts import (
    FORGET,
    MAX_ADDRESSES,
    MAX_HOSTS,
    MAX_UPDATES,
    UPDATE_TIME,
    HostPolicy,
    VettedReactor,
)
from punch.test.internet import Internet
from punch.wire.special_addresses import (
    TABLE,
    Scope,
    carried,
    scope_of,
)
from punch.wire.turn import MAX_RELAYS, RelayServer, TurnTransport, TurnURI

GLOBAL = ("8.8.8.8", "198.51.100.1", "2606:4700::1", "2001:db8::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")
SPECIAL = {
    Scope.LOOPBACK: ("127.0.0.1", "127.255.255.255", "::1"),
    Scope.LINK_LOCAL: ("169.254.0.1", "169.254.169.254", "fe80::1", "febf::1"),
    Scope.PRIVATE: (
        "10.0.0.1",
        "172.31.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "fd00::1",
        "fec0::1",
    ),
    Scope.NOWHERE: ("0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "192.88.99.1"),
}


def disguises(host: str) -> list[str]:
    """Every form in which an IPv6 address carries an IPv4 address."""
    number = int(IPv4Address(host))
    high, low = number >> 16, number & 0xFFFF
    inverse = number ^ 0xFFFFFFFF
    return [
        f"::{host}" if number > 1 else "::2",
        f"::ffff:{host}",
        f"::ffff:0:{host}",
        f"64:ff9b::{host}",
        f"64:ff9b:1::{host}",
        f"2002:{high:x}:{low:x}::1",
        f"2001:0:{high:x}:{low:x}::1",
        f"2001:0:808:808:0:0:{inverse >> 16:x}:{inverse & 0xFFFF:x}",
        f"2606:4700::5efe:{host}",
        f"2002:808:808:1:0:5efe:{host}",
        f"2606:4700::200:5efe:{host}",
    ]


def server(host: str | None, port: int = 3478) -> RelayServer:
    """A relay that a rendezvous names."""
    return RelayServer(TurnURI(host, port, TurnTransport.TCP), "user", "secret", "realm", "nonce", 600.0)


class TableTests(SynchronousTestCase):
    """Which address is special."""

    def test_every_row(self) -> None:
        """The first and the last address of each, and one beside it."""
        for row in TABLE:
            for address in (row.network[0], row.network[-1]):
                self.assertIs(scope_of(str(address)), row.scope, (address, row.reason))
        for host in (
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.0",
            "169.253.255.255",
        ):
            self.assertIs(scope_of(host), Scope.GLOBAL, host)
        for host in (
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
        ):
            self.assertIs(scope_of(host), Scope.GLOBAL, host)

    def test_examples(self) -> None:
        """Each scope."""
        for host in GLOBAL:
            self.assertIs(scope_of(host), Scope.GLOBAL, host)
        for scope, hosts in SPECIAL.items():
            for host in hosts:
                self.assertIs(scope_of(host), scope, host)
        self.assertRaises(ValueError, scope_of, "example.org")

    def test_every_disguise(self) -> None:
        """An IPv4 address of the table is never global, whatever it is wrapped into."""
        for row in TABLE:
            if row.network.version == 6:
                continue
            for address in (row.network[0], row.network[-1]):
                for host in disguises(str(address)):
                    self.assertIsNot(scope_of(host), Scope.GLOBAL, (host, row.reason))
        for host in ("127.0.0.1", "::1"):
            self.assertEqual(carried(ip_address(host)), ())


class PolicyTests(SynchronousTestCase):
    """What a rendezvous may have us connect to."""

    def policy(self, reached: str) -> HostPolicy:
        """Return the policy of a rendezvous that was reached at this address."""
        policy = HostPolicy()
        policy.reached(reached)
        return policy

    def test_same_scope(self) -> None:
        """What is not global only for one that is in the same place itself."""
        everything = [*GLOBAL, *(host for hosts in SPECIAL.values() for host in hosts)]
        for scope, hosts in {Scope.GLOBAL: GLOBAL, **SPECIAL}.items():
            for reached in hosts:
                allowed = [host for host in everything if self.policy(reached).allows(host)]
                own = [] if scope in (Scope.NOWHERE, Scope.GLOBAL) else hosts
                self.assertEqual(allowed, [*GLOBAL, *own], reached)
        self.assertEqual([host for host in everything if HostPolicy().allows(host)], list(GLOBAL))

    def test_disguised(self) -> None:
        """Our own machine, our router and the metadata service of a cloud, however they are written."""
        policy = self.policy("198.51.100.1")
        for host in ("127.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"):
            for form in (host, *disguises(host)):
                self.assertFalse(policy.allows(form), form)
                self.assertFalse(policy.may_use(str(ip_address(form))), form)

    def test_relays(self) -> None:
        """Names are looked up later; of addresses, those that may be."""
        servers = [server(host) for host in (None, "turn.example.org", "8.8.8.8", "127.0.0.1", "10.0.0.1")]
        taken = self.policy("198.51.100.1").take(servers, 0.0)
        self.assertEqual(taken, tuple(servers[:3]))
        self.assertEqual(self.policy("10.0.0.9").take(servers, 0.0), (*servers[:3], servers[4]))

    def test_ports(self) -> None:
        """Relays of other hosts may have common ports only; those of the rendezvous itself, any."""
        policy = self.policy("198.51.100.1")
        for port in (1, 22, 25, 143, 445, 465, 587, 993, 1023):
            named = [server(None, port), server("8.8.8.8", port), server("relay.example.org", port)]
            self.assertEqual(policy.take(named, port * UPDATE_TIME), (named[0],), port)
        for port in (53, 80, 443, 1024, 3478, 5349, 65535):
            named = [server(None, port), server("8.8.8.8", port), server("relay.example.org", port)]
            self.assertEqual(policy.take(named, 2000 * UPDATE_TIME + port), tuple(named), port)

    def test_so_many_hosts(self) -> None:
        """Another eight names each time: sixteen are taken, and others when those are an hour old."""
        policy = self.policy("198.51.100.1")
        taken = set()
        for number in range(MAX_UPDATES):
            names = [server(f"host{MAX_RELAYS * number + each}.example.org") for each in range(MAX_RELAYS)]
            taken |= {each.url.host for each in policy.take(names, float(number)) or ()}
        self.assertEqual(len(taken), MAX_HOSTS)
        self.assertEqual(len(policy.take(names, FORGET + MAX_UPDATES) or ()), MAX_RELAYS)

    def test_so_often(self) -> None:
        """It may name relays now and then."""
        policy = self.policy("198.51.100.1")
        times = [now for now in range(1000) if policy.take([server(None)], float(now)) is not None]
        for start in times:
            self.assertLessEqual(sum(start <= now < start + UPDATE_TIME for now in times), MAX_UPDATES)
        self.assertGreater(len(times), MAX_UPDATES)


class LookUpTests(SynchronousTestCase):
    """Names that have addresses of other scopes."""

    def test_addresses_of_a_name(self) -> None:
        """Those that may be used are told, and few of them."""
        net = Internet(1)
        host = net.host("peer")
        policy = HostPolicy()
        policy.reached("198.51.100.1")
        addresses = ["127.0.0.1", "192.168.1.1", *(f"203.0.113.{number}" for number in range(1, 200)), "::1"]
        net.dns["relay.example.org"] = addresses
        told: list[list[str]] = []
        look_up(VettedReactor(host.reactor, policy), "relay.example.org", told.append)
        net.advance(5.0)
        self.assertEqual(told, [[f"203.0.113.{number}" for number in range(1, MAX_ADDRESSES + 1)]])
        self.assertEqual(policy.allowed(addresses), told[0])
