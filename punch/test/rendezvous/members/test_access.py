"""Tests of `punch.rendezvous.members.access`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.rendezvous.members.access import ReturningPeers
from punch.wire.control import Error, ErrorCode
from punch.wire.invitation import AdmissionRefusal

HOME = "198.51.100.7"
REFUSED = Error(ErrorCode.DENIED, "For invited peers.", refusal=AdmissionRefusal.NOT_INVITED, contact="Ann")


class ReturningPeersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.returning = ReturningPeers()
        self.alice, self.bob = (Identity.generate().peer_id for _ in range(2))

    def test_a_peer_that_returns(self) -> None:
        """From its third return within ten minutes on, the code is one that each release stops after."""
        errors = [
            self.returning.error_for(self.alice, HOME, REFUSED, now) for now in (0.0, 1.0, 3.0, 6.0, 20.0)
        ]
        self.assertEqual([error.code for error in errors], [ErrorCode.DENIED] * 3 + [ErrorCode.VERSION] * 2)
        self.assertEqual({(error.refusal, error.contact) for error in errors}, {(REFUSED.refusal, "Ann")})
        self.assertIs(self.returning.error_for(self.bob, HOME, REFUSED, 21.0), REFUSED)
        self.assertIs(self.returning.error_for(self.alice, HOME, REFUSED, 601.0), REFUSED)

    def test_other_errors(self) -> None:
        """A peer that is refused for now may return."""
        busy = Error(ErrorCode.RATE, "Too many.")
        for now in range(9):
            self.assertIs(self.returning.error_for(self.alice, HOME, busy, float(now)), busy)

    def test_many_peers(self) -> None:
        """One address with ever new identities has only its own forgotten."""
        returning = ReturningPeers(most=32)
        for _ in range(3):
            returning.error_for(self.alice, HOME, REFUSED, 1.0)
            returning.error_for(self.bob, "192.0.2.66", REFUSED, 1.0)
        for number in range(40):
            identity = Identity.generate().peer_id
            returning.error_for(identity, f"192.0.2.{66 + number % 2}", REFUSED, 2.0)
        self.assertEqual(returning.error_for(self.alice, HOME, REFUSED, 3.0).code, ErrorCode.VERSION)
        self.assertEqual(
            returning.error_for(self.bob, "192.0.2.66", REFUSED, 3.0).code,
            ErrorCode.DENIED,
            "the oldest of the address itself",
        )
