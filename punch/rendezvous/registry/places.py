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
            table, since = self._leave(peer)
            try:
                self._enter(source, peer, now)
            except NoRoom:
                if before is not None and table is not None:
                    table.enter(before, peer, now, since=since, again=True)
                raise
        self._earlier.add(source, peer, now)

    def leave(self, peer: PeerID) -> None:
        """Free the place of a peer, if it has one."""
        self._leave(peer)

    def _enter(self, source: Source, peer: PeerID, now: float) -> None:
        tables = self.tables if self.was_registered(peer) else self.tables[:1]
        table, displaced = room_in(tables, lambda table: table.room(source, now))
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

    def _leave(self, peer: PeerID) -> tuple[SegmentedTable[PeerID] | None, float | None]:
        """:return: the table that it was in, and since when."""
        for table in self.tables:
            if peer in table:
                return table, table.leave(peer)
        return None, None
