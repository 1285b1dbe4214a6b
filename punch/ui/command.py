"""The types that describe a command: its fields, its function, and the context in which it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from punch.apps.chat import MAX_CLIENT_ID, MAX_LIMIT, ChatError
from punch.ui.text.chat import chat_error_sentence

if TYPE_CHECKING:
    from punch.apps.chat import Chat
    from punch.apps.chat.codes import ContactCodes
    from punch.apps.files.transfers import Transfers

Fields = Mapping[str, Any]
Answer = dict[str, Any]

Result = Answer | None | Deferred[Any]
"""The result of a command, at once or as a Deferred. None: it is done, and has no answer."""


class CommandRefused(ValueError):
    """
    A command can't be done; `str()` is a sentence for the user.

    :ivar code: the same for programs: the `reason` of JSON's `error` event.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def refusal(error: ChatError) -> CommandRefused:
    """Return the `CommandRefused` for an error of the chat."""
    return CommandRefused(error.code, chat_error_sentence(error))


class FieldKind(Enum):
    """What a field holds. The values are parts of sentences for users."""

    PEER = "an ID or a name from the address book"
    TEXT = "text"
    NAME = "a name"
    SERVICE = "the name of a service"
    CLIENT_ID = f"an integer, or text of at most {MAX_CLIENT_ID} characters"
    NUMBER = "a message's number"
    LIMIT = f"how many, 1 to {MAX_LIMIT}"
    DAYS = "a number of days, or null for ever"
    FILE = "a path"
    FILES = "an array of 1 to 100 paths"
    TRANSFER = "the number of a transfer"
    FLAG = "true or false"


@dataclass(frozen=True)
class Field:
    """
    One field of a command.

    :ivar nullable: whether null is a value of its own; otherwise null means that the field is left out.
    """

    name: str
    kind: FieldKind
    required: bool = False
    nullable: bool = False


@dataclass(frozen=True)
class Applications:
    """
    The applications and services that a process has besides the chat. Each may be missing.

    :ivar codes: makes and uses codes; None: this process can't.
    :ivar transfers: sends and receives files; None: this process can't.
    :ivar open_folder: shows a folder of this machine on its desktop; None: there is no desktop.
    :ivar node_status: `NodeAccess.status`; None: only the status of the chat is known.
    """

    codes: ContactCodes | None = None
    transfers: Transfers | None = None
    open_folder: Callable[[Path], object] | None = None
    node_status: Callable[[], Deferred[dict[str, Any]]] | None = None


NO_APPLICATIONS = Applications()
"""For a process that has only the chat."""


@dataclass(frozen=True)
class CommandContext:
    """
    What commands work on: the chat and the other applications of the process.

    :ivar quit: ends the process, after what is under way.
    """

    chat: Chat
    quit: Callable[[], None]
    applications: Applications = NO_APPLICATIONS


@dataclass(frozen=True)
class Command:
    """
    One command, an entry of `punch.ui.commands.COMMANDS`.

    :ivar fields: the fields that it takes.
    :ivar run: does it. It gets the fields after they were checked, and may raise `CommandRefused` or
        `ChatError`.
    :ivar help: what it does, for a person.
    :ivar typed: the names of the fields that a person can type, in order; a field of kind `TEXT` takes the
        rest of the line.
    :ivar asks: whether it has an answer, which is always sent; without one, a program is told of its
        success only if it numbered the request.
    :ivar current: whether a person may leave out the peer, and then means the one that the chat is with.
    """

    name: str
    fields: tuple[Field, ...]
    run: Callable[[CommandContext, Fields], Result]
    help: str
    typed: tuple[str, ...] = ()
    asks: bool = False
    current: bool = False

    def field(self, name: str) -> Field:
        """The field of that name."""
        return next(field for field in self.fields if field.name == name)
