"""Which addresses of a machine become candidates."""

from __future__ import annotations

import sys
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.net.interfaces import (
    LIMIT,
    Interface,
    all_addresses,
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
