"""Callers that are told when the peer that they called is back."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.net.sources import source_of
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.places import ReturnNotices
from punch.test.rendezvous.registry.test_registry import (
    ALICE,
    BOB,
    CALL,
    CALL2,
    CAROL,
    RegistryCase,
    envelope,
)
from punch.test.strategies import SETTINGS
from punch.wire.control import ErrorCode, Establish, Returned

LIMITS = RendezvousLimits(return_notices=12, return_notices_per_address=4, return_notices_per_callee=6)
HOUR = LIMITS.return_notice_time


def peer(number: int) -> PeerID:
    """One of many."""
    return PeerID(sha256(b"%d" % number).digest())


class RegistryReturnTests(RegistryCase):
    """What the registry tells when a peer registers."""

    def call(self, caller: PeerID, connection: int, call: str = CALL, *, notify: bool = True) -> None:
        """Bob, who is away, is called."""
        request = Establish(call, BOB, envelope(BOB), notify)
        self.assertEqual(self.refused(caller, connection, request), ErrorCode.NOT_REGISTERED)

    def returned(self) -> dict[int, int]:
        """How often each connection was told that Bob is back."""
        told = self.replies()
        return {c: told[c].count(Returned(BOB)) for c in told if Returned(BOB) in told[c]}

    def setUp(self) -> None:
        super().setUp()
        self.join(ALICE, 1)
        self.join(CAROL, 3, "198.51.100.1")
        self.outputs()

    def test_told_once(self) -> None:
        self.call(ALICE, 1)
        self.call(ALICE, 1, CALL2)
        self.join(BOB, 2)
        self.assertEqual(self.returned(), {1: 1})
        self.registry.disconnected(BOB, 2, "closed", self.now)
        self.join(BOB, 4)
        self.assertEqual(self.returned(), {})

    def test_only_those_who_asked(self) -> None:
        self.call(ALICE, 1, notify=False)
        self.call(CAROL, 3)
        self.join(BOB, 2)
        self.assertEqual(self.returned(), {3: 1})

    def test_within_an_hour_after_the_last_call(self) -> None:
        self.call(ALICE, 1)
        self.call(CAROL, 3)
        self.wait(HOUR - 1)
        self.call(CAROL, 3, CALL2)
        self.wait(2)
        self.join(BOB, 2)
        self.assertEqual(self.returned(), {3: 1})

    def test_on_the_connection_of_now(self) -> None:
        """A caller that has reconnected is told there, one that is gone is not."""
        self.call(ALICE, 1)
        self.call(CAROL, 3)
        self.registry.disconnected(CAROL, 3, "closed", self.now)
        self.join(ALICE, 5)
        self.outputs()
        self.join(BOB, 2)
        self.assertEqual(self.returned(), {5: 1})

    def test_nothing_about_a_peer_that_is_there(self) -> None:
        """A call that rings leaves no notice: a new connection of the callee tells nobody."""
        self.join(BOB, 2)
        self.outputs()
        self.ask(ALICE, 1, Establish(CALL, BOB, envelope(BOB), notify=True))
        self.outputs()
        self.join(BOB, 4)
        self.assertEqual(self.returned(), {})


class NoticesTests(SynchronousTestCase):
    """The table of notices is shared between sources."""

    def setUp(self) -> None:
        self.notices = ReturnNotices(LIMITS)

    def ask(self, caller: int, host: str, callee: PeerID = BOB, now: float = 0.0) -> bool:
        return self.notices.ask(peer(caller), source_of(host), callee, now)

    def test_one_address_does_not_take_the_places_at_a_callee(self) -> None:
        for number in range(100):
            self.ask(number, "203.0.113.7")
        self.assertTrue(self.ask(1000, "198.51.100.1"))
        told = self.notices.returned(BOB, 1.0)
        self.assertIn(peer(1000), told)
        self.assertEqual(len(told), 2)

    def test_one_network_does_not_take_the_places_at_a_callee(self) -> None:
        for number in range(250):
            self.ask(number, f"203.0.113.{number}")
        self.assertTrue(self.ask(1000, "198.51.100.1"))
        self.assertIn(peer(1000), self.notices.returned(BOB, 1.0))

    def test_one_address_does_not_take_the_table(self) -> None:
        for number in range(100):
            self.ask(number, "203.0.113.7", peer(5000 + number))
        self.assertEqual(len(self.notices), LIMITS.return_notices_per_address)
        self.assertEqual(self.notices.returned(peer(5099), 1.0), [peer(99)])
        self.assertEqual(self.notices.returned(peer(5000), 1.0), [])

    def test_forgotten_after_an_hour(self) -> None:
        self.ask(1, "203.0.113.7")
        self.ask(2, "198.51.100.1", now=HOUR)
        self.assertEqual(len(self.notices), 1)
        self.assertEqual(self.notices.returned(BOB, HOUR), [peer(2)])
        self.assertEqual(len(self.notices), 0)

    @settings(SETTINGS, max_examples=30)
    @given(
        st.lists(
            st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=60
        )
    )
    def test_bounded_and_consistent(self, steps: list[tuple[int, int, int, bool]]) -> None:
        """Whatever is asked, nobody is told who did not ask, nobody twice, and the table stays bounded."""
        notices = ReturnNotices(LIMITS)
        asked: dict[PeerID, set[PeerID]] = {}
        for number, (caller, host, callee, back) in enumerate(steps):
            if back:
                told = notices.returned(peer(callee), float(number))
                self.assertEqual(len(told), len(set(told)))
                self.assertLessEqual(set(told), asked.pop(peer(callee), set()))
            elif notices.ask(peer(caller), source_of(f"10.{host}.0.1"), peer(callee), float(number)):
                asked.setdefault(peer(callee), set()).add(peer(caller))
            self.assertLessEqual(len(notices), LIMITS.return_notices)
        for callee in range(4):
            notices.returned(peer(callee), 100.0)
        self.assertEqual(len(notices), 0)
