"""
The chat protocol `chat/2`, without I/O: one side of it on one stream.

A stream carries frames: `type (1 byte) ‖ length of the body (2 bytes, big-endian) ‖ body`. All numbers are
big-endian.

========  ====  =======================================================================================
frame     type  body
========  ====  =======================================================================================
hello     1     epoch (8 bytes) ‖ count (1, at most 8) ‖ so many times: your epoch (8) ‖ delivered (8) ‖
                read (8) ‖ stored (8) ‖ time (8). First, once.
message   2     id (8, from 1, growing) ‖ time (8, milliseconds since 1970, 0: not told; the same each time
                that the message is said) ‖ text (UTF-8, at most 16,384 bytes)
ack       3     id (8): the application has every message up to and including this one
bye       4     empty: I have sent all messages that I want to, and every ack has come
read      5     id (8): a person has seen every message up to and including this one
name      6     text (UTF-8): my name from now on
========  ====  =======================================================================================

Unknown types are skipped, and so are bytes after the fields of a `hello`, an `ack`, a `bye` or a `read`, so
that later versions can add some.

Each side numbers its messages to the other one from 1 and never uses a number again, as long as it keeps
its state; the *epoch* is the random name of that state. A side that meets an epoch it doesn't know counts
anew. A hello tells which epochs of the other side are remembered: the last 8 in which it said something, so
that it may use another state for a while and come back. `delivered` and `read` are what an ack and a read
frame would say now, in that epoch: they repeat what may have been lost with an earlier stream. `stored` is
the last id that came in it, and `time` the time that was told with it.

If `stored` in a hello is greater than the last id that this side remembers, or `time` is another one, this
side has lost a part of its state (a backup was restored, for example). Its next numbers would be taken for
repetitions: it must choose a new epoch and begin a new stream. A side that hears `stored` said again with
another time takes nothing more from this stream: all of it comes again.

Whatever has no ack is said again on the next stream, and the receiver drops what it already has. So a message
arrives once and in order, whatever happens to the links beneath or to the processes at the ends.

Who wants to leave says `bye` and waits a moment for the other side's: a side that hears `bye` answers with
its own as soon as all its messages, those that it is storing included, have their acks. So nothing that is
under way is lost when both leave at once. A side that said `bye` may still say more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from punch.apps.chat.model import MAX_TEXT

STREAM_NAME = "chat/2"

MAX_NAME = 64
"""Longest name that is accepted, in characters; a longer one is cut."""

HELLO, MESSAGE, ACK, BYE, READ, NAME = 1, 2, 3, 4, 5, 6

EPOCH = 8
"""Bytes of an epoch."""
NO_EPOCH = bytes(EPOCH)

MAX_KNOWN = 8
"""How many epochs of one peer are remembered."""

_HEADER = 3
_NUMBER = 8
_KNOWN = EPOCH + 4 * _NUMBER
_MAX_NUMBER = 2**63 - 1  # what SQLite can store
_LATEST = 253_402_300_799_000  # the end of the year 9999: what calendars can show
_MAX_BODY = 2 * _NUMBER + MAX_TEXT


class ChatProtocolError(Exception):
    """The other side broke the protocol; `str()` says how. The stream must be closed."""


@dataclass(frozen=True)
class Known:
    """
    What a side remembers of an epoch of the other one.

    :ivar delivered: the last message that the application has.
    :ivar read: the last one that somebody has seen.
    :ivar stored: the last one that came.
    :ivar time: when that one was written, as it was told, in seconds since 1970.
    """

    epoch: bytes
    delivered: int = 0
    read: int = 0
    stored: int = 0
    time: float | None = None


@dataclass(frozen=True)
class Hello:
    """
    What a side begins with.

    :ivar epoch: the name of its own state.
    :ivar known: what it remembers of the other side's, at most `MAX_KNOWN`.
    """

    epoch: bytes
    known: Sequence[Known] = ()


@dataclass(frozen=True)
class OutgoingMessage:
    """A message of ours as it travels. `time` is in seconds since 1970."""

    id: int
    time: float
    data: bytes


@dataclass(frozen=True)
class HelloReceived:
    """
    The hello of the other side has come. This is the first event.

    :ivar outdated: it knows of messages that this side has not sent in its epoch: a new epoch is needed.
    """

    epoch: bytes
    outdated: bool


@dataclass(frozen=True)
class MessageReceived:
    """
    The other side said `text`. Call `ChatCore.acknowledge` when the application has it.

    :ivar time: when it was written, as the other side tells it, in seconds since 1970.
    """

    id: int
    text: str
    time: float | None = None


@dataclass(frozen=True)
class Delivered:
    """The other side's application has our messages up to this id."""

    id: int


@dataclass(frozen=True)
class PeerHasRead:
    """The user of the other side has read our messages up to this id."""

    id: int


@dataclass(frozen=True)
class Named:
    """The other side has told its name."""

    name: str


@dataclass(frozen=True)
class ByeExchanged:
    """Both sides have said `bye`: if the link is closed now, nothing is lost."""


Event = HelloReceived | MessageReceived | Delivered | PeerHasRead | Named | ByeExchanged


class ChatCore:
    """
    One side of a chat on one stream.

    :param hello: what to begin with.
    :param sent: the last id that this side has given to a message in its epoch.
    :param waiting: messages that have no ack yet, oldest first.
    """

    def __init__(self, hello: Hello, sent: int, waiting: Iterable[OutgoingMessage] = ()) -> None:
        self._epoch = hello.epoch
        self._sent = sent
        self._unacked: deque[tuple[int, int]] = deque()
        self._known = {known.epoch: known for known in hello.known}
        self._stored = 0, 0
        self._ignoring = False
        self._in = bytearray()
        # The newest mark of a kind says all that earlier ones did.
        self._marks: dict[int, bytes] = {}
        self._messages: deque[bytes] = deque()
        self._heard_hello = False
        self._last_heard = 0
        self._outdated = False
        self._coming = 0
        self._leaves = self._said_bye = False
        self._heard_bye = False
        self._events: deque[Event] = deque()
        known = b"".join(map(_known, hello.known))
        self._marks[HELLO] = _frame(HELLO, hello.epoch + bytes([len(hello.known)]) + known)
        for message in waiting:
            self.send(message)

    def send(self, message: OutgoingMessage) -> None:
        """Queue a message, whose id is greater than those before."""
        self._sent = max(self._sent, message.id)
        time = max(0, int(message.time * 1000))
        self._unacked.append((message.id, time))
        self._messages.append(_frame(MESSAGE, _number(message.id) + _number(time) + message.data))

    def expect(self, messages: int) -> None:
        """So many messages of this side are being stored, and follow: no `bye` is sent before them."""
        self._coming = messages
        if self._leaves and not messages:
            self.say_bye()
        self._answer_bye()

    def acknowledge(self, number: int) -> None:
        """Tell that the application has every message up to this id."""
        self._marks[ACK] = _frame(ACK, _number(number))

    def read(self, number: int) -> None:
        """Tell that the user has read every message up to this id."""
        self._marks[READ] = _frame(READ, _number(number))

    def rename(self, name: str) -> None:
        """Tell this side's name."""
        self._marks[NAME] = _frame(NAME, name[:MAX_NAME].encode("utf-8", "replace"))

    def say_bye(self) -> None:
        """
        Tell that no message follows those that are being stored (`expect`). `ByeExchanged` follows when the
        other side has said the same.
        """
        self._leaves = True
        if not self._said_bye and not self._coming:
            self._said_bye = True
            # Not before the messages: the other side may end the link when it hears this.
            self._messages.append(_frame(BYE, b""))
            self._check_bye()

    def receive_data(self, data: bytes) -> None:
        """
        Process bytes from the stream.

        :raise ChatProtocolError: the other side broke the protocol; `next_event` has what came before.
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

    def data_to_send(self, most: int | None = None) -> bytes:
        """
        Remove and return bytes for the stream: the hello, the marks and the name, and after them messages in
        their order.

        :param most: bytes from which on messages wait for the next call; the last one may exceed it. 0: no
            messages now. None: all.
        """
        data = bytearray().join(self._marks.values())
        self._marks.clear()
        while self._messages and (most is None or len(data) < most):
            data += self._messages.popleft()
        return bytes(data)

    def next_event(self) -> Event | None:
        """Remove and return the oldest event; None if there is none."""
        return self._events.popleft() if self._events else None

    def _handle(self, kind: int, body: bytes) -> None:
        if kind == HELLO:
            self._handle_hello(body)
        elif not self._heard_hello:
            raise ChatProtocolError("something before the hello")
        elif kind == MESSAGE:
            self._handle_message(body)
        elif kind == ACK:
            self._acknowledged(_read_number(body, "an ack"), "an ack")
        elif kind == READ:
            number = _read_number(body, "a read mark")
            self._seen(number, "a read mark")
        elif kind == NAME:
            self._events.append(Named(body.decode("utf-8", "replace")[:MAX_NAME]))
        elif kind == BYE and not self._heard_bye:
            self._heard_bye = True
            self._check_bye()
            self._answer_bye()

    def _answer_bye(self) -> None:
        if self._heard_bye and not self._unacked and not self._coming:
            self.say_bye()

    def _check_bye(self) -> None:
        if self._said_bye and self._heard_bye:
            self._events.append(ByeExchanged())

    def _handle_hello(self, body: bytes) -> None:
        if self._heard_hello:
            raise ChatProtocolError("a second hello")
        epoch, known = _read_hello(body)
        self._heard_hello = True
        if epoch in self._known:
            self._stored = self._known[epoch].stored, _milliseconds(self._known[epoch].time)
        delivered, read, stored, time = known.get(self._epoch, (0, 0, 0, 0))
        self._outdated = max(delivered, read, stored) > self._sent or any(
            number == stored and _another(time, told) for number, told in self._unacked
        )
        self._events.append(HelloReceived(epoch, self._outdated))
        if self._epoch in known:
            self._acknowledged(delivered, "a hello")
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
        stored, time = self._stored
        if number == stored and _another(time, milliseconds):
            # The other side has an old copy of its state, and learns that from our hello.
            self._ignoring = True
        if self._ignoring:
            return
        told = 0 < milliseconds <= _LATEST
        self._events.append(MessageReceived(number, text, milliseconds / 1000 if told else None))

    def _acknowledged(self, number: int, what: str) -> None:
        if self._outdated:
            return  # It may mean others than those that this side sent under the same numbers.
        if number > self._sent:
            raise ChatProtocolError(f"{what} of a message that was never sent")
        last = None
        while self._unacked and self._unacked[0][0] <= number:
            last, _ = self._unacked.popleft()
        if last is not None:
            self._events.append(Delivered(last))
        self._answer_bye()

    def _seen(self, number: int, what: str) -> None:
        self._acknowledged(number, what)
        if not self._outdated:
            self._events.append(PeerHasRead(number))


def _frame(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(2, "big") + body


def _read_hello(body: bytes) -> tuple[bytes, dict[bytes, list[int]]]:
    """An epoch, and what its side knows of epochs of ours: delivered, read, stored, time."""
    epoch, count, rest = body[:EPOCH], body[EPOCH : EPOCH + 1], body[EPOCH + 1 :]
    if not count or len(rest) < count[0] * _KNOWN:
        raise ChatProtocolError("a hello that is too short")
    if epoch == NO_EPOCH:
        raise ChatProtocolError("a hello without an epoch")
    if count[0] > MAX_KNOWN:
        raise ChatProtocolError(f"a hello that knows {count[0]} epochs, more than {MAX_KNOWN}")
    known = {}
    for start in range(0, count[0] * _KNOWN, _KNOWN):
        numbers = range(start + EPOCH, start + _KNOWN, _NUMBER)
        known[rest[start : start + EPOCH]] = [_read_number(rest[place:], "a hello") for place in numbers]
    return epoch, known


def _known(known: Known) -> bytes:
    numbers = (known.delivered, known.read, known.stored, _milliseconds(known.time))
    return known.epoch + b"".join(map(_number, numbers))


def _milliseconds(time: float | None) -> int:
    return 0 if time is None else round(time * 1000)


def _another(one: int, other: int) -> bool:
    """Whether the times of two messages with the same id say that they are two."""
    return 0 not in (one, other) and one != other


def _number(value: int) -> bytes:
    return value.to_bytes(_NUMBER, "big")


def _read_number(body: bytes, what: str) -> int:
    if len(body) < _NUMBER:
        raise ChatProtocolError(f"{what} without its number")
    number = int.from_bytes(body[:_NUMBER], "big")
    if number > _MAX_NUMBER:
        raise ChatProtocolError(f"{what} with a number that is too large")
    return number
