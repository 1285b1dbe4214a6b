"""`punch identity revoke` on the simulated internet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.internet.defer import Deferred, succeed

from punch.cli.commands.identity import Revocation
from punch.identity import Identity
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.membership import AdmitPolicy, Membership
from punch.test.internet import InternetTestCase
from punch.test.system import SERVICE, Rendezvous
from punch.wire.invitation import AdmissionRefusal
from punch.wire.rendezvous_address import RendezvousAddress, ServiceRecord

ALICE = Identity.generate(lambda size: bytes([1]) * size)


class RevocationTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.members = MemberDatabase(None)
        self.addCleanup(self.members.close)
        membership = Membership(AdmitPolicy.OPEN, self.members, service=bytes(8))
        self.rendezvous = Rendezvous(
            self.net, self.net.host("rendezvous", SERVICE), relay=False, membership=membership
        )

    def revoke(
        self,
        address: RendezvousAddress,
        look_up_service: Callable[[str], Deferred[Sequence[ServiceRecord] | None]],
    ) -> Revocation:
        """The revocation, when it is over."""
        ended: list[None] = []
        revocation = Revocation(
            self.net.host("owner").reactor,
            [address],
            ALICE,
            lambda: ended.append(None),
            proxy=None,
            look_up_service=look_up_service,
            random=self.net.random_bytes("owner"),
        )
        revocation.start()
        self.net.run_until(lambda: ended, 30.0, "the revocation is over")
        return revocation

    def test_by_the_address(self) -> None:
        self.assertTrue(self.revoke(self.rendezvous.address, lambda domain: succeed(None)).done)
        self.assertIs(self.members.revocation(ALICE.peer_id), AdmissionRefusal.ID_REVOKED)

    def test_at_a_server_that_only_records_name(self) -> None:
        """The domain itself has no address."""
        address = self.rendezvous.address
        domain = replace(RendezvousAddress.parse("example.test"), pin=address.pin)
        records = [ServiceRecord(10, 0, SERVICE, address.port)]
        self.assertTrue(self.revoke(domain, lambda domain: succeed(records)).done)
        self.assertIs(self.members.revocation(ALICE.peer_id), AdmissionRefusal.ID_REVOKED)
