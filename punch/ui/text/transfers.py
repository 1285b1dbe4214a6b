"""Sentences about transfers: what is offered, how far a transfer is, and why one waits or ended."""

from __future__ import annotations

from pathlib import Path

from punch.amounts import format_bytes
from punch.apps.files.events import (
    Oddity,
    OddNames,
    PeerBlocked,
    TooManyTransfers,
    TransferProblem,
    UnknownTransfer,
    oddities,
)
from punch.apps.files.messages import (
    MAX_ENTRIES,
    MAX_ITEMS,
    MAX_TEXT,
    EntryKind,
    FailureCode,
    FilesOffer,
    Item,
    TransferFailed,
)
from punch.apps.files.source import SkipReason, SourceError, SourceProblem
from punch.local.protocol import CommandError
from punch.sanitize import cut, name_on_one_line, quoted

MAX_SHOWN = 100
"""The most characters of a name that are shown."""
_ODDITIES = {
    Oddity.CONTROL: "its name has control characters, which become _",
    Oddity.INVISIBLE: "its name has invisible characters, which become _",
    Oddity.HIDDEN: "a hidden name",
    Oddity.WINDOWS: "Windows can't have this name",
    Oddity.SPACE: "its name begins or ends with a space",
}
_ODDITIES_INSIDE = {
    Oddity.CONTROL: "had control characters, which became _",
    Oddity.INVISIBLE: "had invisible characters, which became _",
    Oddity.HIDDEN: "are hidden",
    Oddity.WINDOWS: "can't be used in Windows",
    Oddity.SPACE: "begin or end with a space",
}
_NOT_SENT = {
    SourceProblem.NUMBER_OF_PATHS: f"Name 1 to {MAX_ITEMS} files and folders.",
    SourceProblem.TOO_MANY_FILES: f"More than {MAX_ENTRIES:,} files at once: send them in parts, or an "
    "archive.",
    SourceProblem.LONG_PATH: "{subject} is a path that is too long.",
    SourceProblem.LONG_PATHS: "So many files with paths so long can't be sent at once: send them in parts.",
    SourceProblem.SAME_NAME: "Two of the paths are called {subject}: send one after the other.",
    SourceProblem.TOO_LARGE: "More than 9 petabytes can't be sent at once.",
    SourceProblem.NO_STATUS: "{subject} can't be sent: {detail}.",
    SourceProblem.NO_FILE_NAME: "{subject} is not the name of a file.",
    SourceProblem.NO_NAME: "{subject} has no name to send it by: name a folder below it.",
    SourceProblem.OTHER_KIND: "{subject} is neither a file nor a folder. A pipe can be sent as -.",
    SourceProblem.UNREADABLE: "{subject} can't be read: {detail}.",
    SourceProblem.UNREADABLE_FOLDER: "The folder {subject} can't be read: {detail}.",
    SourceProblem.NOT_UTF8: "The text has bytes that are no UTF-8: send it as a file.",
    SourceProblem.EMPTY_TEXT: "The text is empty.",
    SourceProblem.LONG_TEXT: f"The text has {{detail}} bytes, and can have {MAX_TEXT:,}: send it as a file, "
    "or as standard input (-).",
}
_SKIPPED = {
    SkipReason.GONE: "no longer there",
    SkipReason.OTHER_KIND: "neither a file nor a folder",
    SkipReason.LINK_OUTSIDE: "a link that leads, or could lead, out of the folder",
}

_IMPOSSIBLE = {
    TransferProblem.NOT_THERE: "There is no transfer {number}.",
    TransferProblem.NOT_OFFERED: "Transfer {number} does not wait for an answer.",
    TransferProblem.OVER: "Transfer {number} is over.",
    TransferProblem.NOT_OVER: "Transfer {number} is not over: cancel it first.",
    TransferProblem.NO_FOLDER: "Transfer {number} has no folder on this machine.",
}


def too_many_transfers_sentence(error: TooManyTransfers) -> str:
    """Return why another transfer can't begin."""
    return f"{error.most} transfers to others are under way: wait until one is over, or cancel one."


def unknown_transfer_sentence(error: UnknownTransfer) -> str:
    """Return why something can't be done with a transfer."""
    return _IMPOSSIBLE[error.problem].format(number=error.number)


def source_error_sentence(error: SourceError) -> str:
    """Return why files, folders or a text can't be sent."""
    detail = error.detail or "you have no permission"
    return _NOT_SENT[error.problem].format(subject=quoted(error.subject), detail=detail)


def skipped_sentence(path: Path, reason: SkipReason) -> str:
    """Return why a part of a folder is not sent."""
    return f"{quoted(str(path))} is left out: it is {_SKIPPED[reason]}."


def oddity_texts(name: str) -> list[str]:
    """Return what is unusual about the name of an item, to be shown behind the name."""
    return [_ODDITIES[oddity] for oddity in oddities(name)]


def odd_name_lines(names: OddNames) -> list[str]:
    """Return a sentence for each way in which names inside the folders of a transfer are unusual."""
    return [
        f"Names in folders that {_ODDITIES_INSIDE[oddity]}: {number:,}, "
        f"as {name_text(names.examples[oddity])}."
        for oddity, number in names.counts.items()
    ]


def time_text(seconds: float) -> str:
    """Return a duration as text: "5 s", "3 min 20 s" or "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def name_text(name: str) -> str:
    """Return the name of a file on one line, shortened and sanitized."""
    return cut(name_on_one_line(name), MAX_SHOWN)


def item_text(item: Item) -> str:
    """Return one line for an item of an offer."""
    size = "of unknown size" if item.size is None else format_bytes(item.size)
    if item.kind is EntryKind.FOLDER:
        size = f"a folder, {item.files:,} {'file' if item.files == 1 else 'files'}, {size}"
    notes = "".join(f"; {text}" for text in oddity_texts(item.name))
    return f"{name_text(item.name)} ({size}{notes})"


def offer_lines(offer: FilesOffer, who: str) -> list[str]:
    """Return the lines that describe an offer to the user: who sends what, its size, and unusual names."""
    if offer.text is not None:
        return [f"{who} wants to send you a text of {len(offer.text):,} characters."]
    if len(offer.items) == 1:
        return [f"{who} wants to send you {item_text(offer.items[0])}{_others_text(offer, 'it')}."]
    total = "" if offer.size is None else f", {format_bytes(offer.size)} in all"
    return [
        f"{who} wants to send you {len(offer.items)} items{total}{_others_text(offer, 'them')}:",
        *(f"  {item_text(item)}" for item in offer.items),
    ]


def offered(offer: FilesOffer) -> str:
    """Return what is offered, as a short object for a sentence."""
    if offer.text is not None:
        return "the text"
    return name_text(offer.items[0].name) if len(offer.items) == 1 else f"{len(offer.items)} items"


def _others_text(offer: FilesOffer, items: str) -> str:
    """Return how many folders and links the items contain, which take space, too; "" if none."""
    others = offer.entries - offer.files - sum(item.kind is EntryKind.FOLDER for item in offer.items)
    if others <= 0:
        return ""
    return f", with {others:,} {'folder or link' if others == 1 else 'folders and links'} in {items}"


def progress_text(position: int, size: int | None, rate: float) -> str:
    """
    Return how far a transfer is, in one line.

    :param position: the bytes that were transferred.
    :param size: the bytes of all files; None: not known.
    :param rate: bytes per second.
    """
    if size is None:
        return f"{format_bytes(position)}, {format_bytes(rate)}/s"
    percent = 100 if not size else int(100 * position / size)
    left = f", {time_text((size - position) / rate)} left" if rate > 0 and position < size else ""
    return f"{percent} % of {format_bytes(size)}, {format_bytes(rate)}/s{left}"


def waiting_text(problem: TransferFailed | CommandError | None, who: str, outgoing: bool) -> str:
    """
    Return why a transfer waits, and when it continues.

    :param problem: the `problem` of the `Transfer`.
    """
    if not outgoing and problem is not None:
        return f"It begins when other files of {who} with the same names are there."
    if not outgoing:
        return f"The connection to {who} was lost. The transfer continues when it is back."
    if isinstance(problem, CommandError):
        if problem.reason == "no-service":
            return f"{who} does not receive files now. It is tried again."
        return f"{who} is not there now. It is tried again."
    if problem is not None:
        return f"{who} still receives the attempt before, or files of the same names. It is tried again."
    return f"The connection to {who} was lost. It is tried again."


def problem_text(problem: TransferFailed | CommandError, who: str) -> str:
    """
    Return a sentence that says why a transfer has failed.

    :param problem: the `problem` of the `Transfer`.
    """
    if isinstance(problem, PeerBlocked):
        return "You have blocked them: nothing is sent."
    return failure_text(problem, who) if isinstance(problem, TransferFailed) else str(problem)


_SENTENCES = {
    FailureCode.REFUSED: "{who} does not want it.",
    FailureCode.BUSY: "{who} has too many offers and transfers at once: try again when some are over.",
    FailureCode.CANCELLED: "{who} ended the transfer. Send it again to continue.",
    FailureCode.IN_PROGRESS: "The same transfer to {who} is running already, in another process.",
    FailureCode.INTERNAL: "The transfer ended by an error of {who}'s program; its log says more.",
    FailureCode.NO_SPACE: (
        "{disk} has not enough free space{detail}. Free some, and send it again: it continues."
    ),
    FailureCode.DISK: "{disk} can't be written{detail}.",
    FailureCode.CORRUPTED: (
        "What arrived of {subject} is not what was sent: it was discarded. Send it again."
    ),
    FailureCode.SOURCE_CHANGED: (
        "{subject} changed while it was sent{detail}. Send it again: it continues with what is new."
    ),
    FailureCode.SOURCE_UNREADABLE: "{subject} can't be read{detail}.",
    FailureCode.PROTOCOL: (
        "The other side's program does not keep to the protocol{detail}. It may be of another version."
    ),
}
"""Why a transfer ended, if the peer has ended it."""
_OWN_SENTENCES = {
    FailureCode.REFUSED: "You refused it.",
    FailureCode.BUSY: "There are too many offers and transfers at once.",
    FailureCode.CANCELLED: "The transfer was ended. The next attempt continues it.",
    FailureCode.IN_PROGRESS: "The same transfer is running already, in another process.",
    FailureCode.INTERNAL: "The transfer ended by an error of this program; its log says more.",
}
"""The sentences that are different if this side has ended the transfer."""


def failure_text(failed: TransferFailed, who: str) -> str:
    """
    Return a sentence that says why a transfer ended, and what the user can do.

    :param who: the name of the peer.
    """
    values = {
        "who": who,
        "subject": name_text(failed.subject) or "A file",
        "detail": f": {name_text(failed.detail)}" if failed.detail else "",
        "disk": f"{who}'s disk" if failed.by_peer else "This disk",
    }
    sentences = _SENTENCES if failed.by_peer else {**_SENTENCES, **_OWN_SENTENCES}
    return sentences[failed.code].format_map(values)
