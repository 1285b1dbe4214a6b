"""The chat's calls and links: the user's, those of others, and those that it places by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from punch.apps.chat.chat import REOPEN_DELAY
from punch.apps.chat.events import NetcheckDone, PeerUnreachable
from punch.link.events import LinkRole
from punch.link.link import Link
from punch.node.causes import OtherCause
from punch.node.events import (
    CallFailed,
    Calling,
    CallState,
    CallUnanswerable,
    Connected,
    IncomingCall,
    PathLost,
)
from punch.test.apps.chat.chat_network import ChatTestCase, LinkEnd, peer_id, result


class CallTests(ChatTestCase):
    """Calls of ours and of others, and those that the chat places by itself."""

    def test_called_again_until_it_is_there(self) -> None:
        self.say("waits")
        self.run_for(60.0)
        calls = self.alice.call_count(self.bob)
        self.assertGreaterEqual(calls, 4)
        self.assertLessEqual(calls, 12)
        self.assertEqual((self.alice.of(Calling), self.alice.of(CallFailed)), ([], []))
        away = self.alice.of(PeerUnreachable)
        self.assertEqual((away[0].failure.reason, away[0].peer), ("not-registered", self.bob.id))
        self.assertGreater(away[0].retry_in or 0.0, 3.9)
        self.bob.start()
        self.run_for(31.0)
        self.assertEqual(self.bob.heard(), ["waits"])
        self.run_for(600.0)
        self.assertEqual(self.alice.call_count(self.bob), calls + 1)

    def test_nobody_is_called_when_nothing_waits(self) -> None:
        self.connect()
        self.say("x")
        self.run_for()
        self.cut()
        self.run_for(600.0)
        self.assertEqual(self.alice.call_count(self.bob), 0)

    def test_the_users_own_call(self) -> None:
        self.alice.chat.call(self.bob.id)
        self.assertEqual(self.alice.chat.calling, {self.bob.id})
        self.run_for()
        self.assertEqual(len(self.alice.of(CallFailed)), 1)
        self.assertEqual(self.alice.chat.calling, set())
        self.run_for(600.0)
        self.assertEqual(self.alice.call_count(self.bob), 1)

    def test_a_call_of_the_chat_becomes_the_users(self) -> None:
        self.say("waits")
        self.assertEqual(self.alice.of(Calling), [])
        self.alice.chat.call(self.bob.id)
        self.assertEqual(len(self.alice.of(Calling)), 1)
        self.run_for()
        self.assertEqual(len(self.alice.of(CallFailed)), 1)

    def test_a_call_for_a_stream(self) -> None:
        """It is not the user's, nor of interest, unless messages wait; one that is under way is as it was."""
        chat = self.alice.chat
        for _ in range(3):
            chat.calls.expect_automatic(self.bob.id)
            self.alice.connect(self.bob.id)
            self.assertEqual(chat.calling, set())
            self.run_for()
        self.assertEqual(self.alice.call_count(self.bob), 3)
        for kind in (Calling, CallFailed, PeerUnreachable):
            self.assertEqual(self.alice.of(kind), [])
        chat.call(self.bob.id)
        chat.calls.expect_automatic(self.bob.id)
        self.run_for()
        self.assertEqual((len(self.alice.of(Calling)), len(self.alice.of(CallFailed))), (1, 1))
        self.assertEqual(chat.calling, set())

    def test_hung_up_is_hung_up(self) -> None:
        """After a hang-up, a peer is not called by itself, even if messages wait, until the user acts."""
        self.connect()
        self.bob.slow = True
        self.say("not had")
        self.run_for()
        self.alice.chat.hangup(self.bob.id)
        self.run_for(600.0)
        self.assertEqual(self.alice.call_count(self.bob), 0)
        self.bob.slow = False
        self.say("please")
        self.run_for(1.0)
        self.assertEqual(self.alice.call_count(self.bob), 1)

    def test_questions(self) -> None:
        eve = peer_id(9)
        self.alice.emit(IncomingCall(eve, "eve", known=False))
        self.assertEqual((self.alice.chat.questions, self.alice.chat.stage(eve)), ([eve], CallState.RINGING))
        self.assertEqual(self.alice.chat.contacts.get(eve).claimed, "eve")
        self.alice.chat.accept(str(eve).upper())
        self.assertEqual(self.alice.asked, [("accept", eve)])
        self.assert_error("no-call", self.alice.chat.accept, eve)
        self.alice.emit(IncomingCall(eve, "eve", known=False))
        self.alice.chat.reject(eve)
        self.assertEqual((self.alice.asked[-1], self.alice.chat.questions), (("reject", eve), []))
        self.alice.emit(IncomingCall(eve, "eve", known=False))
        self.alice.emit(CallFailed(eve, OtherCause("cancelled", "They gave up.")))
        self.assertEqual(self.alice.chat.questions, [])

    def test_nobody_to_ask(self) -> None:
        """The node has refused the call: it is no question any more."""
        self.alice.emit(IncomingCall(peer_id(9), "eve", known=False))
        self.alice.emit(CallUnanswerable(peer_id(9)))
        self.assertEqual(self.alice.chat.questions, [])
        self.assertIsNone(self.alice.chat.stage(peer_id(9)))
        self.assertEqual(self.alice.of(CallUnanswerable), [CallUnanswerable(peer_id(9))])

    def test_a_link_without_its_chat(self) -> None:
        self.connect()
        self.network.streams[0].close()
        self.run_for(1.0)
        self.assertFalse(self.alice.chat.conversations.streaming(self.bob.id))
        self.run_for(REOPEN_DELAY)
        self.assertTrue(self.alice.chat.conversations.streaming(self.bob.id))
        self.assertNotIn(("hangup", self.bob.id), self.alice.asked)

    def test_a_link_whose_chat_is_yet_to_come(self) -> None:
        """The chat of the link before has ended; that of this one may take its time to arrive."""
        self.connect()
        line, before = self.network.streams[0], self.bob.ends[self.alice.id]
        after = LinkEnd(self.network, self.bob, self.alice, LinkRole.CALLEE)
        self.bob.ends[self.alice.id] = after
        self.bob.emit(replace(self.bob.of(Connected)[-1], link=cast(Link, after)))
        self.assertIsNot(before, after)
        line.close()
        self.run_for(REOPEN_DELAY + 1.0)
        self.assertNotIn(("hangup", self.alice.id), self.bob.asked)

    def test_links(self) -> None:
        self.connect()
        link = self.alice.chat.link_status(self.bob.id)
        assert link is not None
        self.assertEqual((link.path.kind, link.disconnected), ("host", False))
        self.alice.emit(PathLost(self.bob.id, "bob"))
        status = self.alice.chat.status()
        self.assertEqual([link.disconnected for link in status.links.values()], [True])
        self.assertEqual((status.name, status.me), ("alice", self.alice.id))
        self.assertIsNotNone(status.rendezvous)
        self.cut()
        self.assertIsNone(self.alice.chat.link_status(self.bob.id))
        self.assert_error("not-connected", self.alice.chat.hangup, self.bob.id)

    def test_netcheck(self) -> None:
        self.assertEqual(result(self.alice.chat.netcheck()).rendezvous, "rendezvous.example:7000")
        self.assertEqual(len(self.alice.of(NetcheckDone)), 1)
