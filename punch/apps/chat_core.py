"""
The chat protocol `chat/1`, without I/O: what one side of a chat says on a stream, and what it has heard.

A stream carries frames: `type (1 byte) ‖ length of the body (2 bytes, big-endian) ‖ body`.

========  ====  =======================================================================================
frame     type  body
========  ====  =======================================================================================
hello     1     session (8 bytes, random): which run of the sender's ids begins or goes on. First, once.
message   2     id (8 bytes, big-endian, from 1, growing by one) ‖ text (UTF-8, at most 16,384 bytes)
ack       3     id (8 bytes): the application has every message up to and including this one
bye       4     empty: I have said all I wanted to, and every ack I waited for has come
========  ====  =======================================================================================

Unknown types are skipped, and so are bytes after the fields of a `hello`, an `ack` or a `bye`: that is room
to grow.

Who wants to leave says `bye` and waits a moment for the other side's: a side that hears `bye` answers with
its own as soon as all its messages have their acks. So nothing that is under way is lost when both leave at
once. A side that said `bye` may still say more.

When a link is replaced, the chat goes on over a new stream: every message without an ack is sent again, and
the receiver drops those whose id it has had in that session. So a message arrives once, in order, whatever
happens to the links beneath it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

STREAM_NAME = "chat/1"

#: Longest text of a message, in bytes of UTF-8.
MAX_TEXT = 16_384

#: Most bytes of text that may wait for their acks.
MAX_OUTBOX = 8 * 1024 * 1024

#: Most messages that may wait for their acks.
MAX_OUTBOX_MESSAGES = 100_000

HELLO, MESSAGE, ACK, BYE = 1, 2, 3, 4

_HEADER = 3
_SESSION = 8
_ID = 8
_MAX_BODY = _ID + MAX_TEXT


class ChatError(ValueError):
    """What was asked of a chat can't be done; `str()` is a sentence for the user, `code` is for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class ChatProtocolError(Exception):
    """The other side broke the protocol; `str()` says how. The stream must be closed."""


@dataclass(frozen=True)
class MessageReceived:
    """The other side said `text`. Tell `ChatCore.acknowledge` when the application has it."""

    id: int
    text: str
    session: bytes = b""


@dataclass(frozen=True)
class MessageDelivered:
    """The other side's application has our message `id`."""

    id: int


@dataclass(frozen=True)
class Farewell:
    """Both sides have said `bye`: the link can be closed and nothing is lost."""


Event = MessageReceived | MessageDelivered | Farewell


def check_text(text: str) -> bytes:
    """
    `text` as it will travel.

    :raise ChatError: it is too long, or holds what UTF-8 can't carry.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ChatError(
            "bad-text", "The text holds half a character (a lone surrogate): send it whole."
        ) from None
    if len(data) > MAX_TEXT:
        raise ChatError(
            "too-long", f"The message has {len(data):,} bytes, the most is {MAX_TEXT:,}: send it in parts."
        )
    return data


class ChatCore:
    """
    One side of the chat with one peer, for as long as this process lives: streams come and go beneath it.

    :param random: for the session's name.
    """

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        self._session = random(_SESSION)
        self._sent = 0
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._outbox_bytes = 0
        self._remote_session: bytes | None = None
        self._received = 0
        self._waiting: deque[int] = deque()
        self._done: set[int] = set()
        self._in = bytearray()
        self._out = bytearray()
        self._open = False
        self._heard_hello = False
        self._said_bye = False
        self._heard_bye = False
        self._events: deque[Event] = deque()

    @property
    def undelivered(self) -> int:
        """How many of our messages have no ack yet."""
        return len(self._outbox)

    @property
    def undelivered_bytes(self) -> int:
        """Bytes of text that have no ack yet."""
        return self._outbox_bytes

    @property
    def unhandled(self) -> int:
        """How many messages of the other side the application has not acknowledged yet."""
        return len(self._waiting)

    def open(self) -> None:
        """A new stream begins: greet, and say again what has no ack."""
        self._in.clear()
        self._out.clear()
        self._open = True
        self._heard_hello = False
        self._said_bye = False
        self._heard_bye = False
        self._frame(HELLO, self._session)
        for number, data in self._outbox:
            self._frame(MESSAGE, number.to_bytes(_ID, "big") + data)

    def close(self) -> None:
        """The stream ended. Messages stay until a new one opens."""
        self._in.clear()
        self._out.clear()
        self._open = False

    def send(self, text: str) -> int:
        """
        Say `text`, now or when a stream opens.

        :return: the message's id.
        :raise ChatError: too long, not text, or too much waits for its ack already.
        """
        data = check_text(text)
        if self._outbox_bytes + len(data) > MAX_OUTBOX or len(self._outbox) >= MAX_OUTBOX_MESSAGES:
            raise ChatError(
                "outbox-full",
                f"{len(self._outbox):,} messages wait for their marks: send again when they have come.",
            )
        self._sent += 1
        self._outbox.append((self._sent, data))
        self._outbox_bytes += len(data)
        if self._open:
            self._frame(MESSAGE, self._sent.to_bytes(_ID, "big") + data)
        return self._sent

    def acknowledge(self, message: MessageReceived) -> None:
        """
        The application has `message`. Acks go out in order: a later message waits for the earlier ones.

        A second time, or after the other side began a new session, it does nothing.
        """
        if message.session != self._remote_session or message.id not in self._waiting:
            return
        self._done.add(message.id)
        last = None
        while self._waiting and self._waiting[0] in self._done:
            last = self._waiting.popleft()
            self._done.discard(last)
        if last is not None and self._open:
            self._frame(ACK, last.to_bytes(_ID, "big"))

    def say_bye(self) -> None:
        """All was said. `Farewell` comes when the other side agrees."""
        if self._open and not self._said_bye:
            self._said_bye = True
            self._frame(BYE, b"")
            self._check_farewell()

    def receive_data(self, data: bytes) -> None:
        """
        Bytes from the stream.

        :raise ChatProtocolError: the other side broke the rules; what it said before is in `next_event`.
        """
        if not self._open:
            return
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
            self._handle_ack(body)
        elif kind == BYE and not self._heard_bye:
            self._heard_bye = True
            self._check_farewell()
            self._answer_bye()

    def _answer_bye(self) -> None:
        if self._heard_bye and not self._outbox:
            self.say_bye()

    def _check_farewell(self) -> None:
        if self._said_bye and self._heard_bye:
            self._events.append(Farewell())

    def _handle_hello(self, body: bytes) -> None:
        if self._heard_hello:
            raise ChatProtocolError("a second hello")
        if len(body) < _SESSION:
            raise ChatProtocolError("a hello without a session")
        self._heard_hello = True
        session = body[:_SESSION]
        if session != self._remote_session:
            # Another process speaks for this peer now: its ids begin again.
            self._remote_session = session
            self._received = 0
            self._waiting.clear()
            self._done.clear()

    def _handle_message(self, body: bytes) -> None:
        if len(body) < _ID:
            raise ChatProtocolError("a message without an id")
        number = int.from_bytes(body[:_ID], "big")
        try:
            text = body[_ID:].decode("utf-8")
        except UnicodeDecodeError:
            raise ChatProtocolError("a message that is not UTF-8") from None
        if number == 0:
            raise ChatProtocolError("a message with the id 0")
        if number <= self._received:
            if number not in self._waiting:
                # Its ack was lost with an earlier stream.
                self._frame(ACK, number.to_bytes(_ID, "big"))
            return
        self._received = number
        self._waiting.append(number)
        self._events.append(MessageReceived(number, text, session=self._remote_session or b""))

    def _handle_ack(self, body: bytes) -> None:
        if len(body) < _ID:
            raise ChatProtocolError("an ack without an id")
        number = int.from_bytes(body[:_ID], "big")
        if number > self._sent:
            raise ChatProtocolError("an ack of a message that was never sent")
        while self._outbox and self._outbox[0][0] <= number:
            delivered, data = self._outbox.popleft()
            self._outbox_bytes -= len(data)
            self._events.append(MessageDelivered(delivered))
        self._answer_bye()
