"""The addresses of this machine, and its default gateways."""

from __future__ import annotations

import sys
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.net.interfaces import (
    LIMIT,
    Gateway,
    Interface,
    all_addresses,
    gateways_of,
    gateways_of_machine,
    ipv4_gateways,
    ipv6_gateways,
    local_addresses,
    select,
    usable_addresses,
)

_TEMPORARY, _DEPRECATED, _TENTATIVE = 0x01, 0x20, 0x40


class SelectTests(SynchronousTestCase):
    """`select`, from texts alone."""

    def test_useless_ones_are_dropped(self) -> None:
        useless = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1%eth0", "255.255.255.255"]
        self.assertEqual(select([*useless, "192.168.1.2"]), ["192.168.1.2"])

    def test_loopback_only_if_there_is_nothing_else(self) -> None:
        self.assertEqual(select(["127.0.0.1", "::1", "10.0.0.2"]), ["10.0.0.2"])
        self.assertEqual(select(["127.0.0.1", "fe80::1"]), ["127.0.0.1"])

    def test_families_take_turns(self) -> None:
        addresses = ["10.0.0.2", "10.0.0.3", "2001:db8:1::2", "2001:db8:2::2"]
        self.assertEqual(select(addresses), ["2001:db8:1::2", "10.0.0.2", "2001:db8:2::2", "10.0.0.3"])

    def test_bridges_of_containers_come_last(self) -> None:
        bridges = ["172.17.0.1", "172.18.0.1", "192.168.122.1"]
        self.assertEqual(select([*bridges, "192.168.1.2"]), ["192.168.1.2", *bridges])
        self.assertEqual(select([*bridges, "192.168.1.2"], limit=1), ["192.168.1.2"])

    def test_many_bridges_do_not_crowd_out_ipv6(self) -> None:
        bridges = [f"172.{number}.0.1" for number in range(17, 32)]
        chosen = select([*bridges, "10.0.0.2", "fd00::2"])
        self.assertEqual(len(chosen), LIMIT)
        self.assertEqual(set(chosen[:2]), {"10.0.0.2", "fd00::2"})

    def test_two_addresses_of_one_ipv6_subnet(self) -> None:
        addresses = [f"2001:db8::{number}" for number in range(1, 9)]
        self.assertEqual(select(addresses), addresses[:2])

    def test_doubles(self) -> None:
        self.assertEqual(select(["10.0.0.2", "10.0.0.2", "FD00::2", "fd00::2"]), ["10.0.0.2", "fd00::2"])

    def test_no_address(self) -> None:
        self.assertEqual(select([]), [])
        self.assertRaises(ValueError, select, ["eth0"])

    @settings(derandomize=True, deadline=None, max_examples=60)
    @given(st.lists(st.ip_addresses().map(str), max_size=20), st.integers(1, 10))
    def test_always_a_few_of_what_was_given(self, addresses: list[str], limit: int) -> None:
        chosen = select(addresses, limit)
        self.assertLessEqual(len(chosen), limit)
        self.assertEqual(len(set(chosen)), len(chosen))
        self.assertLessEqual(set(chosen), set(addresses))
        self.assertEqual(select(chosen, limit), chosen)


class MachineTests(SynchronousTestCase):
    """`usable_addresses` and `local_addresses`."""

    def test_loopback_rule(self) -> None:
        loopback = [Interface("lo", "127.0.0.1"), Interface("lo", "::1")]
        real = Interface("eth0", "192.168.1.2")
        self.assertEqual(usable_addresses([*loopback, real]), ["192.168.1.2"])
        self.assertEqual(usable_addresses([*loopback, real], True), ["192.168.1.2", "::1", "127.0.0.1"])
        self.assertEqual(usable_addresses(loopback), ["::1", "127.0.0.1"])
        self.assertEqual(usable_addresses(loopback, False), [])

    def test_virtual_interfaces_come_last(self) -> None:
        found = [Interface("virbr0", "192.168.122.7"), Interface("wlan0", "192.168.1.2")]
        self.assertEqual(usable_addresses(found), ["192.168.1.2", "192.168.122.7"])

    def test_temporary_ipv6_before_permanent(self) -> None:
        found = [
            Interface("eth0", "2001:db8::2", 0),
            Interface("eth0", "2001:db8::3", _TEMPORARY | _DEPRECATED),
            Interface("eth0", "2001:db8::4", _TENTATIVE),
            Interface("eth0", "2001:db8::5", _TEMPORARY),
        ]
        self.assertEqual(usable_addresses(found), ["2001:db8::5", "2001:db8::2"])

    def test_no_program_is_run(self) -> None:
        """A peer looks every second."""
        run: list[str] = []
        watching = True

        def audit(event: str, _: tuple[object, ...]) -> None:
            if watching and event in (
                "subprocess.Popen",
                "os.posix_spawn",
                "os.fork",
                "os.exec",
                "os.system",
            ):
                run.append(event)

        sys.addaudithook(audit)  # for the rest of the process
        local_addresses()
        watching = False
        self.assertEqual(run, [])

    def test_all_addresses(self) -> None:
        """Also those that are not used."""
        found = all_addresses()
        self.assertLessEqual({*local_addresses(include_loopback=True)}, {*found})
        self.assertIn("127.0.0.1", found)

    def test_this_machine(self) -> None:
        found = local_addresses(include_loopback=True)
        self.assertTrue(any(ip_address(host).is_loopback for host in found))
        for host in local_addresses(include_loopback=False):
            ip = ip_address(host)
            self.assertFalse(ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified, host)


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
    """The routes of IPv4 and of IPv6, as Linux lists them in two files."""

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
        """Whatever routes this machine has, nothing is raised."""
        for local, gateway in gateways_of_machine().items():
            self.assertEqual(":" in local, ":" in gateway)
