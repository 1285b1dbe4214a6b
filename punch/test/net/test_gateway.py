"""The default gateways, from what Linux writes about routes."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from punch.net.interfaces import (
    Gateway,
    Interface,
    gateways_of,
    gateways_of_machine,
    ipv4_gateways,
    ipv6_gateways,
)


def number(*octets: int) -> str:
    """An IPv4 address as the kernel of this machine writes it."""
    return f"{int.from_bytes(bytes(octets), sys.byteorder):08X}"


HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"


def route(name: str, destination: str, gateway: str, flags: str, metric: int, mask: str) -> str:
    return f"{name}\t{destination}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0"


ZERO = number(0, 0, 0, 0)
ROUTES_4 = "\n".join(
    (
        HEADER,
        route("wlan0", ZERO, number(192, 168, 1, 1), "0003", 600, ZERO),
        route("eth0", ZERO, number(10, 0, 0, 254), "0003", 100, ZERO),
        # A network, half of the internet by a tunnel, a route that is down, one without a gateway
        route("eth0", number(10, 0, 0, 0), ZERO, "0001", 100, number(255, 255, 255, 0)),
        route("tun0", ZERO, number(10, 8, 0, 1), "0003", 0, number(128, 0, 0, 0)),
        route("eth1", ZERO, number(10, 1, 0, 1), "0002", 0, ZERO),
        route("ppp0", ZERO, ZERO, "0001", 0, ZERO),
        "nonsense",
        "eth0 zz 0 0003 0 0 0 0 0 0 0",
    )
)
NO_ADDRESS = "0" * 32
LINK_LOCAL = "fe800000000000000000000000000001"
ROUTES_6 = "\n".join(
    (
        f"20010db8{'0' * 24} 40 {NO_ADDRESS} 00 {NO_ADDRESS} 00000100 00000001 00000000 00000001     eth0",
        f"{NO_ADDRESS} 00 {NO_ADDRESS} 00 {LINK_LOCAL} 00000400 00000003 00000000 00000003     eth0",
        f"{NO_ADDRESS} 00 {NO_ADDRESS} 00 {NO_ADDRESS} ffffffff 00000001 00000000 00200200       lo",
        "nonsense",
    )
)


class RouteTests(SynchronousTestCase):
    """The two files."""

    def test_ipv4(self) -> None:
        expected = [Gateway("wlan0", "192.168.1.1", 600), Gateway("eth0", "10.0.0.254", 100)]
        self.assertEqual(list(ipv4_gateways(ROUTES_4)), expected)
        self.assertEqual(list(ipv4_gateways("")), [])

    def test_ipv6(self) -> None:
        self.assertEqual(list(ipv6_gateways(ROUTES_6)), [Gateway("eth0", "fe80::1%eth0", 1024)])

    def test_each_address_has_the_gateway_of_its_interface(self) -> None:
        interfaces = [
            Interface("eth0", "10.0.0.7"),
            Interface("eth0:1", "10.0.0.8"),
            Interface("wlan0", "192.168.1.7"),
            Interface("docker0", "172.17.0.1"),
            Interface("eth0", "2001:db8::7"),
            Interface("eth0", "fd00::7"),
            Interface("eth0", "fe80::7"),
            Interface("wlan0", "2001:db8:1::7"),
        ]
        gateways = [*ipv4_gateways(ROUTES_4), *ipv6_gateways(ROUTES_6), Gateway("eth0", "10.0.0.253", 200)]
        expected = {
            "10.0.0.7": "10.0.0.254",
            "10.0.0.8": "10.0.0.254",
            "192.168.1.7": "192.168.1.1",
            "2001:db8::7": "fe80::1%eth0",
        }
        self.assertEqual(gateways_of(interfaces, gateways), expected)

    def test_this_machine(self) -> None:
        """Whatever it has, no program is run and nothing is raised."""
        for local, gateway in gateways_of_machine().items():
            self.assertEqual(":" in local, ":" in gateway)
