"""The table of commands: reachable from every view, proof against anything a client may send."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import MAX_LIMIT
from punch.apps.chat.codes import ContactCodes
from punch.apps.chat.events import Event
from punch.apps.codes.code import Card, CodePurpose
from punch.apps.codes.exchange import Issuer, Redeemer
from punch.apps.files.codec import encode_offer
from punch.apps.files.messages import EntryKind, FilesOffer, Item
from punch.apps.files.transfers import Transfers
from punch.identity import Identity, PeerID
from punch.names import is_reserved
from punch.node.events import Registered
from punch.test.strategies import SETTINGS
from punch.test.ui.front_ends import BOB, EVE, ME, ChatLink, FrontEndFixture, incoming
from punch.ui import slash
from punch.ui.command import Answer, Applications, CommandContext, CommandRefused, FieldKind
from punch.ui.commands import COMMANDS, perform
from punch.ui.text import answers


def result(done: Deferred[Answer | None]) -> Any:
    """What it fired with."""
    results: list[Any] = []
    done.addBoth(results.append)
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


def meet_at_once(
    core: Issuer | Redeemer, key: Identity, on_registered: Callable[[], object]
) -> Deferred[Card]:
    """Codes wait until they are withdrawn, and those of others lead to Eve."""
    on_registered()
    return Deferred() if isinstance(core, Issuer) else succeed(Card(EVE, "eve", CodePurpose.CONTACT))


class RecordingNode:
    """Every peer takes every stream, and says nothing on it."""

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        protocol.makeConnection(StringTransport())
        return succeed(protocol)


class AnsweringView:
    """A view that somebody looks at."""

    can_answer = True

    def handle(self, event: Event) -> None:
        """It is seen."""


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.fixture = FrontEndFixture()
        self.fixture.chat.views.attach(AnsweringView())
        self.fixture.start()
        self.chat = self.fixture.chat
        self.quits = 0
        codes = ContactCodes(
            identity=Identity.generate(lambda size: bytes(size)),
            own_name=lambda: self.chat.name,
            contacts=self.chat.contacts,
            views=self.chat.views,
            meet=meet_at_once,
            where="rendezvous.example:7001",
            now=lambda: 0.0,
            random=lambda size: bytes(range(size)),
        )
        self.opened: list[Path] = []
        self.transfers = Transfers(
            RecordingNode(),
            granted=lambda peer: False,
            blocked=lambda peer: self.chat.contacts.get(peer).blocked,
            opening=self.chat.calls.expect_automatic,
            folder=Path(self.mktemp()),
            run=maybeDeferred,
            clock=Clock(),
            tell=self.chat.views.tell,
        )
        self.addCleanup(self.transfers.stop)
        applications = Applications(codes, self.transfers, self.opened.append)
        self.context = CommandContext(self.chat, self.quit, applications)

    def offer(self) -> None:
        """Bob offers a file."""
        receiver = self.transfers.service.buildProtocol(SimpleNamespace(peer=BOB))
        receiver.makeConnection(StringTransport())
        offer = encode_offer(FilesOffer((Item("photo.jpg", EntryKind.FILE, 5, 1),), 1, ("sha256",)))
        receiver.dataReceived(len(offer).to_bytes(4, "big") + offer)

    def quit(self) -> None:
        self.quits += 1

    def do(self, name: str, /, **fields: Any) -> Any:
        return result(perform(self.context, name, fields))

    def refused(self, name: object, /, **fields: Any) -> str:
        with self.assertRaises(CommandRefused) as caught:
            result(perform(self.context, name, fields))
        self.assertTrue(str(caught.exception).endswith("."), str(caught.exception))
        return str(caught.exception.code)

    def connect(self, peer: PeerID = BOB, name: str = "bob") -> ChatLink:
        return self.fixture.connect(peer, name)


class CommandTests(Case):
    def test_nobody_is_called_like_a_command(self) -> None:
        """All words of the interface are reserved: no peer gets one as its petname by itself."""
        words = {*COMMANDS, *slash.SHORT, *slash.VIEW, *slash.HISTORY} - {"?"}
        self.assertEqual({word for word in words if not is_reserved(word)}, set())

    def test_every_command_is_done(self) -> None:
        """One after the other, each with what it needs: the table has no dead line."""
        file = str(Path(self.mktemp()).absolute())
        self.fixture.node.emit(incoming(EVE))
        self.fixture.node.emit(Registered("punch://x:1"))
        chat_link = self.connect()
        chat_link.far.send("hello there")
        chat_link.run()
        self.chat.new_page = lambda: "http://127.0.0.1:1/"
        done: dict[str, dict[str, Any]] = {
            "accept": {"peer": str(EVE)},
            "call": {"peer": str(BOB)},
            "send": {"text": "hi", "id": "mine"},
            "read": {"peer": str(BOB)},
            "history": {"peer": str(BOB), "limit": 10},
            "search": {"text": "HELLO"},
            "export": {"file": file},
            "retention": {"days": 30},
            "peers": {},
            "name": {"peer": str(BOB), "name": "robert"},
            "block": {"peer": str(EVE)},
            "unblock": {"peer": str(EVE)},
            "grant": {"peer": "robert", "service": "echo/1"},
            "revoke": {"peer": "robert", "service": "echo/1"},
            "rename": {"name": "al"},
            "status": {},
            "netcheck": {},
            "conversations": {},
            "web": {},
            "invite": {"name": "carol"},
            "uninvite": {},
            "join": {"code": "48213-coyote-tulip-yogurt"},
            "send-files": {"peer": str(BOB), "paths": [file]},
            "transfers": {},
            "stop-files": {"transfer": 1},
            "dismiss-files": {"transfer": 1},
            "accept-files": {"transfer": 2},
            "open-folder": {"transfer": 2},
            "refuse-files": {"transfer": 3},
            "hangup": {"peer": "robert"},
            "erase": {"all": True},
            "forget": {"peer": "ROBERT"},
            "quit": {},
        }
        Path(file).write_bytes(b"content")
        found = {}
        for name, fields in done.items():
            if name == "accept-files":
                self.offer()
                self.offer()
            if name == "export":
                Path(file).unlink()
            found[name] = self.do(name, **fields)
        self.assertEqual(self.opened, [self.transfers.folder])
        self.fixture.node.emit(incoming(EVE))
        found["reject"] = self.do("reject", peer=str(EVE))
        self.assertEqual(found.keys(), COMMANDS.keys())
        for name, answer in found.items():
            self.assertEqual(answer is not None, COMMANDS[name].asks or name == "send", name)
            json.dumps(answer)
            told = list(answers.lines(name, answer, lambda peer: "bob", 0.0)) if COMMANDS[name].asks else [""]
            self.assertTrue(told, name)
        self.assertEqual([m["text"] for m in found["history"]["messages"]], ["hello there", "hi"])
        self.assertEqual([m["state"] for m in found["history"]["messages"]], ["read", "sent"])
        self.assertEqual([m["text"] for m in found["search"]["messages"]], ["hello there"])
        self.assertEqual(found["export"], {"file": file, "messages": 2})
        exported = [json.loads(line) for line in Path(file).read_text().splitlines()]
        self.assertEqual([line["text"] for line in exported], ["hello there", "hi"])
        self.assertEqual(found["erase"], {"messages": 2})
        self.assertEqual((self.quits, self.chat.name), (1, "al"))

    def test_every_command_can_be_typed(self) -> None:
        self.connect()
        for name, command in COMMANDS.items():
            fields = {
                FieldKind.PEER: str(BOB),
                FieldKind.TEXT: "some words",
                FieldKind.NAME: "robert",
                FieldKind.SERVICE: "echo/1",
                FieldKind.LIMIT: "5",
                FieldKind.DAYS: "7",
                FieldKind.FILE: "/tmp/file",
                FieldKind.FILES: "/tmp/a file",
                FieldKind.TRANSFER: "3",
            }
            words = " ".join(fields[command.field(each).kind] for each in command.typed)
            typed = slash.parse(f"{name} {words}", self.chat, None, None)
            assert isinstance(typed, slash.TypedCommand)
            self.assertEqual((typed.name, set(typed.fields)), (name, set(command.typed)))
            self.assertTrue(any(name in line for line in slash.help_lines(name)))

    def test_paths_of_files(self) -> None:
        """`-` is a file like any other, not the standard input of this process; `~` is the home directory."""
        home = Path(self.mktemp()).absolute()
        home.mkdir()
        self.assertEqual(self.refused("send-files", peer=str(BOB), paths=["-"]), "bad-file")
        Path("-").write_bytes(b"content")
        self.addCleanup(Path("-").unlink)
        self.patch(os, "environ", {**os.environ, "HOME": str(home)})
        (home / "x").touch()
        answer = self.do("send-files", peer=str(BOB), paths=["-", "~/x"])
        self.assertEqual([(item["name"], item["size"]) for item in answer["items"]], [("-", 7), ("x", 0)])

    def test_names_are_good_wherever_ids_are(self) -> None:
        self.do("name", peer=str(BOB), name="robert")
        self.do("call", peer="Robert")
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])
        self.assertEqual(self.refused("name", peer=str(EVE), name="ROBERT"), "name-taken")
        self.assertEqual(self.refused("name", peer=str(EVE), name="x" * 10_000), "bad-name")
        self.assertEqual(self.refused("name", peer=str(ME), name="me"), "self")
        self.do("name", peer="robert", name=None)
        self.assertEqual(self.refused("call", peer="robert"), "bad-peer-id")

    def test_services_are_granted(self) -> None:
        """Typed or as JSON, and the views are told."""
        self.do("name", peer=str(BOB), name="bob")
        typed = slash.parse("grant echo/1", self.chat, BOB, None)
        self.assertEqual(typed, slash.TypedCommand("grant", {"peer": str(BOB), "service": "echo/1"}))
        self.assertEqual(slash.parse(f"grant {BOB} echo/1", self.chat, None, None), typed)
        self.assertEqual(self.do("grant", peer=str(BOB), service="echo/1")["services"], ["echo/1"])
        told = list(answers.lines("peers", self.do("peers"), lambda peer: "bob", 0.0))
        self.assertTrue(told[0].endswith("  not known, may open echo/1"), told)
        self.assertEqual(self.do("revoke", peer=str(BOB), service="echo/1")["services"], [])
        self.assertEqual(self.refused("revoke", peer=str(BOB), service="echo/1"), "not-granted")
        self.assertEqual(self.do("grant", peer=str(BOB), service="ec\u200bho/1")["services"], ["echo/1"])
        self.assertEqual(self.refused("grant", peer=str(EVE), service="echo/1"), "unknown-peer")
        self.assertEqual(self.refused("grant", peer=str(ME), service="echo/1"), "self")
        self.assertEqual(self.refused("grant", peer=str(BOB), service="chat/2"), "bad-service")
        self.assertEqual(self.refused("grant", peer=str(BOB), service=5), "malformed")
        self.assertEqual(self.refused("grant", peer=str(BOB)), "malformed")

    def test_everything_is_not_erased_by_accident(self) -> None:
        self.assertEqual(self.refused("erase"), "malformed")
        self.assertEqual(self.refused("erase", all=False), "malformed")

    def test_an_export_overwrites_nothing(self) -> None:
        path = Path(self.mktemp())
        path.write_text("precious")
        self.assertEqual(self.refused("export", file=str(path)), "bad-file")
        self.assertEqual(path.read_text(), "precious")
        self.assertEqual(self.refused("export", file=str(path / "below")), "bad-file")

    def test_an_export_in_pages(self) -> None:
        for number in range(5):
            self.do("send", peer=str(BOB), text=f"message {number}")
        first = self.do("export", limit=3)
        rest = self.do("export", limit=3, after=first["next"])
        texts = [message["text"] for page in (first, rest) for message in page["messages"]]
        self.assertEqual((texts, rest["next"]), ([f"message {number}" for number in range(5)], None))

    def test_a_long_history_is_exported_whole(self) -> None:
        for number in range(MAX_LIMIT + 5):
            self.do("send", peer=str(BOB), text=f"m{number}")
        path = Path(self.mktemp())
        self.assertEqual(self.do("export", file=str(path))["messages"], MAX_LIMIT + 5)
        self.assertEqual(len(path.read_text().splitlines()), MAX_LIMIT + 5)

    @SETTINGS
    @given(
        st.sampled_from(sorted(set(COMMANDS) - {"quit", "export"})),
        st.dictionaries(
            st.sampled_from(
                ["peer", "text", "id", "limit", "before", "after", "days", "name", "all", "up_to", "service"]
            ),
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(),
                st.text(max_size=20),
                st.lists(st.integers(), max_size=2),
                st.just(str(BOB)),
                st.just({}),
            ),
        ),
    )
    def test_any_fields_are_done_or_refused(self, name: str, fields: dict[str, Any]) -> None:
        fixture = FrontEndFixture()
        fixture.start()
        try:
            answer = result(perform(CommandContext(fixture.chat, lambda: None), name, fields))
        except CommandRefused as error:
            self.assertTrue(error.code)
        else:
            json.dumps(answer)

    def test_no_command(self) -> None:
        for name in (None, 5, "", "dance", "x" * 10_000, ["call"]):
            self.assertIn(self.refused(name), ("malformed", "unknown-command"))


class TypedTests(Case):
    def parse(self, line: str, caller: PeerID | None = None) -> tuple[str, dict[str, Any]]:
        typed = slash.parse(line, self.chat, BOB, caller)
        assert isinstance(typed, slash.TypedCommand)
        return typed.name, typed.fields

    def test_who_is_meant(self) -> None:
        self.do("name", peer=str(EVE), name="eve")
        bob, eve = str(BOB), str(EVE)
        cases: list[tuple[str, tuple[str, dict[str, Any]]]] = [
            ("call", ("call", {"peer": bob})),
            ("CALL Eve", ("call", {"peer": eve})),
            ("ca\u200bll \u2060ev\xade\ufeff", ("call", {"peer": eve})),
            (f"call {eve[:28]}\u200b{eve[28:]}\u200b", ("call", {"peer": eve})),
            ("msg eve 👩\u200d💻", ("send", {"peer": eve, "text": "👩\u200d💻"})),
            (f"call {eve[:28].upper()} {eve[28:]}", ("call", {"peer": eve})),
            ("hangup", ("hangup", {"peer": bob})),
            ("history", ("history", {"peer": bob})),
            ("history 20", ("history", {"peer": bob, "limit": 20})),
            ("history eve 20", ("history", {"peer": eve, "limit": 20})),
            ("history search two  words", ("search", {"text": "two  words"})),
            ("history erase eve", ("erase", {"peer": eve})),
            ("erase all", ("erase", {"all": True})),
            ("history retention off", ("retention", {"days": None})),
            ("retention", ("retention", {})),
            ("retention 1.5", ("retention", {"days": 1.5})),
            ("export /tmp/file", ("export", {"file": "/tmp/file"})),
            ("name robert", ("name", {"peer": bob, "name": "robert"})),
            ("name eve evelyn", ("name", {"peer": eve, "name": "evelyn"})),
            ("name eve -", ("name", {"peer": eve, "name": None})),
            ("msg eve good morning", ("send", {"peer": eve, "text": "good morning"})),
            ("nick Robert", ("rename", {"name": "Robert"})),
            ("NI\u200bCK Боб", ("rename", {"name": "Боб"})),
            ("list", ("peers", {})),
            ("chats", ("conversations", {})),
            ("id", ("status", {})),
            ("q", ("quit", {})),
            ("exit", ("quit", {})),
        ]
        for line, order in cases:
            with self.subTest(line):
                self.assertEqual(self.parse(line), order)
        self.assertEqual(self.parse("accept", caller=EVE), ("accept", {"peer": eve}))
        self.assertEqual(slash.parse("to eve", self.chat, None, None), slash.SelectPeer(EVE))
        self.assertEqual(slash.parse("help /call", self.chat, None, None), slash.Help("call"))
        self.assertEqual(slash.parse("", self.chat, None, None), slash.Help(""))

    def test_a_file_that_is_there_is_sent(self) -> None:
        """To the current peer; what is no file is a message, as is anything else behind a name."""
        self.do("name", peer=str(EVE), name="eve")
        file = self.mktemp()
        bob = str(BOB)
        with self.assertRaises(CommandRefused):
            self.parse(f"send {file}")
        Path(file).touch()
        self.assertEqual(self.parse(f"send  {file} "), ("send-files", {"peer": bob, "paths": [file]}))
        self.assertEqual(self.parse(f"send eve {file}"), ("send-files", {"peer": str(EVE), "paths": [file]}))
        self.assertEqual(self.parse(f"msg eve {file}"), ("send", {"peer": str(EVE), "text": file}))
        self.assertEqual(self.parse(f"msg {bob} {file}"), ("send", {"peer": bob, "text": file}))
        with self.assertRaises(CommandRefused):
            slash.parse(f"send {file}", self.chat, None, None)
        with self.assertRaises(CommandRefused):
            self.parse("send a\0b")

    def test_a_word_is_no_folder(self) -> None:
        """What is sent by its name alone is a file; a folder is meant with a `/`, whole disks never."""
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.patch(os, "environ", {**os.environ, "HOME": str(folder)})
        (folder / "my photo.jpg").touch()
        bob = str(BOB)
        word = Path("ok")
        word.mkdir()
        self.addCleanup(word.rmdir)
        for text in ("ok", ".", "..", "~", "/", "./", "../..", "~/", "//", "~root"):
            line = f"send {bob} {text}"
            self.assertEqual(self.parse(line), ("send", {"peer": bob, "text": text}))
            with self.assertRaises(CommandRefused):
                self.parse(f"send {text}")
        for text in ("ok/", "./ok", "~/my photo.jpg"):
            sent = ("send-files", {"peer": bob, "paths": [text]})
            for line in (
                f"send {text}",
                f"send {bob} {text}",
                f"send-files {text}",
                f"send-files {bob} {text}",
            ):
                self.assertEqual(self.parse(line), sent)
        self.assertEqual(self.parse("send-files ok"), ("send-files", {"peer": bob, "paths": ["ok"]}))
        self.assertEqual(self.parse(f"send {bob} ~a\0b")[0], "send")

    def test_aliases_do_what_they_stand_for(self) -> None:
        """`/nick` gives oneself a name, `/list` shows the address book."""
        self.do("name", peer=str(EVE), name="eve")
        name, fields = self.parse("nick Robert")
        self.do(name, **fields)
        self.assertEqual(self.chat.name, "Robert")
        name, fields = self.parse("list")
        self.assertEqual([each["petname"] for each in self.do(name, **fields)["peers"]], ["eve"])
        for short, command in slash.SHORT.items():
            self.assertIn(f"/{short} for /{command}", "\n".join(slash.help_lines("")))

    def test_who_is_here_is_found_by_what_he_calls_himself(self) -> None:
        self.connect(EVE, "Mallory")
        self.assertEqual(self.parse("hangup mallory"), ("hangup", {"peer": str(EVE)}))

    def test_mistakes(self) -> None:
        for line in (
            "dance",
            "to",
            "to nobody",
            "call nobody",
            "quit now",
            "erase",
            "export",
            "search",
            "history many",
            "retention some",
            "name",
            "send",
        ):
            with self.subTest(line), self.assertRaises(CommandRefused) as caught:
                slash.parse(line, self.chat, BOB, None)
            self.assertTrue(str(caught.exception).endswith("."), str(caught.exception))

    def test_completions(self) -> None:
        def words(text: str) -> list[str]:
            return [word for word, _, _ in slash.completions(text, ["bob", "Barbara"])]

        self.assertEqual(words("/pe"), ["/peers"])
        self.assertEqual(words("/hi"), ["/history"])
        self.assertIn("/to", words("/"))
        self.assertEqual(words("/call b"), ["bob", "Barbara"])
        self.assertEqual(words("/call ba"), ["Barbara"])
        self.assertEqual(words("/call bob b"), [])
        self.assertEqual(words("/history se"), ["search"])
        self.assertEqual(words("/history erase bo"), ["bob"])
        self.assertEqual(words("/help ca"), ["call"])
        for text in ("hello", "//call b", "/search bo", "/call\nbo"):
            self.assertEqual(words(text), [], text)


class AnswerTests(SynchronousTestCase):
    def test_nothing_of_a_peer_acts_on_the_terminal(self) -> None:
        evil = "\x1b[2J\u202e\x07\r" + "x" * 10_000
        message = {
            "number": 1,
            "peer": str(BOB),
            "id": 1,
            "outgoing": False,
            "text": evil,
            "time": 0.0,
            "state": "unread",
        }
        contact = {
            "peer": str(BOB),
            "petname": None,
            "name": evil,
            "known": True,
            "blocked": False,
            "services": [evil],
        }
        lines = [
            *answers.lines("history", {"messages": [message]}, lambda peer: "bob", 0.0),
            *answers.lines("search", {"messages": [message]}, lambda peer: "bob", 0.0),
            *answers.lines("peers", {"peers": [contact]}, lambda peer: "bob", 0.0),
        ]
        for line in lines:
            self.assertNotRegex(line, "[\x00-\x1f\x7f-\x9f\u202a-\u202e]")
            self.assertLess(len(line), 700)
