"""Transfers as JSON (docs/json.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from punch.apps.files.events import (
    Stage,
    Transfer,
    TransferChanged,
    TransferDismissed,
    TransferEvent,
)
from punch.apps.files.messages import Item, TransferFailed
from punch.ui.text.transfers import odd_name_lines, oddity_texts, problem_text, waiting_text

JSON = dict[str, Any]


def transfer_fields(transfer: Transfer, who: str) -> JSON:
    """
    A transfer as it is now.

    :param who: the peer, for sentences.
    """
    problem, offer = transfer.problem, transfer.offer
    reason = text = None
    if transfer.stage is Stage.FAILED and problem is not None:
        reason = problem.code.value if isinstance(problem, TransferFailed) else problem.reason
        text = problem_text(problem, who)
    elif transfer.stage is Stage.WAITING:
        text = waiting_text(problem, who, transfer.outgoing)
    return {
        "transfer": transfer.number,
        "peer": str(transfer.peer),
        "outgoing": transfer.outgoing,
        "stage": transfer.stage.value,
        "position": transfer.position,
        "size": offer.size,
        "entries": offer.entries,
        "items": [_item_fields(item) for item in offer.items],
        "is_text": offer.text is not None,
        "content": offer.text if transfer.stage is Stage.DONE else None,
        "reason": reason,
        "text": text,
        "folder": None if transfer.folder is None else path_text(transfer.folder),
        "paths": [path_text(path) for path in transfer.finals],
        "left_out": list(transfer.left_out),
        "odd_names": odd_name_lines(transfer.odd_names),
    }


def _item_fields(item: Item) -> JSON:
    return {
        "name": item.name,
        "kind": item.kind.name.lower(),
        "size": item.size,
        "files": item.files,
        "oddities": oddity_texts(item.name),
    }


def path_text(path: Path) -> str:
    """A path as JSON can carry it."""
    return os.fsencode(path).decode("utf-8", "replace")


def transfer_event(event: TransferEvent, who: str) -> JSON:
    """The object for an event of a transfer."""
    transfer = event.transfer
    if isinstance(event, TransferChanged):
        return {"event": f"transfer-{transfer.stage.value}", **transfer_fields(transfer, who)}
    name = "transfer-dismissed" if isinstance(event, TransferDismissed) else "transfer-progress"
    return {
        "event": name,
        "transfer": transfer.number,
        "peer": str(transfer.peer),
        "position": transfer.position,
        "size": transfer.offer.size,
    }
