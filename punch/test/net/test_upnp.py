"""What is asked of routers with UPnP, which have their own views of leases, ports and addresses."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.net.upnp import ask as ask_router
from punch.net.upnp import parse_answer
from punch.net.upnp_child import (
    CONFLICT,
    DESCRIPTION,
    OTHERS,
    PERMANENT_ONLY,
    SAME_PORT,
    Entry,
    Refused,
    delete,
    delete_old,
    map_port,
)
from punch.wire.address import Address
from punch.wire.port_mapping import UpnpGrant, UpnpRequest

HOST, PORT = "192.168.1.7", 40000
OTHERS_TRIED = (50001, 50002, 50003)
Check = Callable[[int, int, int], str]


class Igd:
    """
    A router, in the place of the library that speaks with it.

    :param check: returns the error for an external port, an internal port and a lifetime; empty: none.
    :param tells: whether it says which mappings it has.
    :param protocol: that of its mappings; it is not asked for any other.
    :ivar tells_later: it does when it has been asked for one.
    """

    def __init__(
        self, check: Check = lambda port, internal, lifetime: "", *, tells: bool = True, protocol: str = "UDP"
    ) -> None:
        self.protocol = protocol
        self.check = check
        self.tells = tells
        self.entries: dict[int, Entry] = {}
        self.adds: list[tuple[int, int]] = []
        self.external = "203.0.113.5"
        self.kept: int | None = None
        self.tells_later = False

    def externalipaddress(self) -> str:
        if not self.external:
            raise Exception("Action Failed")
        return self.external

    def addportmapping(
        self, port: int, protocol: str, host: str, internal: int, name: str, remote: str, lifetime: int, /
    ) -> bool:
        assert protocol == self.protocol
        self.adds.append((port, lifetime))
        self.tells = self.tells or self.tells_later
        error = self.check(port, internal, lifetime)
        if error:
            raise Exception(error)
        kept = lifetime if self.kept is None else self.kept
        self.entries.setdefault(port, (host, internal, name, True, kept))
        return True

    def deleteportmapping(self, port: int, protocol: str, /) -> bool:
        if port not in self.entries or protocol != self.protocol:
            raise Exception("NoSuchEntryInArray")
        del self.entries[port]
        return True

    def getspecificportmapping(self, port: int, protocol: str, /) -> Entry | None:
        assert protocol == self.protocol
        return self.entries.get(port) if self.tells else None

    def getgenericportmapping(self, index: int, /) -> tuple[Any, ...] | None:
        if index >= len(self.entries):
            raise Exception("SpecifiedArrayIndexInvalid")
        port = sorted(self.entries)[index]
        client, internal, name, enabled, lifetime = self.entries[port]
        return port, self.protocol, (client, internal), name, enabled, "", lifetime


def always(error: str) -> Check:
    return lambda port, internal, lifetime: error


def for_lifetimes(error: str) -> Check:
    """An error for every mapping with a lifetime."""
    return lambda port, internal, lifetime: error if lifetime else ""


def for_first_port(error: str) -> Check:
    """An error for the port that is asked for first."""
    return lambda port, internal, lifetime: error if port == PORT else ""


def ask(igd: Igd) -> tuple[str, int, int]:
    others = iter(OTHERS_TRIED)
    return map_port(igd, "UDP", HOST, PORT, PORT, 7200, lambda: next(others))


class LeaseTests(SynchronousTestCase):
    """How long routers keep a mapping."""

    def test_usual(self) -> None:
        """It is kept for as long as was asked."""
        igd = Igd()
        self.assertEqual(ask(igd), ("203.0.113.5", PORT, 7200))
        self.assertEqual(igd.entries[PORT], (HOST, PORT, DESCRIPTION, True, 7200))
        self.assertEqual(ask(igd), ("203.0.113.5", PORT, 7200), "renewed")

    def test_permanent_only(self) -> None:
        """Error 725, and what routers say that know no lifetimes."""
        for error in (PERMANENT_ONLY, "Invalid Args", "Action Failed", "Argument Value Out of Range"):
            igd = Igd(for_lifetimes(error))
            self.assertEqual(ask(igd), ("203.0.113.5", PORT, 0), error)
            self.assertEqual(igd.adds, [(PORT, 7200), (PORT, 0)])

    def test_permanent_is_not_asked_twice(self) -> None:
        """A router that has said it has only permanent ones is not asked for others at the next port."""
        igd = Igd(
            lambda port, internal, lifetime: PERMANENT_ONLY if lifetime else CONFLICT if port == PORT else ""
        )
        self.assertEqual(ask(igd), ("203.0.113.5", 50001, 0))
        self.assertEqual(igd.adds, [(PORT, 7200), (PORT, 0), (50001, 0)])

    def test_lifetime_zero_refused(self) -> None:
        """A router that refuses every lifetime maps nothing, and is not asked for ever."""
        for error in ("Invalid Args", "Action Failed", PERMANENT_ONLY):
            igd = Igd(always(error))
            self.assertRaises(Refused, ask, igd)
            self.assertLessEqual(len(igd.adds), 2 * (1 + OTHERS))

    def test_lifetime_of_the_router(self) -> None:
        """If a router keeps a mapping for another time than was asked for, that time counts."""
        for kept in (0, 60, 604800):
            igd = Igd()
            igd.kept = kept
            self.assertEqual(ask(igd), ("203.0.113.5", PORT, kept))

    def test_old_permanent_mappings(self) -> None:
        """Those that a killed process left are deleted, and no others."""
        igd = Igd()
        mine, running, other_program = (41001, 41002, 41003)
        igd.entries = {
            mine: (HOST, 1, DESCRIPTION, True, 0),
            running: (HOST, 2, DESCRIPTION, True, 0),
            other_program: (HOST, 1, "a game", True, 0),
            41004: ("192.168.1.8", 1, DESCRIPTION, True, 0),
        }
        self.assertEqual(delete_old(igd, HOST, lambda protocol, port: port == 1), [(mine, "UDP")])
        self.assertNotIn(mine, igd.entries)
        self.assertEqual(len(igd.entries), 3)

    def test_tcp(self) -> None:
        """A TCP port is mapped, renewed and deleted, and deleted if it was left behind."""
        igd = Igd(protocol="TCP")
        for _ in range(2):
            mapped = map_port(igd, "TCP", HOST, PORT, PORT, 7200, lambda: 1)
            self.assertEqual(mapped, ("203.0.113.5", PORT, 7200))
        self.assertEqual(delete_old(igd, HOST, lambda protocol, port: protocol == "UDP"), [])
        delete(igd, "TCP", HOST, PORT, PORT)
        self.assertEqual(igd.entries, {})
        map_port(igd, "TCP", HOST, PORT, PORT, 7200, lambda: 1)
        self.assertEqual(delete_old(igd, HOST, lambda protocol, port: protocol == "TCP"), [(PORT, "TCP")])
        self.assertEqual(igd.entries, {})


class PortTests(SynchronousTestCase):
    """Which ports routers give."""

    def test_taken(self) -> None:
        """Another program has the port: another one is tried, whatever the router says of it."""
        for error in (CONFLICT, "UnknownError", "Action Failed"):
            igd = Igd(for_first_port(error))
            self.assertEqual(ask(igd), ("203.0.113.5", 50001, 7200), error)

    def test_overwrites(self) -> None:
        """A router that would give the port of another program away is not asked for it."""
        igd = Igd()
        igd.entries[PORT] = ("192.168.1.8", PORT, "a game", True, 0)
        self.assertEqual(ask(igd), ("203.0.113.5", 50001, 7200))
        self.assertEqual(igd.adds, [(50001, 7200)])

    def test_says_yes_and_keeps_the_other(self) -> None:
        """A router whose success is none: the port still leads elsewhere."""
        igd = Igd(tells=False)
        igd.tells_later = True
        igd.entries[PORT] = ("192.168.1.8", PORT, "a game", True, 0)
        self.assertEqual(ask(igd), ("203.0.113.5", 50001, 7200))

    def test_all_taken(self) -> None:
        """If all ports are taken, the attempts end."""
        igd = Igd(always(CONFLICT))
        self.assertRaises(Refused, ask, igd)
        self.assertEqual([port for port, _ in igd.adds], [PORT, *OTHERS_TRIED])

    def test_same_port_required(self) -> None:
        """Error 724: the external port must be the internal one."""
        igd = Igd(lambda port, internal, lifetime: "" if port == internal else SAME_PORT)
        self.assertEqual(map_port(igd, "UDP", HOST, PORT, 999, 7200, lambda: 1), ("203.0.113.5", PORT, 7200))
        igd = Igd(always(SAME_PORT))
        self.assertRaises(Refused, ask, igd)

    def test_refused(self) -> None:
        """Nothing is gained by asking again."""
        igd = Igd(always("Action not authorized"))
        self.assertRaises(Refused, ask, igd)
        self.assertEqual(len(igd.adds), 1)

    def test_silent_about_mappings(self) -> None:
        """A router that does not say which mappings it has is believed."""
        self.assertEqual(ask(Igd(tells=False)), ("203.0.113.5", PORT, 7200))

    def test_silent_about_its_address(self) -> None:
        """A router need not say its address if it says which mappings it has: reflectors see the address."""
        igd = Igd()
        igd.external = ""
        self.assertEqual(ask(igd), ("", PORT, 7200))
        igd = Igd(tells=False)
        igd.external = ""
        self.assertRaises(Refused, ask, igd)

    def test_only_ours_is_deleted(self) -> None:
        """A mapping is not deleted if another program has the port now."""
        igd = Igd()
        ask(igd)
        delete(igd, "UDP", HOST, PORT, PORT)
        self.assertEqual(igd.entries, {})
        igd.entries[PORT] = ("192.168.1.8", PORT, "a game", True, 0)
        delete(igd, "UDP", HOST, PORT, PORT)
        self.assertEqual(len(igd.entries), 1)
        del igd.entries[PORT]
        self.assertRaises(Refused, delete, igd, "UDP", HOST, PORT, PORT)


class Spawner:
    """A reactor that starts no process, and keeps the environment that it would have."""

    def __init__(self) -> None:
        self.environments: list[dict[str, str] | None] = []

    def spawnProcess(
        self, protocol: object, executable: str, arguments: object, *, env: Any, path: str
    ) -> None:
        self.environments.append(env)


class ProcessTests(SynchronousTestCase):
    """The process that asks."""

    def test_environment(self) -> None:
        """It has nothing of the node's but where the system finds libraries: there may be passwords."""
        self.patch(os, "environ", {"https_proxy": "http://a:secret@proxy", "LD_LIBRARY_PATH": "/opt/lib"})
        spawner = Spawner()
        request = UpnpRequest("http://192.168.1.1:5000/x.xml", Address(HOST, PORT), PORT, 7200)
        ask_router(spawner, "/nowhere", request)
        self.assertEqual(spawner.environments, [{"LD_LIBRARY_PATH": "/opt/lib"}])


class AnswerTests(SynchronousTestCase):
    """What the process prints."""

    def test_granted(self) -> None:
        self.assertEqual(
            parse_answer(b'{"host": "203.0.113.5", "port": 40000, "lifetime": 0}'),
            UpnpGrant(Address("203.0.113.5", 40000), 0),
        )

    def test_no_address(self) -> None:
        """An external address that is not an IPv4 address is read as 0.0.0.0."""
        for host in ("", "router.example", "2001:db8::1", "1.2.3"):
            grant = parse_answer(b'{"host": "%s", "port": 1, "lifetime": 60}' % host.encode())
            self.assertEqual(grant, UpnpGrant(Address("0.0.0.0", 1), 60), host)

    def test_nothing(self) -> None:
        """Refusals, a process that was ended, and nonsense."""
        for output in (
            b'{"error": "Action Failed"}',
            b"{}",
            b"",
            b"[]",
            b'{"host": "1.2.3.4"',
            b'{"host": "1.2.3.4", "port": 0, "lifetime": 1}',
            b'{"host": "1.2.3.4", "port": 65536, "lifetime": 1}',
            b'{"host": "1.2.3.4", "port": true, "lifetime": 1}',
            b'{"host": "1.2.3.4", "port": 1, "lifetime": -1}',
            b'{"host": "1.2.3.4", "port": 1}',
            b"\xff",
            b"[" * 1000,
        ):
            self.assertIsNone(parse_answer(output), output)
