"""
The chat protocol `chat/2`, without I/O: what one side says on one stream, and what it has heard.

A stream carries frames: `type (1 byte) ‖ length of the body (2 bytes, big-endian) ‖ body`. All numbers are
big-endian.

========  ====  =======================================================================================
frame     type  body
========  ====  =======================================================================================
hello     1     epoch (8 bytes) ‖ your epoch (8) ‖ had (8) ‖ read (8). First, once.
message   2     id (8, from 1, growing) ‖ time (8, milliseconds since 1970, 0: not told) ‖ text (UTF-8, at
                most 16,384 bytes)
ack       3     id (8): the application has every message up to and including this one
bye       4     empty: I have said all I wanted to, and every ack I waited for has come
read      5     id (8): a person has seen every message up to and including this one
name      6     text (UTF-8): what I call myself from now on
========  ====  =======================================================================================

Unknown types are skipped, and so are bytes after the fields of a `hello`, an `ack`, a `bye` or a `read`: that
is room to grow.

Each side numbers its messages to the other one from 1 and never uses a number again, as long as it keeps
its state; the *epoch* is the random name of that state. A side that meets an epoch it doesn't know counts
anew. `your epoch` is the one that the sender of the hello knows (zeros: none); `had` and `read` are what an
ack and a read frame would say now, in that epoch: they repeat what may have been lost with an earlier
stream.

A side that hears it had sent more than it knows of has lost a part of its state, a backup was restored for
example. Its next numbers would be taken for repetitions: it must choose a new epoch and begin a new stream.

Whatever has no ack is said again on the next stream, and the receiver drops what it has had. So a message
arrives once and in order, whatever happens to the links beneath or to the processes at the ends.

Who wants to leave says `bye` and waits a moment for the other side's: a side that hears `bye` answers with
its own as soon as all its messages have their acks. So nothing that is under way is lost when both leave at
once. A side that said `bye` may still say more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from punch.apps.chat.model import MAX_TEXT

STREAM_NAME = "chat/2"

#: Longest name that is heard, in characters; what is longer is cut.
MAX_NAME = 64

HELLO, MESSAGE, ACK, BYE, READ, NAME = 1, 2, 3, 4, 5, 6

EPOCH = 8
"""Bytes of an epoch."""
NO_EPOCH = bytes(EPOCH)

_HEADER = 3
_NUMBER = 8
_MAX_NUMBER = 2**63 - 1  # what a database can keep
_LATEST = 253_402_300_799_000  # the end of the year 9999: what calendars can show
_MAX_BODY = 2 * _NUMBER + MAX_TEXT


class ChatProtocolError(Exception):
    """The other side broke the protocol; `str()` says how. The stream must be closed."""


@dataclass(frozen=True)
class Hello:
    """
    How a side greets.

    :ivar epoch: the name of its own state.
    :ivar known: the other side's epoch as it is remembered, or `NO_EPOCH`.
    :ivar had: the last message of that epoch that the application has.
    :ivar read: the last one that somebody has seen.
    """

    epoch: bytes
    known: bytes = NO_EPOCH
    had: int = 0
    read: int = 0


@dataclass(frozen=True)
class Outgoing:
    """A message of ours as it travels. `time` is in seconds since 1970."""

    id: int
    time: float
    data: bytes


@dataclass(frozen=True)
class Greeted:
    """
    The other side has greeted; comes before all else.

    :ivar outdated: it knows of messages that this side does not know to have sent: a new epoch is needed.
    """

    epoch: bytes
    outdated: bool


@dataclass(frozen=True)
class MessageReceived:
    """The other side said `text`. Tell `ChatCore.acknowledge` when the application has it."""

    id: int
    text: str
    time: float | None


@dataclass(frozen=True)
class Delivered:
    """The other side's application has our messages up to `id`."""

    id: int


@dataclass(frozen=True)
class ReadThere:
    """Somebody there has seen our messages up to `id`."""

    id: int


@dataclass(frozen=True)
class Named:
    """The other side calls itself `name`."""

    name: str


@dataclass(frozen=True)
class Farewell:
    """Both sides have said `bye`: the link can be closed and nothing is lost."""


Event = Greeted | MessageReceived | Delivered | ReadThere | Named | Farewell


class ChatCore:
    """
    One side of a chat on one stream.

    :param hello: what to greet with.
    :param sent: the last id that this side has given to a message in its epoch.
    :param waiting: messages that have no ack yet, oldest first.
    """

    def __init__(self, hello: Hello, sent: int, waiting: Iterable[Outgoing] = ()) -> None:
        self._epoch = hello.epoch
        self._sent = sent
        self._unacked: deque[int] = deque()
        self._in = bytearray()
        self._out = bytearray()
        self._heard_hello = False
        self._last_heard = 0
        self._outdated = False
        self._said_bye = False
        self._heard_bye = False
        self._events: deque[Event] = deque()
        self._frame(HELLO, hello.epoch + hello.known + _number(hello.had) + _number(hello.read))
        for message in waiting:
            self.send(message)

    def send(self, message: Outgoing) -> None:
        """Say one more; its id is greater than all before."""
        self._sent = max(self._sent, message.id)
        self._unacked.append(message.id)
        time = max(0, int(message.time * 1000))
        self._frame(MESSAGE, _number(message.id) + _number(time) + message.data)

    def acknowledge(self, number: int) -> None:
        """The application has every message up to this one."""
        self._frame(ACK, _number(number))

    def read(self, number: int) -> None:
        """Somebody has seen every message up to this one."""
        self._frame(READ, _number(number))

    def rename(self, name: str) -> None:
        """This side calls itself `name`."""
        self._frame(NAME, name[:MAX_NAME].encode("utf-8", "replace"))

    def say_bye(self) -> None:
        """All was said. `Farewell` comes when the other side agrees."""
        if not self._said_bye:
            self._said_bye = True
            self._frame(BYE, b"")
            self._check_farewell()

    def receive_data(self, data: bytes) -> None:
        """
        Bytes from the stream.

        :raise ChatProtocolError: the other side broke the rules; what it said before is in `next_event`.
        """
        self._in += data
        start = 0
        try:
            while len(self._in) - start >= _HEADER:
                length = int.from_bytes(self._in[start + 1 : start + _HEADER], "big")
                if length > _MAX_BODY:
                    raise ChatProtocolError(f"a frame of {length} bytes, more than {_MAX_BODY}")
                end = start + _HEADER + length
                if len(self._in) < end:
                    break
                self._handle(self._in[start], bytes(self._in[start + _HEADER : end]))
                start = end
        finally:
            del self._in[:start]

    def data_to_send(self) -> bytes:
        """Bytes for the stream, taken out."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Event | None:
        """What happened, oldest first; None when there is no more."""
        return self._events.popleft() if self._events else None

    def _frame(self, kind: int, body: bytes) -> None:
        self._out += bytes([kind]) + len(body).to_bytes(2, "big") + body

    def _handle(self, kind: int, body: bytes) -> None:
        if kind == HELLO:
            self._handle_hello(body)
        elif not self._heard_hello:
            raise ChatProtocolError("something before the hello")
        elif kind == MESSAGE:
            self._handle_message(body)
        elif kind == ACK:
            self._had(_read_number(body, "an ack"), "an ack")
        elif kind == READ:
            number = _read_number(body, "a read mark")
            self._seen(number, "a read mark")
        elif kind == NAME:
            self._events.append(Named(body.decode("utf-8", "replace")[:MAX_NAME]))
        elif kind == BYE and not self._heard_bye:
            self._heard_bye = True
            self._check_farewell()
            self._answer_bye()

    def _answer_bye(self) -> None:
        if self._heard_bye and not self._unacked:
            self.say_bye()

    def _check_farewell(self) -> None:
        if self._said_bye and self._heard_bye:
            self._events.append(Farewell())

    def _handle_hello(self, body: bytes) -> None:
        if self._heard_hello:
            raise ChatProtocolError("a second hello")
        if len(body) < 2 * EPOCH + 2 * _NUMBER:
            raise ChatProtocolError("a hello that is too short")
        self._heard_hello = True
        epoch, known = body[:EPOCH], body[EPOCH : 2 * EPOCH]
        if epoch == NO_EPOCH:
            raise ChatProtocolError("a hello without an epoch")
        had = _read_number(body[2 * EPOCH :], "a hello")
        read = _read_number(body[2 * EPOCH + _NUMBER :], "a hello")
        self._outdated = known == self._epoch and max(had, read) > self._sent
        self._events.append(Greeted(epoch, self._outdated))
        if known == self._epoch:
            self._had(had, "a hello")
            if read:
                self._seen(read, "a hello")

    def _handle_message(self, body: bytes) -> None:
        number = _read_number(body, "a message")
        milliseconds = _read_number(body[_NUMBER:], "a message")
        try:
            text = body[2 * _NUMBER :].decode("utf-8")
        except UnicodeDecodeError:
            raise ChatProtocolError("a message that is not UTF-8") from None
        if number == 0:
            raise ChatProtocolError("a message with the id 0")
        if number <= self._last_heard:
            raise ChatProtocolError("messages out of order")
        self._last_heard = number
        told = 0 < milliseconds <= _LATEST
        self._events.append(MessageReceived(number, text, milliseconds / 1000 if told else None))

    def _had(self, number: int, what: str) -> None:
        if self._outdated:
            return  # It may mean others than those that this side sent under the same numbers.
        if number > self._sent:
            raise ChatProtocolError(f"{what} of a message that was never sent")
        last = None
        while self._unacked and self._unacked[0] <= number:
            last = self._unacked.popleft()
        if last is not None:
            self._events.append(Delivered(last))
        self._answer_bye()

    def _seen(self, number: int, what: str) -> None:
        self._had(number, what)
        if not self._outdated:
            self._events.append(ReadThere(number))


def _number(value: int) -> bytes:
    return value.to_bytes(_NUMBER, "big")


def _read_number(body: bytes, what: str) -> int:
    if len(body) < _NUMBER:
        raise ChatProtocolError(f"{what} without its number")
    number = int.from_bytes(body[:_NUMBER], "big")
    if number > _MAX_NUMBER:
        raise ChatProtocolError(f"{what} with a number that is too large")
    return number
