"""What a command is: its fields, what it does, and where it is given."""

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
"""What running a command gives, at once or later. None: it is done, and there is nothing to say."""


class CommandRefused(ValueError):
    """
    A command can't be done; `str()` is a sentence for the user.

    :ivar code: what programs are told, as the `reason` of an error.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def refusal(error: ChatError) -> CommandRefused:
    """What a view shows where the chat can't do something."""
    return CommandRefused(error.code, chat_error_sentence(error))


class FieldKind(Enum):
    """What a field holds."""

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

    :ivar nullable: whether null is a value of its own, and not the same as leaving the field out.
    """

    name: str
    kind: FieldKind
    required: bool = False
    nullable: bool = False


@dataclass(frozen=True)
class Applications:
    """
    What a process has beside the chat.

    :ivar codes: makes and uses codes; None: that is not possible here.
    :ivar transfers: the files that are sent and received; None: neither is possible here.
    :ivar open_folder: opens a folder of this machine on its desktop; None: there is no desktop.
    :ivar node_status: `NodeAccess.status`; None: only the chat's is known.
    """

    codes: ContactCodes | None = None
    transfers: Transfers | None = None
    open_folder: Callable[[Path], object] | None = None
    node_status: Callable[[], Deferred[dict[str, Any]]] | None = None


NO_APPLICATIONS = Applications()
"""A process that has only the chat."""


@dataclass(frozen=True)
class CommandContext:
    """
    Where a command is given: the chat, from one of its views.

    :ivar quit: ends the process, in order.
    """

    chat: Chat
    quit: Callable[[], None]
    applications: Applications = NO_APPLICATIONS


@dataclass(frozen=True)
class Command:
    """
    One line of the table.

    :ivar typed: its fields in the order in which a person types them; `text` takes the rest of the line.
    :ivar help: what it does, for a person.
    :ivar asks: it answers something (else it just is done).
    :ivar current: a person who names no peer means the one the chat is with.
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
