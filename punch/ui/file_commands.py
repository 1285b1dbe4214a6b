"""Commands about files that are sent and received (docs/files.md)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from punch.apps.files.events import TooManyTransfers, Transfer, TransferProblem, UnknownTransfer
from punch.apps.files.source import SourceError
from punch.apps.files.transfers import Transfers
from punch.identity import PeerID
from punch.ui.command import Answer, Command, CommandContext, CommandRefused, Field, FieldKind, Fields, Result
from punch.ui.json.events import peer_called, transfer_fields, transfer_list
from punch.ui.text.transfers import (
    source_error_sentence,
    too_many_transfers_sentence,
    unknown_transfer_sentence,
)


def _transfers(context: CommandContext) -> Transfers:
    transfers = context.applications.transfers
    if transfers is None:
        raise CommandRefused("no-transfers", "Files can't be sent here: run punch send, or punch receive.")
    return transfers


def _answer(context: CommandContext, transfer: Transfer) -> Answer:
    return transfer_fields(transfer, peer_called(context.chat, transfer.peer))


def expanded(path: str) -> str:
    """Return a path that a user gave, with the home directory in place of `~`. It need not exist."""
    try:
        return os.path.expanduser(path)
    except ValueError:  # no user can be called so
        return path


def _send_files(context: CommandContext, fields: Fields) -> Result:
    # The paths are made absolute, so that "-" means a file of that name: `Transfers.send` would take it for
    # the standard input of this process.
    paths = [Path(expanded(path)).absolute() for path in fields["paths"]]
    return send(context, fields["peer"], paths)


def send(
    context: CommandContext, who: str | PeerID, paths: list[Path], done: Callable[[], object] = lambda: None
) -> Deferred[Answer]:
    """
    Send files to somebody.

    :param who: an ID, or a name from the address book.
    :param done: is passed to `Transfers.send`.
    :return: fires with the answer of the command `send-files`; fails with `CommandRefused`.
    :raise CommandRefused: the files can't be sent, and that is known at once.
    """
    transfers = _transfers(context)
    peer = context.chat.contacts.find_reachable(who)
    return transfers.send(peer, paths, done).addCallbacks(partial(_answer, context), _not_sent)


def _not_sent(failure: Failure) -> NoReturn:
    error = failure.value
    if isinstance(error, SourceError):
        raise CommandRefused("bad-file", source_error_sentence(error))
    if isinstance(error, TooManyTransfers):
        raise CommandRefused("too-many", too_many_transfers_sentence(error))
    failure.raiseException()


def _one(run: Callable[[Transfers, int], Transfer]) -> Callable[[CommandContext, Fields], Answer]:
    """Return the `run` of a command about one transfer, which its field `transfer` names."""

    def done(context: CommandContext, fields: Fields) -> Answer:
        try:
            return _answer(context, run(_transfers(context), fields["transfer"]))
        except UnknownTransfer as error:
            raise CommandRefused("no-transfer", unknown_transfer_sentence(error)) from None

    return done


def _open_folder(context: CommandContext, fields: Fields) -> Answer:
    open_folder = context.applications.open_folder
    if open_folder is None:
        raise CommandRefused("no-desktop", "There is no desktop here on which a folder can be opened.")

    def opened(transfers: Transfers, number: int) -> Transfer:
        transfer = transfers.get(number)
        if transfer.folder is None:
            raise UnknownTransfer(TransferProblem.NO_FOLDER, number)
        open_folder(transfer.folder)
        return transfer

    return _one(opened)(context, fields)


def _list(context: CommandContext, fields: Fields) -> Answer:
    return {"transfers": transfer_list(_transfers(context), context.chat)}


_TRANSFER = Field("transfer", FieldKind.TRANSFER, required=True)


def _about_one(name: str, run: Callable[[CommandContext, Fields], Answer], text: str) -> Command:
    return Command(name, (_TRANSFER,), run, text, ("transfer",), asks=True)


TABLE = (
    Command(
        "send-files",
        (Field("peer", FieldKind.PEER, required=True), Field("paths", FieldKind.FILES, required=True)),
        _send_files,
        "send a file or folder to somebody, who may be away",
        ("peer", "paths"),
        asks=True,
        current=True,
    ),
    _about_one("accept-files", _one(Transfers.accept), "receive what is offered"),
    _about_one("refuse-files", _one(Transfers.refuse), "refuse what is offered"),
    _about_one("stop-files", _one(Transfers.cancel), "end a transfer"),
    _about_one("dismiss-files", _one(Transfers.dismiss), "take a transfer that is over out of the list"),
    _about_one("open-folder", _open_folder, "open the folder of what was received"),
    Command("transfers", (), _list, "files that are sent and received", asks=True),
)
"""The commands about files; `punch.ui.commands.COMMANDS` contains them."""
