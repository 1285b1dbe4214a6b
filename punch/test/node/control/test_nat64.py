"""IPv4 addresses on a network of IPv6 and NAT64."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from punch.node.control.tcp import tcp_endpoint
from punch.test.internet import InternetTestCase, Seen
from punch.wire.special_addresses import (
    DISCOVERY_NAME,
    Prefix,
    extracted,
    prefixes,
    synthesized,
    to_ipv4,
    to_ipv6,
    translated,
)

RFC6052 = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100:0",
    "2001:db8:122:344::/96": "2001:db8:122:344::c000:221",
    "64:ff9b::/96": "64:ff9b::c000:221",
}
"""Section 2.4: what stands for 192.0.2.33."""


class AddressTests(SynchronousTestCase):
    """RFC 6052 and 7050."""

    def test_examples(self) -> None:
        for text, expected in RFC6052.items():
            network = IPv6Network(text)
            prefix = Prefix(int(network.network_address), network.prefixlen)
            self.assertEqual(str(synthesized(prefix, IPv4Address("192.0.2.33"))), expected)

    def test_the_way_back(self) -> None:
        """What stands for an address shows it, whatever its suffix is."""
        for text, expected in RFC6052.items():
            network = IPv6Network(text)
            prefix = Prefix(int(network.network_address), network.prefixlen)
            address = IPv6Address(expected)
            self.assertEqual(extracted(prefix, address), IPv4Address("192.0.2.33"))
            if prefix.length < 96:
                self.assertEqual(extracted(prefix, address + 7), IPv4Address("192.0.2.33"))
            self.assertIsNone(extracted(prefix, IPv6Address("2001:db9::1")))

    def test_prefixes_that_lead_nowhere(self) -> None:
        """What a name server says must not have datagrams sent to this machine or this link."""
        for address in ("::ffff:192.0.0.170", "fe80::192.0.0.170", "ff02::192.0.0.170"):
            self.assertEqual(prefixes([address]), [])

    def test_on_the_internet(self) -> None:
        """Private addresses have no form, either way (RFC 6052, section 3.1)."""
        for text in RFC6052:
            network = IPv6Network(text)
            prefix = Prefix(int(network.network_address), network.prefixlen)
            for host in ("198.51.100.1", "8.8.8.8"):
                form = to_ipv6(prefix, host)
                assert form is not None
                self.assertTrue(prefix.contains(form))
                self.assertEqual(to_ipv4(prefix, form), host)
            private = "10.0.0.1", "127.0.0.1", "169.254.169.254", "192.0.0.170", "224.0.0.1", "100.64.0.1"
            for host in private:
                self.assertIsNone(to_ipv6(prefix, host))
                self.assertIsNone(to_ipv4(prefix, str(synthesized(prefix, IPv4Address(host)))))
            self.assertIsNone(to_ipv6(prefix, "2001:db9::1"))

    def test_discovery(self) -> None:
        """The prefix is found in what the name server makes of either well-known address."""
        for text, expected in RFC6052.items():
            network = IPv6Network(text)
            prefix = Prefix(int(network.network_address), network.prefixlen)
            for known in ("192.0.0.170", "192.0.0.171"):
                told = [known, str(synthesized(prefix, IPv4Address(known)))]
                self.assertEqual(prefixes(told), [prefix])
                self.assertEqual(translated(["192.0.2.33", "2001:db8::1"], prefixes(told)), [expected])

    def test_none(self) -> None:
        for told in ([], ["192.0.0.170", "192.0.0.171"], ["2001:db8::1"], ["64:ff9b::192.0.2.1"]):
            self.assertEqual((prefixes(told), translated(["192.0.2.33"], prefixes(told))), ([], []))


class ConnectionTests(InternetTestCase):
    """TCP to an address that somebody wrote down."""

    def setUp(self) -> None:
        self.net = self.internet(3)
        self.server = self.net.host("server", "198.51.100.1", "64:ff9b::c633:6401")
        self.server.reactor.listenTCP(7001, Factory.forProtocol(Protocol), interface="::")
        self.client = self.net.host("client", "2001:db8:6::2")

    def connect(self, port: int = 7001) -> list[str]:
        """Where the connection goes, or what became of it."""
        found: list[str] = []
        endpoint = tcp_endpoint(self.client.reactor, "198.51.100.1", port)
        endpoint.connect(Factory.forProtocol(Protocol)).addCallbacks(
            lambda protocol: found.append(protocol.transport.getPeer().host),
            lambda failure: found.append(failure.type.__name__),
        )
        self.net.advance(15.0)
        return found

    def test_through_nat64(self) -> None:
        self.net.dns[DISCOVERY_NAME] = ["192.0.0.170", "64:ff9b::c000:aa"]
        self.assertEqual(self.connect(), ["64:ff9b::c633:6401"])

    def test_whatever_is_left_of_ipv4(self) -> None:
        """An address that leads nowhere, as 169.254/16 or a translator of the machine's own that is dead."""
        self.net.dns[DISCOVERY_NAME] = ["64:ff9b::c000:aa"]
        self.client = self.net.host("left", "192.0.0.1", "2001:db8:6::3")
        self.net.drop = lambda packet: packet.source[0] == "192.0.0.1"
        self.assertEqual(self.connect(), ["64:ff9b::c633:6401"])

    def test_refused(self) -> None:
        """A host that answers is not looked for elsewhere."""
        asked: list[Seen] = []
        self.client = self.net.host("both", "203.0.113.9", "2001:db8:6::3")
        self.net.dns[DISCOVERY_NAME] = ["64:ff9b::c000:aa"]
        self.net.trace = asked
        self.assertEqual(self.connect(7002), ["ConnectionRefusedError"])
        self.assertEqual({seen.destination[0] for seen in asked}, {"198.51.100.1", "203.0.113.9"})

    def test_given_up(self) -> None:
        """A connection that is cancelled leaves no delayed call."""
        self.client = self.net.host("left", "192.0.0.1", "2001:db8:6::3")
        self.net.drop = lambda packet: True
        for seconds in (0.2, 1.0, 2.2, 4.0):
            connecting = tcp_endpoint(self.client.reactor, "198.51.100.1", 7001).connect(
                Factory.forProtocol(Protocol)
            )
            connecting.addErrback(lambda failure: None)
            self.net.advance(seconds)
            connecting.cancel()
            self.net.advance(0.1)
            self.assertEqual(self.client.reactor.getDelayedCalls(), [])

    def test_without(self) -> None:
        """The error is that of the address itself."""
        self.assertEqual(self.connect(), ["NoRouteError"])

    def test_directly(self) -> None:
        """If IPv4 works, no NAT64 is looked for."""
        self.client = self.net.host("both", "203.0.113.9", "2001:db8:6::3")
        self.net.dns[DISCOVERY_NAME] = ["64:ff9b::c000:aa"]
        self.assertEqual(self.connect(), ["198.51.100.1"])
