"""One-time keys, such as those of files by a code, where anybody registers and only members are relayed."""

from __future__ import annotations

from punch.identity import Identity, PeerID
from punch.node.events import CallFailed
from punch.node.policies import RelayPolicy
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.membership import AdmitPolicy, Membership
from punch.test.system import Peer, Rendezvous, SystemTestCase, connect, introduce

MEMBERS = [Identity.generate(lambda size, i=i: bytes([i]) * size) for i in (1, 2)]  # type: ignore[misc]


class RelaysForMembersTests(SystemTestCase):
    """Of two nodes with keys of their own, for which the identities of two users may vouch."""

    def setUp(self) -> None:
        super().setUp()
        self.rendezvous.stop()
        store = MemberDatabase(None)
        self.addCleanup(store.close)
        membership = Membership(
            AdmitPolicy.OPEN,
            store,
            service=bytes(4),
            listed=frozenset(member.peer_id for member in MEMBERS),
            relay_for_invited=True,
        )
        host = self.net.host("other", "198.51.100.2")
        self.rendezvous = Rendezvous(self.net, host, name="198.51.100.2", membership=membership)

    def guest(self, name: str, member: Identity | None, relay: RelayPolicy = RelayPolicy.ONLY) -> Peer:
        host = self.net.host(name, f"203.0.113.{len(self.peers) + 1}")
        peer = Peer(self.net, host, self.rendezvous.address, relay=relay, member=member)
        self.peers.append(peer.register())
        return peer

    @property
    def registered(self) -> list[PeerID | str]:
        """The peers that have registered, in order."""
        return [str(fields["peer"]) for event, fields in self.rendezvous.reports if event == "registered"]

    def test_members(self) -> None:
        """They are relayed for, also after the rendezvous was restarted. Their own IDs are not registered."""
        alice, bob = self.guest("alice", MEMBERS[0]), self.guest("bob", MEMBERS[1])
        connect(alice, bob)
        self.assertEqual(self.registered, [str(each.id) for each in (alice, alice, bob, bob)])
        self.rendezvous.stop()
        self.rendezvous.start()
        self.net.advance(20.0)
        # From now on they say at once who vouches.
        self.assertEqual(len(self.registered), 6)

    def test_who_is_no_member(self) -> None:
        """It is registered all the same, with a voucher that does not help."""
        stranger = Identity.generate(lambda size: bytes([3]) * size)
        alice, bob = self.guest("alice", stranger), self.guest("bob", None)
        introduce(alice, bob)
        alice.call(bob.id)
        self.assertIsInstance(alice.wait_for_end(60.0), CallFailed)
        self.assertEqual(self.registered, [str(each.id) for each in (alice, alice, bob)])

    def test_netcheck(self) -> None:
        """That of a node runs with a key of its own, and shows the relay to members."""
        for name, member, reached in (("alice", MEMBERS[0], True), ("bob", None, False)):
            guest = self.guest(name, member)
            report = self.net.wait(guest.node.netcheck(), 30.0, "a report")
            self.assertIsNone(report.problem)
            self.assertEqual(bool(report.relays), reached, name)

    def test_netcheck_of_a_member(self) -> None:
        """Who is registered as a member vouches itself."""
        host = self.net.host("member", "203.0.113.99")
        peer = Peer(self.net, host, self.rendezvous.address, identity=MEMBERS[0])
        self.peers.append(peer.register())
        report = self.net.wait(peer.node.netcheck(), 30.0, "a report")
        self.assertTrue(report.relays)

    def test_who_wants_no_relay(self) -> None:
        """The rendezvous does not learn who would vouch."""
        alice = self.guest("alice", MEMBERS[0], RelayPolicy.NEVER)
        self.assertEqual(self.registered, [str(alice.id)])
