"""Where the relay sends nothing: the table against the registries of the IANA, in every form, and our own."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.rendezvous.config import AlternateAddress, RendezvousConfig
from punch.rendezvous.relay_service import own_addresses
from punch.test.rendezvous.relay_service_case import RelayServiceCase
from punch.test.rendezvous.test_service import SERVICE
from punch.test.turn.server.iana_special_purpose import rows
from punch.test.turn.server.turn_server import ALICE, HERE6, TurnServer, code_of
from punch.turn.server.settings import REFUSED, Destinations
from punch.wire.address import Address
from punch.wire.special_addresses import HARMLESS
from punch.wire.stun import Attribute, Method
from punch.wire.stun_attributes import IPV6
from punch.wire.turn import TurnTransport

TRANSLATED = ip_network("2002::/16"), ip_network("64:ff9b::/96"), ip_network("::ffff:0:0/96")
"""IPv6 that is as good as the IPv4 address inside."""


def disguises(host: IPv4Address) -> Iterator[str]:
    """IPv6 addresses that are, or lead to, an IPv4 address."""
    number = int(host)
    high, low = number >> 16, number & 0xFFFF
    yield f"::ffff:{host}"  # IPv4-mapped (RFC 4291)
    yield f"::{host}"  # IPv4-compatible (RFC 4291)
    yield f"::ffff:0:{host}"  # IPv4-translated (RFC 2765)
    yield f"64:ff9b::{host}"  # NAT64 (RFC 6052)
    yield f"64:ff9b:1::{host}"  # NAT64 of the network (RFC 8215), with a prefix of 96 bits and of 48
    yield f"64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 255) << 8:x}::"
    yield f"2002:{high:x}:{low:x}::1"  # 6to4 (RFC 3056)
    yield f"2002:{high:x}:{low:x}:ffff:1:2:3:4"
    yield f"2001:0:{high:x}:{low:x}:0:1234:3fff:fdfe"  # Teredo (RFC 4380): the server's, and the client's
    yield f"2001:0:4136:e378:8000:63bf:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"
    yield f"2a00:1:2:3:0:5efe:{high:x}:{low:x}"  # ISATAP (RFC 5214), private and universal
    yield f"2a00:1:2:3:200:5efe:{high:x}:{low:x}"
    yield f"2002:808:808:1:0:5efe:{high:x}:{low:x}"  # … in a network of 6to4


def edges(block: IPv4Network | IPv6Network) -> set[IPv4Address | IPv6Address]:
    """Addresses of a block."""
    size = block.num_addresses
    return {block[0], block[-1], block[size // 2], block[size // 3]}


class TableTests(SynchronousTestCase):
    """`REFUSED`, whatever the machine has itself."""

    def setUp(self) -> None:
        self.destinations = Destinations(is_own=lambda host: False)

    def test_the_registries(self) -> None:
        """What is not globally reachable is refused, or stands with its reason among the harmless."""
        checked = 0
        for row in rows():
            if row.globally_reachable == "True" or row.block in TRANSLATED:
                continue
            checked += 1
            expected = row.block not in HARMLESS
            for host in edges(row.block):
                self.assertEqual(self.destinations.refuses(str(host)), expected, (row.name, host))
        self.assertEqual(checked, 35)

    def test_what_is_globally_reachable(self) -> None:
        """Of globally reachable addresses, only those of protocols are refused, where no peer can be."""
        refused = {
            str(row.block)
            for row in rows()
            if row.globally_reachable == "True"
            and any(self.destinations.refuses(str(host)) for host in edges(row.block))
        }
        self.assertEqual(
            refused,
            {
                "192.0.0.9/32", "192.0.0.10/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128",
                "2001:3::/32", "2001:4:112::/48", "2001:20::/28", "2001:30::/28", "64:ff9b::/96",
            },
        )  # fmt: skip

    def test_every_row(self) -> None:
        """Each has a reason, and refuses from its first address to its last."""
        for network, reason in {**REFUSED, **HARMLESS}.items():
            self.assertGreater(len(reason), 5, network)
        for network in REFUSED:
            for host in edges(network):
                if not any(host in other for other in TRANSLATED):
                    self.assertTrue(self.destinations.refuses(str(host)), host)

    def test_every_row_in_every_disguise(self) -> None:
        for network in REFUSED:
            if isinstance(network, IPv4Network):
                for host in edges(network):
                    assert isinstance(host, IPv4Address)
                    for disguise in disguises(host):
                        self.assertTrue(self.destinations.refuses(disguise), (str(network), disguise))

    def test_all_that_is_no_global_unicast(self) -> None:
        """RFC 4291, section 2.4 and the IANA's registry of IPv6: 2000::/3 alone is assigned."""
        for host in ("1::1", "200::1", "1fff::1", "4000::1", "6000::1", "a000::1", "e000::1", "fe00::1"):
            self.assertTrue(self.destinations.refuses(host), host)
        for host in ("2000::1", "2001:200::1", "2a00::1", "3ffe::1", "64:ff9b::8.8.8.8", "2002:808:808::1"):
            self.assertFalse(self.destinations.refuses(host), host)

    def test_beside_the_rows(self) -> None:
        for host in (
            "1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
            "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255",
            "192.0.1.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
            "198.20.0.0", "223.255.255.255",
        ):  # fmt: skip
            self.assertFalse(self.destinations.refuses(host), host)

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(st.ip_addresses(v=4))
    def test_a_disguise_opens_nothing(self, host: IPv4Address) -> None:
        """An address that is refused in its plain form is refused in any form."""
        if self.destinations.refuses(str(host)):
            for disguise in disguises(host):
                self.assertTrue(self.destinations.refuses(disguise), disguise)


class OwnAddressTests(SynchronousTestCase):
    """What stands for the service's machine."""

    def config(self, **more: Any) -> RendezvousConfig:
        return RendezvousConfig(identity=Identity.generate(lambda size: bytes(size)), **more)

    def test_all_that_peers_are_shown(self) -> None:
        config = self.config(
            host="192.0.2.1",
            primary_address="10.0.0.5",
            machine_addresses=("10.0.0.5", "2001:db8::5"),
            relay_addresses=("192.0.2.2",),
            alternate_addresses=(
                AlternateAddress("192.0.2.3", "10.0.0.6"),
                AlternateAddress("2001:db8::7", "2001:db8::8"),
            ),
        )
        expected = {
            "192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.0.5", "10.0.0.6", "2001:db8::5", "2001:db8::7",
            "2001:db8::8",
        }  # fmt: skip
        self.assertEqual(own_addresses(config), expected)

    def test_a_name(self) -> None:
        """It stands for no address that would be known here."""
        self.assertNotIn("rendezvous.example", own_addresses(self.config(host="rendezvous.example")))

    def test_in_every_disguise(self) -> None:
        """The machine's IPv4 address too."""
        server = TurnServer(own=["192.0.2.1"])
        client = server.client(ALICE)
        client.allocate((Attribute.REQUESTED_ADDRESS_FAMILY, IPV6))
        for disguise in disguises(IPv4Address("192.0.2.1")):
            # An IPv4-mapped address is of the other family
            expected = (403, 443) if disguise.startswith("::ffff:192") else (403,)
            self.assertIn(code_of(client.permit(Address(disguise, 80))), expected, disguise)
        self.assertEqual(code_of(client.permit(Address(HERE6.host, 80))), 403)


class BehindANATTests(RelayServiceCase):
    """A 1:1 NAT in front of the machine, as in most clouds."""

    def test_public_addresses(self) -> None:
        """The addresses of `--host`, both of `--alternate-address`, and of `--relay-address` are refused."""
        self.restart(
            host="192.0.2.10",
            relay_addresses=("192.0.2.11",),
            alternate_addresses=(AlternateAddress("192.0.2.12", SERVICE),),
            machine_addresses=(SERVICE,),
        )
        client = self.client(TurnTransport.UDP)
        client.allocate()
        for host in ("192.0.2.10", "192.0.2.11", "192.0.2.12", SERVICE):
            answer = client.ask(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, Address(host, 3478)))
            self.assertEqual(code_of(answer), 403, host)
