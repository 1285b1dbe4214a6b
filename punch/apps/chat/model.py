"""The values of the chat, which views show, and its errors. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from punch.identity import PeerID
from punch.link.events import LinkStatus
from punch.node.events import CallState

MAX_TEXT = 16_384
"""Longest text of a message, in bytes of UTF-8."""

MAX_CLIENT_ID = 128
"""Longest id that a client may give a message, in characters."""

ClientID = str | int


class ChatProblem(Enum):
    """
    Why something that was asked of a chat can't be done.

    :ivar problem: its name, with which the text of a `ChatError` begins.
    :ivar code: what programs are told (docs/json.md); "": the code of the cause.
    """

    CAUSE = "cause", ""
    """It is refused by something else, such as the address book; `cause` says why."""
    LONE_SURROGATE = "lone-surrogate", "bad-text"
    """A text has a lone surrogate, which UTF-8 can't carry."""
    LONG_TEXT = "long-text", "too-long"
    """A message has too many bytes, `number`."""
    OUTBOX_FULL = "outbox-full", "outbox-full"
    """Too many messages wait, `number`."""
    NOT_CONNECTED = "not-connected", "not-connected"
    """There is neither a link nor a call to `peer`."""
    NO_CALL = "no-call", "no-call"
    """No call of `peer` waits for an answer."""
    OWN_NAME = "own-name", "bad-name"
    """This side can't call itself so, for a reason that `cause` says."""
    UNSEEN_NAME = "unseen-name", "bad-name"
    """Nothing of the name `text` is visible."""
    NAME_NOT_KEPT = "name-not-kept", "state"
    """This side's own name can't be written, for a reason that `cause` says."""
    RETENTION = "retention", "malformed"
    """The retention is not a number of days that is allowed."""
    UNKNOWN_NAME = "unknown-name", "bad-peer-id"
    """It can't be told which peer is meant, for a reason that `cause` says."""
    BLOCKED = "blocked", "blocked"
    """The user has blocked `peer`."""
    SELF = "self", "self"
    """The peer is this side itself."""
    NOT_IN_BOOK = "not-in-book", "unknown-peer"
    """`peer` is not in the address book."""
    MESSAGES_WAIT = "messages-wait", "waiting"
    """Messages wait for `peer`, `number`."""
    NO_CODE = "no-code", "no-code"
    """No code of this side waits to be used."""
    OWN_CODE = "own-code", "self"
    """The code is this side's own."""
    CODE_IN_USE = "code-in-use", "too-many"
    """Another code is being used."""
    HISTORY_NOT_A_FILE = "history-not-a-file", "state"
    """`path`, of the history's files, is something else than a file: `text` says what."""
    HISTORY_UNUSABLE = "history-unusable", "state"
    """The history can't be read or written; `text` says why."""
    HISTORY_DAMAGED = "history-damaged", "state"
    """What is in the history's file makes no sense; `text` says what."""
    HISTORY_FOREIGN = "history-foreign", "state"
    """The history's file is another program's database."""
    HISTORY_NEWER = "history-newer", "state"
    """The history was written by a newer version of Punch."""
    HISTORY_CLOSED = "history-closed", "state"
    """The history was closed, as the process ends."""

    def __init__(self, problem: str, code: str) -> None:
        self.problem = problem
        self.code = code


class ChatError(ValueError):
    """
    What was asked of a chat can't be done. `punch.ui.text.chat` makes a sentence of it.

    :ivar problem: why.
    :ivar peer: the peer that it is about.
    :ivar number: how many messages, or bytes.
    :ivar text: a name, or what the system says.
    :ivar path: a file; None also if the history is in memory.
    :ivar cause: the error that is the reason.
    """

    def __init__(
        self,
        problem: ChatProblem,
        *,
        peer: PeerID | None = None,
        number: int = 0,
        text: str = "",
        path: Path | None = None,
        cause: Exception | None = None,
    ) -> None:
        super().__init__(": ".join(str(part) for part in (problem.problem, path, text, cause) if part))
        self.problem = problem
        self.peer = peer
        self.number = number
        self.text = text
        self.path = path
        self.cause = cause

    @property
    def code(self) -> str:
        """What programs are told."""
        return self.problem.code or str(getattr(self.cause, "code", ""))


class StoreError(ChatError):
    """The history can't be read or written."""


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

    :ivar number: its number in this side's history, unique in all conversations, and growing. Views use it.
    :ivar id: the number that its sender has given it in this conversation.
    :ivar time: when it was written here or arrived here, in seconds since the epoch, by this machine's clock.
    :ivar time_sent: when its sender wrote it, by the sender's clock, if it says so.
    :ivar client_id: the id that a script has given it, if it is ours.
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
    What is known of a peer.

    :ivar name: its petname, which can be used wherever an ID can.
    :ivar claimed: what it calls itself, which nobody has checked.
    :ivar known: whether it was called or accepted before.
    :ivar blocked: whether its calls are refused; it is not called either.
    :ivar alike: whether its name looks like that of another peer, or like a word of the interface. Views then
        show the beginning of its ID, too.
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
    What a list of conversations shows of one.

    :ivar unread: how many messages of the peer this side's user has not read.
    :ivar waiting: how many messages of ours the peer has not acknowledged.
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
    Return a message's text in UTF-8, as it is sent.

    :raise ChatError: it is too long, or has a character that UTF-8 can't encode.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ChatError(ChatProblem.LONE_SURROGATE) from None
    if len(data) > MAX_TEXT:
        raise ChatError(ChatProblem.LONG_TEXT, number=len(data))
    return data
