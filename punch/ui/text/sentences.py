"""
Events as lines of text, and the parts of sentences that are needed in several places.

All text from other peers (names, messages) is sanitized with `printable`: it can't move the cursor, change
colours, or look like a line of Punch.
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

#: The most characters of a message that are shown beside its state.
SHORT_LENGTH = 60

#: The most characters of a name that are shown.
MAX_NAME = 40


def shown_name(name: str, peer: PeerID, alike: bool = False) -> str:
    """
    Return the name of a peer, shortened and sanitized; the beginning of its ID if nothing of it is visible.

    :param alike: whether another peer has a name that looks the same: then the beginning of the ID follows.
    """
    # Characters that reorder text are not dropped, so that `printable` shows them as escapes: nobody has them
    # in a name by accident. Tag characters are kept where they are part of a flag.
    in_flags = {index for first, end in flags(name) for index in range(first, end)}
    seen = "".join(
        c for index, c in enumerate(name) if index in in_flags or c in REORDERING or not is_ignorable(c)
    )
    name = cut(" ".join(printable(seen).split()), MAX_NAME)
    if not name:
        return peer.short
    return f"{name} ({peer.short})" if alike else name


def shortened(text: str) -> str:
    """Return the beginning of a message on one line, sanitized."""
    # It is cut last, since a part of a flag or of a pair of isolates is shown as escapes.
    return cut(printable(text), SHORT_LENGTH)


def name_lines(texts: Iterable[str]) -> str:
    """Return the beginning of a sentence about lines, up to "was" or "were". Only the first is quoted."""
    first, *others = texts
    if not others:
        return f'The line "{shortened(first)}" was'
    return f'{len(others) + 1:,} lines, the first of them "{shortened(first)}", were'


def milliseconds(seconds: float) -> str:
    """Return a round-trip time in milliseconds, with one decimal below 10 ms."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def count(number: int, thing: str) -> str:
    """Return a number with a noun, such as "1 pair" or "2 pairs"."""
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
    """
    Return a path in words.

    :param path: the kind of the path, such as `srflx`.
    :param protocol: the protocol between the peers, `udp` or `tcp`. That of a relayed path is always `udp`,
        whatever leads to the relay.
    """
    words = _PATHS.get(path, path)
    return words.replace("directly", "directly over TCP") if protocol == "tcp" else words


def describe(event: Event, name: str = "", to: str | None = None) -> str:
    """
    Return one line for an event.

    :param name: the name of the peer that it is about, sanitized.
    :param to: the text to show as the peer's ID; None: the whole ID.
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
