"""Services on a link: what peers say about codes, files, forwarded datagrams and pipes."""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from punch.apps.codes.code import Card, Code, CodeError, CodePurpose, completions, words
from punch.apps.codes.exchange import MAX_ATTEMPTS, Issuer, Redeemer
from punch.apps.files import codec
from punch.apps.files.codec import (
    encode_accept,
    encode_data,
    encode_done,
    encode_entries,
    encode_failed,
    encode_file_end,
    encode_have,
    encode_have_end,
    encode_offer,
    encode_zeros,
)
from punch.apps.files.messages import (
    Entry,
    EntryKind,
    FilesMessageError,
    FilesOffer,
    Item,
    MessageType,
    file_digest,
)
from punch.apps.files.protocol import FileSender
from punch.apps.files.receiver import FileReceiver
from punch.apps.files.source import find_source
from punch.apps.forward.messages import (
    DatagramReader,
    End,
    PipeError,
    PipeReader,
    PipeStatus,
    encode_datagram,
    encode_end,
    encode_piece,
    encode_status,
)
from punch.local.protocol import (
    Abort,
    CommandError,
    Mark,
    StreamFrameReader,
    frames,
    read_fields,
    request_fields,
)
from punch.local.protocol import line as encode_fields
from punch.sanitize import sanitize
from punch.test.apps.codes.test_exchange import forward
from punch.test.strategies import IDENTITIES
from punch.ui.text.codes import code_error_sentence
from punch.wire.control import (
    Answered,
    Candidates,
    Establish,
    Incoming,
    Request,
)
from punch.wire.control_lines import encode as encode_line
from punch.wire.fields import is_visible
from punch.wire.peers.sealed import Envelope
from tests.fuzz.files import directory
from tests.fuzz.target import Reader, check_log, chunk, target

T = TypeVar("T")

# -- codes --

CODE = Code(48213, ("coyote", "tulip", "yogurt"))
WRONG = Code(48213, ("tulip", "coyote", "yogurt"))
OWNER, CALLER, MALLORY = IDENTITIES[:3]


def _texts() -> Iterator[bytes]:
    for text in (
        str(CODE),
        " 48213 Coyote\u2013TULIP yogurt\n",
        "\uff14\uff18\uff12\uff11\uff13-coyote-tul",
        "48213 coyote tulp",
    ):
        yield text.encode()


@target(_texts, longest=200)
def code_text(data: bytes) -> None:
    """What somebody types or pastes as a code: one, or a sentence that says what is wrong."""
    text = data.decode("utf-8", "surrogateescape")
    part, offered = completions(text)
    assert all(word.startswith(part) and word in words() for word in offered)
    try:
        code = Code.parse(text)
    except CodeError as error:
        said = code_error_sentence(error)
        assert len(said) < 400, said
        # What has no meaning yet in Unicode is shown as it is, since the next version may have it.
        assert sanitize(said).replace("\n", "").replace("\t", "") == said, said
        return
    assert Code.parse(str(code)) == code


def _exchanges() -> Iterator[bytes]:
    body = b'{"version":1,"pake":"%s"}' % (b"QQ" * 22)
    yield b"\0" + chunk(body) + b"\1" + chunk(b'{"proof":"%s","card":"%s"}' % (b"A" * 43, b"B" * 40))
    yield b"\0" + chunk(b'{"version":2}') + b"\2\4\2\4" + chunk(b"Bob")
    yield b"\3" + chunk(b'{"version":1,"wrong":true}') + b"\3" + chunk(b'{"version":1,"pake":"QUJD"}')
    yield b"\4" + chunk("B\u00f6b\u202e".encode()) + b"\5\xff"


@target(_exchanges, longest=2048)
def code_exchange(data: bytes) -> None:
    """
    Strangers that guess, and a rendezvous that says anything, to both sides of a code: nobody who does not
    know it becomes the other side, and who does has a name that can be shown.
    """
    random = Random(1).randbytes
    issuer = Issuer(CODE, OWNER, "owner", CodePurpose.CONTACT, 0.0, random)
    redeemer = Redeemer(WRONG, CALLER.peer_id, CALLER, "caller", CodePurpose.CONTACT, 0.0, random)
    first, *_ = redeemer.messages_to_send()
    assert isinstance(first, Establish)
    reader, now, knows, exchanges = Reader(data), 1.0, False, 0
    call = first.call

    def said(side: Issuer | Redeemer) -> list[Request]:
        told = side.messages_to_send()
        assert len(told) <= 3
        for message in told:
            encode_line(message)
        return told

    for _ in range(12):
        if not reader.more or exchanges == 3:
            break
        kind = reader.byte() % 6
        if kind == 0:
            exchanges += 1
            offer = Envelope(CODE.identity.peer_id, reader.chunk(), bytes(64))
            issuer.receive(Incoming(call, MALLORY.peer_id, "code", offer), now)
        elif kind == 1:
            envelope = Envelope(CODE.identity.peer_id, reader.chunk(), bytes(64))
            issuer.receive(Candidates(call, MALLORY.peer_id, envelope), now)
        elif kind == 2:
            # Somebody with other words
            exchanges += 1
            issuer.receive(forward(first, CALLER.peer_id), now)
            for message in said(issuer):
                redeemer.receive(forward(message, CODE.identity.peer_id), now)
            for message in said(redeemer):
                issuer.receive(forward(message, CALLER.peer_id), now)
        elif kind == 3:
            envelope = Envelope(CALLER.peer_id, reader.chunk(), bytes(64))
            reply = Candidates if reader.byte() & 1 else Answered
            redeemer.receive(reply(call, CODE.identity.peer_id, envelope), now)
        elif kind == 4:
            # Somebody who knows the code, and has any name
            exchanges += 1
            name = reader.chunk().decode("utf-8", "replace")[:200]
            knows = knows or issuer.outcome is None
            other = Redeemer(CODE, MALLORY.peer_id, MALLORY, name, CodePurpose.CONTACT, now, random)
            for _ in range(3):
                for message in said(other):
                    issuer.receive(forward(message, MALLORY.peer_id), now)
                for message in said(issuer):
                    other.receive(forward(message, CODE.identity.peer_id), now)
            assert not isinstance(other.outcome, Card) or other.outcome.peer == OWNER.peer_id
        else:
            now += reader.byte()
            for side in (issuer, redeemer):
                side.handle_timer(now)
        said(issuer)
        said(redeemer)
    assert exchanges <= MAX_ATTEMPTS
    assert not isinstance(redeemer.outcome, Card)
    if isinstance(issuer.outcome, Card):
        assert knows
        assert issuer.outcome.peer == MALLORY.peer_id
        assert is_visible(issuer.outcome.name)
    now += 10_000.0
    for side in (issuer, redeemer):
        side.handle_timer(now)
        assert side.over
        assert side.outcome is not None


# -- files --

_CONTENT = b"hello"
_ENTRIES = (
    Entry(EntryKind.FOLDER, b"a", 0, 0o755, 1_600_000_000_000_000_000),
    Entry(EntryKind.FILE, b"a/f", len(_CONTENT), 0o644, 1_600_000_000_000_000_000),
    Entry(EntryKind.LINK, b"a/l", target=b"f"),
)
_OFFER = FilesOffer((Item("a", EntryKind.FOLDER, len(_CONTENT), 1),), len(_ENTRIES), ("sha256",))


def _digest() -> bytes:
    return file_digest(sha256, len(_CONTENT), sha256(_CONTENT).digest())


def _of_the_sender() -> list[bytes]:
    return [
        encode_offer(_OFFER),
        *encode_entries(_ENTRIES),
        encode_data(1, 0, _CONTENT),
        encode_file_end(1, len(_CONTENT), _digest()),
    ]


def _all_messages() -> Iterator[bytes]:
    yield from _of_the_sender()
    text = Item("a", EntryKind.FILE, 5, 1)
    yield encode_offer(FilesOffer((text,), 1, ("blake3", "sha256"), "hällo"))
    yield encode_zeros(1, 0, 5)
    yield encode_accept("sha256")
    yield from encode_have(1, bytes(32))
    yield encode_have_end()
    yield encode_done()
    yield encode_failed(FilesMessageError("no"))


@target(_all_messages, longest=2048)
def file_messages(data: bytes) -> None:
    """The messages of a transfer: what is read can be written and read again."""
    with contextlib.suppress(FilesMessageError):
        kind = codec.message_type(data)
        if kind is MessageType.OFFER:
            offer = codec.decode_offer(data)
            assert codec.decode_offer(encode_offer(offer)) == offer
        elif kind is MessageType.ACCEPT:
            assert codec.decode_accept(data, ("sha256",)) == "sha256"
        elif kind is MessageType.ENTRIES:
            entries = list(codec.decode_entries(data))
            assert list(codec.decode_entries(b"".join(encode_entries(entries)))) == entries
            for entry in entries:
                assert not entry.path.startswith(b"/")
                assert b".." not in entry.path.split(b"/")
        elif kind is MessageType.HAVE:
            index, digests = codec.decode_have(data, 10)
            assert b"".join(encode_have(index, digests)) == data
        elif kind is MessageType.DATA:
            assert encode_data(*codec.decode_data(data)) == data
        elif kind is MessageType.ZEROS:
            assert encode_zeros(*codec.decode_zeros(data)) == data
        elif kind is MessageType.FILE_END:
            assert encode_file_end(*codec.decode_file_end(data)) == data
        elif kind is MessageType.FAILED:
            failed = codec.decode_failed(data)
            assert codec.decode_failed(encode_failed(failed)).code is failed.code


def _at_once(call: Callable[[], T]) -> Deferred[T]:
    return maybeDeferred(call)


class _Transport(StringTransport):
    """A transport that notes that it was closed. As with real ones, producers may be unregistered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True

    def loseConnection(self) -> None:
        self.open = False

    def abortConnection(self) -> None:
        self.open = False

    def unregisterProducer(self) -> None:
        self.producer = None


def _string(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def _run_stream(protocol: FileReceiver | FileSender, transport: Any, reader: Reader) -> None:
    """Give a side of a transfer messages, and bytes that are none, until it closes the connection."""
    protocol.makeConnection(transport)
    for _ in range(30):
        if not reader.more or not transport.open:
            break
        whole = reader.byte() & 1
        piece = reader.chunk()
        protocol.dataReceived(_string(piece) if whole else piece)
    protocol.connectionLost(connectionDone)
    assert protocol.over
    check_log()


def _senders() -> Iterator[bytes]:
    told = _of_the_sender()
    yield b"".join(b"\1" + chunk(message) for message in told)
    yield b"".join(
        b"\0" + chunk(_string(message)[:7]) + b"\0" + chunk(_string(message)[7:]) for message in told
    )
    yield b"\1" + chunk(told[0]) + b"\1" + chunk(encode_failed(FilesMessageError("no")))
    other = Entry(EntryKind.LINK, b"a/l", target=b"../../x")
    yield b"\1" + chunk(told[0]) + b"\1" + chunk(b"".join(encode_entries([*_ENTRIES[:2], other])))


@target(_senders, longest=2048)
def file_receiver(data: bytes) -> None:
    """Somebody whose offer was accepted writes only into the folder, and no link leads out of it."""
    around = directory() / "receiver"
    shutil.rmtree(around, ignore_errors=True)
    folder = around / "folder"
    folder.mkdir(parents=True)
    (around / "mine").write_bytes(b"mine")
    receiver = FileReceiver("mallory", lambda transfer, offer: succeed(folder), Clock(), _at_once)
    receiver.when_finished().addErrback(lambda failure: None)
    _run_stream(receiver, _Transport(), Reader(data))
    assert sorted(path.name for path in around.iterdir()) == ["folder", "mine"]
    assert (around / "mine").read_bytes() == b"mine"
    for path in folder.rglob("*"):
        if path.is_symlink():
            assert path.resolve().is_relative_to(folder.resolve()), path
    for path in around.rglob("*"):
        if not path.is_symlink() and path.is_dir():
            path.chmod(stat.S_IRWXU)


@cache
def _offered() -> Path:
    folder = directory() / "offered"
    folder.mkdir()
    (folder / "f").write_bytes(_CONTENT)
    (folder / "g").write_bytes(b"")
    return folder


def _receivers() -> Iterator[bytes]:
    accept, end = encode_accept("sha256"), encode_have_end()
    yield b"".join(b"\1" + chunk(message) for message in (accept, end, encode_done()))
    (have,) = encode_have(1, sha256(_CONTENT).digest())
    yield b"".join(b"\1" + chunk(message) for message in (accept, have, end, encode_done()))
    yield b"\1" + chunk(encode_done())


@target(_receivers, longest=1024)
def file_sender(data: bytes) -> None:
    """Somebody to whom files are offered: no more is sent than the files."""
    sender = FileSender(find_source([str(_offered())]), _at_once)
    sender.when_finished().addErrback(lambda failure: None)
    transport = _Transport()
    _run_stream(sender, transport, Reader(data))
    assert len(transport.value()) < 4096


# -- ports, pipes, and the socket of a node --


def _datagrams() -> Iterator[bytes]:
    yield encode_datagram(1, b"hello") + encode_datagram(2**32 - 1, b"") + encode_datagram(1, bytes(300))[:50]


@target(_datagrams, longest=1024)
def datagrams(data: bytes) -> None:
    """Datagrams on a stream: where it is cut makes no difference."""
    whole = list(DatagramReader().receive(data))
    reader = DatagramReader()
    assert whole == [each for at in range(len(data)) for each in reader.receive(data[at : at + 1])]
    written = b"".join(encode_datagram(flow, datagram) for flow, datagram in whole)
    assert data.startswith(written)
    assert len(data) - len(written) < 65_541


def _pipes() -> Iterator[bytes]:
    yield b"".join(encode_piece(b"hello")) + encode_end() + encode_status(3)
    yield encode_status(0) + b"more"
    yield b"\0\1\0\1" + bytes(20)


@target(_pipes, longest=1024)
def pipe(data: bytes) -> None:
    """What is said on a pipe: where it is cut makes no difference."""

    def read(pieces: list[bytes]) -> tuple[bytes, list[object], str]:
        reader, bytes_ = PipeReader(), b""
        rest: list[object] = []
        try:
            for piece in pieces:
                for each in reader.receive(piece):
                    if isinstance(each, (End, PipeStatus)):
                        rest.append(each)
                    else:
                        assert not rest
                        bytes_ += each
        except PipeError as problem:
            return bytes_, rest, str(problem)
        return bytes_, rest, ""

    assert read([data]) == read([data[at : at + 1] for at in range(len(data))])


def _locals() -> Iterator[bytes]:
    yield b"\0" + encode_fields({"command": "open", "peer": "bob", "service": "web", "request": "é"})
    yield b"\1" + b"".join(frames(b"hello")) + Mark.END.value + Abort(5).encode() + Mark.OVER.value


@target(_locals, longest=1024)
def local_socket(data: bytes) -> None:
    """Lines and frames of programs on the socket of a node, from the same user only."""
    if data[:1] == b"\0":
        with contextlib.suppress(CommandError):
            fields = read_fields(data[1:])
            encode_fields(request_fields(fields))
            assert read_fields(encode_fields(fields)[:-1]) == fields
        return
    reader, pieces = StreamFrameReader(), StreamFrameReader()
    whole = list(reader.receive(data[1:]))
    cut = [each for at in range(1, len(data)) for each in pieces.receive(data[at : at + 1])]
    marks = [each for each in whole if not isinstance(each, bytes)]
    assert marks == [each for each in cut if not isinstance(each, bytes)]
    joined = [b"".join(each for each in all_ if isinstance(each, bytes)) for all_ in (whole, cut)]
    assert joined[0] == joined[1]
    assert len(joined[0]) <= len(data)
    assert all(isinstance(each, (Mark, Abort)) for each in islice(marks, 100))
