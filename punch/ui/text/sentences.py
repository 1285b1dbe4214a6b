"""
What a person reads: each event as one line, and a stranger's text made harmless.

Whatever comes from another peer (names, messages) is shown by `printable` only: it can't move the cursor,
change colours, or look like a line of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from punch.identity import PeerID
from punch.link.events import Path
from punch.names import REORDERING, is_ignorable
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Calling,
    Checking,
    Connected,
    Disconnected,
    Event,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    PathSlowed,
    Ready,
    Registered,
    Unregistered,
)
from punch.sanitize import cut, flags, printable
from punch.ui.text.causes import event_sentence

#: How much of a message is shown beside its state, in characters.
SHORT_LENGTH = 60

#: Longest name that is shown, in characters.
MAX_NAME = 40


def shown_name(name: str, peer: PeerID, alike: bool = False) -> str:
    """
    The name of a peer, short and harmless; without one, the beginning of its ID.

    :param alike: others have a name that looks the same: the beginning of the ID stands beside it.
    """
    # What reorders text is not dropped but spelled out: nobody has it in his name by accident.
    # Tags are kept where they make a flag.
    in_flags = {index for first, end in flags(name) for index in range(first, end)}
    seen = "".join(
        c for index, c in enumerate(name) if index in in_flags or c in REORDERING or not is_ignorable(c)
    )
    name = cut(" ".join(printable(seen).split()), MAX_NAME)
    if not name:
        return peer.short
    return f"{name} ({peer.short})" if alike else name


def shortened(text: str) -> str:
    """The beginning of a message on one line, sanitized."""
    # It is cut last, since a part of a flag or of a pair of isolates is shown as escapes.
    return cut(printable(text), SHORT_LENGTH)


def name_lines(texts: Iterable[str]) -> str:
    """The subject and "was" or "were" of a sentence about lines; only the first line is quoted."""
    first, *others = texts
    if not others:
        return f'The line "{shortened(first)}" was'
    return f'{len(others) + 1:,} lines, the first of them "{shortened(first)}", were'


def milliseconds(seconds: float) -> str:
    """A round-trip time, with one decimal below 10 ms."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def count(number: int, thing: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


_PATHS = {
    "host": "directly, on the same network",
    "srflx": "directly, through the NATs",
    "prflx": "directly, through the NATs",
    "relay": "through a relay",
}


def either(words: Sequence[str]) -> str:
    """Return words as alternatives: "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def path_in_words(path: str, protocol: str) -> str:
    """What a path's kind means to a person. A relay is reached over any protocol, and `protocol` is udp."""
    words = _PATHS.get(path, path)
    return words.replace("directly", "directly over TCP") if protocol == "tcp" else words


def describe(event: Event, name: str = "", to: str | None = None) -> str:
    """
    One line for an event.

    :param name: what the peer that it concerns is called, already harmless.
    :param to: what stands for the peer's ID; else the whole of it.
    """
    if isinstance(event, Ready):
        return f"Your ID: {event.peer_id}"
    if isinstance(event, Registered):
        return f"Registered at {printable(event.rendezvous)}"
    if isinstance(event, Unregistered):
        again = "" if event.retry_in is None else f" Trying again in {max(1, round(event.retry_in))} s."
        return printable(event_sentence(event)) + again
    if isinstance(event, Calling):
        return f"Calling {event.peer}"
    if isinstance(event, AlreadyConnected):
        return f"There is a link to {name} already, and they answer on it: what you type goes there"
    if isinstance(event, IncomingCall):
        return f"{name} is calling, ID {to or event.peer}"
    if isinstance(event, Introduced):
        return f"Introduced to {name}"
    if isinstance(event, Checking):
        return f"Checking {count(event.pairs, 'pair')}"
    if isinstance(event, Connected):
        return f"Connected to {name} {_path(event.path)}, encrypted to {to or event.peer}"
    if isinstance(event, PathChanged):
        return f"The path to {name} changed: {_path(event.path)}"
    if isinstance(event, (PathLost, PathSlowed, Disconnected, CallFailed)):
        return printable(event_sentence(event))
    return type(event).__name__


def _path(path: Path) -> str:
    return (
        f"{path_in_words(path.kind, path.protocol)}: {path.kind} path {path.local} → {path.remote} "
        f"over {path.protocol.upper()}, round trip {milliseconds(path.rtt)}"
    )
