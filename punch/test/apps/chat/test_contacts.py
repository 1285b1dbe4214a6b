"""The chat's address book and names."""

from __future__ import annotations

from pathlib import Path

from punch.apps.chat.contacts import BOOK_INTERVAL
from punch.apps.chat.events import (
    ContactChanged,
    ContactForgotten,
    NameChanged,
    PeerUnreachable,
)
from punch.contacts import AddressBook
from punch.node.events import IncomingCall
from punch.test.apps.chat.chat_network import ChatPeer, ChatTestCase, peer_id, result


class PeopleTests(ChatTestCase):
    """The address book, from here."""

    def test_names_are_usable_wherever_ids_are(self) -> None:
        self.alice.chat.contacts.name(self.bob.id, "Bob")
        self.assertEqual(self.alice.of(ContactChanged)[-1].contact.name, "Bob")
        for who in ("Bob", "bob", self.bob.id, str(self.bob.id), str(self.bob.id).upper()):
            self.assertEqual(self.alice.chat.contacts.find(who), self.bob.id)
        result(self.alice.chat.send("bob", "hi"))
        result(self.alice.chat.history.messages("BOB"))
        self.assertEqual(self.alice.chat.call("bob"), self.bob.id)
        self.assert_error("name-taken", self.alice.chat.contacts.name, peer_id(9), "BOB")
        self.assert_error("bad-name", self.alice.chat.contacts.name, "bob", "a b")
        self.assert_error("self", self.alice.chat.contacts.name, self.alice.id, "me")
        self.alice.chat.contacts.name("bob", None)
        self.assert_error("bad-peer-id", self.alice.chat.contacts.find, "bob")

    def test_alike(self) -> None:
        """Peers whose names look alike are marked as such, and both of them if this side named them."""
        mallory, other = peer_id(9), peer_id(10)
        self.alice.chat.contacts.name(self.bob.id, "Bob")
        for claimed in ("B\u043eb", "b0b\u200b", "You", "he1p", "you, Bob", self.bob.id.short):
            self.alice.emit(IncomingCall(mallory, claimed, known=False, decided=False))
            self.assertTrue(self.alice.of(ContactChanged)[-1].contact.alike, ascii(claimed))
        self.assertFalse(self.alice.chat.contacts.get(self.bob.id).alike)
        self.alice.emit(IncomingCall(mallory, "zoe", known=False, decided=False))
        self.assertFalse(self.alice.chat.contacts.get(mallory).alike)
        self.alice.emit(IncomingCall(other, "z0e", known=False, decided=False))
        self.assertTrue(self.alice.chat.contacts.get(mallory).alike)
        self.alice.chat.contacts.name(mallory, "b0b")
        told = {event.contact.peer: event.contact.alike for event in self.alice.of(ContactChanged)}
        self.assertEqual((told[mallory], told[self.bob.id]), (True, True))
        self.alice.chat.contacts.name(mallory, "mallory")
        told = {event.contact.peer: event.contact.alike for event in self.alice.of(ContactChanged)}
        self.assertEqual((told[mallory], told[self.bob.id]), (False, False))

    def test_a_claim_like_an_id(self) -> None:
        """Somebody who calls himself by an ID is shown with his own, also before he is known."""
        eve, joe = peer_id(9), peer_id(10)
        for claimed in (str(joe), str(joe)[:30], "_".join(str(joe)[:30]), joe.short):
            self.alice.emit(IncomingCall(joe, "joe", known=False, decided=False))
            self.alice.emit(IncomingCall(eve, claimed, known=False, decided=False))
            contact = self.alice.chat.contacts.get(eve)
            self.assertEqual((contact.name, contact.claimed, contact.alike), (None, claimed, True))
            self.alice.chat.reject(eve)
            self.alice.chat.reject(joe)

    def test_blocked(self) -> None:
        self.connect()
        self.bob.book.add(self.alice.id, "alice")
        self.bob.chat.contacts.block("alice")
        self.run_for()
        self.assertEqual(self.bob.chat.links, {})
        self.assert_error("blocked", self.bob.chat.send, "alice", "x")
        self.assert_error("blocked", self.bob.chat.call, "alice")
        self.say("let me in")
        self.run_for(3600.0)
        self.assertEqual(self.alice.call_count(self.bob), 1)
        self.assertEqual(self.bob.of(IncomingCall), [])
        self.assertEqual(self.alice.of(PeerUnreachable)[-1].retry_in, None)
        self.bob.chat.contacts.unblock("alice")
        self.bob.chat.call("alice")
        self.run_for()
        self.assertEqual(self.bob.heard(), ["let me in"])

    def test_blocked_while_it_rings(self) -> None:
        self.alice.emit(IncomingCall(peer_id(9), "eve", known=False))
        self.alice.chat.contacts.block(peer_id(9))
        self.assertEqual((self.alice.asked, self.alice.chat.questions), ([("reject", peer_id(9))], []))

    def test_blocked_by_another_process(self) -> None:
        """`punch peers block` ends the link and the call, and is told."""
        path = Path(self.mktemp())
        self.alice.kill()
        self.alice = ChatPeer(self.network, 11, "alice", book=AddressBook(path)).start()
        self.connect()
        caller, bystander = peer_id(9), peer_id(10)
        self.alice.emit(IncomingCall(caller, "eve", known=False, decided=False))
        self.alice.emit(IncomingCall(bystander, "joe", known=False, decided=False))
        self.run_for(BOOK_INTERVAL)
        other = AddressBook(path)
        other.block(self.bob.id)
        other.block(caller)
        self.assertIn(self.bob.id, self.alice.chat.links)
        self.run_for(BOOK_INTERVAL + 1.0)
        self.assertEqual(sorted(self.alice.asked), sorted([("hangup", self.bob.id), ("reject", caller)]))
        self.assertEqual(self.alice.chat.questions, [bystander])
        self.assertNotIn(self.bob.id, self.alice.chat.links)
        told = {event.contact.peer: event.contact.blocked for event in self.alice.of(ContactChanged)}
        self.assertTrue(told[self.bob.id])
        self.assertTrue(told[caller])

    def test_what_waits_for_somebody_blocked(self) -> None:
        self.say("later")
        self.run_for()
        self.alice.chat.contacts.block(self.bob.id)
        calls = self.alice.call_count(self.bob)
        self.bob.start()
        self.run_for(3600.0)
        self.assertEqual(self.alice.call_count(self.bob), calls)
        self.alice.chat.contacts.unblock(self.bob.id)
        self.run_for(31.0)
        self.assertEqual(self.bob.heard(), ["later"])

    def test_forgotten(self) -> None:
        self.alice.chat.contacts.name(self.bob.id, "bob")
        self.alice.chat.contacts.forget("bob")
        self.assertEqual(self.alice.of(ContactForgotten), [ContactForgotten(self.bob.id)])
        self.assertEqual(self.alice.chat.contacts.all(), [])
        self.assert_error("unknown-peer", self.alice.chat.contacts.forget, self.bob.id)

    def test_forgotten_while_messages_wait(self) -> None:
        """It would be called because of them, and be known again."""
        self.alice.chat.contacts.name(self.bob.id, "bob")
        self.say("waits")
        self.assertIn("1 message", self.assert_error("waiting", self.alice.chat.contacts.forget, "bob"))
        self.assertEqual(self.alice.chat.contacts.get(self.bob.id).name, "bob")
        result(self.alice.chat.history.erase("bob"))
        self.alice.chat.contacts.forget("bob")
        self.assertEqual(self.alice.chat.contacts.all(), [])

    def test_contacts(self) -> None:
        for seed, name in ((7, "zoe"), (8, None), (9, "Adam")):
            self.alice.book.add(peer_id(seed), name or "")
        self.alice.chat.contacts.block(peer_id(8))
        found = self.alice.chat.contacts.all()
        self.assertEqual([contact.name for contact in found], ["Adam", "zoe", None])
        self.assertEqual([contact.blocked for contact in found], [False, False, True])

    def test_ones_own_name(self) -> None:
        self.connect()
        self.alice.chat.rename(" Alicia ")
        self.run_for()
        self.assertEqual(
            (self.alice.saved, self.alice.of(NameChanged)), (["Alicia"], [NameChanged("Alicia")])
        )
        self.assertEqual(self.bob.chat.contacts.get(self.alice.id).claimed, "Alicia")
        self.assertEqual(self.alice.names, ["Alicia"])
        for name in ("", "x" * 65, "a\nb", "\u3164", "\u034f", "\u200b"):
            self.assert_error("bad-name", self.alice.chat.rename, name)
