"""
The address book: the peers that the user has called or accepted, with their names, grants and blocks.

At the first meeting a peer gets the petname that it claims, reduced to what one may be, if
no other name looks like it (`punch.names`); what the peer calls itself later does not change it. The user may
give names that look alike, and views then show the ID as well.

Several processes may use one book. Each change is made under a lock, to the content that the file has then,
and changes of other processes are read before each answer. A change waits for the disk, so that its caller
knows that it is kept; changes are rare: a name, a block, a grant, a first meeting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from itertools import islice
from pathlib import Path

from punch import names
from punch.contact_entries import Contact, LearnedPath, NewerVersion, decode, encode, with_path
from punch.files import (
    make_private_directory,
    open_regular,
    read_regular,
    replace_private,
    try_lock,
)
from punch.identity import TEXT_LENGTH, PeerID, PeerIDError
from punch.names import BadPetname

MAX_FILE = 16 * 1024 * 1024
"""Bytes of an address book that are read: about a hundred thousand peers."""

MAX_PENDING = 2_000
"""
The most changes that wait until the file can be written. When there are so many, only blocks are accepted,
one for each peer.
"""

MAX_PENDING_OF_PEERS = MAX_PENDING // 2
"""
When so many changes wait, first meetings, claimed names and paths are refused, so that peers leave room
for changes by the user.
"""

LOCK_TIME, LOCK_STEP = 1.0, 0.01
"""How long another process may hold the lock, and how often it is tried, in seconds."""

MAX_COMPARED, MAX_TOLD = 5000, 3
"""How many names are compared with an unknown one, and how many similar ones an error names at most."""

_MAX_NAME = 40
"""The longest text that may be a name."""


class AddressBookProblem(Enum):
    """
    Why the address book can't be used, or refuses a change.

    :ivar code: what programs are told.
    """

    FILE = "file", "state"
    """The system refuses to open, read or write a file: `cause` is an `OSError`."""
    HELD = "held", "state"
    """Another process has had the lock of the book for too long."""
    NEWER = "newer", "state"
    """The file was written by a newer version of Punch."""
    DAMAGED = "damaged", "state"
    STATE = "state", "state"
    """Something else that is kept of the peer can't be removed: `cause` is a `StateError`."""
    NAME = "name", "bad-name"
    """The name can't be a petname: `cause` is a `BadPetname`."""
    NAME_TAKEN = "name-taken", "name-taken"
    """`peer` has the name already."""
    SERVICE = "service", "bad-service"
    """`name` can't be the name of a service."""
    OPEN_SERVICE = "open-service", "bad-service"
    """Every peer may open the service, so nobody is granted it."""
    NOT_GRANTED = "not-granted", "not-granted"
    OPEN_NOT_GRANTED = "open-not-granted", "not-granted"
    """The service was not granted to the peer, because every peer may open it."""
    UNKNOWN_PEER = "unknown-peer", "unknown-peer"
    """The peer is not in the book."""

    def __init__(self, problem: str, code: str) -> None:
        self.problem = problem
        self.code = code


class AddressBookError(ValueError):
    """
    The book can't be used, or refuses a change. `str()` is for logs, and `punch.sentences` has the sentence
    for users.

    :ivar problem: why.
    :ivar path: the file, where that is the problem.
    :ivar name: the name of a peer or a service that is refused, or "".
    :ivar peer: the peer that is meant, or has the name.
    :ivar cause: the error that is the cause, if there is one.
    """

    def __init__(
        self,
        problem: AddressBookProblem,
        *,
        path: Path | None = None,
        name: str = "",
        peer: PeerID | None = None,
        cause: Exception | None = None,
    ) -> None:
        super().__init__(": ".join(str(part) for part in (problem.problem, path, cause) if part))
        self.problem = problem
        self.path = path
        self.name = name
        self.peer = peer
        self.cause = cause

    @property
    def code(self) -> str:
        """What programs are told."""
        return self.problem.code


class AddressBook:
    """
    The entries of the address book.

    :param path: the file; None keeps the entries in memory.
    :param forgotten: is called with a peer that `forget` has removed, and may raise `AddressBookError`.
    :ivar sleep: how to wait, in seconds, while another process changes the file. None in a reactor's thread,
        which may not wait: a change then has effect at once, and is written with the next change or
        `refresh`.
    :raise AddressBookError: the file exists and can't be read. It is not changed.
    """

    def __init__(
        self, path: Path | None, *, forgotten: Callable[[PeerID], object] = lambda peer: None
    ) -> None:
        self.sleep: Callable[[float], object] | None = None
        self._path = path
        self._forgotten = forgotten
        self._pending: dict[tuple[PeerID, Hashable], Callable[[Contact], Contact]] = {}
        """The changes that are not in the file yet, in order; see `_change` for their keys."""
        self._locked_out = False
        self._entries: dict[PeerID, Contact] = {}
        self._by_name: dict[str, PeerID] = {}
        self._by_skeleton: dict[str, set[PeerID]] | None = None
        """By skeleton, the peers with such a name or beginning of the ID. Made when it is first needed."""
        self._stamp: tuple[int, ...] | None = None
        if path is not None:
            self._read(path)

    def __contains__(self, peer: PeerID) -> bool:
        """Whether a peer is known: called or accepted before."""
        return self.entry(peer).known

    def __iter__(self) -> Iterator[PeerID]:
        self.refresh()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, peer: PeerID) -> Contact:
        """The entry of a peer; an empty one if it is not in the book."""
        self.refresh()
        return self._entries.get(peer, Contact())

    def blocked(self, peer: PeerID) -> bool:
        """Whether calls of a peer are refused."""
        return self.entry(peer).blocked

    def granted(self, peer: PeerID, service: str) -> bool:
        """Whether the peer may open a service that is for granted peers only."""
        return service in self.entry(peer).services

    def name_of(self, peer: PeerID) -> str | None:
        """The petname of a peer."""
        return self.entry(peer).name

    def find(self, name: str) -> PeerID | None:
        """The peer with this petname, in upper or lower case."""
        self.refresh()
        return self._by_name.get(names.petname_key(name.strip()))

    def alike(self, peer: PeerID, name: str, given: bool = False) -> list[PeerID]:
        """
        The other peers that may be confused with `peer` if that is called `name`: their names look the same,
        or their IDs begin like it.

        :param given: the user gave the name, so the names that other peers give themselves do not matter.
        """
        self.refresh()
        return self._alike(peer, name, given)

    # -- changes --
    #
    # These methods return whether anything changed. A change that can't be written (`AddressBookError`) is in
    # effect in this process all the same.

    def add(self, peer: PeerID, claimed: str) -> bool:
        """Note that a peer was called or accepted, and calls itself `claimed` ("": not known yet)."""
        return self._change(peer, lambda entry: self._met(peer, entry, claimed), most=MAX_PENDING_OF_PEERS)

    def rename(self, peer: PeerID, name: str | None) -> bool:
        """Give a peer a petname, or remove it (None)."""
        if name is not None:
            try:
                name = names.check_new_petname(name)
            except BadPetname as error:
                raise AddressBookError(AddressBookProblem.NAME, name=name, cause=error) from error
        return self._change(peer, lambda entry: replace(entry, name=self._free(peer, name), named=True))

    def block(self, peer: PeerID, blocked: bool = True) -> bool:
        """Refuse the calls of a peer from now on, or no longer."""
        return self._change(peer, lambda entry: replace(entry, blocked=blocked), "blocked", most=None)

    def grant(self, peer: PeerID, service: str, granted: bool = True) -> bool:
        """Let a peer open a service from now on, or no longer."""

        def change(entry: Contact) -> Contact:
            services = entry.services | {service} if granted else entry.services - {service}
            return replace(entry, services=services)

        return self._change(peer, change, ("service", service))

    def learn(self, peer: PeerID, path: LearnedPath) -> bool:
        """Keep what was learned about a path to a peer, if the peer is known."""

        def change(entry: Contact) -> Contact:
            return replace(entry, paths=with_path(entry.paths, path)) if entry.known else entry

        return self._change(peer, change, ("path", path.network, path.host), most=MAX_PENDING_OF_PEERS)

    def forget(self, peer: PeerID) -> bool:
        """Remove a peer from the book, with its block, its grants and what was learned about paths to it."""
        changed = self._change(peer, lambda entry: Contact())
        if changed:
            self._forgotten(peer)
        return changed

    # -- inside --

    def _alike(self, peer: PeerID, name: str, given: bool = False) -> list[PeerID]:
        if self._by_skeleton is None:
            self._by_skeleton = {}
            for each, entry in self._entries.items():
                self._index(each, entry, True)
        by_skeleton = self._by_skeleton
        found = set[PeerID]().union(*(by_skeleton.get(skeleton, ()) for skeleton in names.skeletons(name)))
        # A name that contains another peer's short ID could be taken for that peer.
        mentioned = {
            other
            for run in names.runs(name, len(peer.short))
            for skeleton in names.skeletons(run)
            for other in by_skeleton.get(skeleton, ())
            if names.alike(other.short, run)
        }
        return sorted(
            other
            for other in (found | mentioned) - {peer}
            if not given or self._entries[other].name is not None or other in mentioned
        )

    def _met(self, peer: PeerID, entry: Contact, claimed: str) -> Contact:
        entry = replace(entry, known=True, claimed=claimed[: names.MAX_CLAIMED] or entry.claimed)
        if entry.claimed and not entry.named:
            name = names.petname_from(entry.claimed)
            if name is not None and not self._alike(peer, name):
                entry = replace(entry, name=name)
            entry = replace(entry, named=True)
        return entry

    def _free(self, peer: PeerID, name: str | None) -> str | None:
        if name is not None and self._by_name.get(names.petname_key(name), peer) != peer:
            other = self._by_name[names.petname_key(name)]
            raise AddressBookError(AddressBookProblem.NAME_TAKEN, name=name, peer=other)
        return name

    def _change(
        self,
        peer: PeerID,
        change: Callable[[Contact], Contact],
        what: Hashable = None,
        *,
        most: int | None = MAX_PENDING,
    ) -> bool:
        """
        Change an entry.

        :param what: names what is changed, if changes of other things have the same effect before and after
            it: a later change of the same then replaces an earlier one, and is made last. None for changes of
            names, which depend on the names that there are.
        :param most: if so many changes wait, it is refused, unless it replaces one; None: it never is.
        """
        key = (peer, object() if what is None else what)
        full = most is not None and len(self._pending) >= most
        if self._path is not None and full and key not in self._pending:
            self._write(self._path)
            if self._pending:
                raise AddressBookError(AddressBookProblem.HELD, path=self._path)
        if not self._put(peer, change(self.entry(peer))):
            return False
        if self._path is not None:
            # What can't be written is in effect in this process, and is tried again with the next change.
            self._pending.pop(key, None)
            self._pending[key] = change
            self._write(self._path)
            # Another process may have given the name away a moment ago.
            change(self._entries.get(peer, Contact()))
        return True

    def _write(self, path: Path) -> None:
        """Write the changes that are not in the file yet, unless another process holds the lock just now."""
        try:
            descriptor = self._lock(path)
            self._locked_out = descriptor is None
            if descriptor is None:
                return
            try:
                if _stamp(path) != self._stamp:
                    # If the file can't be read, it is not overwritten.
                    self._read(path)
                replace_private(path, encode(self._entries))
                self._stamp = _stamp(path)
                self._pending.clear()
            finally:
                os.close(descriptor)
        except OSError as error:
            raise AddressBookError(AddressBookProblem.FILE, path=path, cause=error) from error

    def _put(self, peer: PeerID, entry: Contact) -> bool:
        before = self._entries.get(peer, Contact())
        if before.name is not None:
            del self._by_name[names.petname_key(before.name)]
        if entry.name is not None:
            self._by_name[names.petname_key(entry.name)] = peer
        self._index(peer, before, False)
        if entry == Contact():
            self._entries.pop(peer, None)
        else:
            self._entries[peer] = entry
            self._index(peer, entry, True)
        return entry != before

    def _index(self, peer: PeerID, entry: Contact, there: bool) -> None:
        """Put what `peer` is called into the index, or take it out."""
        if self._by_skeleton is None:
            return
        for skeleton in names.skeletons(entry.name or entry.claimed) | names.skeletons(peer.short):
            peers = self._by_skeleton.setdefault(skeleton, set())
            if there:
                peers.add(peer)
            else:
                peers.discard(peer)
            if not peers:
                del self._by_skeleton[skeleton]

    def refresh(self) -> None:
        """
        Read what other processes have changed, and write what could not be written while they did. If the
        file can't be used, nothing happens: the next change reports it.
        """
        if self._path is None:
            return
        try:
            if self._locked_out:
                self._write(self._path)
            if _stamp(self._path) != self._stamp:
                self._read(self._path)
        except AddressBookError:
            return

    def close(self, sleep: Callable[[float], object]) -> None:
        """
        Write what could not be written before, at the end of a process.

        :param sleep: how to wait, in seconds, while another process changes the file.
        :raise AddressBookError: it still can't be.
        """
        self.sleep = sleep
        if self._path is not None and self._pending:
            self._write(self._path)

    def _read(self, path: Path) -> None:
        stamp = _stamp(path)
        try:
            entries = decode(read_regular(path, MAX_FILE))
        except FileNotFoundError:
            entries = {}
        except OSError as error:
            raise AddressBookError(AddressBookProblem.FILE, path=path, cause=error) from error
        except NewerVersion as error:
            raise AddressBookError(AddressBookProblem.NEWER, path=path) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PeerIDError) as error:
            raise AddressBookError(AddressBookProblem.DAMAGED, path=path) from error
        self._entries = entries
        self._by_name = {names.petname_key(e.name): peer for peer, e in entries.items() if e.name is not None}
        self._by_skeleton = None
        self._stamp = stamp
        for (peer, _), change in self._pending.items():
            with suppress(AddressBookError):  # the name is another's now
                self._put(peer, change(self._entries.get(peer, Contact())))

    def _lock(self, path: Path) -> int | None:
        make_private_directory(path.parent)
        descriptor = open_regular(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT)
        try:
            waited = 0.0
            while not try_lock(descriptor):
                if self.sleep is None:
                    os.close(descriptor)
                    return None
                if waited >= LOCK_TIME:
                    raise AddressBookError(AddressBookProblem.HELD, path=path)
                self.sleep(LOCK_STEP)
                waited += LOCK_STEP
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


# -- whom a person means --


class UnknownPeer(ValueError):
    """
    A text means nobody.

    :ivar cause: what is wrong with the peer ID that the text should be; None: it is a name.
    :ivar name: the name, which the address book does not have, or "".
    :ivar near: names that are spelled similarly, or look alike.
    """

    def __init__(self, cause: PeerIDError | None = None, name: str = "", near: Sequence[str] = ()) -> None:
        super().__init__(str(cause) if cause is not None else name)
        self.cause = cause
        self.name = name
        self.near = near


def find_peer(book: AddressBook, text: str, others: Iterable[str] = ()) -> PeerID:
    """
    Return the peer that `text` means. Invisible characters (Unicode category Cf) are ignored.

    :param others: names that could have been typed as well.
    :raise UnknownPeer: it means nobody. The error tells unknown names from IDs with typos.
    """
    typed = names.without_format(text).strip()
    named = book.find(typed)
    if named is not None:
        return named
    try:
        return PeerID.parse(typed)
    except PeerIDError as error:
        if not typed or "://" in typed or not is_name(typed):
            raise UnknownPeer(error) from None
    near = near_names(typed, [*islice(_names(book), MAX_COMPARED), *others])
    raise UnknownPeer(name=typed, near=near)


def near_names(typed: str, known: Iterable[str]) -> list[str]:
    """Return known names that are spelled similarly, or look alike, the nearest first."""
    # It is needed for unknown names only, and importing it at the top would slow each start.
    from difflib import get_close_matches

    folded = {name.casefold(): name for name in known}
    alike = [name for key, name in folded.items() if names.alike(name, typed)]
    close = get_close_matches(typed.casefold(), folded, MAX_TOLD)
    begin = [name for key, name in folded.items() if key.startswith(typed.casefold())]
    found = dict.fromkeys([*alike, *(folded[key] for key in close), *begin])
    return list(found)[:MAX_TOLD]


def _names(book: AddressBook) -> Iterable[str]:
    return (name for peer in book if (name := book.name_of(peer)) is not None)


def is_name(typed: str) -> bool:
    """Whether a text was probably meant as a name, not as an ID."""
    compact = "".join(typed.split())
    return len(compact) <= _MAX_NAME and len(compact) < TEXT_LENGTH and not names.looks_like_an_id(compact)
