"""
What a node remembers about paths to the peers that it knows, and how the next call uses it. The address book
keeps it (`punch.contact_entries`), so that it is erased with the contact. Nothing is remembered about
strangers, or while it is not known in which network this machine is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.logger import Logger

from punch.contact_entries import (
    MAX_AGE,
    LearnedPath,
    is_worth_trying,
    nats_key,
    path_of,
    with_result,
)
from punch.contacts import AddressBook, AddressBookError
from punch.ice.punching.techniques import Technique
from punch.identity import PeerID
from punch.wire.peers.nat_profile import NatProfile

_DAY = 86400.0


class PathMemory:
    """
    What is remembered of the paths to all peers.

    :param network: returns a name for the network that this machine is in now (`network_key`), None if that
        is not known.
    :param wall: returns seconds since 1970.
    :param sentence: returns what the log says of an error of the address book.
    """

    _log = Logger()

    def __init__(
        self,
        book: AddressBook,
        network: Callable[[], str | None],
        wall: Callable[[], float],
        sentence: Callable[[AddressBookError], str] = str,
    ) -> None:
        self._book = book
        self._network = network
        self._wall = wall
        self._sentence = sentence

    @property
    def _day(self) -> int:
        return max(0, int(self._wall() // _DAY))

    def hosts(self, peer: PeerID) -> frozenset[str]:
        """
        Return the IP addresses at which a known peer answered on the last direct paths from the network that
        this machine is in, as far as connectivity checks alone had found these paths.
        """
        network, day = self._network(), self._day
        entry = self._book.entry(peer)
        if network is None or not entry.known or entry.blocked:
            return frozenset()
        return frozenset(
            path.host
            for path in entry.paths
            if path.network == network
            and path.direct
            and path.technique == Technique.ICE.value
            and abs(day - path.day) <= MAX_AGE
        )

    def worked(self, peer: PeerID, network: str, host: str, kind: str, technique: Technique) -> None:
        """
        A link has a path.

        :param network: the network that this machine was in when the path was found.
        :param host: the IP address of the peer on a direct path, that of its NAT on a relayed one.
        :param kind: the kind of the path, as `Path.kind`.
        :param technique: by which technique it was found.
        """
        before = self._known(peer, network, host)
        if before is None:
            return
        found = replace(before, kind=kind, technique=technique.value, day=self._day)
        after = with_result(found, technique.value, "", self._day, found=True)
        # Nothing depends on which of the direct kinds it was, and it may change often
        news = replace(after, kind=before.kind) if before.direct and after.direct else after
        if news != before:
            self._learn(peer, after)

    def tried(
        self,
        peer: PeerID,
        technique: Technique,
        ours: NatProfile | None,
        theirs: NatProfile | None,
        *,
        found: bool,
    ) -> None:
        """A technique found a path for a link between these NATs, or did not."""
        if theirs is not None:
            self._tried(peer, technique, theirs.host, _between(ours, theirs), found=found)

    def failed_over_tcp(self, peer: PeerID, host: str, ends: tuple[object, object]) -> None:
        """
        A link found no path over TCP.

        :param host: an IP address of the peer that tells its network from others.
        :param ends: what our end and the peer's could do. Two failures count as the same if its `repr` is the
            same.
        """
        self._tried(peer, Technique.TCP, host, nats_key(*ends), found=False)

    def is_tcp_worth_trying(self, peer: PeerID, host: str, ends: tuple[object, object]) -> bool:
        """Whether there may be a path over TCP: False if there was none again and again."""
        path = self._path(peer, host)
        return is_worth_trying(path, Technique.TCP.value, nats_key(*ends), self._day)

    def was_over_tcp(self, peer: PeerID) -> bool:
        """Whether the last direct path from the network that this machine is in was one over TCP."""
        network, day = self._network(), self._day
        # Reversed, so that of several paths of one day `max` returns the one that was written last
        paths = [path for path in reversed(self._book.entry(peer).paths) if path.network == network]
        last = max((path for path in paths if path.direct), key=lambda path: path.day, default=None)
        return last is not None and last.technique == Technique.TCP.value and abs(day - last.day) <= MAX_AGE

    def _tried(self, peer: PeerID, technique: Technique, host: str, between: str, *, found: bool) -> None:
        before = self._known(peer, self._network(), host)
        if before is None:
            return
        after = with_result(before, technique.value, between, self._day, found=found)
        if after != before:
            self._learn(peer, after)

    def is_worth_trying(
        self, peer: PeerID, technique: Technique, ours: NatProfile | None, theirs: NatProfile | None
    ) -> bool:
        """Whether a technique may find a path between these NATs: False if it failed again and again."""
        path = None if theirs is None else self._path(peer, theirs.host)
        return is_worth_trying(path, technique.value, _between(ours, theirs), self._day)

    def found_last_path(self, peer: PeerID, technique: Technique, theirs: NatProfile | None) -> bool:
        """Whether this technique found the last direct path to the network of the peer's NAT."""
        path = None if theirs is None else self._path(peer, theirs.host)
        return path is not None and path.direct and path.technique == technique.value

    def _path(self, peer: PeerID, host: str) -> LearnedPath | None:
        network = self._network()
        return None if network is None else path_of(self._book.entry(peer).paths, network, host)

    def _known(self, peer: PeerID, network: str | None, host: str) -> LearnedPath | None:
        """
        Return what is known about a pair of networks, which may be nothing yet; None if nothing is to be
        remembered.
        """
        entry = self._book.entry(peer)
        if network is None or not entry.known:
            return None
        return path_of(entry.paths, network, host) or LearnedPath(network, host, "relay", "ice", 0)

    def _learn(self, peer: PeerID, path: LearnedPath) -> None:
        try:
            self._book.learn(peer, path)
        except AddressBookError as error:
            problem = self._sentence(error)
            self._log.warn("the path to {peer} could not be kept: {error}", peer=peer, error=problem)


def _between(ours: NatProfile | None, theirs: NatProfile | None) -> str:
    return nats_key(_behaviour(ours), _behaviour(theirs))


def _behaviour(profile: NatProfile | None) -> tuple[object, ...]:
    """
    Return the part of a NAT profile on which a technique depends, without how often or when it was observed.
    The step is left out: its estimate improves with each observation, so it may differ for the same NAT.
    """
    return () if profile is None else (sorted(each.value for each in profile.mapping), profile.ports.value)
