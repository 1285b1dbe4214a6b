"""The interface for scripts, as docs/json.md promises it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.link.events import Path
from punch.node.causes import OtherCause
from punch.node.events import (
    AlreadyConnected,
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
from punch.test.ui.front_ends import BOB, EVE, ME, ChatLink, FrontEndFixture, connected, incoming
from punch.ui.command import NO_APPLICATIONS, Applications
from punch.ui.exit_policy import REGISTRATION_TIMEOUT
from punch.ui.json.commands import MAX_COMMAND
from punch.ui.json.front_end import JSONFrontEnd
from punch.ui.standard_streams import InputKind
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit

Fields = dict[str, Any]


class JSONCase(SynchronousTestCase):
    def begin(
        self,
        kind: InputKind = InputKind.STREAM,
        target: PeerID | None = None,
        applications: Callable[[FrontEndFixture], Applications] = lambda fixture: NO_APPLICATIONS,
    ) -> None:
        self.fixture = FrontEndFixture(target)
        fixture = self.fixture
        context = replace(fixture.context, applications=applications(fixture))
        self.front_end = JSONFrontEnd(
            fixture.settings, context, fixture.chat, fixture.screen, kind, lambda: 1.25
        )
        self.fixture.start()

    def setUp(self) -> None:
        self.begin()
        self.events()

    def emit(self, event: Event) -> None:
        """The node says something."""
        self.fixture.node.emit(event)

    def everything(self) -> list[Fields]:
        return [json.loads(line) for line in self.fixture.screen.take().splitlines()]

    def events(self) -> list[Fields]:
        """All but what the address book learns on the way."""
        return [event for event in self.everything() if event["event"] != "contact"]

    def event(self) -> Fields:
        (event,) = self.events()
        return dict(event)

    def command(self, command: str, **fields: Any) -> None:
        self.front_end.input_received(json.dumps({"command": command, **fields}).encode() + b"\n")

    def connect(self, peer: PeerID = BOB) -> ChatLink:
        chat_link = ChatLink(peer)
        self.emit(connected(chat_link))
        chat_link.run()
        self.events()
        return chat_link


LOST = f"The path to bob ({BOB.short}…) was lost; trying again, and what you send waits."
SLOWED = (
    f"The link to bob ({BOB.short}…) is slow now, since your address uses all of the rate that the relay "
    "allows it; nothing is lost, it only takes longer."
)


class NameTests(JSONCase):
    """Who calls itself like somebody else."""

    def contact(self, peer: PeerID) -> Fields:
        """What is known about a peer."""
        self.command("conversations", request=7)
        (result,) = (each for each in self.events() if each["event"] == "result")
        (found,) = (each for each in result["conversations"] if each["peer"] == str(peer))
        return dict(found)

    def test_it_is_marked_and_its_id_is_told(self) -> None:
        """It gets no petname, and where it is named in a sentence, its ID stands beside the name."""
        self.command("name", peer=str(BOB), name="alice")
        self.events()
        for claimed in ("alice", "\u0430lice", "ali\u034fce", "a1ice", f"alice ({BOB.short}…)", "you"):
            self.emit(incoming(EVE, claimed))
            self.assertEqual(self.event()["peer"], str(EVE))
            self.command("accept", peer=str(EVE))
            self.emit(connected(ChatLink(EVE), claimed))
            event = self.event()
            self.assertEqual((event["peer"], event["name"]), (str(EVE), claimed))
            contact = self.contact(EVE)
            self.assertEqual(
                (contact["petname"], contact["name"], contact["alike"]), (None, claimed, True), ascii(claimed)
            )
            self.emit(PathLost(EVE, claimed))
            self.assertIn(f"({EVE.short}", self.event()["text"], ascii(claimed))
            self.emit(Disconnected(EVE, OtherCause("lost", "Gone.")))
            self.events()
        self.assertFalse(self.contact(BOB)["alike"])

    def test_names_of_the_user(self) -> None:
        """Both are marked."""
        self.command("name", peer=str(BOB), name="alice")
        self.command("name", peer=str(EVE), name="a1ice")
        told = [each for each in self.everything() if each["event"] == "contact"]
        self.assertEqual({each["peer"] for each in told if each["alike"]}, {str(BOB), str(EVE)})
        self.assertEqual([self.contact(each)["alike"] for each in (BOB, EVE)], [True, True])


class EventTests(JSONCase):
    def test_ready_comes_first(self) -> None:
        self.begin()
        self.assertEqual(self.events(), [{"event": "ready", "time": 1.25, "id": str(ME), "name": "alice"}])

    def test_nothing_is_read_before(self) -> None:
        """While the history is opened, commands wait where they are: in the pipe."""
        fixture = FrontEndFixture()
        JSONFrontEnd(
            fixture.settings, fixture.context, fixture.chat, fixture.screen, InputKind.STREAM, lambda: 1.25
        )
        self.assertFalse(fixture.screen.reading)
        fixture.start()
        self.assertTrue(fixture.screen.reading)

    def test_stages(self) -> None:
        there = {"path": "prflx", "local": "192.0.2.1:1", "remote": "[2001:db8::1]:2", "protocol": "udp"}
        cases: list[tuple[Event, Fields]] = [
            (Registered("punch://x:1"), {"event": "registered", "rendezvous": "punch://x:1"}),
            (
                Unregistered(OtherCause("rendezvous-unreachable", "No."), 2.5),
                {"event": "unregistered", "reason": "rendezvous-unreachable", "text": "No.", "retry_in": 2.5},
            ),
            (Calling(BOB), {"event": "calling", "peer": str(BOB)}),
            (Introduced(BOB, "bob"), {"event": "introduced", "peer": str(BOB), "name": "bob"}),
            (Checking(BOB, 4), {"event": "checking", "peer": str(BOB), "pairs": 4}),
            (
                PathChanged(
                    BOB, Path("prflx", Address("192.0.2.1", 1), Address("2001:db8::1", 2), "udp", 0.5)
                ),
                {"event": "path", "peer": str(BOB), **there, "rtt": 0.5},
            ),
            (PathLost(BOB, "bob"), {"event": "path-lost", "peer": str(BOB), "text": LOST}),
            (
                PathSlowed(BOB, RelayLimit.ADDRESS, "bob"),
                {
                    "event": "path-slowed",
                    "peer": str(BOB),
                    "limit": "address",
                    "there": False,
                    "text": SLOWED,
                },
            ),
            (
                CallFailed(BOB, OtherCause("refused", "They said no.")),
                {"event": "failed", "peer": str(BOB), "reason": "refused", "text": "They said no."},
            ),
        ]
        for event, fields in cases:
            self.emit(event)
            self.assertEqual(self.event(), {"time": 1.25, **fields})
        self.assertEqual(self.fixture.ends, [])

    def test_connected_and_disconnected(self) -> None:
        self.emit(connected(ChatLink(BOB)))
        self.assertEqual(
            self.event(),
            {
                "event": "connected",
                "time": 1.25,
                "peer": str(BOB),
                "name": "bob",
                "path": "host",
                "local": "192.0.2.1:4000",
                "remote": "192.0.2.2:5000",
                "protocol": "udp",
                "rtt": 0.0004,
                "post_quantum": False,
            },
        )
        self.command("send", text="x")
        self.events()
        self.emit(Disconnected(BOB, OtherCause("lost", "Gone.")))
        event = self.event()
        self.assertEqual(
            (event["event"], event["reason"], event["text"], event["undelivered"]),
            ("disconnected", "lost", "Gone.", 1),
        )

    def test_a_message_is_acknowledged_when_its_line_has_left(self) -> None:
        chat_link = self.connect()
        self.fixture.screen.stalled = True
        chat_link.far.send("grüß \x1b[31m")
        chat_link.run()
        self.assertEqual(chat_link.marks, [])
        self.assertNotIn(b"\x1b", self.fixture.screen.data)
        event = self.event()
        self.assertEqual(
            (event["event"], event["peer"], event["text"], event["id"]),
            ("message", str(BOB), "grüß \x1b[31m", 1),
        )
        self.fixture.screen.flush()
        chat_link.run()
        self.assertEqual(chat_link.marks, [1])

    def test_a_call_waits_for_its_answer(self) -> None:
        self.emit(incoming(EVE))
        event = self.event()
        self.assertEqual((event["event"], event["peer"], event["decided"]), ("call", str(EVE), False))
        self.assertEqual(self.fixture.node.asked, [])
        self.command("accept", peer=str(EVE).upper())
        self.assertEqual(self.fixture.node.asked, [("accept", EVE)])
        self.command("reject", peer=str(EVE))
        self.assertEqual(self.event()["reason"], "no-call")

    def test_a_call_is_rejected(self) -> None:
        self.emit(incoming(EVE))
        self.command("reject", peer=str(EVE))
        self.assertEqual(self.fixture.node.asked, [("reject", EVE)])

    def test_a_decided_call_asks_nobody(self) -> None:
        self.emit(incoming(EVE, decided=True))
        self.events()
        self.command("accept", peer=str(EVE))
        self.assertEqual(self.event()["reason"], "no-call")

    def test_a_call_without_anyone_to_ask_is_refused(self) -> None:
        self.begin(InputKind.NOTHING)
        self.events()
        self.emit(incoming(EVE))
        self.fixture.node.reject_unanswerable()
        call, refused = self.events()
        self.assertEqual((call["event"], refused["event"]), ("call", "refused"))
        self.assertIn("--accept", refused["text"])
        self.assertEqual(self.fixture.node.asked, [("reject", EVE)])


class CommandTests(JSONCase):
    def test_call(self) -> None:
        self.command("call", peer=str(BOB))
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])

    def test_send_and_delivered(self) -> None:
        chat_link = self.connect()
        self.command("send", text="one")
        self.command("send", text="two", id="my-2", peer=str(BOB))
        self.command("send", text="three", id=3)
        sent = [(event["event"], event["id"], event["peer"]) for event in self.events()]
        self.assertEqual(sent, [("sent", number, str(BOB)) for number in (1, "my-2", 3)])
        chat_link.run()
        self.assertEqual(chat_link.heard, ["one", "two", "three"])
        marks = [(event["event"], event["id"], event["peer"]) for event in self.events()]
        self.assertEqual(marks, [("delivered", number, str(BOB)) for number in (1, "my-2", 3)])

    def test_a_message_for_somebody_who_is_away_waits(self) -> None:
        self.command("send", text="later", peer=str(BOB), id="mine")
        waiting = self.event()
        self.assertEqual((waiting["event"], waiting["id"], waiting["number"]), ("waiting", "mine", 1))
        chat_link = ChatLink(BOB)
        self.emit(connected(chat_link))
        chat_link.run()
        self.assertEqual(chat_link.heard, ["later"])
        chat_link.far.chat.history.read(ME)
        chat_link.run()
        told = [(e["event"], e["id"]) for e in self.events() if e.get("number") == 1]
        self.assertEqual(told, [("sent", "mine"), ("delivered", "mine"), ("read", "mine")])

    def test_what_another_view_sends_is_told_in_full(self) -> None:
        self.connect()
        self.fixture.chat.send(BOB, "from a browser")
        added, sent = self.events()
        self.assertEqual((added["event"], added["text"], added["number"]), ("added", "from a browser", 1))
        self.assertEqual((sent["event"], sent["number"]), ("sent", 1))

    def test_requests_are_answered(self) -> None:
        chat_link = self.connect()
        chat_link.far.send("hello")
        chat_link.run()
        self.events()
        self.command("history", peer=str(BOB), request="r1")
        result = self.event()
        self.assertEqual((result["event"], result["command"], result["request"]), ("result", "history", "r1"))
        self.assertEqual([(m["text"], m["state"]) for m in result["messages"]], [("hello", "unread")])
        self.command("read", peer=str(BOB), request=2)
        read, result = self.events()
        self.assertEqual((read["event"], read["outgoing"]), ("read", False))
        self.assertEqual((result["event"], result["request"]), ("result", 2))
        self.command("history", peer="nobody", request="r3")
        error = self.event()
        self.assertEqual((error["event"], error["reason"], error["request"]), ("error", "bad-peer-id", "r3"))

    def test_the_end_of_the_input_lets_a_waiting_message_try(self) -> None:
        """Its peer is called once; what came of that decides."""
        self.emit(Registered("punch://x:1"))
        self.command("send", text="later", peer=str(BOB))
        self.front_end.input_over()
        self.fixture.clock.advance(1.0)
        self.assertEqual((self.fixture.node.asked, self.fixture.ends), ([("call", BOB)], []))
        self.emit(CallFailed(BOB, OtherCause("not-registered", "Not there.")))
        self.assertEqual(self.fixture.ends, [(1, None)])

    def test_the_end_of_the_input_before_the_rendezvous_is_there(self) -> None:
        """The peer for whom a message waits is called all the same."""
        self.command("send", peer=str(BOB), text="hi")
        self.front_end.input_over()
        self.assertEqual(self.fixture.ends, [])
        self.emit(Registered("punch://x:1"))
        self.fixture.clock.advance(0)
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])
        self.assertEqual(self.connect().heard, ["hi"])
        self.fixture.clock.advance(2)
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_the_end_of_the_input_without_a_rendezvous(self) -> None:
        self.command("send", peer=str(BOB), text="hi")
        self.front_end.input_over()
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 4.0))
        self.assertEqual(self.fixture.ends, [])
        self.fixture.clock.advance(REGISTRATION_TIMEOUT)
        self.assertEqual([status for status, _ in self.fixture.ends], [1])

    def test_hangup_and_quit(self) -> None:
        chat_link = self.connect()
        self.command("hangup")
        self.assertEqual(self.fixture.node.asked, [("hangup", BOB)])
        self.command("quit")
        chat_link.run()
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_hangup_of_a_call(self) -> None:
        self.command("call", peer=str(BOB))
        self.command("hangup")
        self.assertEqual(self.fixture.node.asked[-1], ("hangup", BOB))

    def test_commands_in_pieces(self) -> None:
        data = json.dumps({"command": "call", "peer": str(BOB)}).encode() + b"\r\n\n  \n"
        for position in range(len(data)):
            self.front_end.input_received(data[position : position + 1])
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])
        self.assertEqual(self.events(), [])

    def test_mistakes_are_answered_and_survived(self) -> None:
        cases: list[tuple[bytes, str]] = [
            (b"{", "malformed"),
            (b"quit", "malformed"),
            (b"[]", "malformed"),
            (b"\xff\xfe", "malformed"),
            (b'{"command":1}', "malformed"),
            (b"{}", "malformed"),
            (b'{"command":"call","command":"quit"}', "malformed"),
            (b'{"command":"quit","x":NaN}', "malformed"),
            (b"[" * 10_000, "malformed"),
            (b'{"command":"dance"}', "unknown-command"),
            (b'{"command":"call"}', "malformed"),
            (b'{"command":"call","peer":7}', "malformed"),
            (b'{"command":"call","peer":"abc"}', "bad-peer-id"),
            (json.dumps({"command": "call", "peer": str(ME)}).encode(), "self"),
            (json.dumps({"command": "accept", "peer": str(BOB)}).encode(), "no-call"),
            (b'{"command":"send","text":"early"}', "not-connected"),
            (json.dumps({"command": "send", "text": "x", "peer": str(ME)}).encode(), "self"),
            (b'{"command":"send"}', "malformed"),
            (b'{"command":"send","text":"x","id":[]}', "malformed"),
            (b'{"command":"send","text":"x","id":true}', "malformed"),
            (b'{"command":"hangup"}', "not-connected"),
            (b"x" * (MAX_COMMAND + 1), "too-long"),
        ]
        for line, reason in cases:
            with self.subTest(line[:40]):
                self.front_end.input_received(line + b"\n")
                event = self.event()
                self.assertEqual((event["event"], event["reason"]), ("error", reason))
                self.assertTrue(event["text"].endswith("."), event["text"])
        self.assertEqual((self.fixture.ends, self.fixture.node.asked), ([], []))
        self.command("call", peer=str(BOB))
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])

    def test_an_error_names_command_and_id(self) -> None:
        self.command("send", text="x", id="mine")
        event = self.event()
        self.assertEqual((event["command"], event["id"]), ("send", "mine"))

    def test_an_endless_line_is_one_error_and_no_memory(self) -> None:
        for _ in range(20):
            self.front_end.input_received(b"x" * 50_000)
        self.assertEqual(self.event()["reason"], "too-long")
        self.front_end.input_received(b'\n{"command":"quit"}\n')
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_texts_that_cannot_travel(self) -> None:
        self.connect()
        self.command("send", text="x" * 16_385)
        self.assertEqual(self.event()["reason"], "too-long")
        self.front_end.input_received(b'{"command":"send","text":"\\ud800"}\n')
        self.assertEqual(self.event()["reason"], "malformed")

    def test_the_longest_text_with_all_bytes_escaped(self) -> None:
        chat_link = self.connect()
        self.command("send", text="\x01" * 16_384)
        chat_link.run()
        self.assertEqual(chat_link.heard, ["\x01" * 16_384])

    def test_several_links_must_be_told_apart(self) -> None:
        self.connect()
        self.connect(EVE)
        self.command("send", text="x")
        self.assertEqual(self.event()["reason"], "ambiguous")

    def test_calling_who_is_connected(self) -> None:
        """The node asks the link; only its answer makes the call an error."""
        self.connect()
        self.command("call", peer=str(BOB))
        self.assertEqual(self.fixture.node.asked[-1], ("call", BOB))
        self.assertEqual(self.events(), [])
        self.front_end.input_over()
        self.assertEqual(self.fixture.ends, [])
        self.emit(AlreadyConnected(BOB))
        event = self.event()
        self.assertEqual(
            (event["event"], event["reason"], event["command"], event["peer"]),
            ("error", "already-connected", "call", str(BOB)),
        )
        self.fixture.clock.advance(2.0)
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_hanging_up_a_link_and_the_call_that_replaces_it(self) -> None:
        """Both are with one peer, so it need not be named."""
        self.connect()
        self.command("call", peer=str(BOB))
        self.command("hangup")
        self.assertEqual(self.fixture.node.asked[-1], ("hangup", BOB))
