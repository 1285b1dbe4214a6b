"""The chat at a prompt: what is shown above it, whom a line goes to, what the status line tells."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import ChatMessage
from punch.apps.chat.events import ChatBroken, PeerUnreachable, StoreFailed
from punch.apps.chat.events import Event as ChatEvent
from punch.apps.chat.model import ChatProblem, StoreError
from punch.apps.chat.store import Store
from punch.identity import PeerID
from punch.link.events import Path as LinkPath
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
    Ready,
    Registered,
    Unregistered,
)
from punch.test.ui.front_ends import BOB, EVE, ME, NOW, ChatLink, FrontEndFixture, incoming
from punch.ui.command_line import MAX_UNSEEN
from punch.ui.terminal.escapes import Notice, Style
from punch.ui.terminal.front_end import TerminalFrontEnd
from punch.ui.terminal.line_history import LineHistory
from punch.ui.terminal.prompt import Fragments
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit


class RecordingPrompt:
    """Stands where the prompt is, and notes what it is told."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.marks: list[tuple[object, str, str | None]] = []
        self.keys: list[object] = []
        self.given_back: list[str] = []
        self.replaced: list[tuple[object, bool]] = []
        self.notices: list[str] = []
        self.cleared = 0
        self.prompt = ""
        self.status = ""
        self.lines: list[str] | None = None
        self.refreshed = 0
        self.taken = 0
        self.stalled = False
        self.waiting: list[Deferred[None]] = []

    def show(self, text: str, key: object = None) -> tuple[int, Deferred[None]]:
        self.shown.append(text)
        self.keys.append(key)
        done: Deferred[None] = Deferred()
        if self.stalled:
            self.waiting.append(done)
        else:
            done.callback(None)
        return len(self.shown), done

    def put_beside(self, key: object, beside: str, alone: str | None) -> None:
        self.marks.append((key, beside.strip(), alone))

    def replace(self, text: str, key: object) -> tuple[int, Deferred[None]]:
        self.replaced.append((key, bool(self.keys) and self.keys[-1] == key))
        return self.show(text, key)

    def notify(self, sequence: str) -> None:
        self.notices.append(sequence)

    def clear(self) -> None:
        self.cleared += 1

    def set_prompt(self, text: str) -> None:
        self.prompt = text

    def set_status(self, fragments: Fragments) -> None:
        self.status = "".join(text for _, text in fragments)

    def set_history(self, lines: list[str]) -> None:
        self.lines = lines

    def put_in_line(self, text: str) -> None:
        self.given_back.append(text)

    def refresh(self) -> None:
        self.refreshed += 1

    def take(self) -> str:
        """What was shown since the last time."""
        begin, self.taken = self.taken, len(self.shown)
        return "\n".join(self.shown[begin:])


class TerminalCase(SynchronousTestCase):
    def begin(
        self,
        target: PeerID | None = None,
        history: bool = True,
        term: str = "dumb",
        notice: Notice = Notice.BELL,
    ) -> None:
        self.fixture = FrontEndFixture(target, history, notice)
        self.prompt = RecordingPrompt()
        self.stops = 0
        self.interrupts = 0
        self.path = Path(self.mktemp())
        self.front_end = TerminalFrontEnd(
            self.fixture.settings,
            self.fixture.context,
            self.fixture.chat,
            self.prompt,
            LineHistory(self.path if history else None),
            environ={"TERM": term},
            stop_process=self.stop,
            interrupt=self.interrupt,
        )
        self.fixture.start()

    def setUp(self) -> None:
        self.begin()

    def stop(self) -> None:
        self.stops += 1

    def interrupt(self) -> None:
        self.interrupts += 1

    def emit(self, event: Event) -> None:
        self.fixture.node.emit(event)

    def type(self, text: str, seen: int | None = None) -> None:
        """A line that was begun just now, or when so much had been seen."""
        self.front_end.entered(text, len(self.prompt.shown) if seen is None else seen)

    def connect(self, peer: PeerID = BOB, name: str = "bob") -> ChatLink:
        return self.fixture.connect(peer, name)


class SayingCase(TerminalCase):
    """A terminal that shows what happens."""

    def unread(self) -> int:
        """How many messages of the other side nobody has seen."""
        (overview,) = self.successResultOf(self.fixture.disk.run(Store.overviews, BOB))
        return overview.unread

    def history(self, limit: int = 50) -> list[ChatMessage]:
        found: list[ChatMessage] = []
        self.fixture.chat.history.messages(BOB, limit=limit).addCallback(found.extend)
        return found


class SayingTests(SayingCase):
    def test_a_message_and_its_marks(self) -> None:
        chat_link = self.connect()
        self.type("hello")
        self.assertRegex(self.prompt.shown[-1], r"^\d\d:\d\d you: hello$")
        self.assertEqual(self.prompt.keys[-1], 1)
        chat_link.run()
        chat_link.far.chat.history.read(ME)
        chat_link.run()
        self.assertEqual(self.prompt.marks, [(1, "✓ delivered", "✓ delivered: hello"), (1, "✓✓ read", None)])

    def test_to_somebody_who_is_away(self) -> None:
        self.type(f"/to {BOB}")
        self.type("later")
        self.assertEqual(self.prompt.marks, [(1, "· waiting", None)])
        self.assertIn("is away · 1 waiting", self.prompt.status)
        chat_link = self.connect()
        self.assertEqual(chat_link.heard, ["later"])
        self.assertEqual(self.prompt.marks[1][:2], (1, ""))
        self.assertEqual(self.prompt.marks[2][:2], (1, "✓ delivered"))

    def test_nobody_to_talk_to_gives_the_line_back(self) -> None:
        self.type("hello?")
        self.assertIn("Nobody is connected yet", self.prompt.take())
        self.assertEqual(self.prompt.given_back, ["hello?"])

    def test_what_the_disk_refuses(self) -> None:
        """It is held, in order, whether it was typed as a line or with a command, and quitting asks."""
        chat_link = self.connect()
        self.fixture.disk.full = True
        for line in ("one", "/msg bob two", "three"):
            self.type(line)
        self.type("/quit")
        self.assertIn('3 lines, the first of them "one", were not stored', self.prompt.take())
        self.type("n")
        self.assertEqual((chat_link.heard, self.fixture.ends), ([], []))
        self.fixture.disk.full = False
        self.fixture.clock.advance(2.0)
        chat_link.run()
        self.assertEqual(chat_link.heard, ["one", "two", "three"])

    def test_a_line_begun_for_somebody_else_is_not_sent(self) -> None:
        self.connect()
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        begun = len(self.prompt.shown)
        eve = self.connect(EVE, "eve")
        self.assertEqual(self.prompt.prompt, "eve> ")
        self.type("for bob only", seen=begun)
        self.assertIn("That was begun when the chat was with bob", self.prompt.take())
        self.assertEqual(self.prompt.given_back, ["for bob only"])
        self.type("for bob only")
        eve.run()
        self.assertEqual(eve.heard, ["for bob only"])

    def test_what_a_browser_sends_is_shown_as_well(self) -> None:
        self.connect()
        self.fixture.chat.send(EVE, "from a browser")
        self.assertRegex(self.prompt.shown[-1], rf"^\d\d:\d\d you to {EVE.short}: from a browser$")

    def test_a_message_is_acknowledged_when_the_terminal_has_it(self) -> None:
        chat_link = self.connect()
        self.prompt.stalled = True
        chat_link.far.send("hello")
        chat_link.run()
        self.assertRegex(self.prompt.shown[-1], r"^\d\d:\d\d bob: hello$")
        self.assertEqual(chat_link.marks, [])
        self.prompt.waiting.pop().callback(None)
        chat_link.run()
        self.assertEqual(chat_link.marks, [1])

    def test_read_is_what_somebody_saw(self) -> None:
        """A message that came after the last key press is not marked as read."""
        chat_link = self.connect()
        for text in ("one", "two"):
            chat_link.far.send(text)
        chat_link.run()
        self.front_end.noticed(len(self.prompt.shown) - 1)
        unread = [message.state for message in self.history()]
        self.assertEqual([str(state) for state in unread], ["read", "unread"])
        self.front_end.noticed(len(self.prompt.shown))
        self.assertEqual({str(message.state) for message in self.history()}, {"read"})

    def test_few_notes_of_many_unseen_messages(self) -> None:
        """Each note marks messages as read once, so 200 messages are marked in at most `MAX_UNSEEN` steps."""
        chat_link = self.connect()
        begin = len(self.prompt.shown)
        for number in range(200):
            chat_link.far.send(f"message {number}")
        chat_link.run()
        steps = set()
        for shown in range(begin, len(self.prompt.shown) + 1):
            self.front_end.noticed(shown)
            steps.add(self.unread())
        self.assertEqual(min(steps), 0)
        self.assertLessEqual(len(steps - {200}), MAX_UNSEEN)

    def test_nothing_of_a_peer_acts_on_the_terminal(self) -> None:
        chat_link = self.connect(name="b\x1b[2Job\u202e" + "x" * 10_000)
        chat_link.far.send("\x1b[31mred\x07\n\u2066Your ID: fake")
        chat_link.run()
        self.type("/peers")
        self.type("/status")
        self.type("/history")
        told = "\n".join([*self.prompt.shown, self.prompt.status, self.prompt.prompt, *self.front_end.names])
        self.assertNotRegex(told, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
        self.assertLess(max(map(len, self.prompt.shown[:3])), 500)

    def test_who_calls_himself_like_a_friend_is_told_apart(self) -> None:
        self.type(f"/name {BOB} bob")
        for claimed in ("bob", "b0b", "b\u043eb", f"bob ({BOB.short}"):
            self.connect(EVE, claimed)
            self.assertIn(f"Connected to {claimed} ({EVE.short}", self.prompt.take())
            self.emit(Disconnected(EVE, OtherCause("lost", "Gone.")))

    def test_who_is_named_like_somebody_else_is_told_apart(self) -> None:
        self.type(f"/name {BOB} bob")
        self.type(f"/name {EVE} b0b")
        for peer, name in ((BOB, "bob"), (EVE, "b0b")):
            self.connect(peer, "x")
            self.assertIn(f"Connected to {name} ({peer.short}", self.prompt.take())


class CallTests(TerminalCase):
    """What is told of calls, and to somebody who looks elsewhere."""

    def test_the_stages_are_one_line(self) -> None:
        self.emit(Registered("punch://x:1"))
        for event in (Calling(BOB), Introduced(BOB, "bob"), Checking(BOB, 4)):
            self.emit(event)
        self.assertEqual(
            self.prompt.shown[-3:],
            [
                f"Calling {BOB.short}",
                f"Calling {BOB.short}: introduced",
                f"Calling {BOB.short}: checking 4 pairs",
            ],
        )
        self.connect()
        line = next(line for line in self.prompt.shown if line.startswith("Connected"))
        self.assertRegex(line, rf"^Connected to bob .* encrypted to {BOB.short} \(\d\d:\d\d\)$")
        self.assertEqual([instead for _, instead in self.prompt.replaced], [False, True, True, True])

    def test_a_call_that_comes_in_has_a_time_and_a_short_id(self) -> None:
        self.emit(incoming(EVE, "eve"))
        line = next(line for line in self.prompt.shown if "is calling" in line)
        self.assertRegex(line, rf"^eve is calling, ID {EVE.short} \(\d\d:\d\d\)$")

    def test_each_person_has_a_colour(self) -> None:
        self.begin(term="xterm")
        colours = Style(True)
        self.assertEqual(len({colours.person("x", bytes([first])) for first in range(256)}), 8)
        for peer, name in ((BOB, "bob"), (EVE, "eve")):
            chat_link = self.connect(peer, name)
            chat_link.far.send("hello")
            chat_link.run()
            self.assertIn(f"{colours.person(f'{name}:', peer.key)} hello", self.prompt.shown[-1])

    def test_the_stages_of_somebody_elses_call(self) -> None:
        self.emit(Introduced(EVE, "eve"))
        self.emit(Checking(EVE, 2))
        self.assertRegex(self.prompt.shown[-1], "^eve: checking 2 pairs$")

    def test_notices(self) -> None:
        chat_link = self.connect(name="b\x1b]9;ob")
        for text in ("one", "two"):
            chat_link.far.send(text)
            chat_link.run()
        self.assertEqual(self.prompt.notices, ["\a", "\a"])
        self.emit(incoming(EVE, decided=True))
        self.assertEqual(len(self.prompt.notices), 2)
        self.emit(incoming(EVE))
        self.assertEqual(len(self.prompt.notices), 3)

    def test_notices_of_each_kind(self) -> None:
        for notice, told in (
            (Notice.OSC9, ["\x1b]9;Message from bob\x1b\\", "\x1b]9;eve is calling\x1b\\"]),
            (
                Notice.OSC777,
                [
                    "\x1b]777;notify;Punch;Message from bob\x1b\\",
                    "\x1b]777;notify;Punch;eve is calling\x1b\\",
                ],
            ),
            (Notice.OFF, []),
        ):
            self.begin(notice=notice)
            chat_link = self.connect()
            chat_link.far.send("one")
            chat_link.run()
            self.emit(incoming(EVE, "eve"))
            self.assertEqual(self.prompt.notices, told)

    def test_each_line_about_now_has_its_time(self) -> None:
        """Whatever happens by itself is shown with the time at which it did."""
        self.connect()
        relayed = LinkPath("relay", Address("192.0.2.1", 1), Address("192.0.2.9", 2), "udp", 0.02)
        failure = CallFailed(BOB, OtherCause("not-registered", "They are not there."))
        events: list[tuple[str, ChatEvent]] = [
            ("Registered at ", Registered("punch://x:1")),
            ("No answer.", Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2)),
            ("The path to bob", PathLost(BOB, "bob")),
            ("The path to bob", PathChanged(BOB, relayed)),
            ("", PathSlowed(BOB, RelayLimit.PEER, "bob")),
            ("The path to bob", PathLost(BOB, "bob")),
            ("Bob left.", Disconnected(BOB, OtherCause("bye", "Bob left."))),
            ("bob is not there: ", PeerUnreachable(BOB, failure, 8.0)),
            ("The history is closed", StoreFailed(StoreError(ChatProblem.HISTORY_CLOSED))),
            ("The history can be written again.", StoreFailed(None)),
            (f"The chat with {BOB.short} was ended: they sent something.", ChatBroken(BOB, "something")),
        ]
        for begin, event in events:
            with self.subTest(repr(event)):
                self.prompt.take()
                self.front_end.show_event(event)
                shown = self.prompt.take().split("\n")
                line = next(line for line in shown if line.startswith(begin))
                self.assertRegex(line, r" \(\d\d:\d\d\)$")

    def test_who_somebody_is(self) -> None:
        self.type("/whois")
        self.assertIn("Say whom you mean", self.prompt.take())
        self.connect()
        self.type("/whois")
        self.assertRegex(self.prompt.take(), rf"(?s)bob +{BOB}  not known.*Connected directly")
        self.type(f"/whois {EVE}")
        self.assertRegex(self.prompt.take(), rf"(?s){EVE}.*Not connected")
        self.type("/clear")
        self.assertEqual(self.prompt.cleared, 1)


class StatusTests(TerminalCase):
    def test_the_path(self) -> None:
        self.emit(Registered("punch://x:1"))
        self.assertEqual((self.prompt.prompt, self.prompt.status), ("> ", "waiting for a call"))
        self.connect()
        self.assertEqual(self.prompt.prompt, "bob> ")
        self.assertEqual(self.prompt.status, "bob directly, on the same network, 12 ms")
        self.emit(PathLost(BOB, "bob"))
        self.assertEqual(self.prompt.status, "bob: path lost, looking for another")
        self.emit(
            PathChanged(BOB, LinkPath("relay", Address("192.0.2.1", 1), Address("192.0.2.9", 2), "udp", 0.02))
        )
        self.assertEqual(self.prompt.status, "bob through a relay, 12 ms")
        self.emit(PathSlowed(BOB, RelayLimit.PEER, "bob"))
        self.assertEqual(self.prompt.status, "bob through a relay, slowed down by it, 12 ms")
        self.emit(
            PathChanged(BOB, LinkPath("relay", Address("192.0.2.1", 1), Address("192.0.2.9", 2), "udp", 0.02))
        )
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.2))
        self.assertEqual(self.prompt.status, "bob through a relay, 12 ms · rendezvous not reached")
        self.emit(Disconnected(BOB, OtherCause("bye", "Bob left.")))
        self.assertTrue(self.prompt.status.startswith("bob is away"))

    def test_the_round_trip_is_looked_at(self) -> None:
        chat_link = self.connect()
        chat_link.rtt = 0.25
        self.fixture.clock.advance(2.0)
        self.assertIn("250 ms", self.prompt.status)

    def test_others(self) -> None:
        self.connect()
        self.connect(EVE, "eve")
        self.assertIn("eve is connected", self.prompt.status)

    def test_a_call_because_of_what_waits(self) -> None:
        """Nobody is away while it rings at theirs."""
        self.emit(Registered("punch://x:1"))
        self.type(f"/to {BOB}")
        self.type("later")
        self.fixture.clock.advance(5.0)
        self.assertIn(("call", BOB), self.fixture.node.asked)
        self.emit(Calling(BOB))
        self.fixture.clock.advance(2.0)
        self.assertRegex(self.prompt.status, r"^calling \S+ · 1 waiting$")
        self.emit(CallFailed(BOB, OtherCause("not-registered", "They are not there.")))
        self.assertRegex(self.prompt.status, r"^\S+ is away · 1 waiting$")

    def test_a_call_that_waits_for_an_answer(self) -> None:
        self.type(f"/to {BOB}")
        self.emit(incoming(BOB, "bob"))
        self.assertEqual(self.prompt.status, "a question waits: y or n · bob is calling · registering")

    def test_a_long_name_leaves_room(self) -> None:
        self.connect(name="x" * 10_000)
        self.assertLess(len(self.prompt.prompt), 30)
        self.assertLess(len(self.prompt.status), 200)


class HistoryTests(TerminalCase):
    def reopen(self) -> tuple[TerminalFrontEnd, RecordingPrompt]:
        """Another terminal on the same chat, as after a restart."""
        chat, prompt = self.fixture.chat, RecordingPrompt()
        chat.views.detach(self.front_end.view)
        fixture = self.fixture
        later = TerminalFrontEnd(
            fixture.settings, fixture.context, chat, prompt, LineHistory(None), environ={}
        )
        later.view.handle(Ready(ME))
        return later, prompt

    def test_earlier_messages_are_shown_when_a_chat_is_opened(self) -> None:
        for number in range(20):
            self.fixture.chat.send(BOB, f"message {number}")
        later, prompt = self.reopen()
        later.entered(f"/to {BOB}", len(prompt.shown))
        shown = prompt.take()
        self.assertEqual(re.findall(r"message \d+", shown), [f"message {number}" for number in range(14, 20)])
        self.assertIn("· waiting", shown)

    def test_unread_messages_are_told_of_and_shown(self) -> None:
        chat_link = self.connect()
        for number in range(10):
            chat_link.far.send(f"message {number}")
        chat_link.run()
        later, prompt = self.reopen()
        chat = self.fixture.chat
        self.assertIn("10 messages from bob not read yet: /to bob shows them", prompt.take())
        self.assertIn("10 unread from bob", prompt.status)
        later.entered("/to bob", len(prompt.shown))
        shown = prompt.take()
        self.assertEqual(len(re.findall(r"message \d+  \(new\)", shown)), 10)
        later.entered("thanks", len(prompt.shown))
        states: list[str] = []
        chat.history.messages(BOB).addCallback(
            lambda found: states.extend(str(m.state) for m in found if not m.outgoing)
        )
        self.assertEqual(set(states), {"read"})
        self.assertNotIn("unread", prompt.status)

    def test_typed_lines_are_kept(self) -> None:
        self.connect()
        self.type("hello")
        self.type("/help")
        self.assertEqual(list(LineHistory(self.path)), ["hello", "/help"])
        self.assertIn(str(NOW).encode()[:8], self.path.read_bytes())


class LifeTests(TerminalCase):
    def test_who_was_here_is_found_by_the_name_they_gave(self) -> None:
        """They are in no address book, as they were let in by --accept anyone."""
        for peer, name in ((BOB, "bob"), (EVE, "eve")):
            self.connect(peer, name)
            self.type(f"/hangup {name}")
            self.emit(Disconnected(peer, OtherCause("bye", f"{name} left.")))
        self.fixture.node.asked.clear()
        self.type("/call eve")
        self.type("/call Bob")
        self.assertEqual(self.fixture.node.asked, [("call", EVE), ("call", BOB)])
        self.assertEqual(self.front_end.names, ("bob", "eve"))

    def test_the_other_side_comes_and_goes(self) -> None:
        self.begin(target=BOB)
        self.emit(CallFailed(BOB, OtherCause("not-registered", "Bob is not there.")))
        self.type("one")
        chat_link = self.connect()
        self.assertEqual(chat_link.heard, ["one"])
        self.emit(Disconnected(BOB, OtherCause("lost", "It was lost.")))
        self.type("two")
        self.assertEqual(self.fixture.ends, [])
        self.assertEqual(self.connect().heard, ["one", "two"][1:])

    def test_keys_that_are_not_text(self) -> None:
        self.front_end.suspended()
        self.front_end.interrupted()
        self.assertEqual((self.stops, self.prompt.refreshed, self.interrupts), (1, 1, 1))
        self.front_end.ended()
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_a_terminal_that_is_gone(self) -> None:
        self.front_end.lost(None)
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_nothing_is_left_on_the_clock(self) -> None:
        self.connect()
        self.fixture.clock.advance(1.0)
        self.front_end.view.exit.stop()
        self.fixture.chat.stop()
        self.assertEqual(self.fixture.clock.getDelayedCalls(), [])
