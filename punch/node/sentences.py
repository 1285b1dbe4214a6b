"""What a person reads when a call or a link ends: one sentence each, that says what to do next."""

from __future__ import annotations

from punch.identity import PeerID
from punch.wire.control import ErrorCode

RING_SECONDS = 60
"""How long a call rings."""


def who(peer: PeerID, name: str | None) -> str:
    """How a peer is called in messages: by the name it chose, if it told one, and the start of its ID."""
    return f"{name} ({peer.short}…)" if name else f"{peer.short}…"


_CALL_ENDED = {
    ErrorCode.NOT_REGISTERED: "{who} is not registered with the rendezvous now; "
    "ask them to start Punch with the same rendezvous, then call again.",
    ErrorCode.REFUSED: "{who} refused the call; ask them to accept calls from you, then call again.",
    ErrorCode.BUSY: "{who} has too many calls waiting; call again in a minute.",
    ErrorCode.GONE: "{who} left the rendezvous while being called; call again when they are back.",
    ErrorCode.TIMEOUT: f"{{who}} did not answer within {RING_SECONDS} s; ask them to, then call again.",
    ErrorCode.CANCELLED: "{who} gave the call up; call them if you want to talk.",
    ErrorCode.RATE: "The rendezvous takes no more calls from here now; wait a minute, then call again.",
    ErrorCode.TOO_MANY: "The rendezvous has too many calls under way; wait a minute, then call again.",
    ErrorCode.SHUTDOWN: "The rendezvous shut down during the call to {who}; call again in a minute.",
}


def call_ended(code: ErrorCode, peer: PeerID, name: str | None) -> str:
    """Why the rendezvous or the other side ended a call."""
    sentence = _CALL_ENDED.get(
        code, f"The call with {{who}} was ended by the rendezvous ({code.value}); try again in a minute."
    )
    return sentence.replace("{who}", who(peer, name))


_INCOMING_ENDED = {
    ErrorCode.GONE: "{who} left the rendezvous while calling; call them when they are back.",
    ErrorCode.SHUTDOWN: "The rendezvous shut down during the call of {who}; call them in a minute.",
}


def incoming_ended(code: ErrorCode, peer: PeerID, name: str | None) -> str:
    """Why the rendezvous or the other side ended a call that rang here."""
    if code is ErrorCode.TIMEOUT:
        return unanswered(peer, name)
    if code in _INCOMING_ENDED:
        return _INCOMING_ENDED[code].replace("{who}", who(peer, name))
    if code is ErrorCode.CANCELLED:
        return call_ended(code, peer, name)
    end = f"The call of {who(peer, name)} was ended by the rendezvous ({code.value})"
    return f"{end}; call them back in a minute."


def unanswered(peer: PeerID, name: str | None) -> str:
    """A ringing call that nobody accepted on this side."""
    return f"The call of {who(peer, name)} was not accepted within {RING_SECONDS} seconds; call them back."


def hung_up_early(peer: PeerID, name: str | None) -> str:
    """We gave the call up ourselves."""
    return f"The call with {who(peer, name)} was given up here; call again to talk."


def declined(peer: PeerID, name: str | None) -> str:
    """We said no."""
    return f"The call of {who(peer, name)} was refused here; call them if you change your mind."


def tampered(peer: PeerID, name: str | None) -> str:
    """A message of the call did not come from the peer as it sent it."""
    return (
        f"What arrived in the name of {who(peer, name)} was not what they sent; "
        "the rendezvous may be dishonest: call again, or use another one."
    )


def unreachable(peer: PeerID, name: str | None, cause: str | None = None, relay: str = "") -> str:
    """
    No candidate pair worked. `cause` is the ICE agent's clause, `relay` says why no relay helped, if it does.
    """
    cause = cause or "nothing came through in time, so try another network on one side"
    end = f" ({relay})" if relay else ""
    return f"There is no path to {who(peer, name)}: {cause}{end}."


def no_link(peer: PeerID, name: str | None) -> str:
    """There was a path, and the link over it was not secured in time."""
    return f"A path to {who(peer, name)} was found but no link came up on it; call again."


def not_proved(peer: PeerID, name: str | None) -> str:
    """Somebody else was at the other end."""
    return (
        f"Whoever answered did not prove to be {who(peer, name)}; nothing was sent: "
        "check the ID with them, then call again."
    )


def lost(peer: PeerID, name: str | None) -> str:
    """The link died."""
    return f"The connection to {who(peer, name)} was lost; call again when both are online."


def path_lost(peer: PeerID, name: str | None) -> str:
    """No path works now."""
    return f"The path to {who(peer, name)} was lost; trying again, and what you send waits."


def goodbye(peer: PeerID, name: str | None, by_peer: bool) -> str:
    """An orderly end."""
    end = f"{who(peer, name)} hung up" if by_peer else f"The link to {who(peer, name)} was closed here"
    return f"{end}; call again to go on talking."


def replaced(peer: PeerID, name: str | None) -> str:
    """A newer link with the same peer took over."""
    return f"The link to {who(peer, name)} was replaced by a newer one; go on there."


def link_broken(peer: PeerID, name: str | None) -> str:
    """A fault, on whichever side."""
    return (
        f"The link to {who(peer, name)} broke a rule of the protocol and was closed; "
        "check that both run the same version of Punch, then call again."
    )


def own_id() -> str:
    """A call to oneself."""
    return "That is this peer's own ID; call the ID that the other side's Punch prints."


def too_many_calls() -> str:
    """A bound of ours."""
    return "Too many calls are under way here; hang one up, then call again."


def no_rendezvous(peer: PeerID, name: str | None, cause: str) -> str:
    """A queued call could not be placed in time. `cause` is the sentence of the last problem, or empty."""
    return (
        cause
        or f"{who(peer, name)} could not be called, as the rendezvous did not answer; check its address."
    )
