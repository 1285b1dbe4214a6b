"""
The table of all commands that a person or a program can give: the same for `--json`, pages and typed lines.

A command gets *fields*, a dictionary that was read from JSON, and mostly calls the `Chat`. Its answer is a
dictionary that can be written as JSON, or None if there is nothing to tell but that it was done. If it can't
be done, it raises `CommandRefused` or fails with it; its code is the `reason` of JSON's `error` event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat import MAX_CLIENT_ID, MAX_LIMIT, ChatError, ChatMessage
from punch.apps.chat.store import Store
from punch.apps.files.messages import MAX_ITEMS
from punch.files import NewFile
from punch.identity import PeerID
from punch.sanitize import quoted
from punch.ui import code_commands, file_commands
from punch.ui.command import (
    Answer,
    Command,
    CommandContext,
    CommandRefused,
    Field,
    FieldKind,
    Fields,
    Result,
    refusal,
)
from punch.ui.json.events import (
    contact_fields,
    conversation_fields,
    message_fields,
    netcheck_fields,
    status_fields,
    transfer_list,
)

if TYPE_CHECKING:
    from punch.apps.chat import Chat


#: The default of the field `limit`: the most messages in an answer.
LIMIT = 50


def perform(context: CommandContext, name: object, fields: Fields) -> Deferred[Answer | None]:
    """
    Do a command.

    :param name: the name of the command. It is not checked yet, and may be any value.
    :param fields: its fields. They are not checked yet either; unknown ones are ignored.
    :return: fires with the answer; `why` tells what a failure means.
    :raise CommandRefused: it can't be done, and that is known at once.
    """
    if not isinstance(name, str):
        raise CommandRefused("malformed", 'A command needs a field "command" with its name, as text.')
    command = COMMANDS.get(name)
    if command is None:
        known = ", ".join(COMMANDS)
        raise CommandRefused(
            "unknown-command", f"There is no command {quoted(name, 64)}: use one of {known}."
        )
    try:
        done = command.run(context, _checked(context.chat, command, fields))
    except ChatError as error:
        raise refusal(error) from error
    return done if isinstance(done, Deferred) else succeed(done)


def why(failure: Failure, log: Logger) -> CommandRefused:
    """Return why a command failed. An unexpected error is also logged."""
    error = failure.value
    if isinstance(error, CommandRefused):
        return error
    if isinstance(error, ChatError):
        return refusal(error)
    log.failure("a command failed", failure)
    return CommandRefused("internal", f"The command failed: {error}.")


def is_client_id(value: object) -> bool:
    """Whether a client may use this value as its own ID of a message."""
    if isinstance(value, str):
        return len(value) <= MAX_CLIENT_ID
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _checked(chat: Chat, command: Command, fields: Fields) -> Fields:
    checked: dict[str, Any] = {}
    for field in command.fields:
        if field.name not in fields or (fields[field.name] is None and not field.nullable):
            if field.required:
                raise CommandRefused(
                    "malformed", f'The command needs a field "{field.name}" with {field.kind.value}.'
                )
            continue
        checked[field.name] = _value(chat, field, fields[field.name])
    return checked


def _value(chat: Chat, field: Field, value: Any) -> Any:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = {
        FieldKind.PEER: isinstance(value, str),
        FieldKind.TEXT: isinstance(value, str),
        FieldKind.NAME: isinstance(value, str),
        FieldKind.SERVICE: isinstance(value, str),
        FieldKind.FILE: _is_file(value),
        FieldKind.FILES: isinstance(value, list)
        and 1 <= len(value) <= MAX_ITEMS
        and all(map(_is_file, value)),
        FieldKind.TRANSFER: number and isinstance(value, int),
        FieldKind.CLIENT_ID: is_client_id(value),
        FieldKind.NUMBER: number and isinstance(value, int) and 0 <= value < 2**63,
        FieldKind.LIMIT: number and isinstance(value, int) and 1 <= value <= MAX_LIMIT,
        FieldKind.DAYS: number and 0 < value < 1e6,
        FieldKind.FLAG: isinstance(value, bool),
    }[field.kind]
    if not good:
        raise CommandRefused("malformed", f'The field "{field.name}" must be {field.kind.value}.')
    return chat.contacts.find(value) if field.kind is FieldKind.PEER else value


def _is_file(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value and value != ""


# -- what they do --


def _call(context: CommandContext, fields: Fields) -> None:
    context.chat.call(fields["peer"])


def _accept(context: CommandContext, fields: Fields) -> None:
    context.chat.accept(fields["peer"])


def _reject(context: CommandContext, fields: Fields) -> None:
    context.chat.reject(fields["peer"])


def _send(context: CommandContext, fields: Fields) -> Result:
    peer = fields["peer"] if "peer" in fields else _only(context.chat.links)
    sent = context.chat.send(peer, fields["text"], fields.get("id"))
    return sent.addCallback(message_fields)


def _hangup(context: CommandContext, fields: Fields) -> None:
    chat = context.chat
    if "peer" in fields:
        peer = fields["peer"]
    elif len(both := chat.links.keys() | chat.calling) == 1:
        (peer,) = both
    else:
        peer = _only(chat.links)
    chat.hangup(peer)


def _only(links: Mapping[PeerID, object]) -> PeerID:
    if not links:
        raise CommandRefused(
            "not-connected", "There is no link: call a peer, and wait for the connected event."
        )
    if len(links) > 1:
        raise CommandRefused("ambiguous", 'There are several links: say which with the field "peer".')
    return next(iter(links))


def _quit(context: CommandContext, fields: Fields) -> None:
    context.quit()


def _read(context: CommandContext, fields: Fields) -> Result:
    return context.chat.history.read(fields["peer"], fields.get("up_to")).addCallback(lambda _: None)


def _messages(messages: list[ChatMessage]) -> Answer:
    return {"messages": [message_fields(message) for message in messages]}


def _history(context: CommandContext, fields: Fields) -> Result:
    return context.chat.history.messages(
        fields["peer"],
        before=fields.get("before"),
        limit=fields.get("limit", LIMIT),
        after=fields.get("after"),
    ).addCallback(_messages)


def _search(context: CommandContext, fields: Fields) -> Result:
    return context.chat.history.search(
        fields["text"], fields.get("peer"), before=fields.get("before"), limit=fields.get("limit", LIMIT)
    ).addCallback(_messages)


def _export(context: CommandContext, fields: Fields) -> Result:
    peer = fields.get("peer")
    if "file" in fields:
        written = Deferred.fromCoroutine(export_to(context.chat, peer, Path(fields["file"])))
        return written.addCallback(lambda count: {"file": fields["file"], "messages": count})
    limit = fields.get("limit", MAX_LIMIT)

    def page(messages: list[ChatMessage]) -> Answer:
        more = messages[-1].number if len(messages) == limit else None
        return {**_messages(messages), "next": more}

    return context.chat.history.export(peer, fields.get("after", 0), limit).addCallback(page)


def _erase(context: CommandContext, fields: Fields) -> Result:
    if "peer" not in fields and not fields.get("all"):
        raise CommandRefused(
            "malformed", 'Say whose messages to erase with "peer", or "all": true for everything.'
        )
    return context.chat.history.erase(fields.get("peer")).addCallback(lambda number: {"messages": number})


def _retention(context: CommandContext, fields: Fields) -> Result:
    chat = context.chat
    if "days" in fields:
        return chat.history.set_retention(fields["days"]).addCallback(lambda _: {"days": fields["days"]})
    return chat.history.retention().addCallback(lambda days: {"days": days})


def _peers(context: CommandContext, fields: Fields) -> Answer:
    return {"peers": [contact_fields(contact) for contact in context.chat.contacts.all()]}


def _name(context: CommandContext, fields: Fields) -> Answer:
    return contact_fields(context.chat.contacts.name(fields["peer"], fields["name"]))


def _block(context: CommandContext, fields: Fields) -> Answer:
    return contact_fields(context.chat.contacts.block(fields["peer"]))


def _unblock(context: CommandContext, fields: Fields) -> Answer:
    return contact_fields(context.chat.contacts.unblock(fields["peer"]))


def _grant(context: CommandContext, fields: Fields) -> Answer:
    return contact_fields(context.chat.contacts.grant(fields["peer"], fields["service"]))


def _revoke(context: CommandContext, fields: Fields) -> Answer:
    return contact_fields(context.chat.contacts.revoke(fields["peer"], fields["service"]))


def _forget(context: CommandContext, fields: Fields) -> None:
    context.chat.contacts.forget(fields["peer"])


def _rename(context: CommandContext, fields: Fields) -> Answer:
    context.chat.rename(fields["name"])
    return {"name": context.chat.name}


def _status(context: CommandContext, fields: Fields) -> Result:
    chat, applications = context.chat, context.applications
    transfers = transfer_list(applications.transfers, chat)
    status: Answer = {**status_fields(chat.status()), "transfers": transfers}
    if applications.node_status is None:
        return status
    return applications.node_status().addCallback(partial(_joined_status, status))


def _joined_status(status: Answer, node: Answer) -> Answer:
    links = {link["peer"]: link for link in status["links"]}
    joined = [{**links.get(link["peer"], {}), **link} for link in node["links"]]
    return {**node, **status, "links": joined}


def _netcheck(context: CommandContext, fields: Fields) -> Result:
    return context.chat.netcheck().addCallback(netcheck_fields)


def _conversations(context: CommandContext, fields: Fields) -> Result:
    return context.chat.history.conversations().addCallback(
        lambda found: {"conversations": [conversation_fields(each) for each in found]}
    )


def _web(context: CommandContext, fields: Fields) -> Answer:
    if context.chat.new_page is None:
        raise CommandRefused("no-page", "No page is served: start with --web, or punch web.")
    return {"url": context.chat.new_page()}


_PEER = Field("peer", FieldKind.PEER, required=True)
_ANY_PEER = Field("peer", FieldKind.PEER)
_SERVICE = Field("service", FieldKind.SERVICE, required=True)

_TABLE = (
    Command("call", (_PEER,), _call, "call somebody, by name or ID", ("peer",), current=True),
    Command("accept", (_PEER,), _accept, "let a caller in", ("peer",), current=True),
    Command("reject", (_PEER,), _reject, "refuse a caller", ("peer",), current=True),
    Command(
        "send",
        (Field("text", FieldKind.TEXT, required=True), _ANY_PEER, Field("id", FieldKind.CLIENT_ID)),
        _send,
        "say something to somebody, who may be away",
        ("peer", "text"),
    ),
    Command("hangup", (_ANY_PEER,), _hangup, "end the link, or the call", ("peer",), current=True),
    Command("quit", (), _quit, "hang up everything and end"),
    Command(
        "read",
        (_PEER, Field("up_to", FieldKind.NUMBER)),
        _read,
        "somebody's messages were seen",
        ("peer",),
        current=True,
    ),
    Command(
        "history",
        (
            _PEER,
            Field("before", FieldKind.NUMBER),
            Field("after", FieldKind.NUMBER),
            Field("limit", FieldKind.LIMIT),
        ),
        _history,
        "earlier messages",
        ("peer", "limit"),
        asks=True,
        current=True,
    ),
    Command(
        "search",
        (
            Field("text", FieldKind.TEXT, required=True),
            _ANY_PEER,
            Field("before", FieldKind.NUMBER),
            Field("limit", FieldKind.LIMIT),
        ),
        _search,
        "messages with these words",
        ("text",),
        asks=True,
    ),
    Command(
        "export",
        (
            _ANY_PEER,
            Field("after", FieldKind.NUMBER),
            Field("limit", FieldKind.LIMIT),
            Field("file", FieldKind.FILE),
        ),
        _export,
        "write the history to a new file",
        ("file", "peer"),
        asks=True,
    ),
    Command(
        "erase",
        (_ANY_PEER, Field("all", FieldKind.FLAG)),
        _erase,
        "erase the messages with somebody, or all",
        ("peer",),
        asks=True,
    ),
    Command(
        "retention",
        (Field("days", FieldKind.DAYS, nullable=True),),
        _retention,
        "how many days messages are kept, or for ever",
        ("days",),
        asks=True,
    ),
    Command("peers", (), _peers, "the address book", asks=True),
    Command(
        "name",
        (_PEER, Field("name", FieldKind.NAME, required=True, nullable=True)),
        _name,
        "your own name for somebody",
        ("peer", "name"),
        asks=True,
        current=True,
    ),
    Command("block", (_PEER,), _block, "refuse somebody's calls", ("peer",), asks=True, current=True),
    Command("unblock", (_PEER,), _unblock, "stop refusing their calls", ("peer",), asks=True, current=True),
    Command(
        "grant",
        (_PEER, _SERVICE),
        _grant,
        "let somebody open a service",
        ("peer", "service"),
        asks=True,
        current=True,
    ),
    Command(
        "revoke",
        (_PEER, _SERVICE),
        _revoke,
        "let somebody no longer open a service",
        ("peer", "service"),
        asks=True,
        current=True,
    ),
    Command("forget", (_PEER,), _forget, "take somebody out of the address book", ("peer",), current=True),
    Command(
        "rename",
        (Field("name", FieldKind.NAME, required=True),),
        _rename,
        "call yourself something else",
        ("name",),
        asks=True,
    ),
    Command("status", (), _status, "your ID, links, and what is waiting", asks=True),
    Command("netcheck", (), _netcheck, "what this network does to links", asks=True),
    Command("conversations", (), _conversations, "all chats, with what is unread and waiting", asks=True),
    Command("web", (), _web, "an address that lets one more browser in, once", asks=True),
    *code_commands.TABLE,
    *file_commands.TABLE,
)

#: Every command by its name.
COMMANDS: Mapping[str, Command] = {command.name: command for command in _TABLE}


async def export_to(chat: Chat, peer: PeerID | None, path: Path) -> int:
    """
    Write the messages with one peer, or with all (None), to a new file. The file appears when it is complete,
    and never replaces another one.

    At most `MAX_LIMIT` messages are in memory at a time. The file is written in the store's thread, not in
    the reactor's.

    :return: the number of messages.
    :raise CommandRefused: the file can't be written or exists already (`bad-file`).
    :raise StoreError: the history can't be read.
    """
    try:
        file = NewFile(path.expanduser())
        try:
            count = await _write_all(chat, peer, file)
            finished = await chat.storage.ask(_finish, file)
        finally:
            file.discard()
    except (OSError, RuntimeError) as error:
        # RuntimeError comes from `expanduser`: there is no such home directory.
        reason = getattr(error, "strerror", None) or error
        raise CommandRefused("bad-file", f"The file {path} can't be written: {reason}.") from error
    if not finished:
        raise CommandRefused("bad-file", f"There is a file {path} already: choose another name.")
    return count


async def _write_all(chat: Chat, peer: PeerID | None, file: NewFile) -> int:
    count = after = 0
    while page := await chat.history.export(peer, after, MAX_LIMIT):
        await chat.storage.ask(_write, file, page)
        count += len(page)
        after = page[-1].number
    return count


def _write(store: Store, file: NewFile, page: Sequence[ChatMessage]) -> None:
    # The store itself is not needed, only its thread.
    for message in page:
        file.write(json.dumps(message_fields(message)).encode("ascii") + b"\n")


def _finish(store: Store, file: NewFile) -> bool:
    return file.finish()
