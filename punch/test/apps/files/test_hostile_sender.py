"""Senders of files that send what they did not offer, and receivers that claim too much."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from punch.apps.files.codec import encode_data, encode_entries, encode_file_end, encode_zeros
from punch.apps.files.messages import (
    BLOCK,
    MAX_PATHS,
    Entry,
    EntryKind,
    FailureCode,
    FilesMessageError,
    FilesOffer,
    Item,
    MessageType,
    TransferFailed,
)
from punch.apps.files.source_reader import SourceReader, check_have
from punch.apps.files.target import Target
from punch.test.apps.files.test_transfer import TransferTestCase, send


class HostileSenderTests(TransferTestCase):
    """A sender that sends what it did not offer."""

    def target(self, *entries: Entry, item: Item | None = None) -> Target:
        if item is None:
            item = Item("a", entries[0].kind, sum(entry.size for entry in entries), len(entries) - 1)
        offer = FilesOffer((item,), len(entries), ("sha256",))
        target = Target(self.folder, "mallory", offer)
        self.addCleanup(target.close)
        for message in encode_entries(entries):
            target.receive(message)
        return target

    def refused(self, *entries: Entry, item: Item | None = None) -> None:
        with self.assertRaises(FilesMessageError):
            self.target(*entries, item=item)
        self.doCleanups()

    def test_entries(self) -> None:
        folder = Entry(EntryKind.FOLDER, b"a", 0, 0o755)
        file = Entry(EntryKind.FILE, b"a", 5)
        self.refused(file, item=Item("b", EntryKind.FILE, 5, 1))
        self.refused(file, item=Item("a", EntryKind.FILE, 4, 1))
        self.refused(file, item=Item("a", EntryKind.FILE, None, 1))
        self.refused(folder, item=Item("a", EntryKind.FILE, 0, 0))
        self.refused(folder, folder)
        self.refused(folder, Entry(EntryKind.FILE, b"b/c", 1))
        self.refused(file, Entry(EntryKind.FILE, b"a/c", 1), item=Item("a", EntryKind.FILE, 6, 2))
        self.refused(Entry(EntryKind.LINK, b"a", target=b"x"), item=Item("a", EntryKind.FILE, 0, 0))
        self.refused(
            folder, Entry(EntryKind.LINK, b"a/l", target=b"../.."), item=Item("a", EntryKind.FOLDER, 0, 0)
        )
        self.refused(
            folder,
            Entry(EntryKind.LINK, b"a/l", target=b"b"),
            Entry(EntryKind.FILE, b"a/l/x", 1),
            item=Item("a", EntryKind.FOLDER, 1, 1),
        )

    def test_content(self) -> None:
        def file() -> Target:
            self.doCleanups()
            return self.target(
                Entry(EntryKind.FOLDER, b"a"),
                Entry(EntryKind.FILE, b"a/f", 5),
                Entry(EntryKind.FILE, b"a/g", 2 * BLOCK),
            )

        for messages in (
            [encode_data(0, 0, b"x")],
            [encode_data(3, 0, b"x")],
            [encode_data(1, 0, b"123456")],
            [encode_data(1, 1, b"x")],
            [encode_data(1, 2**63, b"x")],
            [encode_data(1, 0, b"xy"), encode_data(1, 1, b"x")],
            [encode_data(1, 0, b"xy"), encode_data(2, 0, b"x")],
            [encode_zeros(2, BLOCK, 5)],
            [encode_file_end(1, 4, bytes(32))],
            [encode_file_end(1, 5, bytes(32))],
            [encode_data(1, 0, b"x"), encode_file_end(1, 1, bytes(32))],
            [bytes([MessageType.DONE])],
            [bytes([MessageType.ENTRIES]) + b"x"],
            [bytes([MessageType.ENTRIES])],
            list(encode_entries([Entry(EntryKind.FILE, b"a/h")])),
        ):
            target = file()
            with self.assertRaises(FilesMessageError, msg=messages):
                target.receive_all(messages)

    def test_links_that_lead_out_through_another(self) -> None:
        folders = [Entry(EntryKind.FOLDER, path, 0, 0o755) for path in (b"a", b"a/b", b"a/b/c")]
        up = Entry(EntryKind.LINK, b"a/b/c/up", target=b"../..")
        out = Entry(EntryKind.LINK, b"a/out", target=b"b/c/up/..")
        self.refused(*folders, up, out, item=Item("a", EntryKind.FOLDER, 0, 0))
        target = self.target(*folders, up, item=Item("a", EntryKind.FOLDER, 0, 0))
        self.assertEqual((self.folder / "a/b/c/up").resolve(), self.folder / "a")
        self.assertTrue(target.complete)

    def test_long_paths(self) -> None:
        """They are kept until the end, so there is a bound for all of them together."""
        offer = FilesOffer((Item("a", EntryKind.FOLDER, 0, 0),), 1_000_000, ("sha256",))
        target = Target(self.folder, "mallory", offer)
        self.addCleanup(target.close)
        target.receive_all(encode_entries([Entry(EntryKind.FOLDER, b"a", 0, 0o755)]))
        # One long text stands for the many short ones that messages can bring.
        long = bytes(MAX_PATHS // 4)
        for number in range(3):
            target.add_entries([Entry(EntryKind.FILE, b"a/%d" % number, target=long)])
        with self.assertRaises(FilesMessageError) as caught:
            target.add_entries([Entry(EntryKind.FILE, b"a/3", target=long)])
        self.assertIn("too long", caught.exception.detail)

    def test_a_target_that_is_stopped(self) -> None:
        """A call in a thread ends soon when the transfer is over."""
        target = self.target(Entry(EntryKind.FILE, b"a", 5), item=Item("a", EntryKind.FILE, 5, 1))
        target.stop()
        with self.assertRaises(TransferFailed) as caught:
            target.receive_all([encode_data(0, 0, b"hello")])
        self.assertIs(caught.exception.code, FailureCode.CANCELLED)
        self.assertEqual(target.position, 0)

    def test_a_wrong_digest(self) -> None:
        target = self.target(Entry(EntryKind.FILE, b"a", 5), item=Item("a", EntryKind.FILE, 5, 1))
        target.receive(encode_data(0, 0, b"hello"))
        with self.assertRaises(TransferFailed) as caught:
            target.receive(encode_file_end(0, 5, bytes(32)))
        self.assertIs(caught.exception.code, FailureCode.CORRUPTED)
        self.assertEqual(os.listdir(self.partial), [])
        self.assertFalse((self.folder / "a").exists())

    def test_more_than_the_disk_holds(self) -> None:
        offer = FilesOffer((Item("a", EntryKind.FILE, 2**52, 1),), 1, ("sha256",))
        with self.assertRaises(TransferFailed) as caught:
            Target(self.folder, "mallory", offer)
        self.assertIs(caught.exception.code, FailureCode.NO_SPACE)
        # What is known counts, even if something else is not.
        offer = FilesOffer((*offer.items, Item("b", EntryKind.FILE, None, 1)), 2, ("sha256",))
        with self.assertRaises(TransferFailed) as caught:
            Target(self.folder, "mallory", offer)
        self.assertIs(caught.exception.code, FailureCode.NO_SPACE)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_target_that_cannot_be_written(self) -> None:
        offer = FilesOffer((Item("a", EntryKind.FILE, 1, 1),), 1, ("sha256",))
        with self.assertRaises(TransferFailed) as caught:
            Target(Path("/proc"), "mallory", offer)
        self.assertIs(caught.exception.code, FailureCode.DISK)

    def test_no_common_digest(self) -> None:
        offer = FilesOffer((Item("a", EntryKind.FILE, 1, 1),), 1, ("md5",))
        with self.assertRaises(FilesMessageError):
            Target(self.folder, "mallory", offer)

    def test_a_time_that_no_file_has(self) -> None:
        source = self.find(self.file("a", b"x").name)
        entries = [replace(source.entries[0], modified=modified) for modified in (2**63 - 1, -(2**63))]
        for entry in entries:
            changed = replace(source, entries=(entry,))
            target = Target(self.folder, "mallory", source.offer)
            messages: Sequence[bytes] = list(encode_entries(changed.entries))
            target.receive_all(messages)
            digest = SourceReader(source, target.hash_name, {}).batch()
            target.receive_all(digest)
            self.assertEqual(target.finals[0].read_bytes(), b"x")

    def test_a_receiver_that_claims_too_much(self) -> None:
        source = self.find(self.file("a", b"x").name)
        with self.assertRaises(FilesMessageError):
            check_have(source, {}, 0, bytes(64))
        folder = replace(source, entries=(Entry(EntryKind.FOLDER, b"a"),))
        with self.assertRaises(FilesMessageError):
            check_have(folder, {}, 0, bytes(32))
        _, reader = send(source, self.folder)
        self.assertEqual(reader.sent, 1)
        # A digest that is not that of the block counts for nothing.
        reader = SourceReader(source, "sha256", {0: bytearray(struct.pack("32s", b"wrong"))})
        reader.batch()
        self.assertEqual(reader.sent, 1)
