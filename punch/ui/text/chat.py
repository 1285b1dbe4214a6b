"""Sentences for the errors of a chat."""

from __future__ import annotations

from punch.apps.chat.events import ChatBroken
from punch.apps.chat.model import MAX_TEXT, ChatError, ChatProblem
from punch.sanitize import quoted
from punch.sentences import Problem, sentence_of

_SENTENCES = {
    ChatProblem.CAUSE: "{cause}",
    ChatProblem.LONE_SURROGATE: "The text holds half a character (a lone surrogate): send it whole.",
    ChatProblem.LONG_TEXT: "The message has {number:,} bytes, the most is {most:,}: send it in parts.",
    ChatProblem.OUTBOX_FULL: ("{number:,} messages are not delivered yet: send again when some of them are."),
    ChatProblem.NOT_CONNECTED: "There is neither a link nor a call to {peer}.",
    ChatProblem.NO_CALL: "No call of {peer} waits for an answer: wait for a call.",
    ChatProblem.OWN_NAME: "{cause}",
    ChatProblem.UNSEEN_NAME: "The name {name} can't be used: nothing of it is visible.",
    ChatProblem.NAME_NOT_KEPT: "{cause}",
    ChatProblem.RETENTION: "The retention is a number of days above 0, or none.",
    ChatProblem.UNKNOWN_NAME: "{cause}",
    ChatProblem.BLOCKED: "You have blocked {peer}: unblock them first.",
    ChatProblem.SELF: "This is your own ID: use the ID that the other side printed.",
    ChatProblem.NOT_IN_BOOK: "{peer} is not in the address book.",
    ChatProblem.MESSAGES_WAIT: (
        "{number:,} {messages} for {peer}, who is called until they are delivered: wait for that, or erase "
        "them, then forget."
    ),
    ChatProblem.NO_CODE: "There is no code of this side that waits to be used.",
    ChatProblem.OWN_CODE: "This is your own code: give it to the other side.",
    ChatProblem.CODE_IN_USE: "A code is being used already: wait until that has ended.",
    ChatProblem.HISTORY_NOT_A_FILE: (
        "The history's file {path} can't be used: {text}. Move it away, choose another directory with "
        "--state-dir, or use --no-history."
    ),
    ChatProblem.HISTORY_UNUSABLE: (
        "The history {path} can't be used: {text}. Make room or make it writable, choose another directory "
        "with --state-dir, or use --no-history."
    ),
    ChatProblem.HISTORY_DAMAGED: (
        "The history {path} is damaged ({text}). Move it away, with the files beside it that begin with its "
        "name, and it will be begun anew, or use --no-history."
    ),
    ChatProblem.HISTORY_FOREIGN: (
        "The file {path} is a database, but not a chat's history. Move it away and the history will be begun "
        "anew, or use --no-history."
    ),
    ChatProblem.HISTORY_NEWER: (
        "The history {path} was written by a newer version of Punch: use that one, choose another directory "
        "with --state-dir, or use --no-history."
    ),
    ChatProblem.HISTORY_CLOSED: "The history is closed: this process ends.",
}


def chat_error_sentence(error: ChatError) -> str:
    """Return a sentence that says why something can't be done, and what the user can do instead."""
    return _SENTENCES[error.problem].format(
        cause=sentence_of(error.cause) if isinstance(error.cause, Problem) else error.cause,
        number=error.number,
        messages="message waits" if error.number == 1 else "messages wait",
        most=MAX_TEXT,
        peer="" if error.peer is None else error.peer.short,
        name=quoted(error.text),
        text=error.text,
        path="in memory" if error.path is None else error.path,
    )


def broken_sentence(event: ChatBroken) -> str:
    """Return a sentence for a chat that was ended because the peer has violated the protocol."""
    return f"The chat with {event.peer.short} was ended: they sent {event.detail}."
