"""The messages of a transfer, also on a stream: what is read back, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.protocols.basic import Int32StringReceiver
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.codec import (
    COPIED,
    DATA_HEAD,
    DataMessage,
    Message,
    MessageReader,
    decode_accept,
    decode_data,
    decode_entries,
    decode_failed,
    decode_file_end,
    decode_have,
    decode_offer,
    decode_zeros,
    encode_data,
    encode_done,
    encode_entries,
    encode_failed,
    encode_file_end,
    encode_have,
    encode_offer,
    encode_zeros,
    frames,
    message_type,
)
from punch.apps.files.messages import (
    BLOCK,
    DIGEST,
    MAX_ENTRIES,
    MAX_ITEMS,
    MAX_MESSAGE,
    MAX_SIZE,
    MAX_TEXT,
    PIECE,
    UNKNOWN_SIZE,
    Entry,
    EntryKind,
    FailureCode,
    FilesMessageError,
    FilesOffer,
    Item,
    TransferFailed,
    link_leads_outside,
    shown,
)
from punch.wire.strict_json import dumps

FILE = Entry(EntryKind.FILE, b"a", 5, 0o644, 1_700_000_000_000_000_000)
OFFER = FilesOffer((Item("a", EntryKind.FILE, 5, 1), Item("b", EntryKind.FOLDER, None, 2)), 4, ("sha256",))


def entry(path: bytes, **changes: object) -> bytes:
    """A message with one entry, made without any check."""
    values = {"kind": 1, "mode": 0o644, "size": 1, "modified": 0, "target": b"", **changes}
    target = values["target"]
    assert isinstance(target, bytes)
    header = struct.pack(
        ">BHQqHH", values["kind"], values["mode"], values["size"], values["modified"], len(path), len(target)
    )
    return b"\x03" + header + path + target


class MessageTests(SynchronousTestCase):
    def test_round_trips(self) -> None:
        self.assertEqual(decode_offer(encode_offer(OFFER)), OFFER)
        entries = [
            FILE,
            Entry(EntryKind.FOLDER, b"b", 0, 0o755, 1),
            Entry(EntryKind.LINK, b"b/l", target=b"x"),
            Entry(EntryKind.FILE, b"b/\xff", UNKNOWN_SIZE),
        ]
        (message,) = encode_entries(entries)
        self.assertEqual(list(decode_entries(message)), entries)
        self.assertEqual(decode_data(encode_data(3, 7, b"x")), (3, 7, b"x"))
        self.assertEqual(decode_zeros(encode_zeros(3, 7, 9)), (3, 7, 9))
        self.assertEqual(decode_file_end(encode_file_end(3, 7, b"d" * 32)), (3, 7, b"d" * 32))
        failed = decode_failed(encode_failed(TransferFailed(FailureCode.DISK, "a", "b")))
        self.assertEqual((failed.code, failed.subject, failed.detail), (FailureCode.DISK, "a", "b"))
        self.assertTrue(failed.by_peer)

    def test_long_lists_are_divided(self) -> None:
        entries = [Entry(EntryKind.FILE, b"f/%d" % number) for number in range(10_000)]
        messages = list(encode_entries(entries))
        self.assertGreater(len(messages), 1)
        self.assertLessEqual(max(map(len, messages)), MAX_MESSAGE)
        self.assertEqual([one for message in messages for one in decode_entries(message)], entries)
        blocks = bytes(DIGEST * 20_000)
        have = [decode_have(message, 5) for message in encode_have(4, blocks)]
        self.assertEqual(b"".join(part for _, part in have), blocks)

    def test_the_largest_offer_fits_into_a_message(self) -> None:
        items = tuple(Item("\x01" * 255, EntryKind.FILE, MAX_SIZE // 1000, 1) for _ in range(MAX_ITEMS))
        self.assertLess(len(encode_offer(FilesOffer(items, MAX_ENTRIES, ("blake3", "sha256")))), MAX_MESSAGE)

    def test_paths_that_lead_elsewhere(self) -> None:
        for path in (
            b"",
            b"/etc/passwd",
            b"..",
            b"../a",
            b"a/../../b",
            b"a/..",
            b"a//b",
            b"a/",
            b"./a",
            b"a/./b",
            b"a\0b",
            b"x" * 256,
            b"a/" + b"x" * 256,
            b"a/" * 2048 + b"a",
        ):
            with self.assertRaises(FilesMessageError, msg=path):
                list(decode_entries(entry(path)))
        for path in (b"...", b"..a", b"a\\..\\b", b"CON", b"x" * 255, b"-rf"):
            self.assertEqual([one.path for one in decode_entries(entry(path))], [path])

    def test_entries_that_are_refused(self) -> None:
        for message in (
            entry(b"a")[:-1],
            entry(b"a")[:9],
            entry(b"a", kind=4),
            entry(b"a", kind=0),
            entry(b"a", size=MAX_SIZE + 1),
            b"\x03",
        ):
            with self.assertRaises(FilesMessageError):
                list(decode_entries(message))

    def test_only_links_have_targets(self) -> None:
        for kind in (EntryKind.FILE, EntryKind.FOLDER):
            with self.assertRaises(FilesMessageError):
                list(decode_entries(entry(b"a", kind=kind, target=b"x" * 60_000)))

    def test_a_failure_tells_no_folder_of_this_machine(self) -> None:
        failed = decode_failed(encode_failed(TransferFailed(FailureCode.DISK, "/home/bob/private/a", "b")))
        self.assertEqual(failed.subject, "a")

    def test_set_user_id_is_not_a_permission(self) -> None:
        (one,) = decode_entries(entry(b"a", mode=0o177777))
        self.assertLessEqual(one.mode, 0o7777)

    def test_links(self) -> None:
        for path, target in (
            (b"a/l", b"/etc"),
            (b"a/l", b".."),
            (b"a/l", b"../b"),
            (b"a/b/l", b"../../c"),
            (b"a/l", b"b/../../.."),
            (b"a/l", b"b/../c"),
            (b"a/b/l", b".././c/.."),
            # If a/d/e/up leads to a, this leads to what a is in.
            (b"a/l", b"d/e/up/.."),
            (b"a/l", b""),
            (b"a/l", b"x\0y"),
        ):
            self.assertTrue(link_leads_outside(path, target), (path, target))
        for path, target in (
            (b"a/l", b"b"),
            (b"a/b/l", b"../c"),
            (b"a/b/l", b".."),
            (b"a/b/l", b"./.././c//d"),
        ):
            self.assertFalse(link_leads_outside(path, target), (path, target))

    def test_offers_that_are_refused(self) -> None:
        good = {"name": "a", "kind": "file", "size": 1, "files": 1}
        for content in (
            {},
            {"items": [], "entries": 0, "hashes": []},
            {"items": [good], "entries": 0, "hashes": []},
            {"items": [good], "entries": True, "hashes": []},
            {"items": [good], "entries": 1, "hashes": "sha256"},
            {"items": [good], "entries": 1, "hashes": [1]},
            {"items": [good] * 101, "entries": 101, "hashes": []},
            {"items": [{**good, "name": ""}], "entries": 1, "hashes": []},
            {"items": [{**good, "name": "x" * 256}], "entries": 1, "hashes": []},
            {"items": [{**good, "kind": "link"}], "entries": 1, "hashes": []},
            {"items": [{**good, "kind": ["file"]}], "entries": 1, "hashes": []},
            {"items": [{**good, "size": -1}], "entries": 1, "hashes": []},
            {"items": [{**good, "size": 1.5}], "entries": 1, "hashes": []},
            {"items": [{**good, "files": 2}], "entries": 1, "hashes": []},
            {"items": [1], "entries": 1, "hashes": []},
            {"items": [good], "entries": 1, "hashes": [], "stored": -1},
            {"items": [good], "entries": 1, "hashes": [], "stored": "1"},
            {"items": [good], "entries": 1, "hashes": [], "text": ""},
            {"items": [good], "entries": 1, "hashes": [], "text": 1},
            {"items": [good], "entries": 1, "hashes": [], "text": "ä" * (MAX_TEXT // 2 + 1)},
            {"items": [good] * 2, "entries": 2, "hashes": [], "text": "a"},
            {"items": [{**good, "kind": "folder", "files": 0}], "entries": 1, "hashes": [], "text": "a"},
            {"items": [{**good, "size": MAX_SIZE}] * 2, "entries": 2, "hashes": []},
        ):
            with self.assertRaises(FilesMessageError, msg=content):
                decode_offer(b"\x01" + dumps(content))

    def test_files_with_holes(self) -> None:
        offer = replace(OFFER, stored=3)
        self.assertEqual(decode_offer(encode_offer(offer)), offer)

    def test_a_text(self) -> None:
        """The longest one fits into a message, whatever is in it."""
        for text in ("a", "\0" * MAX_TEXT, "\U0001f600" * (MAX_TEXT // 4)):
            offer = replace(OFFER, items=OFFER.items[:1], entries=1, text=text)
            encoded = encode_offer(offer)
            self.assertLess(len(encoded), MAX_MESSAGE)
            self.assertEqual(decode_offer(encoded), offer)

    def test_pieces_that_are_refused(self) -> None:
        decoders: list[tuple[Callable[[bytes], object], bytes]] = [
            (decode_data, encode_data(0, 0, b"")),
            (decode_data, encode_data(0, 0, bytes(PIECE + 1))),
            (decode_zeros, encode_zeros(0, 0, 0)),
            (decode_zeros, encode_zeros(0, 0, BLOCK)),
            (decode_zeros, encode_zeros(0, 0, 1) + b"x"),
            (decode_file_end, encode_file_end(0, 0, b"d" * 32)[:-1]),
            (lambda message: decode_have(message, 1), next(encode_have(1, bytes(32)))),
            (lambda message: decode_have(message, 9), next(encode_have(1, bytes(31)))),
            (lambda message: decode_have(message, 9), struct.pack(">BI", 4, 1)),
            (lambda message: decode_accept(message, ["sha256"]), b"\x02md5"),
            (lambda message: decode_accept(message, ["sha256"]), b"\x02\xff"),
            (message_type, b""),
            (message_type, b"\x00"),
            (message_type, b"\xff"),
        ]
        for decode, message in decoders:
            with self.assertRaises(FilesMessageError):
                decode(message)

    def test_names_that_json_cannot_carry(self) -> None:
        self.assertEqual(shown(b"a\xffb"), "a?b")
        self.assertEqual(shown("a\udcffb"), "a?b")

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(st.binary(max_size=200))
    def test_garbage_raises_nothing_else(self, content: bytes) -> None:
        for decode in (
            message_type,
            decode_offer,
            lambda message: list(decode_entries(message)),
            lambda message: decode_have(message, 5),
            decode_data,
            decode_zeros,
            decode_file_end,
            lambda message: decode_accept(message, ["sha256"]),
        ):
            try:
                decode(content)
            except FilesMessageError as error:
                self.assertIs(error.code, FailureCode.PROTOCOL)
        try:
            decode_failed(content)
        except FilesMessageError:
            return


CONTENT = Random(1).randbytes(PIECE)


MESSAGES: list[Message] = [
    encode_done(),
    b"",
    encode_data(1, 2, b"few bytes"),
    DataMessage(3, PIECE, [CONTENT]),
    DataMessage(4, 0, [CONTENT[:5000], bytearray(CONTENT[5000:5001]), memoryview(CONTENT)[5001:20_000]]),
    bytes([200]) + CONTENT[: COPIED + 1],
    encode_file_end(1, 2, bytes(32)),
]


def plain(message: Message) -> bytes:
    """A message as bytes."""
    if isinstance(message, bytes):
        return message
    return encode_data(message.index, message.offset, b"".join(message.parts))


STREAM = b"".join(len(plain(each)).to_bytes(4, "big") + plain(each) for each in MESSAGES)


class TwistedReader(Int32StringReceiver):
    """Reads messages as released versions of Punch do."""

    MAX_LENGTH = MAX_MESSAGE

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def stringReceived(self, string: bytes) -> None:
        self.messages.append(string)


class FramingTests(SynchronousTestCase):
    def test_as_released_peers_read_and_write(self) -> None:
        self.assertEqual(b"".join(frames(MESSAGES)), STREAM)
        reader = TwistedReader()
        for piece in frames(MESSAGES):
            reader.dataReceived(bytes(piece))
        self.assertEqual(reader.messages, list(map(plain, MESSAGES)))

    def test_cut_once_near_the_beginning_of_a_message(self) -> None:
        """The stream comes in two pieces, cut at each byte of a length, and of what follows the length."""
        begin, cuts = 0, set[int]()
        for message in MESSAGES:
            cuts |= set(range(begin, begin + 32))
            begin += 4 + len(plain(message))
        for cut in sorted(cuts):
            reader = MessageReader()
            found = [*reader.receive(STREAM[:cut]), *reader.receive(STREAM[cut:])]
            self.assertEqual(list(map(plain, found)), list(map(plain, MESSAGES)), cut)

    def test_content_is_not_copied(self) -> None:
        pieces = list(frames([DataMessage(0, 0, [CONTENT])]))
        self.assertIs(pieces[-1], CONTENT)
        stream = b"".join(pieces)
        (message,) = MessageReader().receive(stream)
        assert isinstance(message, DataMessage)
        (part,) = message.parts
        assert isinstance(part, memoryview)
        self.assertIs(part.obj, stream)

    def test_small_messages_are_written_together(self) -> None:
        pieces = list(frames([encode_data(index, 0, bytes(1024)) for index in range(64)]))
        self.assertLess(len(pieces), 20)

    def test_messages_that_are_too_long(self) -> None:
        reader = MessageReader()
        done = b"".join(frames([encode_done()]))
        found = []
        with self.assertRaises(FilesMessageError):
            for message in reader.receive(done + (MAX_MESSAGE + 1).to_bytes(4, "big")):
                found.append(message)
        self.assertEqual(found, [encode_done()])
        with self.assertRaises(FilesMessageError):
            list(MessageReader().receive(b"".join(frames([DataMessage(0, 0, [bytes(PIECE + 1)])]))))
        (longest,) = MessageReader().receive(b"".join(frames([DataMessage(0, 0, [bytes(PIECE)])])))
        self.assertEqual(len(longest), DATA_HEAD + PIECE)
