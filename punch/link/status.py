"""What applications see of a link: its path, and whether it has one."""

from __future__ import annotations

from dataclasses import dataclass, field

from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit


@dataclass(frozen=True)
class Path:
    """
    The selected pair of a link as applications see it. Two paths are equal whatever their round-trip times
    are.

    :ivar kind: "host", "srflx", "prflx" or "relay", as `Pair.path`.
    :ivar local: the address that the peer sees us as.
    :ivar remote: the peer's address.
    :ivar protocol: the transport protocol, "udp" or "tcp". It is "udp" with a relay, however that is reached.
    :ivar rtt: the round-trip time in seconds, 0 while it is unknown.
    """

    kind: str
    local: Address
    remote: Address
    protocol: str
    rtt: float = field(compare=False)


@dataclass(frozen=True)
class LinkStatus:
    """
    The state of a link that has been connected. It changes with the events of the node about the link.

    :ivar path: its path, or the last one.
    :ivar since: when the link came up, in seconds since 1970.
    :ivar disconnected: the path is lost; the link waits for another one.
    :ivar slowed: the limit because of which a relay, ours or the other side's, drops datagrams of it now;
        None: none does.
    :ivar post_quantum: its keys were agreed with X25519MLKEM768 (`Link.post_quantum`).
    :ivar post_quantum_offers: the offer and the answer of its call were sealed with ML-KEM-768 as well as
        X25519 (`Signaling.post_quantum`).
    """

    path: Path
    since: float
    disconnected: bool = False
    post_quantum: bool = False
    post_quantum_offers: bool = False
    slowed: RelayLimit | None = None
