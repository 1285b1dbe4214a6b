"""Transfers as JSON, and as lines of a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.events import Stage, Transfer, TransferChanged, TransferDismissed, TransferProgress
from punch.apps.files.messages import EntryKind, FailureCode, FilesOffer, Item, TransferFailed
from punch.local.protocol import CommandError
from punch.test.apps.chat.chat_network import peer_id
from punch.ui.json.events import transfer_event, transfer_fields
from punch.ui.text.answers import transfer_line

OFFER = FilesOffer(
    (Item("a\x1b[2Jb", EntryKind.FILE, 5, 1), Item("aux", EntryKind.FOLDER, 10, 3)), 7, ("sha256",)
)


class TransferTests(SynchronousTestCase):
    def transfer(self, stage: Stage, outgoing: bool = False, **fields: object) -> Transfer:
        transfer = Transfer(3, peer_id(1), outgoing, OFFER, stage)
        for name, value in fields.items():
            setattr(transfer, name, value)
        return transfer

    def test_an_offer(self) -> None:
        """Names are as they came, and what is odd about each is said."""
        event = transfer_event(TransferChanged(self.transfer(Stage.OFFERED)), "bob")
        self.assertEqual((event["event"], event["transfer"], event["size"]), ("transfer-offered", 3, 15))
        first, second = event["items"]
        self.assertEqual(
            (first["name"], first["kind"], first["size"], first["files"]), ("a\x1b[2Jb", "file", 5, 1)
        )
        self.assertIn("control characters", first["oddities"][0])
        self.assertIn("Windows", second["oddities"][0])
        json.dumps(event)

    def test_every_stage(self) -> None:
        """One event and one harmless line each; a sentence where it did not go well."""
        failed = TransferFailed(FailureCode.NO_SPACE, by_peer=True)
        for stage in Stage:
            for outgoing in (False, True):
                for problem in (failed, CommandError("no-service", "There is no such service."), None):
                    transfer = self.transfer(stage, outgoing, problem=problem, folder=Path("/tmp/x"))
                    event = transfer_event(TransferChanged(transfer), "bob")
                    self.assertEqual(event["event"], f"transfer-{stage.value}")
                    if stage is Stage.WAITING or (stage is Stage.FAILED and problem is not None):
                        self.assertTrue(event["text"].endswith("."), event)
                    line = transfer_line(transfer_fields(transfer, "bob"), "bob")
                    self.assertTrue(line.isprintable(), line)

    def test_other_events(self) -> None:
        transfer = self.transfer(Stage.RUNNING, position=4)
        for event in (TransferProgress(transfer), TransferDismissed(transfer)):
            fields = transfer_event(event, "bob")
            self.assertEqual((fields["transfer"], fields["position"], fields["size"]), (3, 4, 15))

    def test_a_path_that_is_no_text(self) -> None:
        path = Path(os.fsdecode(b"/tmp/\xff"))
        fields = transfer_fields(self.transfer(Stage.DONE, folder=path, finals=[path]), "bob")
        self.assertEqual((fields["folder"], fields["paths"]), ("/tmp/\ufffd", ["/tmp/\ufffd"]))
        json.dumps(fields).encode()
