"""The first packets of a handshake together with the first checks: nobody can start or aim them."""

from __future__ import annotations

from dataclasses import replace

from punch.contact_entries import MAX_AGE
from punch.contacts import AddressBook
from punch.ice.limits import MAX_EARLY, MAX_EARLY_BYTES
from punch.identity import Identity, PeerID
from punch.node.policies import RelayPolicy
from punch.test.internet import NAT, LinkSpec, Mapping, Seen
from punch.test.node.middleman import MiddlemanTestCase
from punch.test.scenarios.early import HOMES, D, EarlyTestCase, is_handshake
from punch.test.system import (
    Connected,
    IncomingCall,
    introduce,
)
from punch.wire.control import Accept, Answered, Incoming, Reply


class HostileTests(EarlyTestCase):
    """Who can't have packets sent early, nor aim them."""

    def assert_nothing_early(self) -> None:
        self.connect()
        self.assertEqual(self.early_packets(), [])
        self.stop()

    def test_who_is_not_known(self) -> None:
        """A stranger that calls or is called, however often; nor one whom only one side knows."""
        self.start()
        self.assert_nothing_early()
        self.books[1] = AddressBook(None)
        self.start()
        self.connect()
        # Alice remembers Bob; he, who takes anyone's calls, does not know her
        self.assertEqual({seen.link for seen in self.early_packets()}, {"alice up"})
        self.stop()

    def test_known_without_an_earlier_link(self) -> None:
        self.start()
        introduce(self.alice, self.bob)
        introduce(self.bob, self.alice)
        self.assert_nothing_early()

    def test_forgotten_and_blocked(self) -> None:
        """What was learned goes with the contact, and does not count for one that is blocked."""
        self.meet()
        self.start()
        for book, other in zip(self.books, (self.bob, self.alice), strict=True):
            entry = book.entry(other.id)
            self.assertTrue(entry.paths)
            book.forget(other.id)
            book.add(other.id, entry.claimed)
            self.assertEqual(book.entry(other.id).paths, ())
        self.assert_nothing_early()
        self.meet()
        self.start()
        self.books[0].block(self.bob.id)
        self.connect()
        self.assertNotIn("alice up", {seen.link for seen in self.early_packets()})
        self.stop()

    def test_another_network_while_it_rings(self) -> None:
        """What was learned in one network does not count in another, for a call that began in the first."""
        self.meet()
        self.books[1], self.accept = AddressBook(None), Accept.ASK
        self.start()
        self.alice.call(self.bob.id)
        self.bob.wait_for(IncomingCall, 5.0)
        guests = self.net.lan(
            "guests", "192.168.9.0/24", nat=NAT(public="203.0.113.9"), link=LinkSpec(delay=D / 2)
        )
        self.alice.host.move(guests, "192.168.9.2")
        self.net.advance(3.0)
        self.bob.node.accept(self.alice.id)
        self.net.run_until(lambda: self.alice.of(Connected), 30.0, "a link")
        self.assertEqual(self.early_packets(), [])
        self.stop()

    def test_long_ago(self) -> None:
        """An address may be somebody else's after a month."""
        self.meet()
        self.days += MAX_AGE + 1
        self.start()
        self.assert_nothing_early()

    def test_a_clock_that_was_set_back(self) -> None:
        """A time in the future does not last longer."""
        self.days = 2 * MAX_AGE
        self.meet()
        self.days = 0
        self.start()
        self.assert_nothing_early()

    def test_a_relayed_link(self) -> None:
        """It proves no address of the peer."""
        self.strict()
        self.meet()
        for nat in self.nats:
            nat.mapping = Mapping.EIM
        self.start()
        self.assert_nothing_early()

    def test_hidden_addresses(self) -> None:
        """With `--relay only` nothing leaves our own sockets, early or late."""
        self.meet()
        self.relay = RelayPolicy.ONLY
        self.start()
        self.assert_nothing_early()

    def test_where_the_peer_is_not_now(self) -> None:
        """Nothing goes to an address that is remembered, which may be somebody else's, but was not named."""
        self.meet()
        victim = self.net.host("victim", "203.0.113.66")
        for book in self.books:
            for peer in book:
                for path in book.entry(peer).paths:
                    self.assertIn(path.host, HOMES)
                    book.forget(peer)
                    book.add(peer, "other")
                    book.learn(peer, replace(path, host=victim.address))
        self.start()
        self.assert_nothing_early()

    def test_call_after_call(self) -> None:
        """Nothing of what is sent early arrives, and a known peer calls again and again: it has a limit."""
        self.meet()
        self.start()
        self.net.drop = lambda packet: (
            packet.protocol == "udp" and packet.source[0] in HOMES and packet.destination[0] in HOMES
        )
        for _ in range(8):
            count = len(self.alice.of(Connected))
            self.alice.call(self.bob.id)
            self.alice.wait_for(Connected, 20.0, count + 1)
            self.alice.node.hangup(self.bob.id)
            self.net.advance(5.0)
        early = [seen for seen in self.early_packets() if seen.link == "alice up"]
        self.assertGreater(len(early), 0)
        self.assertLessEqual(len(early), MAX_EARLY)
        self.assertLessEqual(sum(seen.size for seen in early), MAX_EARLY_BYTES)
        self.stop()


class RendezvousTests(MiddlemanTestCase):
    """A rendezvous that records, repeats and lies."""

    def setUp(self) -> None:
        super().setUp()
        introduce(self.bob, self.alice)
        self.call(10.0)
        self.net.advance(2.0)
        self.alice.node.hangup(self.bob.id)
        # What was answered lately would be forgotten, and so would be the budget
        self.net.advance(700.0)
        self.seen: list[Seen] = []
        self.net.trace = self.seen.append

    def initials(self) -> list[Seen]:
        """The first packets of handshakes that leave Alice's host, unless a check was answered before."""
        early = []
        for seen in self.seen:
            if seen.link == "alice down" and seen.payload[:2] == b"\x01\x01" and seen.source[1] != 3478:
                break
            if seen.link == "alice up" and is_handshake(seen):
                early.append(seen)
        return early

    def call_again(self) -> None:
        self.alice.call(self.bob.id)
        self.net.advance(3.0)

    def test_honest(self) -> None:
        """So that the other tests show something."""
        self.call_again()
        self.assertEqual(len(self.initials()), 2)

    def test_a_recorded_answer(self) -> None:
        """It belongs to another offer: nothing is sent at all."""
        recorded = [reply for _, reply in self.middle.passed if isinstance(reply, Answered)]

        def repeat(to: PeerID, reply: Answered) -> list[tuple[PeerID, Reply]]:
            return [(to, replace(recorded[0], call=reply.call))]

        self.on(Answered, repeat)
        self.call_again()
        self.assertEqual(self.initials(), [])
        self.assertEqual([seen for seen in self.seen if is_handshake(seen)], [])

    def test_an_offer_that_is_delivered_again(self) -> None:
        """Bob answers no copy, so that nothing of his is sent to where Alice was."""
        (recorded, *_) = [reply for _, reply in self.middle.passed if isinstance(reply, Incoming)]
        for call in (recorded.call, "ab" * 16):
            self.middle.deliver(self.bob.id, replace(recorded, call=call))
            self.net.advance(2.0)
        self.assertEqual([seen for seen in self.seen if seen.link == "bob up" and is_handshake(seen)], [])

    def test_in_the_name_of_another(self) -> None:
        """An answer of Bob's as that of somebody else."""
        stranger = Identity.generate(self.net.random_bytes("stranger")).peer_id
        self.on(Answered, lambda to, reply: [(to, replace(reply, sender=stranger))])
        self.call_again()
        self.assertEqual([seen for seen in self.seen if is_handshake(seen)], [])
