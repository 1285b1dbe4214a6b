"""Which peers have a place among the registrations, and which one leaves for another. Pure."""

from __future__ import annotations

from collections.abc import Callable

from punch.identity import PeerID
from punch.net.rate_limits import NoRoom
from punch.net.segmented_table import SegmentedTable
from punch.net.sources import Shares, Source
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import RESERVE, EarlierSources, room_in


class RegistrationPlaces:
    """
    The places of all registrations, which sources share, and those reserved for peers that were registered
    before.

    :param displace: removes the registration of a peer that makes room for another one, with `leave`.
    :ivar tables: the places of all, and those that are reserved if there are any.
    """

    def __init__(self, limits: RendezvousLimits, displace: Callable[[PeerID, float], None]) -> None:
        shares = Shares.growing(limits.registrations_per_address)
        reserve = limits.registrations // RESERVE
        self.tables = [SegmentedTable[PeerID](limits.registrations - reserve, shares)]
        if reserve:
            self.tables.append(SegmentedTable(reserve, Shares.growing(-(-shares.address // RESERVE))))
        self._earlier = EarlierSources[PeerID](2 * limits.registrations, Shares.growing(2 * shares.address))
        self._displace = displace

    def was_registered(self, peer: PeerID) -> bool:
        """Whether a peer was registered here before, as far as that is remembered."""
        return peer in self._earlier

    def take(self, peer: PeerID, source: Source, before: Source | None, now: float) -> None:
        """
        Give a peer a place, for which another peer may have to leave.

        :param before: the source that it is registered from; None if it is not.
        :raise NoRoom: no place is left for this peer; a place that it has remains its own.
        """
        if before is None or (before != source and not self._move(peer, source)):
            if before is not None:
                # It keeps its place until there is another one: else another peer could be protected instead
                self._check_room(source, peer, now)
                self.leave(peer)
            self._enter(source, peer, now)
        self._earlier.add(source, peer, now)

    def leave(self, peer: PeerID) -> None:
        """Free the place of a peer, if it has one."""
        for table in self.tables:
            table.leave(peer)

    def _tables(self, peer: PeerID) -> list[SegmentedTable[PeerID]]:
        """:return: the tables in which a peer may have a place."""
        return self.tables if self.was_registered(peer) else self.tables[:1]

    def _check_room(self, source: Source, peer: PeerID, now: float) -> None:
        """
        Check that there is a place from this source for a peer that gives up its own.

        :raise NoRoom: there is none.
        """

        def room(table: SegmentedTable[PeerID]) -> PeerID | None:
            try:
                return table.room(source, now)
            except NoRoom as refused:
                if refused.shared and peer in table:
                    return None  # Its own place will be free
                raise

        room_in(self._tables(peer), room)

    def _enter(self, source: Source, peer: PeerID, now: float) -> None:
        table, displaced = room_in(self._tables(peer), lambda table: table.room(source, now))
        if displaced is not None:
            self._displace(displaced, now)
        table.enter(source, peer, now)

    def _move(self, peer: PeerID, source: Source) -> bool:
        """
        :return: whether a peer keeps its place at another address. In another network it begins anew.
            Otherwise, identities that are kept in a few networks could come from many at once, as if all had
            been there before.
        """
        return any(peer in table and table.move(peer, source) for table in self.tables)
