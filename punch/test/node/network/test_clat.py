"""How often a name server is asked for the prefix of a NAT64, and how long it is known."""

from __future__ import annotations

from punch.net.udp.sockets import open_portable
from punch.node.control.hosts import KEPT
from punch.node.network.clat import RETRY, Clat
from punch.test.internet import InternetTestCase
from punch.wire.special_addresses import DISCOVERY_NAME, is_clat

PREFIX = "64:ff9b::c000:aa"


class Names(dict[str, list[str]]):
    """The names of an internet; counts how often the prefix is asked for."""

    asked = 0

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        self.asked += name == DISCOVERY_NAME
        return super().get(name, default)


class AskingTests(InternetTestCase):
    """A machine of IPv6 alone whose addresses are looked at every second."""

    def setUp(self) -> None:
        self.net = self.internet()
        self.names = self.net.dns = Names()
        host = self.net.host("alice", "2001:db8:1::2")
        self.clat = Clat(
            host.reactor,
            self.net.monotonic,
            lambda: host.addresses,
            open_portable,
            lambda remote: host.address,
            lambda: None,
        )

    def look(self, seconds: int) -> bool:
        """Look at the addresses for a while; returns whether there is one by translation at the end."""
        for _ in range(seconds):
            self.clat.addresses()
            self.net.advance(1.0)
        return any(map(is_clat, self.clat.addresses()))

    def test_no_such_name(self) -> None:
        """It is asked for now and then."""
        self.clat.reached("2001:db8::1")
        self.assertFalse(self.look(100))
        self.assertLessEqual(self.names.asked, 1 + 100 / RETRY)
        self.names[DISCOVERY_NAME] = [PREFIX]
        self.assertTrue(self.look(int(RETRY) + 2))

    def test_no_nat64(self) -> None:
        """The name has its IPv4 addresses alone: that is an answer."""
        self.names[DISCOVERY_NAME] = ["192.0.0.170", "192.0.0.171"]
        self.clat.reached("2001:db8::1")
        self.assertFalse(self.look(100))
        self.assertEqual(self.names.asked, 1)

    def test_asked_by_somebody_else(self) -> None:
        """Without an answer, too: it is not asked again at once."""
        self.clat.reached("2001:db8::1", [])
        self.assertFalse(self.look(int(RETRY) - 1))
        self.assertEqual(self.names.asked, 0)
        self.names[DISCOVERY_NAME] = [PREFIX]
        self.assertTrue(self.look(3))

    def test_known_for_as_long_as_the_network_is_the_same(self) -> None:
        """A link lasts for longer than an answer of a name server, and a call may be hours away."""
        self.names[DISCOVERY_NAME] = [PREFIX]
        self.clat.reached("2001:db8::1")
        self.assertTrue(self.look(2))
        del self.names[DISCOVERY_NAME]
        self.net.advance(2 * KEPT)
        self.assertTrue(self.look(2))
        self.assertEqual(self.names.asked, 1)

    def test_ipv4(self) -> None:
        """If the rendezvous was reached over IPv4, nobody is asked."""
        self.names[DISCOVERY_NAME] = [PREFIX]
        self.clat.reached("198.51.100.1")
        self.assertFalse(self.look(10))
        self.assertEqual(self.names.asked, 0)
