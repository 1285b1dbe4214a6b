"""
The prekeys of other peers (`punch.wire.peers.prekey`): learned on links, and used in later calls.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from twisted.internet.interfaces import IReactorTime

from punch.identity import Identity, PeerID
from punch.link.control_stream import OptionalFrameType
from punch.net.driver import Timer
from punch.wire.peers.prekey import KEY_SIZE, PrekeyError, check_prekey, signed_prekey, supported

if TYPE_CHECKING:
    from punch.link.link import Link

MAX_PREKEYS = 256
"""
How many prekeys are in memory that are not stored for later processes. Those that were used least recently
are dropped.
"""
PREKEY_DELAY = 5.0
"""
Seconds after which our prekey is sent on a link, if nothing is under way on it then. On a slow line, it would
delay other data, and lengthen the round trips by which queues are judged. If something is under way, it is
tried again later.
"""


class PrekeyStorage(Protocol):
    """Keeps the prekeys of known peers, as they were signed. What can't be read or written counts as none."""

    def read(self, peer: PeerID) -> bytes | None:
        """Return the prekey of a peer that was kept, with its signature; None: there is none."""

    def write(self, peer: PeerID, signed: bytes | None) -> None:
        """Keep a prekey of a peer; None: forget the one that is kept."""


class Prekeys:
    """
    This peer's own prekey, and those of other peers.

    :param storage: keeps them for later processes; None: nothing is kept. Prekeys in the storage are not kept
        in memory as well, so none is left when a peer is taken out of the address book.
    :ivar own: our prekey, signed; empty if the cryptography library does not have ML-KEM.
    """

    def __init__(self, identity: Identity, storage: PrekeyStorage | None = None) -> None:
        self.own = signed_prekey(identity) if supported() else b""
        self._storage = storage
        self._of: dict[PeerID, bytes | None] = {}
        """
        Prekeys that are not in the storage, signed. Empty: none is known. None: the one in the storage is not
        to be used, and can't be removed.
        """

    def of(self, peer: PeerID) -> bytes:
        """Return the public prekey of a peer, for `seal_offer`; empty: none is known, or can be used here."""
        if not self.own:
            return b""
        signed = self._of.get(peer, b"")
        if signed is not None and (kept := self._read(peer)):
            return kept[:KEY_SIZE]
        self._put(peer, signed)
        return (signed or b"")[:KEY_SIZE]

    def learn(self, peer: PeerID, signed: bytes, *, keep: bool) -> None:
        """
        A peer has sent its prekey, with its signature.

        :param keep: whether to keep it for later processes, too.
        :raise PrekeyError: it is malformed, or not signed by the peer.
        """
        if not self.own:
            return
        kept = self._read(peer)
        if not signed or signed not in (kept, self._of.get(peer)):
            check_prekey(peer, signed)
        if keep and self._storage is not None and signed != kept:
            self._storage.write(peer, signed)
            kept = self._read(peer)
        if signed == kept:
            self._of.pop(peer, None)
        else:
            self._put(peer, signed)

    def told(self, peer: PeerID, signed: bytes, *, keep: bool) -> None:
        """
        The rendezvous has sent the prekey of a peer. It is ignored if it is wrong, if the peer was not
        called, or if its prekey is known.

        :param keep: whether to keep it for later processes, too.
        """
        if peer in self._of and not self._of[peer]:
            with suppress(PrekeyError):
                self.learn(peer, signed, keep=keep)

    def forget(self, peer: PeerID) -> None:
        """
        A peer has refused an offer that was sealed to its prekey. It may have returned to an earlier release,
        which can't open that. If it has not, the rendezvous or the next link tells the prekey again.
        """
        if self.of(peer) and self._storage is not None:
            self._storage.write(peer, None)
        self._put(peer, None if self._read(peer) else b"")

    def _put(self, peer: PeerID, signed: bytes | None) -> None:
        self._of.pop(peer, None)
        self._of[peer] = signed
        if len(self._of) > MAX_PREKEYS:
            del self._of[next(iter(self._of))]

    def _read(self, peer: PeerID) -> bytes:
        signed = None if self._storage is None else self._storage.read(peer)
        try:
            if signed is not None:
                check_prekey(peer, signed)
        except (PrekeyError, UnsupportedAlgorithm):
            return b""
        return signed or b""


class PrekeyExchange:
    """
    Sends our prekey on a proved link, and learns the other side's there.

    :param known: returns whether the other side is in the address book, so that its prekey is kept.
    """

    def __init__(self, link: Link, prekeys: Prekeys, clock: IReactorTime, known: Callable[[], bool]) -> None:
        self._link = link
        self._prekeys = prekeys
        self._known = known
        self._received = False
        self._timer = Timer(clock)
        if prekeys.own:
            self._timer.start(PREKEY_DELAY, self._send)

    def receive(self, signed: bytes) -> None:
        """
        The other side has sent its prekey.

        :raise PrekeyError: it is malformed, not signed by the peer, or not the first one.
        """
        if self._received:
            # Each would be checked and written
            raise PrekeyError("a prekey comes once")
        self._received = True
        self._prekeys.learn(self._link.remote, signed, keep=self._known())

    def close(self) -> None:
        """The link is over."""
        self._timer.cancel()

    def _send(self) -> None:
        if not self._link.core.delivered():
            self._timer.start(PREKEY_DELAY, self._send)
            return
        self._link.try_send_control(OptionalFrameType.PREKEY, self._prekeys.own)
