"""Files that are offered to a user in a terminal: which lines answer, and which do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.codec import encode_offer
from punch.apps.files.events import Stage
from punch.apps.files.messages import EntryKind, FilesOffer, Item
from punch.apps.files.transfers import Transfers
from punch.identity import PeerID
from punch.test.ui.front_ends import BOB, EVE, ChatLink, FrontEndFixture, incoming
from punch.test.ui.terminal.test_front_end import RecordingPrompt
from punch.ui.command import Applications
from punch.ui.standard_streams import InputKind
from punch.ui.stdio import StdioFrontEnd
from punch.ui.terminal.front_end import TerminalFrontEnd
from punch.ui.terminal.line_history import LineHistory
from punch.ui.text_renderer import OFFER_TIME


class Unreachable:
    """A node through which no stream can be opened."""

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred()


class PlainTests(SynchronousTestCase):
    """Plain lines in a terminal: Alice talks with Eve, and Bob offers files."""

    def setUp(self) -> None:
        self.fixture = fixture = FrontEndFixture(EVE)
        folder = Path(self.mktemp())
        folder.mkdir()
        self.transfers = Transfers(
            Unreachable(),
            granted=lambda peer: False,
            blocked=lambda peer: False,
            opening=lambda peer: None,
            folder=folder,
            run=maybeDeferred,
            clock=fixture.clock,
            tell=fixture.chat.views.tell,
        )
        self.addCleanup(self.transfers.stop)
        fixture.context = replace(fixture.context, applications=Applications(transfers=self.transfers))
        self.make()
        fixture.start()
        self.eve: ChatLink = fixture.connect(EVE, "eve")
        self.take()

    def make(self) -> None:
        fixture = self.fixture
        self.plain = StdioFrontEnd(
            fixture.settings,
            fixture.context,
            fixture.chat,
            fixture.screen,
            InputKind.TERMINAL,
            terminal=True,
            environ={"TERM": "dumb"},
        )

    def take(self) -> str:
        return self.fixture.screen.take().rstrip("\n")

    def type(self, text: str) -> None:
        self.plain.input_received(f"{text}\n".encode())

    def offer(self, name: str = "photo.jpg") -> None:
        receiver = self.transfers.service.buildProtocol(SimpleNamespace(peer=BOB))
        receiver.makeConnection(StringTransport())
        offer = encode_offer(FilesOffer((Item(name, EntryKind.FILE, 5, 1),), 1, ("sha256",)))
        receiver.dataReceived(len(offer).to_bytes(4, "big") + offer)

    def stages(self) -> list[Stage]:
        return [each.stage for each in sorted(self.transfers.all, key=lambda each: each.number)]

    def heard(self) -> list[str]:
        """What Eve has been told."""
        self.eve.run()
        return self.eve.heard

    def test_yes(self) -> None:
        self.offer()
        self.assertIn("Receive photo.jpg from", self.take())
        self.type("y")
        self.assertEqual((self.stages(), self.heard()), ([Stage.RUNNING], []))

    def test_no(self) -> None:
        """It ends this offer only, and the next one is asked about."""
        self.offer()
        self.offer("other.txt")
        self.take()
        self.type("n")
        self.assertEqual((self.stages(), self.heard()), ([Stage.FAILED, Stage.OFFERED], []))
        self.assertIn("Receive other.txt from", self.take())

    def test_an_hour_later(self) -> None:
        """A line goes to the one who is talked to. The offer waits, and a command answers it."""
        self.offer()
        self.fixture.clock.advance(OFFER_TIME - 1)
        self.take()
        self.fixture.clock.advance(3600)
        self.type("yes")
        self.assertEqual((self.stages(), self.heard()), ([Stage.OFFERED], ["yes"]))
        self.assertIn("Type /accept-files 1 or /refuse-files 1 to answer", self.take())
        self.type("/refuse-files 1")
        self.assertEqual(self.stages(), [Stage.FAILED])

    def test_below_a_message(self) -> None:
        """It may be meant for either: the question is asked again, and nothing is sent."""
        for answer, stage in (("yes", Stage.RUNNING), ("no", Stage.FAILED)):
            self.offer(answer)
            self.eve.far.send("shall we?")
            self.eve.run()
            self.take()
            self.type(answer)
            self.assertEqual((self.stages()[-1], self.heard()), (Stage.OFFERED, []))
            self.assertRegex(self.take(), rf"^Receive {answer} from .*\[y/n\]$")
            self.type(answer)
            self.assertEqual((self.stages()[-1], self.heard()), (stage, []))

    def test_other_lines_go_on(self) -> None:
        self.offer()
        self.take()
        self.type("look at that")
        self.assertEqual(self.heard(), ["look at that"])
        self.assertNotIn("y or n", self.take())
        self.type("y")
        self.assertEqual(self.stages(), [Stage.RUNNING])

    def test_what_the_user_began_is_asked_first(self) -> None:
        """Also before a call: "y" would let that peer in."""
        self.offer()
        self.fixture.node.emit(incoming(BOB, "bob"))
        self.take()
        self.type("/erase all")
        self.assertIn("Erase all messages of everybody", self.take())
        self.type("n")
        self.assertRegex(self.take(), r"Nothing was erased\.(?s:.*)Receive photo\.jpg from .*\[y/n\]")
        self.assertEqual((self.stages(), self.fixture.node.asked), ([Stage.OFFERED], [("call", EVE)]))
        self.type("n")
        self.type("/erase all")
        self.type("y")
        self.assertIn("erased", self.take())
        self.assertEqual(self.fixture.node.asked, [("call", EVE)])
        self.type("n")
        self.assertEqual(self.fixture.node.asked, [("call", EVE), ("reject", BOB)])


class PromptTests(PlainTests):
    """The same at a prompt, and what only a prompt knows."""

    def make(self) -> None:
        self.prompt = RecordingPrompt()
        fixture = self.fixture
        self.front_end = TerminalFrontEnd(
            fixture.settings, fixture.context, fixture.chat, self.prompt, LineHistory(None), environ={}
        )

    def take(self) -> str:
        return self.prompt.take()

    def type(self, text: str) -> None:
        self.front_end.entered(text, len(self.prompt.shown))

    def test_a_line_that_was_begun_before_the_message(self) -> None:
        """It was meant for the question."""
        self.offer()
        begun = len(self.prompt.shown)
        self.eve.far.send("shall we?")
        self.eve.run()
        self.front_end.entered("y", begun)
        self.assertEqual(self.stages(), [Stage.RUNNING])

    def test_nobody_is_there(self) -> None:
        """The status line does not say for ever that a question waits."""
        self.offer()
        self.offer("other.txt")
        self.assertIn("a question waits", self.prompt.status)
        for name in ("photo.jpg", "other.txt"):
            shown = self.take()
            self.assertIn(f"Receive {name}", shown)
            self.fixture.clock.pump([1.0] * (int(OFFER_TIME) + 2))
        self.assertNotIn("a question waits", self.prompt.status)
        self.assertEqual(self.stages(), [Stage.OFFERED] * 2)
