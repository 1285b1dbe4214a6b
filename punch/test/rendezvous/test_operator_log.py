"""What an operator finds in the log."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.members.access import AccessControl
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import INVITATION_BURST, REVOCATION_BURST, AdmitPolicy, Membership
from punch.rendezvous.operator_log import OperatorLog, Repetitions
from punch.test.rendezvous.relay_service_case import Datagrams, RelayServiceCase
from punch.test.rendezvous.test_service import SERVICE
from punch.test.strategies import IDENTITIES
from punch.test.turn.server.turn_server import code_of
from punch.turn.server.allocation import AllocationEnded, AllocationMade, AllocationOwner
from punch.wire.address import Address
from punch.wire.control import Accept, Error, Register, Revoke
from punch.wire.invitation import Invitation
from punch.wire.stun import Attribute, Method
from punch.wire.turn import TurnTransport


class RepetitionsTests(SynchronousTestCase):
    """What is said at once, and what is counted."""

    def test_first_at_once_and_the_rest_counted(self) -> None:
        kept = Repetitions()
        self.assertTrue(kept.count("one", 0.0))
        for second in range(30):
            self.assertFalse(kept.count("one", float(second)))
        self.assertTrue(kept.count("other", 5.0))
        self.assertEqual(kept.get_timer(), 60.0)
        self.assertEqual(kept.due(60.0), [("one", 30)])
        self.assertEqual(kept.due(65.0), [])
        # Nothing for a period: it is forgotten, and said at once again.
        self.assertEqual(kept.due(120.0), [])
        self.assertEqual(len(kept), 0)
        self.assertTrue(kept.count("one", 130.0))

    def test_many_kinds(self) -> None:
        kept = Repetitions(capacity=10)
        said = sum(kept.count(number, 0.0) for number in range(10_000))
        self.assertEqual(said, 10)
        self.assertLessEqual(len(kept), 11)
        self.assertEqual(kept.due(60.0), [("others", 9_990)])

    def test_groups(self) -> None:
        """A group has room for a number of kinds; those that are forgotten make room."""
        kept = Repetitions(of_group=2)
        for kind in ("one", "two", "one"):
            self.assertTrue(kept.has_room(kind, "group"))
            kept.count(kind, 0.0, "group")
        self.assertFalse(kept.has_room("three", "group"))
        self.assertTrue(kept.has_room("two", "group"))
        self.assertTrue(kept.has_room("three", "another"))
        self.assertEqual(kept.due(60.0), [("one", 1)])
        self.assertTrue(kept.has_room("three", "group"))
        kept.count("three", 61.0, "group")
        self.assertFalse(kept.has_room("four", "group"))
        kept.due(200.0, all_of_them=True)
        self.assertEqual([kept.has_room(each, "group") for each in ("one", "four")], [True, True])


@implementer(ILogObserver)
class Collector:
    """An observer that keeps events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: Any) -> None:
        if "line" in event:
            self.events.append(dict(event))

    def of(self, name: str) -> list[dict[str, Any]]:
        """Those of one kind."""
        return [each for each in self.events if each["event"] == name]


class LineTests(SynchronousTestCase):
    """Fields, addresses and rates."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.collector = Collector()

    def make(self, *, full: bool = False) -> OperatorLog:
        return OperatorLog(
            clock=self.clock,
            monotonic=self.clock.seconds,
            full_addresses=full,
            log=Logger(observer=self.collector),
        )

    def test_addresses(self) -> None:
        for host, cut in (
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
            ("", "unknown"),
        ):
            self.make().limit_hit(host, "handshakes")
            self.make(full=True).limit_hit(host, "handshakes")
            seen = [each["address"] for each in self.collector.events[-2:]]
            self.assertEqual(seen, [cut, host or "unknown"])

    def test_flood(self) -> None:
        log = self.make()
        for number in range(3_000):
            log.limit_hit(f"10.{number >> 8}.{number & 255}.1", "handshakes")
            log.allocation_made("10.0.0.1", "user", "198.51.100.1:50000", "udp")
            log.allocation_made(f"10.{number >> 8}.{number & 255}.1", "user", "198.51.100.1:50000", "udp")
        self.assertLess(len(self.collector.of("limit-hit")), 520)
        self.assertLess(len(self.collector.of("allocation-made")), 2_001)
        at_one = [each for each in self.collector.of("allocation-made") if each["address"] == "10.0.0.0/24"]
        self.assertLess(len(at_one), 102)
        self.clock.advance(60.0)
        counted = sum(each.get("times", 1) for each in self.collector.events)
        self.assertEqual(counted, 9_000)

    def test_flood_of_one_network(self) -> None:
        """
        A /48 or /24 has the lines of four addresses, and its many addresses don't hide those of others when
        addresses are logged in full.
        """
        log = self.make(full=True)
        networks = {"2001:db8:1:{:x}::1": "2001:db8:1::/48", "203.0.113.{}": "203.0.113.0/24"}
        for number in range(2_000):
            for network in networks:
                host = network.format(number % 256 if "." in network else number)
                log.limit_hit(host, "handshakes")
                log.allocation_made(host, "user", "198.51.100.1:50000", "udp")
        log.limit_hit("192.0.2.1", "handshakes")
        self.assertTrue(log.allocation_made("192.0.2.1", "user", "198.51.100.1:50000", "udp"))
        self.assertEqual(len(self.collector.of("allocation-made")), 2 * 400 + 1)
        hits = [each["address"] for each in self.collector.of("limit-hit")]
        self.assertEqual(len(hits), 2 * 17 + 1)
        self.assertEqual(hits[-1], "192.0.2.1")
        self.clock.advance(60.0)
        told = {each["address"]: each["times"] for each in self.collector.of("limit-hit") if "times" in each}
        self.assertEqual(set(networks.values()) & set(told), set(networks.values()))
        self.assertEqual(sum(told.values()) + len(hits), 4_001)

    def test_counts_are_said_at_the_end(self) -> None:
        log = self.make()
        for _ in range(3):
            log.denied("192.0.2.1", "peer")
        self.assertEqual(len(self.collector.events), 1)
        log.close()
        self.assertEqual(self.collector.events[-1]["times"], 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_a_format(self) -> None:
        self.make().registration_refused("192.0.2.1", "{secret}", "{log_time}")
        self.assertIn("reason={log_time}", self.collector.events[0]["line"])

    def test_members(self) -> None:
        """The limits of invitations and revocations are named, and so is a list that can't be used."""
        path = Path(self.mktemp()) / "members.sqlite"
        store = MemberDatabase(path)
        self.addCleanup(store.close)
        membership = Membership(AdmitPolicy.INVITED, store, service=bytes(4))
        access = AccessControl(
            DenyList(), membership, log=self.make(), monotonic=lambda: 0.0, wall=lambda: 0.0
        )
        peers = [identity.peer_id for identity in IDENTITIES]
        host = "192.0.2.1"

        def guess(number: int) -> None:
            token = Invitation.new(bytes(4), lambda size: bytes([number]) * size)
            request = Register("x", Accept.ASK, str(token))
            self.assertIsInstance(access.admit(peers[0], host, request, bytes, lambda member: 0), Error)

        for number in range(INVITATION_BURST):
            guess(number)
        self.assertEqual(self.collector.of("limit-hit"), [])
        guess(99)
        for identity in (IDENTITIES * 3)[: REVOCATION_BURST + 1]:
            access.revoke(identity.peer_id, host, Revoke.by(identity))
        hits = [(each["limit"], each["address"]) for each in self.collector.of("limit-hit")]
        self.assertEqual(hits, [("invitations", "192.0.2.0/24"), ("revocations", "192.0.2.0/24")])
        self.assertEqual(len(self.collector.of("denied")), 1)
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE revocations")
        connection.close()
        guess(1)
        access.revoke(peers[0], "192.0.2.200", Revoke.by(IDENTITIES[0]))
        [unusable] = self.collector.of("members-unusable")
        self.assertIn("no such table", unusable["line"])


class ServiceTests(RelayServiceCase):
    """Where the lines come from."""

    limits = replace(
        RendezvousLimits(),
        registrations_per_address=1,
        connections_per_address=3,
        relay_allocations_per_peer=1,
    )

    def setUp(self) -> None:
        super().setUp()
        self.collector = Collector()
        globalLogPublisher.addObserver(self.collector)
        self.addCleanup(globalLogPublisher.removeObserver, self.collector)

    def test_relayed_port_and_bytes(self) -> None:
        """The log relates a relayed port and a time to a peer, which can then be denied."""
        client = self.client(TurnTransport.UDP)
        peer = Datagrams(self.office, self.office.addresses[0])
        relayed = client.allocate()
        client.bind(peer.address)
        for _ in range(3):
            client.relay(bytes(100))
        peer.send(bytes(50), relayed)
        self.net.advance(10.0)
        client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        [made], [ended] = self.collector.of("allocation-made"), self.collector.of("allocation-ended")
        for each in (made, ended):
            self.assertEqual(each["relayed"], str(relayed))
            self.assertEqual(each["peer"], str(self.alice.peer_id))
            self.assertEqual(each["address"], "203.0.113.0/24")
        self.assertEqual((ended["to_peers"], ended["to_client"]), (300, 54))
        self.assertGreaterEqual(ended["seconds"], 10)
        self.assertIn(f"relayed={relayed} address=203.0.113.0/24", made["line"])

    def test_lines_of_others_hide_no_relayed_port(self) -> None:
        """An allocation that is used has its line, also while others use up the rate of lines."""
        client = self.client(TurnTransport.UDP)
        peer = Datagrams(self.office, self.office.addresses[0])
        own = Address("203.0.113.9", 4000)
        for number in range(1_000):
            relayed = Address(SERVICE, 20_000 + number)
            owner = AllocationOwner("attacker", own, is_stream=False)
            self.relay.core.allocations.events += [
                AllocationMade(owner, relayed),
                AllocationEnded(owner, relayed, 0.0, 0, 0),
            ]
        self.relay.flush()
        self.assertLess(len(self.collector.events), 210)
        relayed = client.allocate()

        def lines() -> list[dict[str, Any]]:
            return [each for each in self.collector.of("allocation-made") if each["relayed"] == str(relayed)]

        self.assertEqual(lines(), [])
        client.bind(peer.address)
        self.assertEqual(len(lines()), 1)
        client.relay(b"unwanted")
        self.net.advance(0.2)
        client.relay(b"unwanted")
        self.net.advance(0.2)
        self.assertEqual(len(peer.received), 2)
        [line] = lines()
        self.assertEqual(
            line["line"],
            f"relayed={relayed} address=203.0.113.0/24 peer={self.alice.peer_id} transport=udp",
        )

    def test_refusals(self) -> None:
        self.register(self.alice)
        self.register(self.bob, self.office)
        second = self.connect(self.key("second"))
        second.send(b'{"type":"register","version":1,"name":"x","accept":"ask"}')
        self.net.advance(0.5)
        self.assertIn("--registrations-per-address", second.last["text"])
        [refused] = self.collector.of("registration-refused")
        self.assertEqual((refused["peer"], refused["reason"]), (self.key("second").peer_id, "too-many"))
        for _ in range(5):
            self.connect(self.key("third"), self.office)
        self.assertEqual(
            {each["limit"] for each in self.collector.of("limit-hit")}, {"connections-per-address"}
        )

    def test_allocations_refused_and_denied(self) -> None:
        client = self.client(TurnTransport.UDP)
        client.allocate()
        client.bind(Address("203.0.113.2", 4000))
        other = self.client(TurnTransport.UDP)
        self.assertEqual(code_of(other.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17))), 486)
        [hit] = self.collector.of("limit-hit")
        self.assertEqual(hit["peer"], str(self.alice.peer_id))
        self.service.deny(DenyList.of([self.alice.peer_id], []))
        self.assertEqual(len(self.collector.of("allocation-ended")), 1)
        self.connect(self.alice)
        self.assertEqual([each["peer"] for each in self.collector.of("denied")], [self.alice.peer_id])
