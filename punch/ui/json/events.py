"""The events of node and chat as JSON objects (docs/json.md), which `--json` prints and pages receive."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from punch.apps.chat import (
    ChatMessage,
    ChatStatus,
    ContactSummary,
    ConversationSummary,
    MessageState,
)
from punch.apps.chat import events as chat_events
from punch.apps.files.events import (
    Stage,
    Transfer,
    TransferChanged,
    TransferDismissed,
    TransferEvent,
)
from punch.apps.files.messages import Item, TransferFailed
from punch.identity import PeerID
from punch.link.events import LinkStatus
from punch.local.own import path_fields, slowed_field
from punch.node import events as peer_events
from punch.ui.text.causes import event_sentence
from punch.ui.text.chat import broken_sentence, chat_error_sentence
from punch.ui.text.codes import ended_reason, ended_sentence
from punch.ui.text.sentences import shown_name
from punch.ui.text.transfers import odd_name_lines, oddity_texts, problem_text, waiting_text

if TYPE_CHECKING:
    from punch.apps.chat import Chat
    from punch.apps.files.transfers import Transfers
    from punch.natcheck.report import NetcheckReport


JSON = dict[str, Any]


def render(event: chat_events.Event, chat: Chat) -> JSON | None:
    """
    Return the object for an event, without its `time`.

    :param chat: the chat that has sent the event.
    :return: None if events of this kind are not sent as JSON.
    """
    if isinstance(event, TransferEvent):
        return transfer_event(event, peer_called(chat, event.transfer.peer))
    renderer = _RENDERERS.get(type(event))
    return None if renderer is None else renderer(event, chat)


def peer_called(chat: Chat, peer: PeerID) -> str:
    """Return a peer's name for sentences, sanitized: its petname, its own name, or the start of its ID."""
    contact = chat.contacts.get(peer)
    return shown_name(contact.name or contact.claimed, peer, contact.alike)


def transfer_list(transfers: Transfers | None, chat: Chat) -> list[JSON]:
    """All transfers of a process as they are now; an empty list if it can't send or receive files."""
    listed = [] if transfers is None else transfers.all
    return [transfer_fields(each, peer_called(chat, each.peer)) for each in listed]


def message_fields(message: ChatMessage) -> JSON:
    """A message of the history."""
    fields: JSON = {
        "number": message.number,
        "peer": str(message.peer),
        "id": message.id,
        "outgoing": message.outgoing,
        "text": message.text,
        "time": message.time,
        "state": str(message.state),
    }
    if message.time_sent is not None:
        fields["time_sent"] = message.time_sent
    if message.client_id is not None:
        fields["client_id"] = message.client_id
    return fields


def contact_fields(contact: ContactSummary) -> JSON:
    """A peer as an entry of the address book. `name` is chosen by the peer, `petname` by this side."""
    return {
        "peer": str(contact.peer),
        "petname": contact.name,
        "name": contact.claimed,
        "known": contact.known,
        "blocked": contact.blocked,
        "alike": contact.alike,
        "services": list(contact.services),
    }


def link_fields(link: LinkStatus) -> JSON:
    """The state of a link."""
    return {
        **path_fields(link.path),
        "since": link.since,
        "dark": link.disconnected,
        "slowed": slowed_field(link),
        "post_quantum": link.post_quantum,
        "post_quantum_offers": link.post_quantum_offers,
    }


def conversation_fields(conversation: ConversationSummary) -> JSON:
    """An entry of the list of conversations."""
    return {
        **contact_fields(conversation.contact),
        "unread": conversation.unread,
        "waiting": conversation.waiting,
        "last": None if conversation.last is None else message_fields(conversation.last),
        "link": None if conversation.link is None else link_fields(conversation.link),
        "stage": None if conversation.stage is None else conversation.stage.value,
    }


def status_fields(status: ChatStatus) -> JSON:
    """The state of the chat, for the answer of the command `status`."""
    return {
        "id": str(status.me),
        "name": status.name,
        "registered": status.rendezvous is not None,
        "rendezvous": status.rendezvous,
        "links": [{"peer": str(peer), **link_fields(link)} for peer, link in status.links.items()],
        "calling": [str(peer) for peer in status.calling],
        "questions": [str(peer) for peer in status.questions],
        "waiting": {str(peer): count for peer, count in status.waiting.items()},
        "history": status.keeps_history,
    }


def netcheck_fields(report: NetcheckReport) -> JSON:
    """The report of a netcheck: the answer of the command and the `netcheck` event are the same."""
    # Imported here, as it takes long to load and is rarely needed.
    from punch.ui.text.netcheck import conclusions, details, problem_of

    return {
        "event": "netcheck",
        **report.to_json(),
        "problem": problem_of(report),
        "conclusions": conclusions(report),
        "details": details(report),
    }


def code_fields(made: chat_events.CodeMade) -> JSON:
    """A code that this side has made."""
    return {"code": made.code, "expires": round(made.expires, 3)}


def _petname(event: Any, chat: Chat) -> JSON:
    name = chat.contacts.get(event.peer).name
    return {} if name is None else {"petname": name}


def _message_added(event: chat_events.MessageAdded, chat: Chat) -> JSON:
    message = event.message
    if message.outgoing:
        return {"event": "added", **message_fields(message)}
    contact = chat.contacts.get(message.peer)
    fields: JSON = {
        "event": "message",
        "peer": str(message.peer),
        "name": contact.claimed,
        "text": message.text,
        "id": message.id,
        "number": message.number,
    }
    if contact.name is not None:
        fields["petname"] = contact.name
    if message.time_sent is not None:
        fields["time_sent"] = message.time_sent
    if event.again:
        fields["again"] = True
    return fields


def _message_changed(event: chat_events.MessageChanged, chat: Chat) -> JSON | None:
    message = event.message
    if message.state is MessageState.UNREAD:
        return None
    client_id = event.client_id if event.client_id is not None else message.client_id
    fields: JSON = {
        "event": str(message.state),
        "peer": str(message.peer),
        "id": message.id if client_id is None else client_id,
        "number": message.number,
    }
    if not message.outgoing:
        fields["outgoing"] = False
    if event.again:
        fields["again"] = True
    return fields


def _ready(event: peer_events.Ready, chat: Chat) -> JSON:
    return {"event": "ready", "id": str(event.peer_id), "name": chat.name}


def _failed(event: peer_events.CallFailed, chat: Chat) -> JSON:
    peer = {} if event.peer is None else {"peer": str(event.peer)}
    return {"event": "failed", "reason": event.reason, "text": event_sentence(event), **peer}


def _already_connected(event: peer_events.AlreadyConnected, chat: Chat) -> JSON:
    return {
        "event": "error",
        "reason": "already-connected",
        "text": f"There is a link to {event.peer.short} already, and it answers: send over it.",
        "command": "call",
        "peer": str(event.peer),
    }


def _erased(event: chat_events.HistoryErased, chat: Chat) -> JSON:
    fields: JSON = {"event": "erased", "peer": None if event.peer is None else str(event.peer)}
    if event.before is not None:
        fields["before"] = event.before
    return fields


_RENDERERS: dict[type, Callable[[Any, Any], JSON | None]] = {
    peer_events.Ready: _ready,
    peer_events.Registered: lambda event, chat: {"event": "registered", "rendezvous": event.rendezvous},
    peer_events.Unregistered: lambda event, chat: {
        "event": "unregistered",
        "reason": event.reason,
        "text": event_sentence(event),
        "retry_in": event.retry_in,
    },
    peer_events.IncomingCall: lambda event, chat: {
        "event": "call",
        "peer": str(event.peer),
        "name": event.name,
        "known": event.known,
        "decided": event.decided,
        **_petname(event, chat),
    },
    peer_events.Calling: lambda event, chat: {"event": "calling", "peer": str(event.peer)},
    peer_events.AlreadyConnected: _already_connected,
    peer_events.Introduced: lambda event, chat: {
        "event": "introduced",
        "peer": str(event.peer),
        "name": event.name,
    },
    peer_events.Checking: lambda event, chat: {
        "event": "checking",
        "peer": str(event.peer),
        "pairs": event.pairs,
    },
    peer_events.Connected: lambda event, chat: {
        "event": "connected",
        "peer": str(event.peer),
        "name": event.name,
        **_petname(event, chat),
        **path_fields(event.path),
        "post_quantum": event.link.status is not None and event.link.status.post_quantum,
    },
    peer_events.PathChanged: lambda event, chat: {
        "event": "path",
        "peer": str(event.peer),
        **path_fields(event.path),
    },
    peer_events.PathLost: lambda event, chat: {
        "event": "path-lost",
        "peer": str(event.peer),
        "text": event_sentence(event),
    },
    peer_events.PathSlowed: lambda event, chat: {
        "event": "path-slowed",
        "peer": str(event.peer),
        "limit": event.limit.name.lower(),
        "there": event.there,
        "text": event_sentence(event),
    },
    peer_events.Disconnected: lambda event, chat: {
        "event": "disconnected",
        "peer": str(event.peer),
        "reason": event.reason,
        "text": event_sentence(event),
        "undelivered": chat.conversations.undelivered(event.peer),
    },
    peer_events.CallFailed: _failed,
    chat_events.MessageAdded: _message_added,
    chat_events.MessageChanged: _message_changed,
    chat_events.ContactChanged: lambda event, chat: {"event": "contact", **contact_fields(event.contact)},
    chat_events.ContactForgotten: lambda event, chat: {"event": "forgotten", "peer": str(event.peer)},
    chat_events.HistoryErased: _erased,
    chat_events.NameChanged: lambda event, chat: {"event": "renamed", "name": event.name},
    peer_events.CallUnanswerable: lambda event, chat: {
        "event": "refused",
        "peer": str(event.peer),
        "reason": "nobody-to-ask",
        "text": "There is nobody here to answer the call: start with --accept known or --accept anyone.",
    },
    chat_events.PeerUnreachable: lambda event, chat: {
        "event": "away",
        "peer": str(event.peer),
        "reason": event.failure.reason,
        "text": event_sentence(event.failure),
        "retry_in": event.retry_in,
    },
    chat_events.ChatBroken: lambda event, chat: {
        "event": "broken",
        "peer": str(event.peer),
        "text": broken_sentence(event),
    },
    chat_events.StoreFailed: lambda event, chat: {
        "event": "history-failed",
        "text": None if event.error is None else chat_error_sentence(event.error),
    },
    chat_events.NetcheckDone: lambda event, chat: netcheck_fields(event.report),
    chat_events.CodeMade: lambda event, chat: {"event": "code", **code_fields(event)},
    chat_events.CodeUsed: lambda event, chat: {
        "event": "code-used",
        **contact_fields(event.contact),
        "problem": "" if event.problem is None else chat_error_sentence(event.problem),
    },
    chat_events.CodeVoid: lambda event, chat: {
        "event": "code-void",
        "reason": ended_reason(event.why),
        "text": ended_sentence(event.why),
    },
}


def transfer_fields(transfer: Transfer, who: str) -> JSON:
    """
    The state of a transfer.

    :param who: the name of the peer, for sentences.
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
    """A path as text. Bytes that are not UTF-8 become U+FFFD, as JSON can't contain them."""
    return os.fsencode(path).decode("utf-8", "replace")


def transfer_event(event: TransferEvent, who: str) -> JSON:
    """
    The object for an event of a transfer.

    :param who: the name of the peer, for sentences.
    """
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
