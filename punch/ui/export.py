"""The history as a file: one JSON object a line, as docs/json.md describes a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from punch.apps.chat import MAX_LIMIT, ChatError, ChatMessage
from punch.apps.chat.store import Store
from punch.files import NewFile
from punch.identity import PeerID
from punch.ui.json.events import message_fields

if TYPE_CHECKING:
    from punch.apps.chat import Chat


async def export_to(chat: Chat, peer: PeerID | None, path: Path) -> int:
    """
    Write the messages with one peer, or with all (None), to a new file, which appears when it is complete. No
    file is replaced.

    One page at a time is in memory. The file is written in the store's thread, not in the reactor's.

    :return: how many messages that were.
    :raise ChatError: the file can't be written or is there already (`bad-file`); the history can't be read.
    """
    try:
        file = NewFile(path.expanduser())
        try:
            count = await _write_all(chat, peer, file)
            finished = await chat.storage.ask(_finish, file)
        finally:
            file.discard()
    except (OSError, RuntimeError) as error:
        # RuntimeError: there is no such home directory
        reason = getattr(error, "strerror", None) or error
        raise ChatError("bad-file", f"The file {path} can't be written: {reason}.") from error
    if not finished:
        raise ChatError("bad-file", f"There is a file {path} already: choose another name.")
    return count


async def _write_all(chat: Chat, peer: PeerID | None, file: NewFile) -> int:
    count = after = 0
    while page := await chat.history.export(peer, after, MAX_LIMIT):
        await chat.storage.ask(_write, file, page)
        count += len(page)
        after = page[-1].number
    return count


def _write(store: Store, file: NewFile, page: Sequence[ChatMessage]) -> None:
    # The store is not used, only its thread.
    for message in page:
        file.write(json.dumps(message_fields(message)).encode("ascii") + b"\n")


def _finish(store: Store, file: NewFile) -> bool:
    return file.finish()
