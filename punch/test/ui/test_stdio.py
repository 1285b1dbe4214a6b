"""The chat for people and shells: what is shown, what is sent, when it ends."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import MAX_TEXT
from punch.apps.chat.chat import LEAVE_TIMEOUT, REOPEN_DELAY
from punch.identity import PeerID
from punch.node.causes import OtherCause
from punch.node.events import (
    CallFailed,
    Calling,
    Checking,
    Disconnected,
    Event,
    Introduced,
    PathChanged,
    PathLost,
    Registered,
    Unregistered,
)
from punch.node.path import Path
from punch.test.front_ends import BOB, EVE, ME, Stage, Wire, connected, identity, incoming
from punch.ui.exit_policy import REGISTRATION_TIMEOUT
from punch.ui.front_end import MAX_PENDING
from punch.ui.send_queue import split_text
from punch.ui.standard_streams import InputKind
from punch.ui.stdio import StdioFrontEnd
from punch.ui.terminal.escapes import Style
from punch.ui.terminal.input import MAX_PASTE
from punch.ui.text.sentences import printable, shown_name
from punch.wire.address import Address


class StdioCase(SynchronousTestCase):
    kind = InputKind.STREAM
    terminal = False
    environ: dict[str, str] = {}

    def begin(
        self, target: PeerID | None = None, kind: InputKind | None = None, history: bool = True
    ) -> None:
        self.stage = Stage(target, history)
        stage = self.stage
        self.front_end = StdioFrontEnd(
            stage.settings,
            stage.context,
            stage.chat,
            stage.screen,
            kind or self.kind,
            terminal=self.terminal,
            environ=self.environ,
        )
        self.stage.start()

    def happen(self, event: Event) -> None:
        """The node says something."""
        self.stage.chat.handle(event)

    def shown(self) -> str:
        return self.stage.screen.take()

    def type(self, text: str) -> None:
        self.front_end.input_received(text.encode())

    def connect(self, peer: PeerID = BOB, name: str = "bob") -> Wire:
        wire = Wire(peer)
        self.happen(connected(wire, name))
        wire.run()
        return wire


class PipeTests(StdioCase):
    def test_stages_are_shown(self) -> None:
        self.begin(target=BOB)
        self.happen(Registered("punch://192.0.2.7:7001/abc"))
        self.happen(Calling(BOB))
        self.happen(Introduced(BOB, "bob"))
        self.happen(Checking(BOB, 4))
        self.connect()
        self.happen(
            PathChanged(BOB, Path("prflx", Address("192.0.2.1", 1), Address("192.0.2.9", 2), "udp", 0.02))
        )
        self.happen(PathLost(BOB, "bob"))
        shown = self.shown()
        self.assertEqual(self.stage.node.asked, [("call", BOB)])
        for part in (
            f"Your ID: {ME}",
            "Registered at punch://192.0.2.7:7001/abc",
            f"Calling {BOB}",
            "Introduced to bob",
            "Checking 4 pairs",
            "was lost; trying again",
            "host path 192.0.2.1:4000 → 192.0.2.2:5000 over UDP",
            "round trip 0.4 ms",
            f"encrypted to {BOB}",
            "prflx path",
        ):
            self.assertIn(part, shown)
        self.assertNotIn("\x1b", shown)

    def test_a_call_is_told_when_it_goes_out(self) -> None:
        self.begin(target=BOB)
        self.happen(Calling(BOB))
        self.assertNotIn("Calling", self.shown())
        self.happen(Registered("punch://x:1"))
        self.assertRegex(self.shown(), r"Registered.*\nCalling")

    def test_a_line_is_delivered_and_the_process_done(self) -> None:
        self.begin(target=BOB)
        self.type("hi\n")
        self.front_end.input_over()
        self.assertEqual(self.stage.ends, [])
        wire = self.connect()
        self.assertEqual(wire.heard, ["hi"])
        self.assertIn("✓ delivered: hi\n", self.shown())
        self.assertEqual(self.stage.ends, [(0, None)])

    def test_nothing_to_say_is_done_once_connected(self) -> None:
        self.begin(target=BOB, kind=InputKind.NOTHING)
        self.front_end.input_over()
        self.assertEqual(self.stage.ends, [])
        self.connect()
        self.assertEqual(self.stage.ends, [(0, None)])

    def test_what_the_disk_refuses_is_tried_again(self) -> None:
        """In order, and the process does not end before."""
        self.begin(target=BOB)
        wire = self.connect()
        self.stage.disk.full = True
        self.type("one\ntwo\n")
        self.assertIn("is tried again: The history can't be used: the disk is full.", self.shown())
        self.stage.clock.advance(3.0)
        self.type("three\n")
        self.front_end.input_over()
        self.stage.clock.advance(8.0)
        self.assertEqual((wire.heard, self.stage.ends, self.shown()), ([], [], ""))
        self.stage.disk.full = False
        self.stage.clock.advance(2.0)
        wire.run()
        self.assertEqual(wire.heard, ["one", "two", "three"])
        self.assertEqual(self.stage.ends, [(0, None)])

    def test_a_disk_that_stays_full(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.stage.disk.full = True
        self.type("only \x1b[31mline\n")
        self.front_end.input_over()
        for _ in range(29):
            self.stage.clock.advance(1.0)
        self.assertEqual(self.stage.ends, [])
        self.stage.clock.advance(2.0)
        [(status, sentence)] = self.stage.ends
        self.assertEqual(status, 1)
        self.assertEqual(
            sentence,
            'The line "only \\x1b[31mline" was not stored, and not sent: '
            "The history can't be used: the disk is full.",
        )

    def test_the_end_while_the_disk_is_full(self) -> None:
        """Whatever ends the process, what was typed and not stored is named."""
        self.begin(target=BOB)
        self.connect()
        self.stage.disk.full = True
        self.type("first\nsecond\n")
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob hung up.")))
        [(status, sentence)] = self.stage.ends
        self.assertEqual(status, 1)
        self.assertRegex(str(sentence), 'Bob hung up.* 2 lines, the first of them "first", were not stored')

    def test_a_line_that_can_never_be_sent(self) -> None:
        self.begin(target=BOB)
        self.stage.chat.contacts.block(BOB)
        self.type("a\nb\n")
        [(status, sentence)] = self.stage.ends
        self.assertEqual(status, 1)
        self.assertRegex(str(sentence), 'The line "a" was not sent: You have blocked')

    def test_lines_of_all_kinds(self) -> None:
        self.begin(target=BOB)
        self.type("one\r\n\n/quit\nlast")
        self.front_end.input_over()
        self.assertEqual(self.connect().heard, ["one", "", "/quit", "last"])
        self.assertEqual(self.stage.ends, [(0, None)])

    def test_bytes_in_any_pieces(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        for byte in "grüße\nworld\n".encode():
            self.front_end.input_received(bytes([byte]))
        wire.run()
        self.assertEqual(wire.heard, ["grüße", "world"])

    def test_what_is_not_utf_8_is_replaced_and_said_once(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        self.front_end.input_received(b"a\xffb\n\xfe\n")
        wire.run()
        self.assertEqual(wire.heard, ["a\ufffdb", "\ufffd"])
        self.assertEqual(self.shown().count("not all UTF-8"), 1)

    def test_long_lines_go_in_parts(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        line = "é" * 20_000 + "x" * 10
        self.type(line + "\nshort\n" + "y" * MAX_TEXT + "\n")
        wire.run()
        self.assertEqual("".join(wire.heard[:3]), line)
        self.assertEqual(wire.heard[3:], ["short", "y" * MAX_TEXT])
        self.assertEqual(self.shown().count("several messages"), 1)

    def test_invalid_bytes_grow_and_still_fit(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        self.front_end.input_received(b"\xff" * MAX_TEXT + b"\n")
        wire.run()
        self.assertEqual("".join(wire.heard), "\ufffd" * MAX_TEXT)

    def test_stdin_is_not_read_faster_than_it_is_delivered(self) -> None:
        self.begin(target=BOB)
        line = "x" * 1000 + "\n"
        while self.stage.screen.reading:
            self.type(line)
        self.assertLess(self.front_end.pending_size(), 2 * MAX_PENDING)
        self.connect()
        self.assertTrue(self.stage.screen.reading)

    def test_a_waiting_peer_keeps_lines_for_whoever_comes(self) -> None:
        self.begin()
        self.type("kept\n")
        self.front_end.input_over()
        wire = self.connect()
        self.assertEqual(wire.heard, ["kept"])
        self.assertEqual(self.stage.ends, [])
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertIn("Bob left.", self.shown())
        self.assertEqual(self.stage.ends, [])

    def test_words_go_to_the_newest_link(self) -> None:
        self.begin()
        bob, eve = self.connect(), self.connect(EVE, "eve")
        self.type("hi\n")
        bob.run()
        eve.run()
        self.assertEqual((bob.heard, eve.heard), ([], ["hi"]))

    def test_messages_are_shown_harmless_and_then_acknowledged(self) -> None:
        self.begin()
        wire = self.connect(name="b\x1b[2Job\u202e")
        self.stage.screen.stalled = True
        wire.far.send("red \x1b[31m\nYour ID: fake\ttab 👩\u200d💻")
        wire.run()
        self.assertEqual(wire.marks, [])
        shown = self.shown()
        self.assertIn("b\\x1b[2Job\\u202e: red \\x1b[31m\n    Your ID: fake\ttab 👩\u200d💻\n", shown)
        self.assertNotIn("\x1b", shown)
        self.stage.screen.flush()
        wire.run()
        self.assertEqual(wire.marks, [1])

    def test_nobody_speaks_in_our_name(self) -> None:
        """Lines of ours begin with "you"; those of somebody who calls himself so don't."""
        for number, name in enumerate(("you", "You to Bob", "YOU:")):
            stranger = identity(40 + number).peer_id
            self.begin()
            wire = self.connect(stranger, name=name)
            wire.far.send("I agree")
            wire.run()
            self.assertIn(f"{name} ({stranger.short}): I agree\n", self.shown())

    def test_a_stranger_is_refused_with_a_sentence(self) -> None:
        self.begin()
        self.happen(incoming(EVE))
        self.stage.node.reject_unanswerable()
        shown = self.shown()
        self.assertIn(f"eve is calling, ID {EVE}", shown)
        self.assertIn("--accept", shown)
        self.assertEqual(self.stage.node.asked, [("reject", EVE)])

    def test_failures_end_with_their_sentence(self) -> None:
        cases = [
            CallFailed(BOB, OtherCause("not-registered", "Not there.")),
            CallFailed(None, OtherCause("bad-pin", "Not there.")),
        ]
        for event in cases:
            self.begin(target=BOB)
            self.happen(event)
            self.assertEqual(self.stage.ends, [(1, "Not there.")])

    def test_a_lost_link_is_a_failure(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.type("under way\n")
        self.happen(Disconnected(BOB, OtherCause("lost", "It was lost.")))
        kept = "1 message not delivered: kept here, and sent when both are there next"
        self.assertEqual(self.stage.ends, [(1, f"It was lost. {kept}.")])

    def test_hung_up_before_all_was_said(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.type("under way\n")
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        kept = "1 message not delivered: kept here, and sent when both are there next"
        self.assertEqual(self.stage.ends, [(1, f"Bob left. ({kept})")])
        self.begin(target=BOB, history=False)
        self.connect()
        self.type("under way\n")
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertEqual(self.stage.ends, [(1, "Bob left. (1 message not delivered)")])
        self.begin(target=BOB)
        self.connect()
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertEqual(self.stage.ends, [(1, "Bob left. (the input had not ended)")])

    def test_patience_with_a_rendezvous_never_reached(self) -> None:
        self.begin()
        for _ in range(3):
            self.happen(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2))
        self.assertEqual(self.shown().count("No answer. Trying again in 4 s."), 1)
        self.stage.clock.advance(REGISTRATION_TIMEOUT)
        self.assertEqual(self.stage.ends, [(1, "No answer.")])

    def test_patience_counts_from_the_start(self) -> None:
        """Whenever the first failure comes, or if none does: a name server may keep silent."""
        for failed_after in (REGISTRATION_TIMEOUT - 1, None):
            self.begin()
            if failed_after is not None:
                self.stage.clock.advance(failed_after)
                self.happen(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2))
                self.stage.clock.advance(REGISTRATION_TIMEOUT - failed_after)
                self.assertEqual(self.stage.ends, [(1, "No answer.")])
            else:
                self.stage.clock.advance(REGISTRATION_TIMEOUT)
                ((status, sentence),) = self.stage.ends
                self.assertEqual(status, 1)
                self.assertIn("has not answered within 10 seconds; check its address", sentence)

    def test_a_link_outlives_the_rendezvous(self) -> None:
        self.begin()
        wire = self.connect()
        self.happen(CallFailed(None, OtherCause("replaced", "Another process took over.")))
        self.assertEqual(self.stage.ends, [])
        self.type("still here\n")
        wire.run()
        self.assertEqual(wire.heard, ["still here"])

    def test_the_last_link_of_a_peer_that_cannot_register_again(self) -> None:
        self.begin()
        self.connect()
        self.happen(CallFailed(None, OtherCause("replaced", "Another process took over.")))
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertEqual(self.stage.ends, [(1, "Another process took over.")])

    def test_what_the_other_side_still_says_is_heard(self) -> None:
        """Both have one line and leave: neither is lost, whoever is first."""
        self.begin(target=BOB)
        self.type("mine\n")
        self.front_end.input_over()
        self.stage.screen.stalled = True
        wire = Wire(BOB)
        wire.far.send("theirs")
        self.happen(connected(wire))
        wire.run()
        self.assertEqual((wire.heard, wire.marks, self.stage.ends), (["mine"], [], []))
        self.stage.screen.flush()
        wire.run()
        self.assertEqual((wire.marks, self.stage.ends), ([1], [(0, None)]))

    def test_a_peer_that_chats_nonsense(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        assert wire.near is not None
        wire.near.dataReceived(b"\x02\x00\x00")
        self.assertTrue(wire.near_transport.disconnecting)
        wire.near.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.stage.node.asked, [("call", BOB)])

    def test_a_chat_that_ends_before_its_link(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        near = wire.near
        assert near is not None
        near.connectionLost(Failure(ConnectionDone()))
        self.stage.clock.advance(REOPEN_DELAY)
        self.assertIsNot(wire.near, near)
        self.assertEqual(self.stage.node.asked, [("call", BOB)])

    def test_another_peer_does_not_end_a_call(self) -> None:
        self.begin(target=BOB)
        self.happen(CallFailed(EVE, OtherCause("cancelled", "Eve gave up.")))
        self.assertIn("Eve gave up.", self.shown())
        self.assertEqual(self.stage.ends, [])

    def test_output_without_a_reader(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.front_end.view.output_lost()
        self.assertEqual(self.stage.ends, [(0, None)])

    def test_a_replaced_link_carries_on(self) -> None:
        self.begin()
        first = self.connect()
        self.type("one\n")
        second = self.connect()
        self.type("two\n")
        second.run()
        self.assertEqual((first.heard, second.heard), ([], ["one", "two"]))


class TerminalTests(StdioCase):
    kind = InputKind.TERMINAL
    terminal = True
    environ = {"TERM": "dumb"}

    def test_a_stranger_is_let_in_or_not(self) -> None:
        for answer, done in (("y", "accept"), ("no", "reject"), ("YES", "accept")):
            self.begin()
            self.happen(incoming(EVE, "eve\x07"))
            shown = self.shown()
            self.assertIn(f"Let eve\\x07 ({EVE}) connect? [y/n]", shown)
            self.type("what?\n")
            self.assertIn("type y", self.shown())
            self.type(answer + "\n")
            self.assertEqual(self.stage.node.asked, [(done, EVE)])

    def test_questions_come_one_at_a_time(self) -> None:
        self.begin()
        self.happen(incoming(EVE, "eve"))
        self.happen(incoming(BOB, "bob"))
        self.assertEqual(self.shown().count("[y/n]"), 1)
        self.happen(CallFailed(EVE, OtherCause("cancelled", "Eve gave up.")))
        self.assertIn("Let bob", self.shown())
        self.type("y\n")
        self.assertEqual(self.stage.node.asked, [("accept", BOB)])

    def test_commands(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        self.shown()
        self.type("/id\n/help\n/dance\n//shrug\n   \n")
        wire.run()
        shown = self.shown()
        self.assertIn(f"Your ID: {ME}", shown)
        self.assertIn(f"bob: {BOB}, directly, on the same network, round trip 12 ms", shown)
        self.assertIn("/quit", shown)
        self.assertIn("no command /dance", shown)
        self.assertEqual(wire.heard, ["/shrug"])
        self.type("/quit\n")
        wire.run()
        self.assertEqual(self.stage.ends, [(0, None)])

    def test_quit_does_not_wait_long_for_the_other_side(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.type("/quit\nignored\n")
        self.stage.clock.advance(LEAVE_TIMEOUT - 0.1)
        self.assertEqual(self.stage.ends, [])
        self.stage.clock.advance(0.1)
        self.assertEqual(self.stage.ends, [(0, None)])
        self.stage.chat.stop()
        self.assertEqual(self.stage.clock.getDelayedCalls(), [])

    def test_nobody_to_talk_to(self) -> None:
        self.begin()
        self.type("hello?\n")
        self.assertIn("Nobody is connected yet", self.shown())
        self.assertEqual(self.connect().heard, [])

    def test_a_line_typed_before_the_link_is_there(self) -> None:
        self.begin(target=BOB)
        self.type("early\n")
        self.assertEqual(self.connect().heard, ["early"])

    def test_ctrl_d(self) -> None:
        self.begin()
        self.front_end.input_over()
        self.assertEqual(self.stage.ends, [(0, None)])

    def test_the_other_side_leaves(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertIn("Bob left.", self.shown())
        self.assertEqual(self.stage.ends, [])

    def test_what_is_typed_while_the_other_side_is_away_waits_for_it(self) -> None:
        self.begin(target=BOB)
        self.happen(CallFailed(BOB, OtherCause("not-registered", "Bob is not there.")))
        self.assertIn("Bob is not there.", self.shown())
        self.type("later\n")
        self.assertEqual(self.stage.ends, [])
        self.assertEqual(self.connect().heard, ["later"])

    def test_who_refuses_is_not_called_again(self) -> None:
        """That is told, also if it was away before."""
        self.begin(target=BOB)
        self.happen(Registered("punch://x:1"))
        self.happen(CallFailed(BOB, OtherCause("not-registered", "Bob is not there.")))
        self.type("later\n")
        self.stage.clock.advance(0)
        for _ in range(2):
            self.happen(CallFailed(BOB, OtherCause("not-registered", "Bob is not there.")))
        self.assertEqual(self.shown().count("what you type waits here, and they are called again."), 1)
        for _ in range(2):
            self.stage.clock.advance(30)
            self.happen(CallFailed(BOB, OtherCause("refused", "Bob refused the call.")))
        self.assertEqual(self.stage.node.asked.count(("call", BOB)), 3)
        shown = self.shown()
        self.assertEqual(
            shown.count("what you type waits here until one of you calls. Bob refused the call."), 1
        )
        self.assertNotIn("called again", shown)

    def test_patience_is_the_users_own(self) -> None:
        self.begin()
        self.happen(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2))
        self.stage.clock.advance(10 * REGISTRATION_TIMEOUT)
        self.assertEqual(self.stage.ends, [])

    def test_words_go_on_to_whom_they_went(self) -> None:
        """Somebody else who connects must not get a line that is being typed; one word changes that."""
        self.begin()
        bob, eve = self.connect(), self.connect(EVE, "eve")
        self.assertIn("still goes to bob: /to eve", self.shown())
        self.type("hi\n/to eve\nhello\n")
        bob.run()
        eve.run()
        self.assertEqual((bob.heard, eve.heard), (["hi"], ["hello"]))
        self.assertIn("goes to eve now", self.shown())

    def test_who_comes_after_the_other_one_left_is_talked_to(self) -> None:
        self.begin()
        self.connect()
        self.happen(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        eve = self.connect(EVE, "eve")
        self.assertIn("goes to eve now", self.shown())
        self.type("hi\n")
        eve.run()
        self.assertEqual(eve.heard, ["hi"])

    def paste(self, text: str) -> None:
        self.front_end.paste_received(text.encode())

    def test_a_paste_is_sent_when_the_user_says_so(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        self.shown()
        self.paste("one\n\n  two\r\n\x1bthree\n")
        self.assertEqual(
            self.shown(), "4 lines came at once, as in a paste. Send them to bob as one message? [y/n]\n"
        )
        wire.run()
        self.assertEqual(wire.heard, [])
        self.type("y\n")
        wire.run()
        self.assertEqual(wire.heard, ["one\n\n  two\nthree"])
        self.paste("one\ntwo\n")
        self.type("n\n")
        self.type("next\n")
        wire.run()
        self.assertIn("2 lines not sent.", self.shown())
        self.assertEqual(wire.heard[1:], ["next"])
        self.paste("one\ntwo")
        self.assertTrue(self.shown().startswith("\n2 lines came at once"))

    def test_what_comes_late_belongs_to_the_paste(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        self.paste("one\ntwo\n")
        self.shown()
        self.type("three\n")
        self.assertIn("3 lines came at once", self.shown())
        self.paste("four\nfive\n")
        self.assertIn("5 lines came at once", self.shown())
        self.type("y\n")
        wire.run()
        self.assertEqual(wire.heard, ["one\ntwo\nthree\nfour\nfive"])

    def test_a_paste_answers_no_question(self) -> None:
        self.begin(target=BOB)
        wire = self.connect()
        self.happen(incoming(EVE, "eve"))
        self.shown()
        self.paste("y\nn\n")
        self.assertRegex(self.shown(), r"(?s)2 lines came at once: .*asked next.*Let eve .*\[y/n\]")
        self.assertEqual(self.stage.node.asked, [("call", BOB)])
        self.type("n\n")
        self.assertEqual(self.stage.node.asked, [("call", BOB), ("reject", EVE)])
        self.assertIn("2 lines came at once, as in a paste.", self.shown())
        self.type("y\n")
        wire.run()
        self.assertEqual(wire.heard, ["y\nn"])

    def test_a_paste_that_is_too_long(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.paste("line\n" * (MAX_PASTE // 10) + "end\n")
        self.shown()
        for paste in ("", "line\n" * (MAX_PASTE // 5)):
            self.paste(paste)
            self.assertRegex(self.shown(), r"(?s)more than 65,536 characters is not taken.*6,554 lines")

    def test_a_paste_for_nobody(self) -> None:
        self.begin()
        self.paste("one\ntwo\n")
        self.assertIn("Nobody is connected yet, so that was not sent", self.shown())
        self.assertEqual(self.connect().heard, [])

    def test_a_paste_and_the_end(self) -> None:
        """Whoever says /quit was asked; after Ctrl-D nobody can be."""
        for end in ("/quit", None):
            self.begin(target=BOB)
            self.connect()
            self.paste("one\ntwo\n")
            if end is None:
                self.front_end.input_over()
            else:
                self.type(f"{end}\n")
            self.stage.clock.advance(LEAVE_TIMEOUT)
            last = 'The paste of 2 lines, the first of them "one", was not sent.'
            self.assertEqual(self.stage.ends, [(0, None) if end else (1, last)])

    def test_the_hint_is_the_first_line(self) -> None:
        self.stage = Stage()
        stage = self.stage
        self.front_end = StdioFrontEnd(
            stage.settings,
            stage.context,
            stage.chat,
            stage.screen,
            InputKind.TERMINAL,
            terminal=True,
            environ={},
            hint="Install more.",
        )
        self.stage.start()
        self.assertEqual(self.shown().splitlines()[0], "Install more.")


class TextTests(SynchronousTestCase):
    def test_printable(self) -> None:
        cases = {
            "plain ü 👍": "plain ü 👍",
            "\x1b[2J": "\\x1b[2J",
            "a\r\nb": "a\\nb",
            "\x9b31m": "\\x9b31m",
            "\u202eevil": "\\u202eevil",
            "\u2028": "\\u2028",
            "\U000f0000": "\\U000f0000",
        }
        for text, shown in cases.items():
            self.assertEqual(printable(text), shown)

    def test_names(self) -> None:
        self.assertEqual(shown_name("", BOB), BOB.short)
        self.assertEqual(shown_name("  a \n b ", BOB), "a \\n b")
        self.assertEqual(len(shown_name("x" * 500, BOB)), 40)

    def test_split(self) -> None:
        self.assertEqual(split_text("aé", 2), ["a", "é"])
        self.assertEqual(split_text("", 2), [""])
        self.assertEqual(split_text("abcd", 2), ["ab", "cd"])

    def test_colour_only_where_it_is_wanted(self) -> None:
        self.assertTrue(Style.choose({"TERM": "xterm"}, True).colour)
        for environ, terminal in (
            ({"TERM": "xterm"}, False),
            ({"TERM": "xterm", "NO_COLOR": "1"}, True),
            ({"TERM": "dumb"}, True),
            ({"TERM": "unknown"}, True),
            ({"TERM": ""}, True),
            ({}, True),
        ):
            self.assertFalse(Style.choose(environ, terminal).colour)
