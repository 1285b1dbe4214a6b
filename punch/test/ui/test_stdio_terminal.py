"""Plain lines in a terminal: commands, questions and pastes."""

from __future__ import annotations

from punch.apps.chat.conversations import LEAVE_TIMEOUT
from punch.node.causes import OtherCause
from punch.node.events import (
    CallFailed,
    Disconnected,
    Registered,
    Unregistered,
)
from punch.test.ui.front_ends import BOB, EVE, ME, FrontEndFixture, incoming
from punch.test.ui.test_stdio import StdioCase
from punch.ui.exit_policy import REGISTRATION_TIMEOUT
from punch.ui.standard_streams import InputKind
from punch.ui.stdio import StdioFrontEnd
from punch.ui.terminal.input import MAX_PASTE


class TerminalTests(StdioCase):
    kind = InputKind.TERMINAL
    terminal = True
    environ = {"TERM": "dumb"}

    def test_a_stranger_is_let_in_or_not(self) -> None:
        for answer, done in (("y", "accept"), ("no", "reject"), ("YES", "accept")):
            self.begin()
            self.emit(incoming(EVE, "eve\x07"))
            shown = self.shown()
            self.assertIn(f"Let eve\\x07 ({EVE}) connect? [y/n]", shown)
            self.type("what?\n")
            self.assertIn("type y", self.shown())
            self.type(answer + "\n")
            self.assertEqual(self.fixture.node.asked, [(done, EVE)])

    def test_questions_come_one_at_a_time(self) -> None:
        self.begin()
        self.emit(incoming(EVE, "eve"))
        self.emit(incoming(BOB, "bob"))
        self.assertEqual(self.shown().count("[y/n]"), 1)
        self.emit(CallFailed(EVE, OtherCause("cancelled", "Eve gave up.")))
        self.assertIn("Let bob", self.shown())
        self.type("y\n")
        self.assertEqual(self.fixture.node.asked, [("accept", BOB)])

    def test_commands(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        self.shown()
        self.type("/id\n/help\n/dance\n//shrug\n   \n")
        chat_link.run()
        shown = self.shown()
        self.assertIn(f"Your ID: {ME}", shown)
        self.assertIn(f"bob: {BOB}, directly, on the same network, round trip 12 ms", shown)
        self.assertIn("/quit", shown)
        self.assertIn("no command /dance", shown)
        self.assertEqual(chat_link.heard, ["/shrug"])
        self.type("/quit\n")
        chat_link.run()
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_quit_does_not_wait_long_for_the_other_side(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.type("/quit\nignored\n")
        self.fixture.clock.advance(LEAVE_TIMEOUT - 0.1)
        self.assertEqual(self.fixture.ends, [])
        self.fixture.clock.advance(0.1)
        self.assertEqual(self.fixture.ends, [(0, None)])
        self.fixture.chat.stop()
        self.assertEqual(self.fixture.clock.getDelayedCalls(), [])

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
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_the_other_side_leaves(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertIn("Bob left.", self.shown())
        self.assertEqual(self.fixture.ends, [])

    def test_what_is_typed_while_the_other_side_is_away_waits_for_it(self) -> None:
        self.begin(target=BOB)
        self.emit(CallFailed(BOB, OtherCause("not-registered", "Bob is not there.")))
        self.assertIn("Bob is not there.", self.shown())
        self.type("later\n")
        self.assertEqual(self.fixture.ends, [])
        self.assertEqual(self.connect().heard, ["later"])

    def test_who_refuses_is_not_called_again(self) -> None:
        """That is told, also if it was away before."""
        self.begin(target=BOB)
        self.emit(Registered("punch://x:1"))
        self.emit(CallFailed(BOB, OtherCause("not-registered", "Bob is not there.")))
        self.type("later\n")
        self.fixture.clock.advance(0)
        for _ in range(2):
            self.emit(CallFailed(BOB, OtherCause("not-registered", "Bob is not there.")))
        self.assertEqual(self.shown().count("what you type waits here, and they are called again."), 1)
        for _ in range(2):
            self.fixture.clock.advance(30)
            self.emit(CallFailed(BOB, OtherCause("refused", "Bob refused the call.")))
        self.assertEqual(self.fixture.node.asked.count(("call", BOB)), 3)
        shown = self.shown()
        self.assertEqual(
            shown.count("what you type waits here until one of you calls. Bob refused the call."), 1
        )
        self.assertNotIn("called again", shown)

    def test_patience_is_the_users_own(self) -> None:
        self.begin()
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2))
        self.fixture.clock.advance(10 * REGISTRATION_TIMEOUT)
        self.assertEqual(self.fixture.ends, [])

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
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        eve = self.connect(EVE, "eve")
        self.assertIn("goes to eve now", self.shown())
        self.type("hi\n")
        eve.run()
        self.assertEqual(eve.heard, ["hi"])

    def paste(self, text: str) -> None:
        self.front_end.paste_received(text.encode())

    def test_a_paste_is_sent_when_the_user_says_so(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        self.shown()
        self.paste("one\n\n  two\r\n\x1bthree\n")
        self.assertEqual(
            self.shown(), "4 lines came at once, as in a paste. Send them to bob as one message? [y/n]\n"
        )
        chat_link.run()
        self.assertEqual(chat_link.heard, [])
        self.type("y\n")
        chat_link.run()
        self.assertEqual(chat_link.heard, ["one\n\n  two\nthree"])
        self.paste("one\ntwo\n")
        self.type("n\n")
        self.type("next\n")
        chat_link.run()
        self.assertIn("2 lines not sent.", self.shown())
        self.assertEqual(chat_link.heard[1:], ["next"])
        self.paste("one\ntwo")
        self.assertTrue(self.shown().startswith("\n2 lines came at once"))

    def test_what_comes_late_belongs_to_the_paste(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        self.paste("one\ntwo\n")
        self.shown()
        self.type("three\n")
        self.assertIn("3 lines came at once", self.shown())
        self.paste("four\nfive\n")
        self.assertIn("5 lines came at once", self.shown())
        self.type("y\n")
        chat_link.run()
        self.assertEqual(chat_link.heard, ["one\ntwo\nthree\nfour\nfive"])

    def test_a_paste_answers_no_question(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        self.emit(incoming(EVE, "eve"))
        self.shown()
        self.paste("y\nn\n")
        self.assertRegex(self.shown(), r"^2 lines came at once, as in a paste\. .*\[y/n\]\n$")
        self.type("y\n")
        chat_link.run()
        self.assertEqual(chat_link.heard, ["y\nn"])
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])
        self.assertRegex(self.shown(), r"Let eve .*\[y/n\]")
        self.type("n\n")
        self.assertEqual(self.fixture.node.asked, [("call", BOB), ("reject", EVE)])

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
        """At /quit the user is asked about a paste; after Ctrl-D nobody can be asked."""
        for end in ("/quit", None):
            self.begin(target=BOB)
            self.connect()
            self.paste("one\ntwo\n")
            if end is None:
                self.front_end.input_over()
            else:
                self.type(f"{end}\n")
            self.fixture.clock.advance(LEAVE_TIMEOUT)
            last = 'The paste of 2 lines, the first of them "one", was not sent.'
            self.assertEqual(self.fixture.ends, [(0, None) if end else (1, last)])

    def test_the_hint_is_the_first_line(self) -> None:
        self.fixture = FrontEndFixture()
        fixture = self.fixture
        self.front_end = StdioFrontEnd(
            fixture.settings,
            fixture.context,
            fixture.chat,
            fixture.screen,
            InputKind.TERMINAL,
            terminal=True,
            environ={},
            hint="Install more.",
        )
        self.fixture.start()
        self.assertEqual(self.shown().splitlines()[0], "Install more.")
