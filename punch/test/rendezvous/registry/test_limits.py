"""The limits of the registry."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from punch.net.sources import address_key
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.outputs import Disconnect, LimitHit, PeerRegistered, PeerUnregistered
from punch.rendezvous.registry.registry import Registry
from punch.test.rendezvous.registry.test_registry import (
    ALICE,
    BOB,
    CAROL,
    KEYS,
    OTHERS,
    RegistryCase,
    envelope,
)
from punch.wire.control import Cancel, ErrorCode, Establish


class LimitTests(RegistryCase):
    """The limits hold against strangers."""

    limits = replace(
        RendezvousLimits(),
        registrations=6,
        registrations_per_address=3,
        introductions=6,
        calls_per_caller=3,
        calls_per_callee=4,
        calls_per_source=4,
        incoming_rate=1.0,
        incoming_burst=5.0,
        message_rate=2.0,
        message_burst=4.0,
    )

    def call(self, number: int) -> str:
        return f"{number:032x}"

    def test_registrations_in_all_and_at_one_address(self) -> None:
        for index in range(3):
            self.join(KEYS[index].peer_id, index)
        refusal = self.assertRaises(IntroductionRefusal, self.join, KEYS[3].peer_id, 3)
        self.assertIs(refusal.code, ErrorCode.TOO_MANY)
        for index in range(3, 6):
            self.join(KEYS[index].peer_id, index, "2001:db8::1")
        self.assertEqual(len(self.registry), 6)

    def test_full_registry_makes_room(self) -> None:
        """The newest peer of the address with the most peers is disconnected, and told why."""
        for index in range(6):
            self.join(KEYS[index].peer_id, index, ("203.0.113.1", "2001:db8::1")[index // 3])
        self.outputs()
        self.join(KEYS[6].peer_id, 6, "198.51.100.9")
        displaced, told, gone, come = self.outputs()
        self.assertEqual(displaced, LimitHit(KEYS[5].peer_id, "2001:db8::1", "registrations"))
        assert isinstance(told, Disconnect)
        self.assertEqual((told.connection, told.error.code), (5, ErrorCode.TOO_MANY))
        self.assertEqual(gone, PeerUnregistered(KEYS[5].peer_id, "too-many"))
        self.assertEqual(come, PeerRegistered(KEYS[6].peer_id, "name 6", False))
        self.assertEqual(len(self.registry), 6)
        # Those that are left have as few as who comes now.
        self.join(KEYS[7].peer_id, 7, "192.0.2.1")
        self.assertNotIn(KEYS[2].peer_id, self.registry)
        self.assertRaises(IntroductionRefusal, self.join, KEYS[5].peer_id, 8, "192.0.2.1")

    def test_full_registry_lets_its_own_come_back(self) -> None:
        for index in range(6):
            self.join(KEYS[index].peer_id, index, f"203.0.113.{index}")
        self.join(KEYS[0].peer_id, 10, "203.0.113.0")
        self.assertEqual(len(self.registry), 6)

    def test_coming_back_from_a_full_address_keeps_the_older_registration(self) -> None:
        for index in range(3):
            self.join(KEYS[index].peer_id, index)
        self.join(KEYS[3].peer_id, 3, "198.51.100.9")
        self.outputs()
        self.assertRaises(IntroductionRefusal, self.join, KEYS[3].peer_id, 4)
        self.assertIn(KEYS[3].peer_id, self.registry)
        self.assertEqual(self.outputs(), [])
        self.registry.disconnected(KEYS[3].peer_id, 3, "closed", self.now)
        self.join(KEYS[3].peer_id, 5, "198.51.100.9")

    def test_place_is_free_again_after_leaving(self) -> None:
        for turn in range(20):
            self.join(ALICE, turn)
            self.registry.disconnected(ALICE, turn, "closed", self.now)
        self.join(ALICE, 99)

    def test_calls_of_one_caller(self) -> None:
        self.join(ALICE, 1)
        self.join(BOB, 2)
        self.outputs()
        for number in range(3):
            self.ask(ALICE, 1, Establish(self.call(number), BOB, envelope(BOB)))
        self.outputs()
        self.assertEqual(
            self.refused(ALICE, 1, Establish(self.call(9), BOB, envelope(BOB))), ErrorCode.TOO_MANY
        )
        self.ask(ALICE, 1, Cancel(self.call(0), BOB))
        self.ask(ALICE, 1, Establish(self.call(9), BOB, envelope(BOB)))

    def test_calls_for_one_callee_make_it_busy(self) -> None:
        for index, peer in enumerate((ALICE, BOB, CAROL)):
            self.join(peer, index)
        for number in range(4):
            self.ask(
                (ALICE, BOB)[number % 2], number % 2, Establish(self.call(number), CAROL, envelope(CAROL))
            )
        self.outputs()
        self.assertEqual(
            self.refused(ALICE, 0, Establish(self.call(9), CAROL, envelope(CAROL))), ErrorCode.BUSY
        )
        # What was refused counts for nobody.
        self.ask(ALICE, 0, Establish(self.call(9), BOB, envelope(BOB)))

    def test_one_address_alone_makes_nobody_busy(self) -> None:
        """However many identities call from one address, calls from others get through."""
        self.registry = Registry(RendezvousLimits())
        for index, peer in enumerate((ALICE, BOB)):
            self.join(peer, index, f"2001:db8::{index}")
        self.join(CAROL, 2, "192.0.2.1")
        self.join(OTHERS[0], 3, "192.0.2.1")
        codes = set()
        for number in range(16):
            try:
                self.ask(
                    (ALICE, BOB)[number % 2], number % 2, Establish(self.call(number), CAROL, envelope(CAROL))
                )
            except IntroductionRefusal as refusal:
                codes.add(refusal.code)
        self.assertEqual(codes, {ErrorCode.BUSY})
        self.ask(OTHERS[0], 3, Establish(self.call(99), CAROL, envelope(CAROL)))
        # What was refused counts for nobody.
        self.ask(ALICE, 0, Establish(self.call(98), BOB, envelope(BOB)))

    def test_one_address_alone_keeps_nobody_busy(self) -> None:
        """The same for calls that are cancelled at once."""
        self.registry = Registry(RendezvousLimits())
        self.join(ALICE, 1, "192.0.2.1")
        self.join(CAROL, 2, "192.0.2.2")
        self.join(BOB, 3)
        for number in range(1000):
            with contextlib.suppress(IntroductionRefusal):
                self.ask(ALICE, 1, Establish(self.call(number), BOB, envelope(BOB)))
                self.ask(ALICE, 1, Cancel(self.call(number), BOB))
            self.now += 0.05
            if number % 20 == 19:
                self.ask(CAROL, 2, Establish(self.call(number), BOB, envelope(BOB)))
                self.ask(CAROL, 2, Cancel(self.call(number), BOB))

    def test_introductions_in_all(self) -> None:
        for index, peer in enumerate((ALICE, BOB, CAROL)):
            self.join(peer, index)
        self.outputs()
        for number in range(6):
            to = (BOB, CAROL, ALICE)[number % 3]
            self.ask(
                (ALICE, BOB, CAROL)[number % 3], number % 3, Establish(self.call(number), to, envelope(to))
            )
        self.outputs()
        self.assertEqual(
            self.refused(ALICE, 0, Establish(self.call(9), BOB, envelope(BOB))), ErrorCode.TOO_MANY
        )

    def test_calling_and_cancelling_does_not_flood_the_callee(self) -> None:
        self.join(ALICE, 1)
        self.join(BOB, 2)
        told = 0
        for number in range(100):
            try:
                self.ask(ALICE, 1, Establish(self.call(number), BOB, envelope(BOB)))
            except IntroductionRefusal as refusal:
                self.assertIs(refusal.code, ErrorCode.BUSY)
            else:
                told += 1
                self.ask(ALICE, 1, Cancel(self.call(number), BOB))
            self.now += 0.1
        self.assertEqual(told, 5 + 9)

    def test_deadlines_of_ended_calls_are_forgotten(self) -> None:
        self.registry = Registry(
            replace(self.limits, incoming_rate=1e6, incoming_burst=1e6, source_rate=1e6, source_burst=1e6)
        )
        self.ring(self.call(10_000))
        for number in range(100):
            self.ask(ALICE, 1, Establish(self.call(number), BOB, envelope(BOB)))
            self.ask(ALICE, 1, Cancel(self.call(number), BOB))
        self.outputs()
        self.wait(60)
        self.assertEqual(len(self.replies()), 2)

    def test_messages_of_one_peer(self) -> None:
        allowed = [self.registry.allow_message(ALICE, self.now) for _ in range(6)]
        self.assertEqual(allowed, [True] * 4 + [False] * 2)
        self.assertTrue(self.registry.allow_message(BOB, self.now))
        self.assertTrue(self.registry.allow_message(ALICE, self.now + 0.5))


class AddressKeyTests(SynchronousTestCase):
    """What counts as one address."""

    def test_keys(self) -> None:
        for host, key in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("", ""),
            ("/run/socket", "/run/socket"),
        ):
            self.assertEqual(address_key(host), key)

    def test_limits_are_more_than_zero(self) -> None:
        self.assertRaises(ValueError, RendezvousLimits, handshakes=0)
