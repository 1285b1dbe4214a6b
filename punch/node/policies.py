"""What the user decides about the paths of all links: relays, ports of routers, packets to guessed ports."""

from __future__ import annotations

from enum import Enum


class PortMappingPolicy(Enum):
    """Whether routers are asked for ports."""

    AUTO = "auto"
    NEVER = "never"


class SprayPolicy(Enum):
    """Whether many packets may be sent to guessed ports of a peer, or many sockets opened for that."""

    AUTO = "auto"
    NEVER = "never"


class RelayPolicy(str, Enum):
    """
    AUTO: a link may be relayed while there is no direct path. NEVER: nothing of a link goes through a relay,
    ours or the other side's. ONLY: everything does, so that the other side never learns our addresses.
    """

    AUTO = "auto"
    NEVER = "never"
    ONLY = "only"
