"""Codes on the simulated internet: both sides, the rendezvous between them, and strangers."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import Deferred

from punch.apps.codes.client import CodeClient
from punch.apps.codes.code import LIFE, Card, Code, CodeFailed, CodeFailure, CodePurpose
from punch.apps.codes.exchange import Issuer, Redeemer
from punch.identity import Identity
from punch.node.causes import ControlProblem, ProblemCode
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import AdmitPolicy, Membership, Redemption
from punch.test.internet import Host, InternetTestCase
from punch.test.system import SERVICE, Rendezvous
from punch.wire.control import ErrorCode
from punch.wire.invitation import AdmissionRefusal, Invitation

CODE = Code(48213, ("coyote", "tulip", "yogurt"))
WRONG = replace(CODE, words=("coyote", "tulip", "yodel"))
ALICE, BOB = (Identity.generate(lambda size, i=i: bytes([i]) * size) for i in (1, 2))  # type: ignore[misc]
MEMBERS = (ALICE.peer_id, BOB.peer_id)


class ClientTestCase(InternetTestCase):
    limits = RendezvousLimits()
    membership: Membership | None = None

    def setUp(self) -> None:
        self.net = self.internet(seed=1)
        self.rendezvous = Rendezvous(
            self.net, self.net.host("rendezvous", SERVICE), self.limits, membership=self.membership
        )
        self.address = self.rendezvous.address
        self.alice = self.net.host("alice", "203.0.113.1")
        self.bob = self.net.host("bob", "192.0.2.2")
        self.clients = 0

    def _client(
        self, core: Issuer | Redeemer, key: Identity, host: Host, wait: bool, member: Identity
    ) -> Deferred[Card]:
        self.clients += 1
        ready: list[None] = []
        client = CodeClient(
            core,
            key,
            reactor=host.reactor,
            rendezvous=[self.address],
            member=member,
            on_registered=lambda: ready.append(None),
            random=self.net.random_bytes(f"client {self.clients}"),
            monotonic=host.monotonic,
        )
        running = client.run()
        if wait:
            self.net.run_until(lambda: ready, 5.0, "a side is registered")
        return running

    def issue(self, host: Host | None = None) -> Deferred[Card]:
        host = host or self.alice
        core = Issuer(
            CODE, ALICE, "alice", CodePurpose.CONTACT, host.monotonic(), self.net.random_bytes("issuer")
        )
        return self._client(core, CODE.identity, host, wait=True, member=ALICE)

    def redeem(self, code: Code = CODE, member: Identity = BOB) -> Deferred[Card]:
        random = self.net.random_bytes(f"redeemer {self.clients}")
        caller = Identity.generate(random)
        core = Redeemer(code, caller.peer_id, BOB, "bob", CodePurpose.CONTACT, self.bob.monotonic(), random)
        return self._client(core, caller, self.bob, wait=False, member=member)

    def failure(self, running: Deferred[Card], timeout: float = 10.0) -> CodeFailure:
        ended: list[object] = []
        running.addBoth(ended.append)
        self.net.run_until(lambda: ended, timeout, "a side ends")
        error = getattr(ended[0], "value", None)
        assert isinstance(error, CodeFailed), ended
        return error.failure


class ClientTests(ClientTestCase):
    def test_two_peers_meet(self) -> None:
        """Both get the card of the other one, within two seconds, and leave the rendezvous."""
        issuing = self.issue()
        redeeming = self.redeem()
        self.assertEqual(self.net.wait(redeeming, 2.0), Card(ALICE.peer_id, "alice", CodePurpose.CONTACT))
        self.assertEqual(self.net.wait(issuing, 2.0), Card(BOB.peer_id, "bob", CodePurpose.CONTACT))
        self.net.advance(1.0)
        registered = [fields["name"] for event, fields in self.rendezvous.reports if event == "registered"]
        self.assertEqual(registered, ["code", "code"])
        self.assertEqual(self.failure(self.redeem()), CodeFailure.NOBODY)

    def test_wrong_words(self) -> None:
        """Both are told, and the right code comes too late."""
        issuing = self.issue()
        self.assertEqual(self.failure(self.redeem(WRONG)), CodeFailure.WRONG)
        self.assertEqual(self.failure(issuing), CodeFailure.WRONG)
        self.assertEqual(self.failure(self.redeem()), CodeFailure.NOBODY)

    def test_nobody_has_used_it(self) -> None:
        issuing = self.issue()
        self.net.advance(LIFE - 10.0)
        self.assertNoResult(issuing)
        self.assertEqual(self.failure(issuing, 20.0), CodeFailure.EXPIRED)
        self.assertEqual(self.failure(self.redeem()), CodeFailure.NOBODY)

    def test_the_number_is_taken(self) -> None:
        """Of two sides with one number, the newer one has it, and the older one says so."""
        older = self.issue()
        self.issue(self.bob)
        self.assertEqual(self.failure(older), CodeFailure.NUMBER_TAKEN)

    def test_the_rendezvous_starts_again(self) -> None:
        """The code is good afterwards."""
        issuing = self.issue()
        self.rendezvous.stop()
        self.rendezvous.start()
        self.net.advance(10.0)
        self.net.wait(self.redeem(), 5.0)
        self.assertEqual(self.net.wait(issuing, 5.0), Card(BOB.peer_id, "bob", CodePurpose.CONTACT))

    def test_no_rendezvous(self) -> None:
        self.rendezvous.stop()
        ended: list[object] = []
        self.redeem().addBoth(ended.append)
        self.net.run_until(lambda: ended, 60.0, "it gives up")
        problem = getattr(ended[0], "value", None)
        assert isinstance(problem, ControlProblem), ended
        self.assertIs(problem.code, ProblemCode.REFUSED)


class GuessingTests(ClientTestCase):
    """Whoever tries numbers is slowed down."""

    limits = replace(RendezvousLimits(), absent_rate=0.5, absent_burst=3.0)

    def test_many_numbers(self) -> None:
        """Calls of numbers where nobody waits are bounded; those of codes that are there still work."""
        found = [self.failure(self.redeem(replace(CODE, number=number))) for number in range(10_000, 10_006)]
        self.assertEqual(found[:3], [CodeFailure.NOBODY] * 3)
        self.assertIn(CodeFailure.BUSY, found)
        self.issue()
        self.assertEqual(self.net.wait(self.redeem(), 5.0), Card(ALICE.peer_id, "alice", CodePurpose.CONTACT))
        self.net.advance(60.0)
        self.assertEqual(self.failure(self.redeem(replace(CODE, number=10_007))), CodeFailure.NOBODY)


class MembersTests(ClientTestCase):
    """Codes where only members may register: they vouch for the keys of the two sides."""

    def setUp(self) -> None:
        self.store = MemberDatabase(None)
        self.addCleanup(self.store.close)
        self.membership = Membership(
            AdmitPolicy.LISTED, self.store, service=bytes(4), listed=frozenset(MEMBERS), contact="ask Ann"
        )
        super().setUp()

    def problem(self, running: Deferred[Card]) -> ControlProblem:
        """Why a side could not register."""
        ended: list[object] = []
        running.addBoth(ended.append)
        self.net.run_until(lambda: ended, 10.0, "a side ends")
        problem = getattr(ended[0], "value", None)
        assert isinstance(problem, ControlProblem), ended
        return problem

    def test_two_members_meet(self) -> None:
        """As anywhere, and neither is registered itself."""
        issuing = self.issue()
        redeeming = self.redeem()
        self.assertEqual(self.net.wait(redeeming, 3.0), Card(ALICE.peer_id, "alice", CodePurpose.CONTACT))
        self.assertEqual(self.net.wait(issuing, 3.0), Card(BOB.peer_id, "bob", CodePurpose.CONTACT))
        peers = {fields["peer"] for event, fields in self.rendezvous.reports if event == "registered"}
        self.assertEqual(len(peers), 2)
        self.assertFalse(peers & set(map(str, MEMBERS)))

    def test_invited_members(self) -> None:
        """Those who have redeemed an invitation, too."""
        self.membership = Membership(AdmitPolicy.INVITED, self.store, service=bytes(4))
        self.rendezvous = Rendezvous(
            self.net, self.net.host("other", "198.51.100.2"), name="198.51.100.2", membership=self.membership
        )
        self.address = self.rendezvous.address
        invitation = Invitation.new(bytes(4), self.net.random_bytes("invitation"))
        self.store.invite(invitation, 2, 1e12, None)
        for peer in MEMBERS:
            self.assertIs(self.store.redeem(invitation, peer, "x", 0.0), Redemption.ACCEPTED)
        issuing = self.issue()
        self.net.wait(self.redeem(), 3.0)
        self.net.wait(issuing, 3.0)

    def test_where_only_the_relay_is_for_members(self) -> None:
        """The codes of contacts need none, so nobody learns who would vouch."""
        self.membership = Membership(
            AdmitPolicy.OPEN,
            self.store,
            service=bytes(4),
            listed=frozenset(MEMBERS),
            relay_for_invited=True,
        )
        self.rendezvous = Rendezvous(
            self.net, self.net.host("other", "198.51.100.2"), name="198.51.100.2", membership=self.membership
        )
        self.address = self.rendezvous.address
        issuing = self.issue()
        self.net.wait(self.redeem(), 3.0)
        self.net.wait(issuing, 3.0)
        registered = [event for event, _ in self.rendezvous.reports if event == "registered"]
        self.assertEqual(len(registered), 2)

    def test_somebody_else(self) -> None:
        """Refused, and told whom to ask."""
        problem = self.problem(self.redeem(member=Identity.generate(lambda size: bytes([9]) * size)))
        self.assertIs(problem.refusal, AdmissionRefusal.NOT_LISTED)
        self.assertEqual(problem.contact, "ask Ann")

    def test_revoked_members(self) -> None:
        """A revocation ends what a member has vouched for, and keeps its next codes out."""
        issuing = self.issue()
        self.store.revoke(ALICE.peer_id, AdmissionRefusal.REVOKED, 1.0)
        self.assertEqual(self.rendezvous.service.end_refused(), 1)
        self.assertIs(self.problem(issuing).refusal, AdmissionRefusal.REVOKED)
        self.assertIs(self.problem(self.redeem(member=ALICE)).refusal, AdmissionRefusal.REVOKED)

    def test_denied_members(self) -> None:
        """The same by the deny list."""
        issuing = self.issue()
        self.assertEqual(self.rendezvous.service.deny(DenyList.parse(str(ALICE.peer_id))), 1)
        self.assertIs(self.problem(self.redeem(member=ALICE)).error, ErrorCode.DENIED)
        self.assertEqual(self.failure(self.redeem()), CodeFailure.NOBODY)
        self.assertIs(self.problem(issuing).refusal, AdmissionRefusal.ID_DENIED)

    def test_after_a_restart_of_the_rendezvous(self) -> None:
        """Each connection has a voucher of its own."""
        issuing = self.issue()
        self.rendezvous.stop()
        self.rendezvous.start()
        self.net.advance(10.0)
        self.net.wait(self.redeem(), 5.0)
        self.net.wait(issuing, 5.0)
