"""The values of the chat: what a view shows. They know nothing of disks, streams or Twisted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from punch.identity import PeerID
from punch.link.events import LinkStatus
from punch.node.events import CallState

#: Longest text of a message, in bytes of UTF-8.
MAX_TEXT = 16_384

#: Longest id that a client may give a message, in characters.
MAX_CLIENT_ID = 128

ClientID = str | int


class ChatError(ValueError):
    """What was asked of a chat can't be done; `str()` is a sentence for the user, `code` is for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class MessageState(str, Enum):
    """How far a message has come. Ours go from WAITING to READ; the other side's are UNREAD, then READ."""

    WAITING = "waiting"
    """It is stored, and is sent when there is a link to the peer."""
    SENT = "sent"
    """It was written to a stream. If that ends before the peer has acknowledged it, it is WAITING again."""
    DELIVERED = "delivered"
    """The peer's application has acknowledged it."""
    READ = "read"
    """The user has read it: the peer's user a message of ours, this side's user one of the peer's."""
    UNREAD = "unread"
    """It is the peer's, and this side's user has not read it."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ChatMessage:
    """
    One message of a conversation, ours or the other side's.

    :ivar number: its place in the history of this peer's chats: unique, growing. What views use.
    :ivar id: the sender's number of it in this conversation.
    :ivar time: when it was written here or arrived here, in seconds since the epoch, by this machine's clock.
    :ivar time_sent: when its sender wrote it, by the sender's clock, if it says so.
    :ivar client_id: the name that a script gave it, if it is ours.
    """

    number: int
    peer: PeerID
    id: int
    outgoing: bool
    text: str
    time: float
    state: MessageState
    time_sent: float | None = None
    client_id: ClientID | None = None


@dataclass(frozen=True)
class ContactSummary:
    """
    Somebody.

    :ivar name: the name that this side's user gave; usable wherever an ID is.
    :ivar claimed: what it calls itself, which nobody has checked.
    :ivar known: called or accepted before.
    :ivar blocked: its calls are refused, and it isn't called.
    :ivar alike: what it is called looks like somebody else's name, or like a word of the interface: where it
        is shown, the beginning of its ID belongs beside it.
    :ivar services: the services that are granted to it, sorted.
    """

    peer: PeerID
    name: str | None = None
    claimed: str = ""
    known: bool = False
    blocked: bool = False
    alike: bool = False
    services: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatStatus:
    """
    A chat at one moment.

    :ivar me: this side's ID, and `name` what it calls itself.
    :ivar rendezvous: where this side is registered; None: nowhere now.
    :ivar links: the links that are up, the newest last.
    :ivar calling: the peers that this side's user called, until the call has succeeded or failed.
    :ivar questions: the peers whose calls wait for an answer here, oldest first.
    :ivar waiting: how many messages have no acknowledgement yet, of each peer for whom there are some.
    :ivar keeps_history: whether messages are kept on disk.
    """

    me: PeerID
    name: str
    rendezvous: str | None
    links: Mapping[PeerID, LinkStatus]
    calling: Collection[PeerID]
    questions: Sequence[PeerID]
    waiting: Mapping[PeerID, int]
    keeps_history: bool


@dataclass(frozen=True)
class ConversationSummary:
    """
    One line of the list of chats.

    :ivar unread: messages of the other side that nobody has seen here.
    :ivar waiting: messages of ours that the other side does not have.
    :ivar last: the newest message.
    :ivar stage: the state of the call that is under way.
    """

    contact: ContactSummary
    unread: int = 0
    waiting: int = 0
    last: ChatMessage | None = None
    link: LinkStatus | None = None
    stage: CallState | None = None


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
