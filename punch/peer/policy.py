"""Who may call: what is done with an incoming call before anyone is asked."""

from __future__ import annotations

from enum import Enum

from punch.wire.control import Accept


class Decision(Enum):
    """What policy says about one call."""

    ACCEPT = "accept"
    ASK = "ask"
    REFUSE = "refuse"


def decide(accept: Accept, known: bool) -> Decision:
    """
    Known peers are always accepted; `accept` says what happens to strangers.

    :param known: this side called or accepted that peer before.
    """
    if known or accept is Accept.ANYONE:
        return Decision.ACCEPT
    return Decision.ASK if accept is Accept.ASK else Decision.REFUSE
