"""The chat for people and shells: what is shown, what is sent, when it ends."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import MAX_TEXT
from punch.apps.chat.chat import REOPEN_DELAY
from punch.apps.chat.events import StoreFailed
from punch.apps.chat.model import ChatProblem, StoreError
from punch.apps.files.events import Stage, Transfer, TransferChanged, TransferProgress
from punch.apps.files.messages import EntryKind, FilesOffer, Item
from punch.identity import PeerID
from punch.link.events import Path
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
    PathSlowed,
    Registered,
    Unregistered,
)
from punch.test.ui.front_ends import BOB, EVE, ME, ChatLink, FrontEndFixture, connected, identity, incoming
from punch.ui.exit_policy import REGISTRATION_TIMEOUT
from punch.ui.front_end import MAX_PENDING
from punch.ui.standard_streams import InputKind
from punch.ui.stdio import StdioFrontEnd
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit


class StdioCase(SynchronousTestCase):
    kind = InputKind.STREAM
    terminal = False
    environ: dict[str, str] = {}

    def begin(
        self, target: PeerID | None = None, kind: InputKind | None = None, history: bool = True
    ) -> None:
        self.fixture = FrontEndFixture(target, history)
        fixture = self.fixture
        self.front_end = StdioFrontEnd(
            fixture.settings,
            fixture.context,
            fixture.chat,
            fixture.screen,
            kind or self.kind,
            terminal=self.terminal,
            environ=self.environ,
        )
        self.fixture.start()

    def emit(self, event: Event) -> None:
        """The node says something."""
        self.fixture.node.emit(event)

    def shown(self) -> str:
        return self.fixture.screen.take()

    def type(self, text: str) -> None:
        self.front_end.input_received(text.encode())

    def connect(self, peer: PeerID = BOB, name: str = "bob") -> ChatLink:
        return self.fixture.connect(peer, name)


class PipeTests(StdioCase):
    def test_a_transfer(self) -> None:
        """An offer is shown with how to answer it, and how far it is every 10 s."""
        self.begin()
        self.emit(Registered("punch://192.0.2.7:7001/abc"))
        offer = FilesOffer((Item("a\x1b.txt", EntryKind.FILE, 1000, 1),), 1, ())
        transfer = Transfer(7, BOB, False, offer)
        tell = self.fixture.chat.views.tell
        tell(TransferChanged(transfer))
        self.assertIn("Type /accept-files 7 or /refuse-files 7", self.shown())
        transfer.stage = Stage.RUNNING
        tell(TransferChanged(transfer))
        for _ in range(50):
            self.fixture.clock.advance(0.5)
            transfer.position += 10
            tell(TransferProgress(transfer))
        shown = self.shown()
        for percent, times in ((0, 1), (20, 1), (40, 1), (50, 0)):
            self.assertEqual(shown.count(f": {percent} % of 1.0 kB"), times, shown)
        self.assertNotIn("\x1b", shown)

    def test_stages_are_shown(self) -> None:
        self.begin(target=BOB)
        self.emit(Registered("punch://192.0.2.7:7001/abc"))
        self.emit(Calling(BOB))
        self.emit(Introduced(BOB, "bob"))
        self.emit(Checking(BOB, 4))
        self.connect()
        self.emit(
            PathChanged(BOB, Path("prflx", Address("192.0.2.1", 1), Address("192.0.2.9", 2), "udp", 0.02))
        )
        self.emit(PathSlowed(BOB, RelayLimit.PEER, "bob"))
        self.emit(PathLost(BOB, "bob"))
        shown = self.shown()
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])
        for part in (
            f"Your ID: {ME}",
            "Registered at punch://192.0.2.7:7001/abc",
            f"Calling {BOB}",
            "Introduced to bob",
            "Checking 4 pairs",
            "is slow now, since this peer uses all of the rate that the relay allows it; nothing is lost",
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
        self.emit(Calling(BOB))
        self.assertNotIn("Calling", self.shown())
        self.emit(Registered("punch://x:1"))
        self.assertRegex(self.shown(), r"Registered.*\nCalling")

    def test_a_line_is_delivered_and_the_process_done(self) -> None:
        self.begin(target=BOB)
        self.type("hi\n")
        self.front_end.input_over()
        self.assertEqual(self.fixture.ends, [])
        chat_link = self.connect()
        self.assertEqual(chat_link.heard, ["hi"])
        self.assertIn("✓ delivered: hi\n", self.shown())
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_nothing_to_say_is_done_once_connected(self) -> None:
        self.begin(target=BOB, kind=InputKind.NOTHING)
        self.front_end.input_over()
        self.assertEqual(self.fixture.ends, [])
        self.connect()
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_the_log_says_what_to_do_about_the_history(self) -> None:
        """The log has the sentence that the user is shown."""
        self.begin()
        full = StoreError(ChatProblem.HISTORY_UNUSABLE, text="the disk is full")
        with capturedLogs() as captured:
            self.front_end.view.handle(StoreFailed(full))
            self.front_end.view.handle(StoreFailed(None))
        self.assertEqual(len(captured), 1)
        self.assertIn("the disk is full. Make room or make it writable", formatEvent(captured[0]))

    def test_what_the_disk_refuses_is_tried_again(self) -> None:
        """Messages that could not be stored are tried again in order, and the process waits for them."""
        self.begin(target=BOB)
        chat_link = self.connect()
        self.fixture.disk.full = True
        self.type("one\ntwo\n")
        self.assertIn("is tried again: The history in memory can't be used: the disk is full.", self.shown())
        self.fixture.clock.advance(3.0)
        self.type("three\n")
        self.front_end.input_over()
        self.fixture.clock.advance(8.0)
        self.assertEqual((chat_link.heard, self.fixture.ends, self.shown()), ([], [], ""))
        self.fixture.disk.full = False
        self.fixture.clock.advance(2.0)
        chat_link.run()
        self.assertEqual(chat_link.heard, ["one", "two", "three"])
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_a_disk_that_stays_full(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.fixture.disk.full = True
        self.type("only \x1b[31mline\n")
        self.front_end.input_over()
        for _ in range(29):
            self.fixture.clock.advance(1.0)
        self.assertEqual(self.fixture.ends, [])
        self.fixture.clock.advance(2.0)
        [(status, sentence)] = self.fixture.ends
        self.assertEqual(status, 1)
        self.assertEqual(
            sentence,
            'The line "only \\x1b[31mline" was not stored, and not sent: '
            "The history in memory can't be used: the disk is full. Make room or make it writable, choose "
            "another directory with --state-dir, or use --no-history.",
        )

    def test_the_end_while_the_disk_is_full(self) -> None:
        """Whatever ends the process, what was typed and not stored is named."""
        self.begin(target=BOB)
        self.connect()
        self.fixture.disk.full = True
        self.type("first\nsecond\n")
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob hung up.")))
        [(status, sentence)] = self.fixture.ends
        self.assertEqual(status, 1)
        self.assertRegex(str(sentence), 'Bob hung up.* 2 lines, the first of them "first", were not stored')

    def test_a_line_that_can_never_be_sent(self) -> None:
        self.begin(target=BOB)
        self.fixture.chat.contacts.block(BOB)
        self.type("a\nb\n")
        [(status, sentence)] = self.fixture.ends
        self.assertEqual(status, 1)
        self.assertRegex(str(sentence), 'The line "a" was not sent: You have blocked')

    def test_lines_of_all_kinds(self) -> None:
        self.begin(target=BOB)
        self.type("one\r\n\n/quit\nlast")
        self.front_end.input_over()
        self.assertEqual(self.connect().heard, ["one", "", "/quit", "last"])
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_bytes_in_any_pieces(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        for byte in "grüße\nworld\n".encode():
            self.front_end.input_received(bytes([byte]))
        chat_link.run()
        self.assertEqual(chat_link.heard, ["grüße", "world"])

    def test_what_is_not_utf_8_is_replaced_and_said_once(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        self.front_end.input_received(b"a\xffb\n\xfe\n")
        chat_link.run()
        self.assertEqual(chat_link.heard, ["a\ufffdb", "\ufffd"])
        self.assertEqual(self.shown().count("not all UTF-8"), 1)

    def test_long_lines_go_in_parts(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        line = "é" * 20_000 + "x" * 10
        self.type(line + "\nshort\n" + "y" * MAX_TEXT + "\n")
        chat_link.run()
        self.assertEqual("".join(chat_link.heard[:3]), line)
        self.assertEqual(chat_link.heard[3:], ["short", "y" * MAX_TEXT])
        self.assertEqual(self.shown().count("several messages"), 1)

    def test_invalid_bytes_grow_and_still_fit(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        self.front_end.input_received(b"\xff" * MAX_TEXT + b"\n")
        chat_link.run()
        self.assertEqual("".join(chat_link.heard), "\ufffd" * MAX_TEXT)

    def test_stdin_is_not_read_faster_than_it_is_delivered(self) -> None:
        self.begin(target=BOB)
        line = "x" * 1000 + "\n"
        while self.fixture.screen.reading:
            self.type(line)
        self.assertLess(self.front_end.pending_size(), 2 * MAX_PENDING)
        self.connect()
        self.assertTrue(self.fixture.screen.reading)

    def test_a_waiting_peer_keeps_lines_for_whoever_comes(self) -> None:
        self.begin()
        self.type("kept\n")
        self.front_end.input_over()
        chat_link = self.connect()
        self.assertEqual(chat_link.heard, ["kept"])
        self.assertEqual(self.fixture.ends, [])
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertIn("Bob left.", self.shown())
        self.assertEqual(self.fixture.ends, [])

    def test_words_go_to_the_newest_link(self) -> None:
        self.begin()
        bob, eve = self.connect(), self.connect(EVE, "eve")
        self.type("hi\n")
        bob.run()
        eve.run()
        self.assertEqual((bob.heard, eve.heard), ([], ["hi"]))

    def test_messages_are_shown_harmless_and_then_acknowledged(self) -> None:
        self.begin()
        chat_link = self.connect(name="b\x1b[2Job\u202e")
        self.fixture.screen.stalled = True
        chat_link.far.send("red \x1b[31m\nYour ID: fake\ttab 👩\u200d💻")
        chat_link.run()
        self.assertEqual(chat_link.marks, [])
        shown = self.shown()
        self.assertIn("b\\x1b[2Job\\u202e: red \\x1b[31m\n    Your ID: fake\ttab 👩\u200d💻\n", shown)
        self.assertNotIn("\x1b", shown)
        self.fixture.screen.flush()
        chat_link.run()
        self.assertEqual(chat_link.marks, [1])

    def test_nobody_speaks_in_our_name(self) -> None:
        """Lines of ours begin with "you"; those of somebody who calls himself so don't."""
        for number, name in enumerate(("you", "You to Bob", "YOU:")):
            stranger = identity(40 + number).peer_id
            self.begin()
            chat_link = self.connect(stranger, name=name)
            chat_link.far.send("I agree")
            chat_link.run()
            self.assertIn(f"{name} ({stranger.short}): I agree\n", self.shown())

    def test_a_stranger_is_refused_with_a_sentence(self) -> None:
        self.begin()
        self.emit(incoming(EVE))
        self.fixture.node.reject_unanswerable()
        shown = self.shown()
        self.assertIn(f"eve is calling, ID {EVE}", shown)
        self.assertIn("--accept", shown)
        self.assertEqual(self.fixture.node.asked, [("reject", EVE)])

    def test_failures_end_with_their_sentence(self) -> None:
        cases = [
            CallFailed(BOB, OtherCause("not-registered", "Not there.")),
            CallFailed(None, OtherCause("bad-pin", "Not there.")),
        ]
        for event in cases:
            self.begin(target=BOB)
            self.emit(event)
            self.assertEqual(self.fixture.ends, [(1, "Not there.")])

    def test_a_lost_link_is_a_failure(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.type("under way\n")
        self.emit(Disconnected(BOB, OtherCause("lost", "It was lost.")))
        kept = "1 message not delivered: kept here, and sent when both are there next"
        self.assertEqual(self.fixture.ends, [(1, f"It was lost. {kept}.")])

    def test_hung_up_before_all_was_said(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.type("under way\n")
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        kept = "1 message not delivered: kept here, and sent when both are there next"
        self.assertEqual(self.fixture.ends, [(1, f"Bob left. ({kept})")])
        self.begin(target=BOB, history=False)
        self.connect()
        self.type("under way\n")
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertEqual(self.fixture.ends, [(1, "Bob left. (1 message not delivered)")])
        self.begin(target=BOB)
        self.connect()
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertEqual(self.fixture.ends, [(1, "Bob left. (the input had not ended)")])

    def test_patience_with_a_rendezvous_never_reached(self) -> None:
        self.begin()
        for _ in range(3):
            self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2))
        self.assertEqual(self.shown().count("No answer. Trying again in 4 s."), 1)
        self.fixture.clock.advance(REGISTRATION_TIMEOUT)
        self.assertEqual(self.fixture.ends, [(1, "No answer.")])

    def test_patience_counts_from_the_start(self) -> None:
        """Whenever the first failure comes, or if none does: a name server may keep silent."""
        for failed_after in (REGISTRATION_TIMEOUT - 1, None):
            self.begin()
            if failed_after is not None:
                self.fixture.clock.advance(failed_after)
                self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2))
                self.fixture.clock.advance(REGISTRATION_TIMEOUT - failed_after)
                self.assertEqual(self.fixture.ends, [(1, "No answer.")])
            else:
                self.fixture.clock.advance(REGISTRATION_TIMEOUT)
                ((status, sentence),) = self.fixture.ends
                self.assertEqual(status, 1)
                self.assertIn("has not answered within 10 seconds; check its address", sentence)

    def test_a_link_outlives_the_rendezvous(self) -> None:
        self.begin()
        chat_link = self.connect()
        self.emit(CallFailed(None, OtherCause("replaced", "Another process took over.")))
        self.assertEqual(self.fixture.ends, [])
        self.type("still here\n")
        chat_link.run()
        self.assertEqual(chat_link.heard, ["still here"])

    def test_the_last_link_of_a_peer_that_cannot_register_again(self) -> None:
        self.begin()
        self.connect()
        self.emit(CallFailed(None, OtherCause("replaced", "Another process took over.")))
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertEqual(self.fixture.ends, [(1, "Another process took over.")])

    def test_what_the_other_side_still_says_is_heard(self) -> None:
        """Both have one line and leave: neither is lost, whoever is first."""
        self.begin(target=BOB)
        self.type("mine\n")
        self.front_end.input_over()
        self.fixture.screen.stalled = True
        chat_link = ChatLink(BOB)
        chat_link.far.send("theirs")
        self.emit(connected(chat_link))
        chat_link.run()
        self.assertEqual((chat_link.heard, chat_link.marks, self.fixture.ends), (["mine"], [], []))
        self.fixture.screen.flush()
        chat_link.run()
        self.assertEqual((chat_link.marks, self.fixture.ends), ([1], [(0, None)]))

    def test_a_peer_that_chats_nonsense(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        assert chat_link.near is not None
        chat_link.near.dataReceived(b"\x02\x00\x00")
        self.assertTrue(chat_link.near_transport.disconnecting)
        chat_link.near.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])

    def test_a_chat_that_ends_before_its_link(self) -> None:
        self.begin(target=BOB)
        chat_link = self.connect()
        near = chat_link.near
        assert near is not None
        near.connectionLost(Failure(ConnectionDone()))
        self.fixture.clock.advance(REOPEN_DELAY)
        self.assertIsNot(chat_link.near, near)
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])

    def test_another_peer_does_not_end_a_call(self) -> None:
        self.begin(target=BOB)
        self.emit(CallFailed(EVE, OtherCause("cancelled", "Eve gave up.")))
        self.assertIn("Eve gave up.", self.shown())
        self.assertEqual(self.fixture.ends, [])

    def test_output_without_a_reader(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.front_end.view.output_lost()
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_a_replaced_link_carries_on(self) -> None:
        self.begin()
        first = self.connect()
        self.type("one\n")
        second = self.connect()
        self.type("two\n")
        second.run()
        self.assertEqual((first.heard, second.heard), ([], ["one", "two"]))
