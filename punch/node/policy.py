"""What a peer has decided before anything happens: who may call, and whether links may be relayed."""

from __future__ import annotations

from enum import Enum

from punch.wire.control import Accept


class Decision(Enum):
    """What policy says about one call."""

    ACCEPT = "accept"
    ASK = "ask"
    REFUSE = "refuse"


class RelayPolicy(str, Enum):
    """
    AUTO: a link may be relayed while there is no direct path. NEVER: nothing of a link goes through a relay,
    ours or the other side's. ONLY: everything does, so that the other side never learns our addresses.
    """

    AUTO = "auto"
    NEVER = "never"
    ONLY = "only"


def decide(accept: Accept, known: bool, blocked: bool = False) -> Decision:
    """
    Known peers are always accepted, blocked ones never; `accept` says what happens to strangers.

    :param known: this side called or accepted that peer before.
    :param blocked: the user does not want to hear of it: not even a bell rings.
    """
    if blocked:
        return Decision.REFUSE
    if known or accept is Accept.ANYONE:
        return Decision.ACCEPT
    return Decision.ASK if accept is Accept.ASK else Decision.REFUSE
