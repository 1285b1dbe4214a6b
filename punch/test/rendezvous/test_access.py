"""Tests of `punch.rendezvous.access`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.rendezvous.access import ReturningPeers
from punch.wire.control import Error, ErrorCode
from punch.wire.invitation import AdmissionRefusal

REFUSED = Error(ErrorCode.DENIED, "For invited peers.", refusal=AdmissionRefusal.NOT_INVITED, contact="Ann")


class ReturningPeersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.returning = ReturningPeers()
        self.alice, self.bob = (Identity.generate().peer_id for _ in range(2))

    def test_a_peer_that_returns(self) -> None:
        """From its third return within ten minutes on, the code is one that each release stops after."""
        errors = [self.returning.error_for(self.alice, REFUSED, now) for now in (0.0, 1.0, 3.0, 6.0, 20.0)]
        self.assertEqual([error.code for error in errors], [ErrorCode.DENIED] * 3 + [ErrorCode.VERSION] * 2)
        self.assertEqual({(error.refusal, error.contact) for error in errors}, {(REFUSED.refusal, "Ann")})
        self.assertIs(self.returning.error_for(self.bob, REFUSED, 21.0), REFUSED)
        self.assertIs(self.returning.error_for(self.alice, REFUSED, 601.0), REFUSED)

    def test_other_errors(self) -> None:
        """A peer that is refused for now may return."""
        busy = Error(ErrorCode.RATE, "Too many.")
        for now in range(9):
            self.assertIs(self.returning.error_for(self.alice, busy, float(now)), busy)

    def test_many_peers(self) -> None:
        """Those that have returned least recently are forgotten."""
        returning = ReturningPeers(most=2)
        carol = Identity.generate().peer_id
        for peer in (self.alice, self.alice, self.alice, self.bob, carol):
            returning.error_for(peer, REFUSED, 1.0)
        self.assertEqual(returning.error_for(self.alice, REFUSED, 2.0).code, ErrorCode.DENIED)
