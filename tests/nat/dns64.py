"""
A name server of a network of IPv6 and NAT64, for `python -m tests.nat.dns64 PREFIX ADDRESS`.

It knows the one name by which hosts discover the prefix (RFC 7050), and that no other exists.
"""

from __future__ import annotations

import sys
from ipaddress import IPv6Address
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.names import dns, error, server

from punch.wire.special_addresses import DISCOVERY_NAME, WELL_KNOWN


class Records:
    """What is known, as `DNSServerFactory` asks for it."""

    def __init__(self, prefix: IPv6Address) -> None:
        self._records: dict[int, list[dns.IEncodableRecord]] = {
            dns.A: [dns.Record_A(str(address)) for address in WELL_KNOWN],
            dns.AAAA: [dns.Record_AAAA(str(prefix + int(address))) for address in WELL_KNOWN],
        }

    def query(self, query: dns.Query, timeout: object = None) -> Deferred[tuple[list[dns.RRHeader], ...]]:
        """Answer a question."""
        if query.name.name.decode().lower() != DISCOVERY_NAME:
            return fail(error.DomainError(query.name.name))
        found = [
            dns.RRHeader(query.name.name, query.type, dns.IN, 60, record)
            for record in self._records.get(query.type, [])
        ]
        return succeed((found, [], []))


def main(reactor: Any, prefix: str, address: str) -> None:
    """Serve until the process is ended; says `ready` first."""
    factory = server.DNSServerFactory(clients=[Records(IPv6Address(prefix))])
    reactor.listenUDP(53, dns.DNSDatagramProtocol(factory), interface=address)
    print("ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    from twisted.internet import reactor

    main(reactor, *sys.argv[1:])
