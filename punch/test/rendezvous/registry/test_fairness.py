"""Floods of registrations and calls, and the places that other sources get nevertheless."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.net.segmented_table import PROBATION
from punch.net.sources import source_of
from punch.node.calls.calls import MAX_RINGING
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.outputs import Deliver, Disconnect, Output
from punch.rendezvous.registry.registry import Registry
from punch.wire.control import (
    Accept,
    Answer,
    Cancel,
    Ended,
    ErrorCode,
    Establish,
    Incoming,
    Reject,
    Reply,
    Trickle,
)
from punch.wire.peers.sealed import Envelope


def peer(*name: object) -> PeerID:
    """The peer of a name."""
    return PeerID(sha256(repr(name).encode()).digest())


def envelope(to: PeerID) -> Envelope:
    """An envelope with arbitrary contents."""
    return Envelope(to, bytes(304), bytes(64))


Decide = Callable[[Incoming], ErrorCode | bool | None]
"""What a called peer does with a call of a caller: answer (True), refuse it, or let it ring (None)."""

SIXTY = [f"203.0.113.{number}" for number in range(1, 61)]
"""Addresses of one /24."""
SIXTY_APART = [f"10.{number}.0.1" for number in range(1, 61)]
"""Addresses of different networks."""


class FairnessCase(SynchronousTestCase):
    """A registry, and peers that decide about their calls."""

    limits = RendezvousLimits()

    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """Make a registry where nobody is."""
        self.registry = Registry(self.limits)
        self.now = 1000.0
        self.calls = 0
        self.refusal: ErrorCode | None = None
        self.connections: dict[PeerID, int] = {}
        self.owners: dict[int, PeerID] = {}
        self.decisions: dict[PeerID, Decide] = {}
        self.told: dict[PeerID, list[Reply]] = {}
        self.dropped: set[PeerID] = set()

    def join(self, who: PeerID, host: str) -> bool:
        """Register a peer; return whether it succeeded."""
        connection = len(self.owners) + 1
        try:
            self.registry.register(connection, who, "x", Accept.ASK, host, self.now)
        except IntroductionRefusal as refusal:
            self.assertIs(refusal.code, ErrorCode.TOO_MANY)
            return False
        self.connections[who] = connection
        self.owners[connection] = who
        self.deliver()
        return True

    def leave(self, who: PeerID) -> None:
        """Disconnect."""
        self.registry.disconnected(who, self.connections[who], "closed", self.now)

    def call(self, caller: PeerID, callee: PeerID) -> str | None:
        """
        Call, and let the called peer decide. Return the call ID if the call was passed on; else see
        `refusal`.
        """
        self.calls += 1
        call = f"{self.calls:032x}"
        try:
            self.ask(caller, Establish(call, callee, envelope(callee)))
        except IntroductionRefusal as refusal:
            self.refusal = refusal.code
            return None
        self.deliver()
        return call

    def ask(self, who: PeerID, request: Establish | Answer | Reject | Cancel | Trickle) -> None:
        """Make a request."""
        self.registry.request(who, self.connections[who], request, self.now)

    def ends(self, who: PeerID) -> dict[str, ErrorCode]:
        """The codes with which calls of a peer ended."""
        return {reply.call: reply.code for reply in self.told.get(who, []) if isinstance(reply, Ended)}

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.registry.handle_timer(self.now)
        self.deliver()

    def deliver(self) -> None:
        """Deliver all outputs to the peers, which answer."""
        while (output := self.registry.next_output()) is not None:
            self._deliver(output)

    def _deliver(self, output: Output) -> None:
        if isinstance(output, Disconnect) and output.error.code is ErrorCode.TOO_MANY:
            self.dropped.add(self.owners[output.connection])
        if not isinstance(output, Deliver):
            return
        who, reply = self.owners[output.connection], output.reply
        self.told.setdefault(who, []).append(reply)
        if isinstance(reply, Incoming) and who in self.decisions:
            decision = self.decisions[who](reply)
            if isinstance(decision, ErrorCode):
                self.ask(who, Reject(reply.call, reply.sender, decision))
            elif decision:
                self.ask(who, Answer(reply.call, reply.sender, envelope(reply.sender)))


class Asking:
    """
    What a peer that asks its user does: eight calls of strangers ring, known peers are let in.

    :param ended: the calls that are over, for the called peer.
    """

    def __init__(self, known: Sequence[PeerID], ended: Callable[[], int]) -> None:
        self._known = set(known)
        self._ended = ended
        self._rang = 0
        self.heard: set[PeerID] = set()

    def __call__(self, incoming: Incoming) -> ErrorCode | bool | None:
        if incoming.sender in self._known:
            return True
        if self._rang - self._ended() >= MAX_RINGING:
            return ErrorCode.BUSY
        self._rang += 1
        self.heard.add(incoming.sender)
        return None


class RegistrationCase(FairnessCase):
    """Peers that register in a flood."""

    limits = replace(RendezvousLimits(), registrations=400, registrations_per_address=16)

    def flood(self, hosts: Sequence[str], times: int, mark: object = 0) -> None:
        """Register `times` identities at each address."""
        for number in range(times):
            for host in hosts:
                self.join(peer("bad", mark, host, number), host)

    def come_and_go(self, times: int, mark: object = 0) -> None:
        """Register so many identities at sixty addresses; each one leaves before the next one comes."""
        for number in range(times):
            bad, host = peer("bad", mark, number), SIXTY_APART[number % 60]
            self.join(bad, host)
            self.leave(bad)

    def assert_open(self) -> None:
        """Register peers at other addresses."""
        for number in range(20):
            self.assertTrue(self.join(peer("good", number), f"192.0.{number}.1"))
        self.assertFalse([number for number in range(20) if peer("good", number) in self.dropped])


class RegistrationTests(RegistrationCase):
    """No source can fill the table of peers."""

    def test_from_one_place(self) -> None:
        """An address, a /64, a /56, a /48 and a /24 each have their share; the rest is free for others."""
        for share, hosts in (
            (16, ["198.51.100.1"]),
            (16, [f"2001:db8:1::{number:x}" for number in range(64)]),
            (32, [f"2001:db8:2:{number:x}::1" for number in range(64)]),
            (64, [f"2001:db8:3:{number << 4:x}::1" for number in range(128)]),
            (64, [f"198.51.101.{number}" for number in range(128)]),
        ):
            before = len(self.registry)
            self.flood(hosts, 20 if len(hosts) == 1 else 2)
            self.assertEqual(len(self.registry) - before, share)
        self.assert_open()

    def test_what_an_address_has_at_other_processes(self) -> None:
        """It counts against the share of the address; who is here already may come again and move."""
        here, there = "198.51.100.1", "198.51.101.1"
        self.assertTrue(self.join(peer("first"), here))
        for table in self.registry.places.tables:
            table.elsewhere = dict.fromkeys(source_of(here), 100)
        self.assertFalse(self.join(peer("second"), here))
        self.assertTrue(self.join(peer("first"), here))
        self.assertTrue(self.join(peer("third"), there))
        self.assertFalse(self.join(peer("third"), here))
        self.assertEqual({peer("first") in self.registry, peer("third") in self.registry}, {True})
        self.assert_open()

    def test_from_sixty_addresses(self) -> None:
        """Floods from one network or from many, before and after others have registered."""
        for hosts in (SIXTY, SIXTY_APART):
            self.flood(hosts, 8)
        self.assert_open()
        self.flood(SIXTY_APART, 8, 1)
        self.assert_open()

    def test_more_places_than_there_are(self) -> None:
        """
        During a flood from more networks than there are places, peers that were registered before get in.
        """
        regular = peer("regular")
        self.join(regular, "192.0.2.1")
        self.leave(regular)
        hosts = [f"10.{number >> 8}.{number & 255}.1" for number in range(500)]
        self.flood(hosts, 1)
        self.assertFalse(self.join(peer("good"), "192.0.2.1"))
        self.assertTrue(self.join(regular, "192.0.2.1"))
        # There it stays, and comes back as often as it wants.
        self.flood(hosts, 1, 1)
        self.assertNotIn(regular, self.dropped)
        for _ in range(3):
            self.leave(regular)
            self.assertTrue(self.join(regular, "198.51.100.7"))

    def test_neighbours(self) -> None:
        """
        At an address that has used up its share, peers that were registered before have reserved places.
        """
        regular = peer("regular")
        self.join(regular, "203.0.113.1")
        self.leave(regular)
        self.flood(["203.0.113.1"], 16)
        self.assertFalse(self.join(peer("good"), "203.0.113.1"))
        self.assertTrue(self.join(regular, "203.0.113.1"))

    def test_memory_of_who_was_here(self) -> None:
        """Peers that register and leave all the time do not displace others from the memory."""
        regular = peer("regular")
        self.join(regular, "192.0.2.1")
        self.leave(regular)
        self.come_and_go(1000)
        self.flood([f"10.{number >> 8}.{number & 255}.1" for number in range(500)], 1)
        self.assertTrue(self.join(regular, "192.0.2.1"))

    def test_memory_of_one_network(self) -> None:
        """Nor do they displace the largest source, if that was seen first before they came."""
        regulars = [peer("regular", number) for number in range(60)]
        for number, each in enumerate(regulars):
            self.join(each, f"192.0.2.{number % 5}")
        self.wait(PROBATION)
        self.come_and_go(1600)
        self.assertEqual(len([each for each in regulars if self.registry.was_registered(each)]), 60)

    def test_who_moves_within_a_network_in_a_flood(self) -> None:
        """A peer whose older connection is open still counts from its beginning."""
        regulars = [peer("regular", number) for number in range(30)]
        for number, each in enumerate(regulars):
            self.join(each, f"192.0.2.{number % 5}")
        self.wait(3600.0)
        self.flood(SIXTY_APART, 3)
        self.wait(PROBATION)
        for number, each in enumerate(regulars):
            self.flood(SIXTY_APART[number : number + 1], 2, (1, number))
            self.wait(PROBATION)
            self.join(each, f"192.0.2.{number % 5 + 100}")
        self.flood(SIXTY_APART, 8, 2)
        self.assertEqual(self.dropped & set(regulars), set())

    def test_old_identities_that_move_to_other_networks_in_a_flood(self) -> None:
        """They begin anew there, so they take no places of others who have been here for long."""
        self.limits = replace(self.limits, registrations_per_address=64)
        self.make_world()
        old, regulars = [[peer(name, number) for number in range(60)] for name in ("old", "regular")]
        for number, each in enumerate(old):
            self.join(each, f"198.51.100.{number % 5}")
        self.wait(24 * 3600.0)
        for number, each in enumerate(regulars):
            self.join(each, f"192.0.2.{number % 5}")
        self.wait(3600.0)
        self.flood(SIXTY_APART, 1)
        self.wait(PROBATION)
        for number, (each, host) in enumerate(zip(old, SIXTY_APART, strict=True)):
            self.flood([host], 2, (1, number))
            self.wait(PROBATION)
            self.join(each, host)
        self.flood(SIXTY_APART, 8, 2)
        self.assertEqual(self.dropped & set(regulars), set())


class IntroductionCase(FairnessCase):
    """Peers that call in a flood."""

    limits = replace(RendezvousLimits(), registrations_per_address=1024)

    def others(self, count: int = 20) -> list[PeerID]:
        """Register honest peers."""
        good = [peer("good", number) for number in range(count)]
        for number, each in enumerate(good):
            self.assertTrue(self.join(each, f"192.0.{number}.1"))
        return good

    def flood(self, hosts: Sequence[str], identities: int, *, mark: object = 0) -> None:
        """Identities at each of these addresses that call each other 8 times each."""
        bad = [(peer(mark, host, number), host) for host in hosts for number in range(identities)]
        for each, host in bad:
            self.join(each, host)
        for number, (each, _) in enumerate(bad):
            for step in range(8):
                self.call(each, bad[(number + step + 1) % len(bad)][0])


class IntroductionTests(IntroductionCase):
    """No source can fill the table of introductions, and restarts have reserved places."""

    def test_from_one_address(self) -> None:
        """256 identities at one address, 8 calls each: all of 95 other calls are passed on."""
        good = self.others()
        self.flood(["203.0.113.1"], 256)
        calls = [self.call(good[number % 20], good[(number + 1 + number // 20) % 20]) for number in range(95)]
        self.assertNotIn(None, calls)
        self.assertEqual(self.registry.introduction_count, 128 + 95)

    def test_restarts(self) -> None:
        """Acquainted peers are introduced again although strangers from everywhere fill the table."""
        self.limits = replace(self.limits, introductions=80, introductions_per_address=16)
        self.make_world()
        good = self.others(2)
        for each in good:
            self.decisions[each] = lambda incoming: True
        call = self.call(*good)
        assert call is not None
        self.ask(good[1], Cancel(call, good[0]))
        self.flood([f"10.{number}.0.1" for number in range(120)], 1)
        self.join(peer("stranger"), "198.51.100.1")
        self.assertIsNone(self.call(peer("stranger"), good[0]))
        self.assertIs(self.refusal, ErrorCode.TOO_MANY)
        for pair in (good, good[::-1]):
            self.assertIsNotNone(self.call(*pair))

    def test_who_has_to_leave_is_told(self) -> None:
        """The newest call of the largest source ends: busy for the caller, cancelled for the called peer."""
        self.limits = replace(self.limits, introductions=6)
        self.make_world()
        bad = [peer("bad", number) for number in range(7)]
        for each in bad:
            self.join(each, "203.0.113.1")
        calls = [self.call(bad[0], callee) for callee in bad[1:]]
        good = self.others(2)
        self.assertIsNotNone(self.call(*good))
        self.assertEqual(self.ends(bad[0]), {calls[-1]: ErrorCode.BUSY})
        self.assertEqual(self.ends(bad[6]), {calls[-1]: ErrorCode.CANCELLED})
        self.assertEqual(self.registry.introduction_count, 6)


class OrderTests(FairnessCase):
    """Any inputs in any order."""

    limits = replace(
        RendezvousLimits(),
        registrations=10,
        registrations_per_address=3,
        introductions=16,
        introductions_per_address=5,
        calls_per_caller=6,
        calls_per_callee=3,
        calls_per_source=2,
        answered_per_callee=3,
        answered_per_source=1,
        incoming_rate=50.0,
        source_rate=50.0,
    )

    def test_any_order(self) -> None:
        """Every refused peer is told, all bounds hold, and nothing is left when all peers are gone."""
        random = Random(8)
        hosts = ["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1", "2001:db8:0:1::1", "2001:db8:1::1"]
        peers = [(peer(number), hosts[number % 6]) for number in range(18)]
        calls: list[tuple[str, PeerID, PeerID]] = []
        for _ in range(6000):
            (who, host), (other, _) = random.sample(peers, 2)
            action = random.choice(
                ["join", "leave", "call", "call", "call", "answer", "answer", "end", "wait"]
            )
            if action == "join":
                self.join(who, host)
            elif action == "wait":
                self.wait(random.choice([0.01, 0.1, 5.0]))
            elif who not in self.connections:
                continue
            elif action == "leave" and random.random() < 0.3:
                self.leave(who)
            elif action == "call" and who in self.registry:
                call = self.call(who, other)
                if call is not None:
                    calls.append((call, who, other))
            elif calls:
                call, caller, callee = random.choice(calls[-20:])
                if caller in self.registry and callee in self.registry:
                    request = (
                        Answer(call, caller, envelope(caller)) if action == "answer" else Cancel(call, caller)
                    )
                    with contextlib.suppress(IntroductionRefusal):
                        self.ask(callee, request)
                    self.deliver()
            self.assertLessEqual(len(self.registry), 10)
            self.assertLessEqual(self.registry.introduction_count, 16)
        for who in self.connections:
            self.leave(who)
        self.assertEqual((len(self.registry), self.registry.introduction_count), (0, 0))
        for who, host in peers[:6]:
            self.assertTrue(self.join(who, host))
            self.assertIsNotNone(self.call(who, peers[0][0]) if who != peers[0][0] else "")
