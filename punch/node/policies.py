"""What the user decides about relays, port mappings and packets to guessed ports, and who may call."""

from __future__ import annotations

from enum import Enum

from punch.wire.control import Accept


class PortMappingPolicy(Enum):
    """Whether routers are asked for ports."""

    AUTO = "auto"
    NEVER = "never"


class SprayPolicy(Enum):
    """Whether many packets may be sent to guessed ports of a peer, or many sockets opened for that."""

    AUTO = "auto"
    NEVER = "never"


class RelayPolicy(str, Enum):
    """Whether links may go through relays."""

    AUTO = "auto"
    """A link may be relayed while there is no direct path."""
    NEVER = "never"
    """Nothing of a link goes through a relay, ours or the other side's."""
    ONLY = "only"
    """Everything goes through a relay, so that the other side never learns our addresses."""


class Decision(Enum):
    """What is done with a call."""

    ACCEPT = "accept"
    ASK = "ask"
    REFUSE = "refuse"


def decide(accept: Accept, known: bool, blocked: bool = False) -> Decision:
    """
    Decide about a call: known peers are always accepted, blocked ones never; `accept` decides about
    strangers.

    :param known: this side called or accepted that peer before.
    :param blocked: the user does not want to be told of its calls at all.
    """
    if blocked:
        return Decision.REFUSE
    if known or accept is Accept.ANYONE:
        return Decision.ACCEPT
    return Decision.ASK if accept is Accept.ASK else Decision.REFUSE
