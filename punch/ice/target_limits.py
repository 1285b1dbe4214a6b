"""
Limits on what all peers together can make a node send to addresses that have not answered.

Each peer has limits of its own (`punch.ice.budget`), but identities cost nothing: whoever calls again under
another one has all of them anew. The limits here count packets for each host, whichever peer names it. There
are also limits over all hosts, for what takes many packets. A host is an IPv4 address or an IPv6 /64.

The limits are token buckets: a number of packets may be sent at once, and further ones at a rate.

Somebody who names the address of another peer uses up the limit of its host. So parts of it are reserved for
packets that strangers can't cause: answers and triggered checks, which need an authenticated check from that
host, and packets to a host at which the peer itself answered earlier. What is sent for contacts, whom the
user has called or accepted, is counted apart, so that strangers can't use it up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from punch.net.sources import source_of
from punch.net.token_bucket import TokenBuckets

WINDOW: Final = 600.0
"""Seconds for which a packet counts in the limits of one peer."""
HEADERS: Final = {False: 28, True: 48}
"""The bytes of the IP and UDP headers of a datagram, over IPv4 and over IPv6."""
MAX_HOSTS: Final = 1024
"""For how many hosts packets are counted; the one to which the fewest were sent makes room."""
CHECKS: Final = 1.0, 600
"""How many checks may go to addresses of one host that have not answered: in a second, and at once."""
KEPT_FOR_HEARD: Final = 100
"""How many of these are kept for answers and triggered checks, to where an authenticated check came from…"""
KEPT_FOR_FAMILIAR: Final = 100
"""…and how many for peers that answered at the host on an earlier direct path."""
OPENINGS: Final = 0.2, 240
"""How many packets may go to ports of one host that peers name for attempts."""
ALL_OPENINGS: Final = 2.0, 1200
"""How many of these may go to all hosts."""
SPRAYED: Final = 3.0, 3600
"""How many packets may go to one host for spraying: at once, those of two attempts."""
ALL_SPRAYED: Final = 12.0, 7200
"""How many of these may go to all hosts."""
OPENINGS_FOR_CONTACTS: Final = 0.8, 960
"""How many packets may go to ports of one host that contacts name for attempts…"""
ALL_OPENINGS_FOR_CONTACTS: Final = 8.0, 4800
"""
…and to all hosts. These are higher, since only the user makes a peer a contact, and each contact has limits
of its own.
"""


class TargetLimits:
    """
    How many packets of one kind a node sends, for all peers together.

    :param host: how many packets may go to one host a second, and how many at once.
    :param total: the same for all hosts; None: no limit.
    """

    def __init__(self, host: tuple[float, int], total: tuple[float, int] | None = None) -> None:
        self._hosts = TokenBuckets(*host, MAX_HOSTS)
        self._total = None if total is None else TokenBuckets(*total, 1)

    def has(self, packets: int, host: str, now: float, kept: int = 0) -> bool:
        """
        Whether so many packets may be sent to this IP address now.

        :param kept: how many have to be left for others.
        """
        in_all = self._total is None or self._total.has(None, now, packets)
        return in_all and self._hosts.has(_key(host), now, packets + kept)

    def has_at(self, packets: int, host: str, now: float) -> float:
        """Return when so many packets may be sent to this IP address if no others are sent until then."""
        at = self._hosts.has_at(_key(host), now, packets)
        return at if self._total is None else max(at, self._total.has_at(None, now, packets))

    def charge(self, host: str, now: float) -> None:
        """Count a packet that is sent to this IP address."""
        if self._total is not None:
            self._total.allow(None, now)
        self._hosts.allow(_key(host), now)

    def give_back(self, packets: int, host: str) -> None:
        """
        So many packets that were sent to this IP address no longer count for the host, since somebody there
        has answered. They still count among those to all hosts.
        """
        self._hosts.give_back(_key(host), packets)


@dataclass(frozen=True)
class NodeLimits:
    """
    The limits of one node, for all peers that are contacts, or for all that are not.

    :ivar checks: of checks and answers to addresses that have not answered.
    :ivar openings: of packets to ports that peers name for attempts.
    :ivar sprays: of packets for spraying.
    """

    checks: TargetLimits = field(default_factory=lambda: TargetLimits(CHECKS))
    openings: TargetLimits = field(default_factory=lambda: TargetLimits(OPENINGS, ALL_OPENINGS))
    sprays: TargetLimits = field(default_factory=lambda: TargetLimits(SPRAYED, ALL_SPRAYED))

    @classmethod
    def for_contacts(cls) -> NodeLimits:
        """Return the limits for contacts."""
        return cls(openings=TargetLimits(OPENINGS_FOR_CONTACTS, ALL_OPENINGS_FOR_CONTACTS))


def _key(host: str) -> object:
    return source_of(host)[-1]
