"""
Parses typed commands: a line that begins with a slash becomes a command of `punch.ui.commands` with fields.

A person types the fields in the order of `Command.typed`, may leave out the peer that the chat is with, and
may use shorter names for commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from punch.apps.chat import ChatError
from punch.identity import PeerID
from punch.names import without_format, without_ignorable
from punch.ui.command import Command, CommandRefused, Field, FieldKind, refusal
from punch.ui.commands import COMMANDS
from punch.ui.file_commands import expanded

if TYPE_CHECKING:
    from punch.apps.chat import Chat

#: Other words for commands.
SHORT = {
    "q": "quit",
    "exit": "quit",
    "?": "help",
    "id": "status",
    "msg": "send",
    "chats": "conversations",
    "nick": "rename",
    "list": "peers",
}

#: Commands that may also be typed after `/history`: `/history search …` is `/search …`.
HISTORY = ("search", "export", "erase", "retention")

#: Commands that only a person types, with what they do.
VIEW = {
    "to": "send what you type to somebody, who may be away",
    "whois": "somebody's ID and names, and the path to them",
    "clear": "clear the screen",
    "help": "this list; /help COMMAND tells more",
}
_VIEW_TYPED = {"to": "/to WHO", "whois": "/whois [WHO]"}

#: The word that is typed to remove a value: `/name bob -`.
NOTHING = "-"

#: Fields (command, field) that a program may leave out, and a person may not.
_NEEDED = {("send", "peer"), ("erase", "peer"), ("export", "file")}

_FOR_EVER = ("off", "never", "forever", "ever", NOTHING)

_SHOWN = {
    FieldKind.PEER: "WHO",
    FieldKind.TEXT: "TEXT",
    FieldKind.NAME: "NAME",
    FieldKind.SERVICE: "SERVICE",
    FieldKind.LIMIT: "COUNT",
    FieldKind.DAYS: "DAYS",
    FieldKind.FILE: "FILE",
    FieldKind.FILES: "FILE",
    FieldKind.TRANSFER: "NUMBER",
}


@dataclass(frozen=True)
class TypedCommand:
    """A typed command, with its fields as `punch.ui.commands.perform` takes them."""

    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Help:
    """`/help`, about the command `about`, or about all if that is empty."""

    about: str


@dataclass(frozen=True)
class SelectPeer:
    """`/to`: from now on lines go to this peer."""

    peer: PeerID


@dataclass(frozen=True)
class WhoIs:
    """`/whois`: tell about this peer."""

    peer: PeerID


@dataclass(frozen=True)
class Clear:
    """`/clear`: clear the screen."""


def parse(
    line: str, chat: Chat, current: PeerID | None, caller: PeerID | None, met: Iterable[PeerID] = ()
) -> TypedCommand | Help | SelectPeer | WhoIs | Clear:
    """
    Return what a typed command means.

    :param line: without its slash.
    :param current: the peer that the user is chatting with.
    :param caller: the peer whose call waits for an answer, if there is one.
    :param met: peers that were connected in this process, which are also found by the names that they gave
        themselves.
    :raise CommandRefused: it can't be understood; the sentence says what to type instead.
    """
    word, _, rest = line.strip().partition(" ")
    word, rest = without_format(word).lower(), rest.strip()
    # /send may also send a file; its short form /msg always sends text.
    may_be_file = word == "send"
    if current is not None and _names_only_file(word, rest):
        return _send_file(str(current), rest)
    word = SHORT.get(word, word) or "help"
    if word == "history" and rest:
        sub, _, after = rest.partition(" ")
        if sub.lower() in HISTORY:
            word, rest = sub.lower(), after.strip()
    if word == "help":
        return Help(rest.removeprefix("/").lower())
    if word == "to":
        if not rest:
            raise CommandRefused("malformed", "Say to whom: /to NAME.")
        return SelectPeer(find(chat, rest, _with(current, met)))
    if word == "whois":
        if not rest and current is None:
            raise CommandRefused("malformed", "Say whom you mean: /whois NAME.")
        return WhoIs(find(chat, rest, _with(current, met)) if rest or current is None else current)
    if word == "clear" and not rest:
        return Clear()
    command = COMMANDS.get(word)
    if command is None:
        raise CommandRefused(
            "unknown-command", f"There is no command /{word[:20]}: /help shows what there is."
        )
    meant = caller if word in ("accept", "reject") and caller is not None else current
    fields = _fields(command, rest, chat, meant, _with(current, met))
    if may_be_file and _is_meant_file(fields["text"]):
        return _send_file(fields["peer"], fields["text"])
    return TypedCommand(word, fields)


def _send_file(peer: str, path: str) -> TypedCommand:
    return TypedCommand("send-files", {"peer": peer, "paths": [path]})


def _names_only_file(word: str, rest: str) -> bool:
    """Whether `/send` or `/send-files` is followed by nothing but the path of a file that exists."""
    if word == "send":
        return _is_meant_file(rest)
    return word == "send-files" and os.path.lexists(expanded(rest))


def _is_meant_file(text: str) -> bool:
    """
    Whether the text of `/send` names a file or folder that exists, rather than being a message. A folder must
    be written with a `/`; the root, the home directory, `.` and `..` are never meant.
    """
    path = expanded(text)
    named = text.strip("./~") != "" and os.path.lexists(path)
    return named and ("/" in text or not os.path.isdir(path))


def _with(current: PeerID | None, met: Iterable[PeerID]) -> list[PeerID]:
    return [*met] if current is None else [current, *met]


def find(chat: Chat, text: str, met: Iterable[PeerID] = ()) -> PeerID:
    """
    Return the peer that the user means.

    :param text: an ID, a name from the address book, or the name that a peer with a link or call gave itself.
    :param met: further peers that are found by the names that they gave themselves.
    :raise CommandRefused: no peer is found, or several are.
    """
    try:
        return chat.contacts.find(text)
    except ChatError as error:
        here = dict.fromkeys([*chat.links, *chat.questions, *chat.calling, *met])
        wanted = without_ignorable(text).strip().casefold()
        named = [
            peer for peer in here if without_ignorable(chat.contacts.get(peer).claimed).casefold() == wanted
        ]
        if len(named) == 1:
            return named[0]
        raise refusal(error) from error


def _fields(
    command: Command, rest: str, chat: Chat, current: PeerID | None, met: list[PeerID]
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    find_peer = partial(find, chat, met=met)
    if command.name == "erase" and rest.lower() in ("all", "everything"):
        return {"all": True}
    typed = [command.field(name) for name in command.typed]
    for index, field in enumerate(typed):
        later = typed[index + 1 :]
        taken, rest = _take(command, field, rest, later, find_peer, current)
        fields.update(taken)
    if rest:
        raise CommandRefused("malformed", f"That is more than /{command.name} takes: {usage(command)}.")
    return fields


def _take(
    command: Command,
    field: Field,
    rest: str,
    later: list[Field],
    find_peer: Callable[[str], PeerID],
    current: PeerID | None,
) -> tuple[dict[str, Any], str]:
    if field.kind is FieldKind.TEXT or (
        field.kind in (FieldKind.FILE, FieldKind.FILES, FieldKind.PEER) and not later
    ):
        # It takes the rest of the line: an ID may be written in groups, a path may contain spaces.
        word, after = rest, ""
    else:
        word, _, after = rest.partition(" ")
        word, after = without_format(word), after.strip()
    if field.kind is FieldKind.PEER:
        default = {"peer": str(current)} if command.current and current is not None else {}
        needed = sum(other.required for other in later)
        if default and len(rest.split()) <= needed:
            return default, rest
        if word:
            try:
                return {field.name: str(find_peer(word))}, after
            except CommandRefused:
                if default and later and len(rest.split()) <= len(later):
                    return default, rest
                raise
        if default:
            return default, rest
    elif word:
        return {field.name: _typed_value(command, field, word)}, after
    if field.required or (command.name, field.name) in _NEEDED:
        raise CommandRefused("malformed", f"Something is missing: {usage(command)}.")
    return {}, rest


def _typed_value(command: Command, field: Field, word: str) -> Any:
    if field.kind is FieldKind.NAME and field.nullable and word == NOTHING:
        return None
    if field.kind is FieldKind.DAYS:
        if word.lower() in _FOR_EVER:
            return None
        try:
            return float(word)
        except ValueError:
            raise CommandRefused("malformed", f"Say how many days, or off: {usage(command)}.") from None
    if field.kind in (FieldKind.LIMIT, FieldKind.TRANSFER):
        try:
            return int(word)
        except ValueError:
            what = "how many" if field.kind is FieldKind.LIMIT else "which, by its number"
            raise CommandRefused("malformed", f"Say {what}: {usage(command)}.") from None
    return [word] if field.kind is FieldKind.FILES else word


def usage(command: Command) -> str:
    """Return how a command is typed, such as `/name [WHO] NAME`."""
    words = [f"/{command.name}"]
    for name in command.typed:
        field = command.field(name)
        shown = _SHOWN.get(field.kind, name.upper())
        if command.name == "erase":
            shown = "WHO|all"
        elif field.kind is FieldKind.DAYS:
            shown = "DAYS|off"
        optional = not field.required or (field.kind is FieldKind.PEER and command.current)
        words.append(f"[{shown}]" if optional and (command.name, name) not in _NEEDED else shown)
    return " ".join(words)


def help_lines(about: str) -> Iterator[str]:
    """
    Return the lines that `/help` shows.

    :param about: the name of a command, or "" for all of them.
    """
    about = SHORT.get(about, about)
    chosen = [command for command in COMMANDS.values() if about in ("", command.name)]
    pairs = [(usage(command), command.help) for command in chosen]
    pairs += [(_VIEW_TYPED.get(name, f"/{name}"), text) for name, text in VIEW.items() if about in ("", name)]
    if not pairs:
        yield f"There is no command /{about[:20]}: /help shows what there is."
        return
    if not about:
        yield "What you type goes to the one named before the cursor; Alt-Enter begins a new line. Commands:"
    width = max(len(typed) for typed, _ in pairs)
    for typed, text in pairs:
        yield f"  {typed:<{width}}  {text}"
    if not about:
        yield "WHO is a name or an ID; where it is in [ ] and left out, it is the one to whom you write."
        yield (
            "Other words for them: "
            + ", ".join(f"/{short} for /{name}" for short, name in SHORT.items())
            + "."
        )
        yield ("/send FILE is /send-files FILE if it is there; of a folder, if a / is typed: /send photos/.")
        yield "A line that begins with // is sent with one slash. Ctrl-R searches what you typed before."


def completions(text: str, names: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """
    Return the completions for a line that is being typed.

    :param text: the line up to the cursor.
    :param names: names of peers.
    :return: for each, the word, how many characters before the cursor it replaces, and what it means.
    """
    if not text.startswith("/") or text.startswith("//") or "\n" in text:
        return
    word, space, rest = text[1:].partition(" ")
    if not space:
        for name, meaning in [*((c.name, c.help) for c in COMMANDS.values()), *VIEW.items()]:
            if name.startswith(word.lower()):
                yield f"/{name}", len(text), meaning
        return
    word = SHORT.get(word.lower(), word.lower())
    before, _, partial = rest.rpartition(" ")
    if word == "history" and not before:
        for name in HISTORY:
            if name.startswith(partial.lower()):
                yield name, len(partial), COMMANDS[name].help
    if word == "help":
        for name in COMMANDS:
            if name.startswith(partial.lower()) and not before:
                yield name, len(partial), ""
        return
    if _takes_peer(word, rest):
        for name in names:
            if name.lower().startswith(partial.lower()):
                yield name, len(partial), ""


def _takes_peer(word: str, rest: str) -> bool:
    """Whether the last word of `rest` may be a peer."""
    parts = rest.split(" ")
    if word == "history" and len(parts) > 1 and parts[0] in HISTORY:
        return _takes_peer(parts[0], " ".join(parts[1:]))
    place = len(parts) - 1
    if word in ("to", "whois"):
        return place == 0
    command = COMMANDS.get(word)
    if command is None or place >= len(command.typed):
        return False
    return command.field(command.typed[place]).kind is FieldKind.PEER
