"""The chat: what a peer says on its stream, and the history on the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import cache

from punch.apps.chat.conversations import believed_time
from punch.apps.chat.model import MAX_TEXT, StoreError
from punch.apps.chat.protocol import (
    ACK,
    BYE,
    MAX_NAME,
    NAME,
    READ,
    ChatCore,
    ChatProtocolError,
    Event,
    Hello,
    Known,
    MessageReceived,
    Named,
    OutgoingMessage,
)
from punch.apps.chat.store import Store
from punch.test.apps.chat.test_protocol import OURS, THEIRS, ack, frame, hello, knows, message, number
from punch.test.apps.chat.test_store import BOB, EVE
from punch.ui.text.chat import chat_error_sentence
from tests.fuzz.files import directory, write_damaged
from tests.fuzz.target import Reader, chunk, target


def _streams() -> Iterator[bytes]:
    yield b"\x07" + hello(THEIRS, knows(OURS, 2, 1)) + message(4, "é".encode(), 5) + ack(3) + frame(BYE, b"")
    yield b"\xff" + hello() + frame(NAME, b"bob \xff") + frame(READ, number(2)) + frame(99, b"later")
    yield (
        b"\0"
        + hello(THEIRS, knows(OURS, 9, 9), knows(b"elsewise"))
        + frame(ACK, number(9))
        + message(1, b"x", 9)
    )
    yield b"\0" + hello(THEIRS, knows(OURS, 2, 0, 3, 77)) + message(8, b"again", 1)


@target(_streams, longest=2048)
def stream(data: bytes) -> None:
    """What a peer says on a stream of the chat: how it is cut into pieces makes no difference."""
    reader = Reader(data)
    size = reader.byte() + 1
    stream = reader.rest()

    def events(pieces: list[bytes]) -> tuple[list[Event], str, bytes]:
        waiting = [OutgoingMessage(2, 1.0, b"two"), OutgoingMessage(3, 2.0, b"three")]
        core = ChatCore(Hello(OURS, [Known(THEIRS, 7, 5, 8, 2.0)]), 3, waiting)
        found: list[Event] = []
        problem = ""
        for piece in pieces:
            try:
                core.receive_data(piece)
            except ChatProtocolError as error:
                problem = str(error)
            while (event := core.next_event()) is not None:
                found.append(event)
            if problem:
                break
        core.acknowledge(9)
        return found, problem, core.data_to_send()

    pieces = events([stream[at : at + size] for at in range(0, len(stream), size)])
    assert pieces == events([stream])
    assert len(pieces[2]) < 2000
    last = 0
    for event in pieces[0]:
        if isinstance(event, MessageReceived):
            assert event.id > last
            last = event.id
            assert len(event.text.encode()) <= MAX_TEXT
        elif isinstance(event, Named):
            assert len(event.name) <= MAX_NAME
            event.name.encode()


@cache
def _history() -> bytes:
    """A database with two peers."""
    path = directory() / "whole.sqlite"
    store = Store(path)
    store.database.rows("PRAGMA synchronous = OFF")
    for peer in (BOB, EVE):
        store.record(peer, OURS)
        for count in range(3):
            store.add(peer, OURS, f"hello {count}", 1.0, f"id {count}")
            store.receive(peer, THEIRS, [MessageReceived(count + 1, "there", 2.0)], 3.0)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def _damages() -> Iterator[bytes]:
    yield b""
    yield b"\0\x10\0" + chunk(bytes(30))
    yield b"\0\0\x05" + chunk(b"\xff") + b"\1\0\x60" + chunk(b"\0\0\0\x63")
    size = len(_history()) - 60
    yield (size >> 16).to_bytes(1, "big") + (size & 0xFFFF).to_bytes(2, "big") + chunk(b"\xff\xfe text")


@target(_damages, longest=512)
def history(data: bytes) -> None:
    """A history that something has damaged: it works or is refused with a sentence."""
    path = directory() / "history.sqlite"
    write_damaged(path, _history(), data)
    store = None
    try:
        store = Store(path)
        store.database.rows("PRAGMA synchronous = OFF")
        for peer in (BOB, EVE):
            store.record(peer, OURS)
            store.receive(peer, THEIRS, [MessageReceived(9, "new", 1.0)], 9.0)
            store.waiting_for(peer)
            store.history(peer)
            store.search("hello", peer)
        for overview in store.overviews():
            assert repr(overview)
        store.waiting()
        store.undelivered_here()
        store.untold_states()
        store.retention()
        believed_time(store, 5.0)
        store.expire(2.0)
    except StoreError as error:
        sentence = chat_error_sentence(error)
        assert sentence.endswith("."), sentence
    finally:
        if store is not None:
            store.close()
