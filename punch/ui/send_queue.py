"""
The messages of this side that are not delivered yet: a queue of those that the store has not taken, and the
sizes of those that it has.

The store may refuse messages for a while, because another program holds its lock or the disk is full. The
queue then keeps them and tries again; their order never changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from itertools import islice, takewhile

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat import MAX_TEXT, Chat, MessageState
from punch.apps.chat.events import Event, HistoryErased, MessageAdded, MessageChanged
from punch.identity import PeerID
from punch.net.driver import Timer
from punch.ui.command import CommandRefused
from punch.ui.commands import why

RETRY = 1.0
"""Seconds between two tries to store what the store has refused."""

MAX_BATCH = 256
"""Most messages that are stored at once."""

_MAY_PASS = ("state", "outbox-full")
"""Codes of refusals that may pass: the disk, and too many undelivered messages."""

_UNDELIVERED = (MessageState.WAITING, MessageState.SENT)


def split_text(text: str, most: int = MAX_TEXT) -> list[str]:
    """Split a text into parts of at most `most` bytes of UTF-8, between characters."""
    data = text.encode("utf-8", "replace")
    parts = []
    while len(data) > most:
        cut = most
        while data[cut] & 0xC0 == 0x80:
            cut -= 1
        parts.append(data[:cut].decode("utf-8"))
        data = data[cut:]
    return [*parts, data.decode("utf-8")]


@dataclass(frozen=True)
class _Line:
    """
    A message that is to be sent.

    :ivar refused: is called if it can never be sent.
    """

    peer: PeerID
    text: str
    refused: Callable[[CommandRefused], None]


class SendQueue:
    """
    Sends messages in order, and counts them until they are delivered.

    :param moved: is called when messages were stored or refused.
    :param held: is called with the reason when the store begins to refuse messages, and not again until it
        has taken some.
    """

    _log = Logger()

    def __init__(
        self,
        chat: Chat,
        clock: IReactorTime,
        moved: Callable[[], None],
        held: Callable[[CommandRefused], None],
    ) -> None:
        self._chat = chat
        self._clock = clock
        self._moved = moved
        self._held = held
        self._lines: deque[_Line] = deque()
        self._stored_sizes: dict[int, tuple[PeerID, int]] = {}
        self._size = 0
        self._busy = False
        self._most = MAX_BATCH
        self._timer = Timer(clock)
        self._stopped = False
        self.trouble: CommandRefused | None = None
        """Why the store refuses messages now; None: it does not."""
        self.held_since = 0.0
        """Since when it refuses them, by the clock."""

    def __len__(self) -> int:
        """How many messages are not stored yet."""
        return len(self._lines)

    @property
    def texts(self) -> Iterable[str]:
        """The messages that are not stored yet."""
        return (line.text for line in self._lines)

    @property
    def undelivered(self) -> int:
        """How many of the messages that were sent since the process started are not delivered."""
        return len(self._lines) + len(self._stored_sizes)

    @property
    def size(self) -> int:
        """How much text these messages have, in characters."""
        return self._size + sum(size for _, size in self._stored_sizes.values())

    @property
    def peers(self) -> set[PeerID]:
        """The peers for whom there are stored messages that are not delivered."""
        return {peer for peer, _ in self._stored_sizes.values()}

    def size_for(self, peers: Container[PeerID]) -> int:
        """How much text is stored for these peers and not delivered, in characters."""
        return sum(size for peer, size in self._stored_sizes.values() if peer in peers)

    def handle(self, event: Event) -> None:
        """Update which messages are stored and not delivered, after an event of the chat."""
        if isinstance(event, MessageAdded) and event.message.outgoing:
            self._stored_sizes[event.message.number] = event.message.peer, len(event.message.text)
        elif isinstance(event, MessageChanged) and event.message.state not in _UNDELIVERED:
            if event.message.outgoing:
                self._stored_sizes.pop(event.message.number, None)
        elif isinstance(event, HistoryErased) and event.before is None:
            for number, (peer, _) in list(self._stored_sizes.items()):
                if event.peer in (None, peer):
                    del self._stored_sizes[number]

    def send(
        self, peer: PeerID, text: str, refused: Callable[[CommandRefused], None] = lambda error: None
    ) -> None:
        """
        Send a message after those that were sent before.

        :param refused: is called if it can never be sent.
        """
        self._lines.append(_Line(peer, text, refused))
        self._size += len(text)
        self._go()

    def stop(self) -> None:
        """Send nothing more, and cancel the timer."""
        self._stopped = True
        self._timer.cancel()

    def _go(self) -> None:
        while self._lines and not (self._busy or self._timer.running or self._stopped):
            peer, texts = self._batch()
            self._busy = True
            maybeDeferred(self._chat.conversations.open(peer).send, texts).addCallbacks(
                self._stored, self._failed, callbackArgs=(len(texts),), errbackArgs=(len(texts),)
            )

    def _batch(self) -> tuple[PeerID, list[str]]:
        peer = self._lines[0].peer
        same = takewhile(lambda line: line.peer == peer, islice(self._lines, self._most))
        return peer, [line.text for line in same]

    def _stored(self, _: object, count: int) -> None:
        self._busy = False
        self.trouble = None
        self._most = MAX_BATCH
        self._drop(count)

    def _failed(self, failure: Failure, count: int) -> None:
        self._busy = False
        error = why(failure, self._log)
        if error.code in _MAY_PASS:
            if not self._stopped:
                self._timer.start(RETRY, self._go)
            if self.trouble is None:
                self.held_since = self._clock.seconds()
                self.trouble = error
                self._held(error)
            self._moved()
        elif count > 1:
            # At least one of them can't be sent: send them one by one to find out which.
            self._most = 1
            self._go()
        else:
            self._lines[0].refused(error)
            self._drop(1)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._size -= len(self._lines.popleft().text)
        self._moved()
        self._go()
