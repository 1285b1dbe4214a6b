"""
The servers of one rendezvous, and in which order they are tried. Pure.

A rendezvous may be several processes: the user gives several addresses, or DNS names them by SRV records
(RFC 2782) of the service `_punch._tcp`. A server that has failed is tried after those that have not. Of
those that failed equally often, the one that answered last comes first; the others follow in the order of the
addresses and of the RFC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from punch.identity import RandomBytes
from punch.wire.rendezvous_address import MAX_RECORDS, RendezvousAddress, ServiceRecord, in_order


@dataclass(frozen=True)
class Server:
    """
    One server of the rendezvous.

    :ivar address: where it is.
    :ivar proves: the address that the user gave, whose pin, or else name, the server has to prove. An SRV
        record is not authenticated, so a name in it proves nothing.
    """

    address: RendezvousAddress
    proves: RendezvousAddress


class Servers:
    """The servers of one rendezvous, at the addresses that the user gave."""

    def __init__(self, addresses: Sequence[RendezvousAddress], random: RandomBytes) -> None:
        """:raise ValueError: there are no addresses."""
        if not addresses:
            raise ValueError("A rendezvous has at least one address.")
        self._addresses = tuple(addresses)
        self._random = random
        self._records: dict[str, Sequence[ServiceRecord]] = {}
        self._failures: dict[Server, int] = {}
        self._last: Server | None = None

    @property
    def names(self) -> list[str]:
        """The names whose SRV records have to be looked up before `order`."""
        return [address.host for address in self._addresses if address.has_services]

    def found(self, name: str, records: Sequence[ServiceRecord] | None) -> None:
        """Take the SRV records of a name. None: they could not be looked up, and the earlier ones stay."""
        if records is not None:
            self._records[name] = tuple(records[:MAX_RECORDS])

    def order(self) -> list[Server]:
        """Return the servers in the order in which they are to be tried; none if DNS says there is none."""
        servers: dict[Server, None] = {}
        for address in self._addresses:
            for server in self._servers_of(address):
                servers[server] = None
        self._failures = {server: count for server, count in self._failures.items() if server in servers}
        return sorted(servers, key=lambda server: (self._failures.get(server, 0), server != self._last))

    def answered(self, server: Server) -> None:
        """A server has welcomed the peer."""
        self._last = server
        self._failures.pop(server, None)

    def failed(self, server: Server) -> None:
        """A server could not be reached, or its connection is lost."""
        self._failures[server] = self._failures.get(server, 0) + 1

    def _servers_of(self, address: RendezvousAddress) -> list[Server]:
        records = self._records.get(address.host) if address.has_services else None
        if not records:
            return [Server(replace(address, has_services=False), address)]
        return [
            Server(RendezvousAddress(record.host, record.port, address.pin), address)
            for record in in_order(records, self._random)
            if record.host and record.port  # A target of "." means that there is no such service.
        ]
