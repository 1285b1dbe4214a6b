"""
The entries of the address book (`Contact`), their form in the book's file, and what each keeps of the paths
to its peer.

There is a `LearnedPath` for each pair of networks in which the two peers were last; only the newest are kept.
It says by which path they had a link there, and which techniques found none. Times are in days since 1970, so
that an entry is seldom written again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import IPv6Address

from punch import names
from punch.identity import PeerID
from punch.names import BadPetname
from punch.sanitize import name_on_one_line

MAX_PATHS = 4
"""How many pairs of networks are kept for a peer."""
MAX_AGE = 30
"""Days after which a path is not used any more."""
MAX_TRIES = 3
"""
After so many failures in a row, a technique is not tried on that day and the next one. The node decides what
a failure is (`punch.node.punching.choice`).
"""
MAX_TECHNIQUES = 8
"""How many techniques are kept of each pair of networks."""
_MAX_TEXT = 64
VERSION = 2
"""The version of the file's form."""


@dataclass(frozen=True)
class FailedTechnique:
    """
    A technique that found no path.

    :ivar technique: its name (`punch.ice.punching.techniques.Technique`).
    :ivar nats: what the two NATs were (`nats_key`): if that changes, the failures do not count any more.
    :ivar times: how often it has failed in a row.
    :ivar day: when it was tried last, in days since 1970.
    """

    technique: str
    nats: str
    times: int
    day: int


@dataclass(frozen=True)
class LearnedPath:
    """
    What was learned about the paths between two networks.

    :ivar network: the network of this side (`network_key`).
    :ivar host: an IP address of the peer: that at which it answered on a direct path, or of its NAT.
    :ivar kind: the kind of the last path, as `Path.kind`: "host", "srflx", "prflx" or "relay".
    :ivar technique: by which technique it was found, "ice" if by connectivity checks alone.
    :ivar day: when there was such a path last, in days since 1970.
    :ivar failures: techniques that found no path.
    """

    network: str
    host: str
    kind: str
    technique: str
    day: int
    failures: tuple[FailedTechnique, ...] = ()

    @property
    def direct(self) -> bool:
        """Whether there was a direct path."""
        return self.kind != "relay"


@dataclass(frozen=True)
class Contact:
    """
    An entry of the book.

    :ivar claimed: the name that the peer gave itself last.
    :ivar name: its petname.
    :ivar known: whether it was called or accepted before.
    :ivar named: whether the petname was set or removed, by the user or at the first meeting, and stays so.
    :ivar services: the names of the services that are granted to it. The chat needs no grant.
    :ivar paths: what was learned about paths to it, the newest last.
    """

    claimed: str = ""
    name: str | None = None
    known: bool = False
    blocked: bool = False
    named: bool = False
    services: frozenset[str] = frozenset()
    paths: tuple[LearnedPath, ...] = ()


class NewerVersion(Exception):
    """The file was written by a newer version of Punch."""


def network_key(public: str, local: str) -> str:
    """
    Return a short name for a network of this side. It hides neither address: trying all would find both.

    :param public: our IP address as the rendezvous sees it.
    :param local: our IP address.
    """
    return _digest(public, _prefix(local))


def nats_key(ours: object, theirs: object) -> str:
    """Return a name for the behaviour of two NATs, given in any form that has a `repr`."""
    return _digest(repr(ours), repr(theirs))


def _digest(*parts: str) -> str:
    return sha256("\0".join(("punch/1 network", *parts)).encode()).hexdigest()[:16]


def _prefix(host: str) -> str:
    """Return the /24 of an IPv4 address, the /64 of an IPv6 one."""
    if ":" not in host:
        return host.rpartition(".")[0]
    return IPv6Address(host.partition("%")[0]).packed[:8].hex()


def path_of(paths: Sequence[LearnedPath], network: str, host: str) -> LearnedPath | None:
    """Return what is known of a pair of networks."""
    return next((path for path in paths if (path.network, path.host) == (network, host)), None)


def with_path(paths: Sequence[LearnedPath], path: LearnedPath) -> tuple[LearnedPath, ...]:
    """
    Return the paths with this one added, which replaces the one of the same networks. The newest is the last.
    """
    others = [each for each in paths if (each.network, each.host) != (path.network, path.host)]
    return tuple([*others, path][-MAX_PATHS:])


def with_result(path: LearnedPath, technique: str, nats: str, day: int, *, found: bool) -> LearnedPath:
    """Return what is known after a technique found a path, or failed."""
    others = tuple(each for each in path.failures if each.technique != technique)
    if found:
        return replace(path, failures=others)
    before = next((each for each in path.failures if each.technique == technique), None)
    times = before.times if before is not None and before.nats == nats else 0
    failed = FailedTechnique(technique, nats, min(times + 1, MAX_TRIES), day)
    return replace(path, failures=(*others, failed)[-MAX_TECHNIQUES:])


def is_worth_trying(path: LearnedPath | None, technique: str, nats: str, day: int) -> bool:
    """
    Whether a technique may find a path: False on the day of the last of `MAX_TRIES` failures in a row, and on
    the next day, between the same NATs.
    """
    failures = () if path is None else path.failures
    failed = next((each for each in failures if each.technique == technique), None)
    if failed is None or failed.nats != nats or failed.times < MAX_TRIES:
        return True
    return not failed.day <= day <= failed.day + 1


def encode(entries: dict[PeerID, Contact]) -> bytes:
    peers = {}
    for peer in sorted(entries):
        entry = entries[peer]
        value: dict[str, object] = {"claimed": entry.claimed, "known": entry.known, "blocked": entry.blocked}
        if entry.named:
            value["name"] = entry.name
        if entry.services:
            value["services"] = sorted(entry.services)
        if entry.paths:
            value["paths"] = encode_paths(entry.paths)
        peers[str(peer)] = value
    return json.dumps({"version": VERSION, "peers": peers}, indent=1).encode("ascii") + b"\n"


def decode(content: bytes) -> dict[PeerID, Contact]:
    book = json.loads(content)
    version = book.get("version", 1)
    if not isinstance(version, int) or version < 1:
        raise ValueError("no version")
    if version > VERSION:
        raise NewerVersion
    if version == 1:
        return dict(_entries_v1(book["peers"]))
    entries = {PeerID.parse(text): _entry(value) for text, value in book["peers"].items()}
    return dict(_with_distinct_names(entries))


def _with_distinct_names(entries: dict[PeerID, Contact]) -> Iterator[tuple[PeerID, Contact]]:
    """
    Remove names that earlier versions accepted and this one refuses: those that look like an ID, or that
    differ only in invisible characters from the name of another peer.
    """
    exact = [names.old_petname_key(entry.name) for entry in entries.values() if entry.name is not None]
    if len(set(exact)) < len(exact):
        raise ValueError("one name for two")
    unchanged: dict[str, PeerID] = {}
    checked: dict[PeerID, str] = {}
    for peer, entry in entries.items():
        if entry.name is None:
            continue
        with suppress(BadPetname):
            name = checked[peer] = names.check_petname(entry.name)
            # A peer whose name has no invisible characters keeps it.
            if name == entry.name or names.petname_key(name) not in unchanged:
                unchanged[names.petname_key(name)] = peer
    for peer, entry in entries.items():
        kept = checked.get(peer)
        yield peer, replace(entry, name=kept if kept and unchanged[names.petname_key(kept)] == peer else None)


def _entry(value: dict[str, object]) -> Contact:
    claimed, known, blocked = value["claimed"], value["known"], value["blocked"]
    name = value.get("name")
    if not (isinstance(claimed, str) and isinstance(known, bool) and isinstance(blocked, bool)):
        raise TypeError("an entry has other fields")
    if name is not None and not isinstance(name, str):
        raise TypeError("a name is a string")
    if name is not None and not names.was_petname(name):
        raise ValueError("a name that no version gives")
    services = value.get("services", [])
    if not (isinstance(services, list) and all(isinstance(service, str) for service in services)):
        raise TypeError("services are names")
    paths = decode_paths(value.get("paths", []))
    return Contact(_visible(claimed), name, known, blocked, "name" in value, frozenset(services), paths)


def _visible(claimed: str) -> str:
    """Return what a peer called itself, or "" if not all of it is visible."""
    return claimed if name_on_one_line(claimed) == claimed else ""


def _entries_v1(peers: dict[str, dict[str, object]]) -> Iterator[tuple[PeerID, Contact]]:
    """Read entries of the first version, which kept no petnames. They get one as at a first meeting."""
    taken: set[str] = set()
    for text, value in peers.items():
        claimed = value["name"]
        if not isinstance(claimed, str):
            raise TypeError("a name is a string")
        name = names.petname_from(claimed)
        if name is not None:
            name = name if taken.isdisjoint(names.skeletons(name)) else None
            taken |= names.skeletons(claimed)
        yield (
            PeerID.parse(text),
            Contact(_visible(claimed[: names.MAX_CLAIMED]), name, known=True, named=bool(claimed)),
        )


def encode_paths(paths: Sequence[LearnedPath]) -> list[dict[str, object]]:
    """Return the paths as a JSON value."""
    return [
        {
            "network": path.network,
            "host": path.host,
            "kind": path.kind,
            "technique": path.technique,
            "day": path.day,
            "failures": [[each.technique, each.nats, each.times, each.day] for each in path.failures],
        }
        for path in paths
    ]


def decode_paths(value: object) -> tuple[LearnedPath, ...]:
    """Read what `encode_paths` returned. Anything else is left out, since it is learned again."""
    if not isinstance(value, list):
        return ()
    paths = []
    for each in value[-MAX_PATHS:]:
        with suppress(KeyError, TypeError, ValueError):
            paths.append(_path(each))
    return tuple(paths)


def _path(value: object) -> LearnedPath:
    if not isinstance(value, dict) or not isinstance(failures := value["failures"], list):
        raise TypeError("not a path")
    return LearnedPath(
        _text(value["network"]),
        _text(value["host"]),
        _text(value["kind"]),
        _text(value["technique"]),
        _number(value["day"]),
        tuple(_failure(each) for each in failures[-MAX_TECHNIQUES:]),
    )


def _failure(value: object) -> FailedTechnique:
    if not isinstance(value, list):
        raise TypeError("not a failure")
    technique, nats, times, day = value
    return FailedTechnique(_text(technique), _text(nats), _number(times), _number(day))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise TypeError("not a short string")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not an integer")
    return value
