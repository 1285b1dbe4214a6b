"""Questions at a prompt, and what answers them."""

from __future__ import annotations

from punch.apps.files.events import Stage, Transfer, TransferChanged
from punch.apps.files.messages import EntryKind, FilesOffer, Item
from punch.node.events import (
    Introduced,
)
from punch.test.ui.front_ends import BOB, EVE, incoming
from punch.test.ui.terminal.test_front_end import TerminalCase


class QuestionTests(TerminalCase):
    def test_an_answer(self) -> None:
        self.emit(incoming(EVE))
        self.assertIn(f"Let eve ({EVE}) connect? [y/n]", self.prompt.take())
        self.assertIn("a question waits: y or n", self.prompt.status)
        self.type("y")
        self.assertEqual(self.fixture.node.asked, [("accept", EVE)])
        self.assertNotIn("question", self.prompt.status)

    def test_commands_answer_as_well(self) -> None:
        self.emit(incoming(EVE))
        self.type("/reject")
        self.assertEqual(self.fixture.node.asked, [("reject", EVE)])
        self.assertIsNone(self.front_end.line.questions.open)

    def test_a_line_begun_before_the_question_is_no_answer(self) -> None:
        chat_link = self.connect()
        begun = len(self.prompt.shown)
        self.emit(incoming(EVE))
        self.type("y", seen=begun)
        self.type("is that you?")
        chat_link.run()
        self.assertEqual((chat_link.heard, self.fixture.node.asked), (["y", "is that you?"], []))
        self.type("y")
        self.assertEqual(self.fixture.node.asked, [("accept", EVE)])

    def test_another_view_answers(self) -> None:
        self.emit(incoming(EVE))
        self.fixture.chat.accept(EVE)
        self.emit(Introduced(EVE, "eve"))
        self.assertIsNone(self.front_end.line.questions.open)

    def test_files_are_offered(self) -> None:
        """The answer is a command about this offer; one that was answered elsewhere is not asked about."""
        tell = self.fixture.chat.views.tell
        transfers = [
            Transfer(number, BOB, False, FilesOffer((Item(f"{number}.txt", EntryKind.FILE, 9, 1),), 1, ()))
            for number in (7, 8, 9)
        ]
        for transfer in transfers:
            tell(TransferChanged(transfer))
        shown = self.prompt.take()
        self.assertEqual((shown.count("wants to send you"), shown.count("[y/n]")), (3, 1))
        self.assertIn(f"Receive 7.txt from {BOB.short}", shown)
        self.type("y")
        # No files can be received in this process
        self.assertIn("Files can't be sent here", self.prompt.take())
        question = self.front_end.line.questions.open
        assert question is not None
        self.assertIn("8.txt", question.text())
        for transfer in transfers[1:]:
            transfer.stage = Stage.FAILED
        tell(TransferChanged(transfers[1]))
        self.assertIsNone(self.front_end.line.questions.open)

    def test_erasing_is_asked_about(self) -> None:
        self.connect()
        self.type("a secret")
        self.type("/erase")
        self.assertIn("Something is missing", self.prompt.take())
        self.type("/erase all")
        self.assertIn("Erase all messages of everybody", self.prompt.take())
        self.type("n")
        self.assertEqual(self.prompt.shown[-1], "Nothing was erased.")
        self.assertIn(b"a secret", self.path.read_bytes())
        self.type("/history erase all")
        self.type("y")
        self.assertIn("1 message erased", self.prompt.take())
        self.assertEqual(self.prompt.lines, [])
        self.assertFalse(self.path.exists())

    def test_quitting_without_a_history_asks_about_what_would_be_lost(self) -> None:
        self.begin(history=False)
        self.type(f"/to {BOB}")
        self.type("later")
        self.assertFalse(self.path.exists())
        for give_up in (lambda: self.type("/quit"), self.front_end.ended):
            give_up()
            self.assertIn("1 message not delivered, and nothing is kept", self.prompt.take())
            self.type("n")
            self.assertEqual(self.fixture.ends, [])
        self.type("/quit")
        self.type("y")
        self.assertEqual(self.fixture.ends, [(0, None)])
