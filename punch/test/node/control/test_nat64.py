"""IPv4 addresses on a network of IPv6 and NAT64."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from punch.node.control.tcp import (
    DISCOVERY_NAME,
    Prefix,
    prefixes,
    synthesized,
    tcp_endpoint,
    translated,
)
from punch.test.internet import InternetTestCase, Seen
from punch.test.scenarios.relayed import RelayTestCase
from punch.test.system import SERVICE, Rendezvous, connect

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

    def test_discovery(self) -> None:
        """The prefix is found in what the name server makes of either well-known address."""
        for text, expected in RFC6052.items():
            network = IPv6Network(text)
            prefix = Prefix(int(network.network_address), network.prefixlen)
            for known in ("192.0.0.170", "192.0.0.171"):
                told = [known, str(synthesized(prefix, IPv4Address(known)))]
                self.assertEqual(prefixes(told), [prefix])
                self.assertEqual(translated(["192.0.2.33", "2001:db8::1"], told), [expected])

    def test_none(self) -> None:
        for told in ([], ["192.0.0.170", "192.0.0.171"], ["2001:db8::1"], ["64:ff9b::192.0.2.1"]):
            self.assertEqual((prefixes(told), translated(["192.0.2.33"], told)), ([], []))


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


class SystemTests(RelayTestCase):
    """A peer on such a network, whose rendezvous is given as an IPv4 address."""

    def test_control_reflector_and_relay(self) -> None:
        """It registers, and reaches a peer that has IPv4 alone by the relay, over UDP."""
        self.check("64:ff9b::/96")

    def test_a_prefix_of_the_network(self) -> None:
        """The same with one that means nothing elsewhere (RFC 8215)."""
        self.check("64:ff9b:1::/96")

    def test_without_udp(self) -> None:
        """The relay is reached over TCP or TLS, also at an address that was written down."""
        self.net.drop = lambda packet: packet.protocol == "udp" and ":" in packet.source[0]
        self.check("64:ff9b::/96", udp=False)

    def check(self, network: str, *, udp: bool = True) -> None:
        prefix = Prefix(int(IPv6Network(network).network_address), 96)
        through = str(synthesized(prefix, IPv4Address(SERVICE)))
        host = self.net.host("rendezvous", SERVICE, through)
        self.rendezvous = Rendezvous(self.net, host, control=None)
        discovered = synthesized(prefix, IPv4Address("192.0.0.170"))
        self.net.dns[DISCOVERY_NAME] = ["192.0.0.170", str(discovered)]
        alice = self.peer(self.net.host("alice", "2001:db8:6::2"))
        bob = self.peer(self.home("bob"))
        trace: list[Seen] = []
        self.net.trace = trace
        connected, _ = connect(alice, bob)
        self.net.trace = None
        self.assertIn("relay", connected.path.kind)
        carriers = {seen.destination for seen in trace if (seen.link, seen.protocol) == ("alice up", "udp")}
        if udp:
            self.assertIn((through, 3478), carriers)
        self.chat(alice, bob, 3)
