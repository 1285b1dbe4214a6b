"""
Limits on what is sent to addresses that have not answered, and counts of it.

`punch.ice.budget` limits the checks and answers that one peer can cause. This module has the other limits:

- `NodeLimits`: what all peers together can make a node send. Identities cost nothing, so whoever has used up
  the limits of one peer may call again as another one. These limits count packets for each host, whichever
  peer names it. There are also limits over all hosts, for what takes many packets. A host is an IPv4 address
  or an IPv6 /64. The limits are token buckets: a number of packets may be sent at once, and further ones at a
  rate.
- `OpeningBudget`: what one peer can cause by attempts at a direct path (`punch.ice.punching`).
- `EarlyBudget`: what may be sent of a link's handshake before a check was answered.

Somebody who names the address of another peer uses up the limit of its host. So parts of it are reserved for
packets that strangers can't cause: answers and triggered checks, which need an authenticated check from that
host, and packets to a host at which the peer itself answered earlier. What is sent for contacts, whom the
user has called or accepted, is counted separately, so that strangers can't use it up.

`SentPackets` counts what was sent to one peer, by technique: connectivity checks, answers to those of the
peer, and SYNs. Packets to an address that has answered a check are not counted: they are no longer part of
the search for a path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from punch.ice.punching.techniques import Technique
from punch.net.sources import source_of
from punch.net.token_bucket import TokenBuckets
from punch.wire.address import Address

WINDOW: Final = 600.0
"""Seconds for which a packet counts in the limits of one peer."""
IP_HEADERS: Final = {False: 20, True: 40}
"""The bytes of an IP header, of IPv4 and of IPv6."""
UDP_HEADER: Final = 8
"""The bytes of a UDP header."""
HEADERS: Final = {ipv6: size + UDP_HEADER for ipv6, size in IP_HEADERS.items()}
"""The bytes of the IP and UDP headers of a datagram, over IPv4 and over IPv6."""
SYN_SIZE: Final = 40
"""The bytes of a SYN's TCP header, options included."""
SEGMENT_SIZE: Final = 34
"""The bytes of any other segment's TCP header, with timestamps, and of a datagram's length (RFC 4571)."""
MAX_HOSTS: Final = 1024
"""
For how many hosts packets are counted. For a further host, the one whose limit will be whole again first is
forgotten.
"""
CHECKS: Final = 1.0, 600
"""
How many checks may go to addresses of one host that have not answered: in a second, and at once. The limits
below have the same form.
"""
KEPT_FOR_HEARD: Final = 100
"""
How many of these are reserved for answers and triggered checks, which go to where an authenticated check came
from.
"""
KEPT_FOR_FAMILIAR: Final = 100
"""How many of these are reserved for peers that answered at the host on an earlier direct path."""
OPENINGS: Final = 0.2, 240
"""How many packets may go to ports of one host that peers name for attempts."""
ALL_OPENINGS: Final = 2.0, 1200
"""How many of these may go to all hosts together."""
SPRAYED: Final = 3.0, 3600
"""How many packets may go to one host for spraying: at once, as many as two attempts send."""
ALL_SPRAYED: Final = 12.0, 7200
"""How many of these may go to all hosts together."""
OPENINGS_FOR_CONTACTS: Final = 0.8, 960
"""
How many packets may go to ports of one host that contacts name for attempts. This limit is higher than that
of other peers, since only the user makes a peer a contact, and each contact has limits of its own.
"""
ALL_OPENINGS_FOR_CONTACTS: Final = 8.0, 4800
"""How many of these may go to all hosts together."""


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

        :param kept: how many are reserved for other packets.
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


MAX_OPENINGS: Final = 60
"""How many packets may go to ports that a peer names for attempts, in `WINDOW`."""
MAX_OPENING_BYTES: Final = 9_000
"""How many bytes they may have, with IP and UDP headers."""
MAX_SPRAYED: Final = 3600
"""How many packets may be sent to one peer for spraying, in `WINDOW`: those of two attempts."""
MAX_SPRAYED_BYTES: Final = 540_000
"""How many bytes they may have, with IP and UDP headers."""


class OpeningBudget:
    """
    What may be sent, over all calls, to ports that a peer names for an attempt
    (`punch.ice.punching.prediction`, `punch.ice.punching.simultaneous_open`), or to ports that are guessed
    (`punch.ice.punching.spraying`).

    It is separate from the limits for checks: such packets go only to IP addresses at which the peer has
    answered checks, over a link that works, and each port gets few of them. Checks and answers that follow
    at the same sockets count among those to named ports, and so do TCP connections to such IP addresses
    (`punch.node.punching.tcp`).

    :param most: how many packets may be sent in `WINDOW`.
    :param size: how many bytes they may have, with IP and UDP headers.
    :param limits: what all peers together can make us send; None: no limit.
    """

    def __init__(
        self, most: int = MAX_OPENINGS, size: int = MAX_OPENING_BYTES, limits: TargetLimits | None = None
    ) -> None:
        self._most = most
        self._size = size
        self._limits = limits
        self._sent: deque[tuple[float, int, str]] = deque()
        self._counted = 0

    def use(self, limits: TargetLimits) -> None:
        """Count what is sent from now on among what is sent for these peers together."""
        self._limits = limits

    def left(self, now: float) -> int:
        """Return how many packets may be sent now, as far as their number is concerned."""
        while self._sent and now >= self._sent[0][0] + WINDOW:
            self._counted -= self._sent.popleft()[1]
        return self._most - len(self._sent)

    def may_begin(self, packets: int, host: str, now: float) -> bool:
        """Whether so many packets may be sent to this IP address now, as far as their number is concerned."""
        return self.left(now) >= packets and (self._limits is None or self._limits.has(packets, host, now))

    def may_begin_at(self, packets: int, host: str, now: float) -> float:
        """Return when `may_begin` holds if nothing else is sent until then."""
        over = packets - self.left(now)
        at = self._sent[over - 1][0] + WINDOW if over > 0 else now
        return at if self._limits is None else max(at, self._limits.has_at(packets, host, now))

    def has(self, packets: int, size: int, remote: Address, now: float) -> bool:
        """Whether so many datagrams of `size` bytes may be sent now."""
        wanted = packets * (size + HEADERS[remote.is_ipv6])
        return self.may_begin(packets, remote.host, now) and self._counted + wanted <= self._size

    def path_found(self, host: str) -> None:
        """A path to a port of this IP address is used: what was sent there no longer counts."""
        before = len(self._sent)
        self._sent = deque(each for each in self._sent if each[2] != host)
        if self._limits is not None:
            self._limits.give_back(before - len(self._sent), host)
        self._counted = sum(size for _, size, _ in self._sent)

    def is_idle(self, now: float) -> bool:
        """Whether nothing counts any more."""
        return self.left(now) == self._most

    def charge(self, remote: Address, size: int, now: float) -> None:
        """Count a datagram that is sent for an attempt, to the peer or to a reflector."""
        size += HEADERS[remote.is_ipv6]
        self._sent.append((now, size, remote.host))
        self._counted += size
        if self._limits is not None:
            self._limits.charge(remote.host, now)

    def allows(self, remote: Address, size: int, now: float) -> bool:
        """Whether a datagram of `size` bytes may be sent now. If so, it is counted as sent."""
        if not self.has(1, size, remote, now):
            return False
        self.charge(remote, size, now)
        return True


MAX_EARLY: Final = 6
"""How many packets of handshakes with one peer may be sent in `WINDOW`."""
MAX_EARLY_BYTES: Final = 6_500
"""How many bytes they may have, with IP and UDP headers."""


class EarlyBudget:
    """
    What may be sent of a link's handshake to addresses of a peer that have not answered yet, at IP addresses
    where it answered on an earlier link (`punch.node.paths.path`). It counts over all calls with the peer.
    """

    def __init__(self) -> None:
        self._sent: deque[tuple[float, Address, int]] = deque()

    def has(self, remote: Address, sizes: Sequence[int], now: float) -> bool:
        """Whether datagrams of these sizes may be sent now."""
        while self._sent and now >= self._sent[0][0] + WINDOW:
            self._sent.popleft()
        wanted = sum(sizes) + len(sizes) * HEADERS[remote.is_ipv6]
        size = sum(each for _, _, each in self._sent) + wanted
        return len(self._sent) + len(sizes) <= MAX_EARLY and size <= MAX_EARLY_BYTES

    def charge(self, remote: Address, size: int, now: float) -> None:
        """Count a datagram that is sent."""
        self._sent.append((now, remote, size + HEADERS[remote.is_ipv6]))

    def answered(self, remote: Address) -> None:
        """A check was answered from there: what was sent there no longer counts."""
        self._sent = deque(each for each in self._sent if each[1] != remote)

    def is_idle(self, now: float) -> bool:
        """Whether nothing counts any more."""
        return all(now >= time + WINDOW for time, _, _ in self._sent)


@dataclass(frozen=True)
class Sent:
    """
    What was sent.

    :ivar packets: how many packets.
    :ivar bytes: how many bytes they had, with headers.
    """

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Sent) -> Sent:
        """Return what was sent in both."""
        return Sent(self.packets + other.packets, self.bytes + other.bytes)

    def __sub__(self, other: Sent) -> Sent:
        """Return what was sent besides the other."""
        return Sent(self.packets - other.packets, self.bytes - other.bytes)


class SentPackets:
    """
    What was sent to one peer, over all calls.

    What leaves a socket of an attempt belongs to the technique of that attempt, what leaves a TCP port to
    `Technique.TCP`, and all else to `Technique.ICE`.
    """

    def __init__(self) -> None:
        self._sent: dict[Technique, Sent] = {}
        self._sockets: dict[Address, Technique] = {}

    @property
    def by_technique(self) -> Mapping[Technique, Sent]:
        """What was sent so far, by each technique that has sent something."""
        return dict(self._sent)

    def opened(self, base: Address, technique: Technique) -> None:
        """A socket was opened for an attempt by this technique."""
        self._sockets[base] = technique

    def closed(self, base: Address) -> None:
        """A socket of an attempt was closed."""
        self._sockets.pop(base, None)

    def add(self, local: Address, remote: Address, size: int) -> None:
        """Count a datagram of `size` bytes from a local address."""
        if local.protocol == "tcp":
            self._add(Technique.TCP, SEGMENT_SIZE + size, remote)
        else:
            self._add(self._sockets.get(local, Technique.ICE), UDP_HEADER + size, remote)

    def add_syn(self, remote: Address) -> None:
        """Count the SYN of a TCP connection."""
        self._add(Technique.TCP, SYN_SIZE, remote)

    def _add(self, technique: Technique, size: int, remote: Address) -> None:
        sent = Sent(1, size + IP_HEADERS[remote.is_ipv6])
        self._sent[technique] = self._sent.get(technique, Sent()) + sent
