"""
How many packets a direct path to one peer has cost, by technique.

Packets to addresses that have not answered a check yet are counted: connectivity checks, answers to those of
the peer, and SYNs. Packets to an address that has answered are not counted: they are no longer part of the
search for a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from punch.ice.punching.techniques import Technique
from punch.wire.address import Address

IP_HEADERS = {False: 20, True: 40}
"""The bytes of an IP header, of IPv4 and of IPv6."""
UDP_HEADER = 8
SYN_SIZE = 40
"""The bytes of a SYN's TCP header, options included."""
SEGMENT_SIZE = 34
"""The bytes of another TCP header, with timestamps, and of the length of a datagram (RFC 4571)."""


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
