"""
Sentences for the causes of `punch.node.causes`: what happened, and what the user can do next.

They contain names and texts from other peers as these are, so a caller that shows them in a terminal must
sanitize them with `printable`.
"""

from __future__ import annotations

from collections.abc import Collection

from punch.ice.events import CheckingFailure
from punch.identity import PeerID
from punch.node.causes import (
    Cause,
    ControlProblem,
    IntroductionEnded,
    NoPathFound,
    OtherCause,
    ProblemCode,
    RelayFailure,
    SimpleCause,
)
from punch.node.events import CallFailed, Disconnected, PathLost, PathSlowed, Unregistered
from punch.wire.control import RING_TIME, ErrorCode
from punch.wire.invitation import AdmissionRefusal
from punch.wire.proxy import ProxyRefusal
from punch.wire.special_addresses import Scope, scope_of
from punch.wire.stun_attributes import RelayLimit

_SIMPLE = {
    SimpleCause.OWN_ID: "That is this peer's own ID; call the ID that the other side's Punch prints.",
    SimpleCause.TOO_MANY_CALLS: "Too many calls are under way here; hang one up, then call again.",
    SimpleCause.NO_RENDEZVOUS: "{who} could not be called, as the rendezvous did not answer; "
    "check its address.",
    SimpleCause.GIVEN_UP: "The call with {who} was given up here; call again to talk.",
    SimpleCause.DECLINED: "The call of {who} was refused here; call them if you change your mind.",
    SimpleCause.TAMPERED: "What arrived in the name of {who} was not what they sent; "
    "the rendezvous may be dishonest: call again, or use another one.",
    SimpleCause.NO_LINK: "A path to {who} was found but no link came up on it; call again.",
    SimpleCause.NOT_PROVED: "Whoever answered did not prove to be {who}; nothing was sent: "
    "check the ID with them, then call again.",
    SimpleCause.LINK_BROKEN: "The link to {who} broke a rule of the protocol and was closed; "
    "check that both run the same version of Punch, then call again.",
    SimpleCause.LOST: "The connection to {who} was lost; call again when both are online.",
    SimpleCause.CLOSED_HERE: "The link to {who} was closed here; call again to go on talking.",
    SimpleCause.CLOSED_BY_PEER: "{who} hung up; call again to go on talking.",
    SimpleCause.REPLACED: "The link to {who} was replaced by a newer one; go on there.",
    SimpleCause.STOPPED: "This node has stopped.",
    SimpleCause.REPLACED_LAST_TIME: "Another process with this same identity replaced this one when it ran "
    "last; stop one of the two, or give one another --name or --state-dir.",
}
_PATH_LOST = "The path to {who} was lost{why}; trying again, and what you send waits."

_ENDED = {
    ErrorCode.NOT_REGISTERED: "{who} is not registered with the rendezvous now; "
    "ask them to start Punch with the same rendezvous, then call again.",
    ErrorCode.REFUSED: "{who} refused the call; ask them to accept calls from you, then call again.",
    ErrorCode.BUSY: "{who} has too many calls waiting; call again in a minute.",
    ErrorCode.GONE: "{who} left the rendezvous while being called; call again when they are back.",
    ErrorCode.TIMEOUT: f"{{who}} did not answer within {RING_TIME:.0f} s; ask them to, then call again.",
    ErrorCode.CANCELLED: "{who} gave the call up; call them if you want to talk.",
    ErrorCode.RATE: "The rendezvous takes no more calls from here now; wait a minute, then call again.",
    ErrorCode.TOO_MANY: "The rendezvous has too many calls under way; wait a minute, then call again.",
    ErrorCode.SHUTDOWN: "The rendezvous shut down during the call to {who}; call again in a minute.",
    ErrorCode.DENIED: "The rendezvous of {who} refuses this peer or its network; ask whoever runs it.",
}
_RANG_ENDED = {
    ErrorCode.GONE: "{who} left the rendezvous while calling; call them when they are back.",
    ErrorCode.SHUTDOWN: "The rendezvous shut down during the call of {who}; call them in a minute.",
    ErrorCode.TIMEOUT: "The call of {who} was not accepted "
    f"within {RING_TIME:.0f} seconds; call them back.",
    ErrorCode.CANCELLED: _ENDED[ErrorCode.CANCELLED],
}

_RELAY = {
    RelayFailure.SWITCHED_OFF: "relays are switched off here (--relay never)",
    RelayFailure.NOT_OFFERED: "the rendezvous offers this peer no relay",
    RelayFailure.NO_PATH: "not even the relay led there",
    RelayFailure.FULL: "the relay has no room now",
    RelayFailure.QUOTA: "this peer has used up what the relay grants it for now",
    RelayFailure.CREDENTIALS: "the relay did not take the credentials that the rendezvous gave",
    RelayFailure.SILENT: "the relay does not answer",
    RelayFailure.UNREACHABLE: "the relay can't be reached from here",
    RelayFailure.REFUSED: "the relay refused to help",
}

_LIMITS = {
    RelayLimit.RELAY: "the relay that it goes through carries as much as it can",
    RelayLimit.PEER: "this peer uses all of the rate that the relay allows it",
    RelayLimit.ADDRESS: "your address uses all of the rate that the relay allows it",
    RelayLimit.NETWORK: "your network uses all of the rate that the relay allows it",
}

_LIMITS_THERE = {
    RelayLimit.RELAY: "the other side's relay, which it goes through, carries as much as it can",
    RelayLimit.PEER: "the other side uses all of the rate that its relay allows it",
    RelayLimit.ADDRESS: "the other side's address uses all of the rate that its relay allows it",
    RelayLimit.NETWORK: "the other side's network uses all of the rate that its relay allows it",
}

_PROBLEMS = {
    ProblemCode.NAME_UNKNOWN: "The name {host} of the rendezvous is not known here, or no name server "
    "answers; check the address, and that this machine is online.",
    ProblemCode.REFUSED: "Nothing listens at {where}; check that the rendezvous runs there and that the "
    "address is right.",
    ProblemCode.TIMEOUT: "Nothing answers at {where}; check the address, the firewall, and that this machine "
    "is online.",
    ProblemCode.UNREACHABLE: "The rendezvous at {where} cannot be reached; check the address and that this "
    "machine is online.",
    ProblemCode.PROXY: "The rendezvous at {where} can't be reached through the proxy{detail}.",
    ProblemCode.CLOSED: "The rendezvous at {where} closed the connection at once; "
    "check that the address is right, or wait: it may be too busy.",
    ProblemCode.NO_WELCOME: "What answers at {where} did not greet this peer; check the address of the "
    "rendezvous.",
    ProblemCode.SILENT: "The rendezvous at {where} does not answer any more; it is tried again by itself.",
    ProblemCode.LOST: "The connection to the rendezvous at {where} was lost; it is tried again by itself.",
    ProblemCode.BAD_MESSAGE: "The rendezvous at {where} sent what is no control message ({detail}); "
    "check that both run the same version of Punch.",
    ProblemCode.NOT_A_RENDEZVOUS: "What answers at {where} is not a Punch rendezvous; check host and port of "
    "the address, and whether this network wants you to sign in first, in a browser.",
    ProblemCode.OUR_CERTIFICATE: "The rendezvous at {where} refused this peer's certificate; "
    "check that both run the same version of Punch, then start again.",
    ProblemCode.WRONG_PIN: "The rendezvous at {where} has another key than its address says (a wrong pin): "
    "it was set up anew, or somebody is in between, as where a network wants you to sign in first, in a "
    "browser; if not, get its current address from whoever runs it.",
    ProblemCode.EXPIRED: "The certificate of the rendezvous at {where} expired on {detail}; ask whoever runs "
    "it to renew it.",
    ProblemCode.NOT_YET_VALID: "The certificate of the rendezvous at {where} is valid only from {detail} on; "
    "check this machine's clock.",
    ProblemCode.UNTRUSTED: "The certificate of the rendezvous at {where} is from nobody this machine trusts; "
    "use the full address with its pin (punch://host:port/PIN) that it prints, or, where a network wants you "
    "to sign in first, do so in a browser.",
    ProblemCode.WRONG_NAME: "The certificate of the rendezvous at {where} is for another name ({detail}); "
    "use the name it is for, or the full address with its pin, or, where a network wants you to sign in "
    "first, do so in a browser.",
}
_ERRORS = {
    ErrorCode.REPLACED: "Another process registered with this same identity and replaced this one; "
    "stop one of the two, or give one another --name or --state-dir.",
    ErrorCode.VERSION: "The rendezvous at {where} speaks another version of the protocol; update the older "
    "of the two.",
    ErrorCode.SHUTDOWN: "The rendezvous at {where} is shutting down; it is tried again by itself.",
    ErrorCode.DENIED: "The operator of the rendezvous at {where} refuses this peer or its network; ask there "
    "why.",
    ErrorCode.TOO_MANY: "The rendezvous at {where} takes no more from this peer now ({detail}); it is tried "
    "again.",
    ErrorCode.RATE: "The rendezvous at {where} takes no more from this peer now ({detail}); it is tried "
    "again.",
}
_REFUSALS = {
    AdmissionRefusal.NOT_INVITED: "The rendezvous at {where} is for invited peers; ask {contact} for an "
    "invitation, and start once with its whole address (--rendezvous 'punch://…?token=…').",
    AdmissionRefusal.INVITATION_USED: "The invitation to the rendezvous at {where} was used already; ask "
    "{contact} for another one.",
    AdmissionRefusal.INVITATION_EXPIRED: "The invitation to the rendezvous at {where} has expired; ask "
    "{contact} for another one.",
    AdmissionRefusal.INVITATION_UNKNOWN: "The rendezvous at {where} does not know this invitation; copy its "
    "whole address again, or ask {contact} for another one.",
    AdmissionRefusal.INVITATION_ELSEWHERE: "The invitation is for another rendezvous than that at {where}; "
    "copy the whole address again that came with it, or ask {contact} for another one.",
    AdmissionRefusal.NOT_LISTED: "The rendezvous at {where} is for the peers on its operator's list; send "
    "{contact} your ID (punch id) to be put on it.",
    AdmissionRefusal.REVOKED: "The operator of the rendezvous at {where} admits this peer no longer; ask "
    "{contact} why.",
    AdmissionRefusal.ID_DENIED: "The operator of the rendezvous at {where} refuses this ID; ask {contact} "
    "why, or use another rendezvous.",
    AdmissionRefusal.ID_REVOKED: "This ID was revoked by its owner, and the rendezvous at {where} refuses it "
    "for ever; use another identity (--name), and tell your contacts its ID.",
}
_NO_CONNECTION = {
    ProblemCode.NAME_UNKNOWN,
    ProblemCode.TIMEOUT,
    ProblemCode.UNREACHABLE,
}
_PROXY_REFUSALS = {
    ProxyRefusal.AUTHENTICATION: "it wants a user name and a password: give them as "
    "{scheme}://user:password@host:port",
    ProxyRefusal.FORBIDDEN: "it does not connect to that port or host: ask whoever runs the proxy, or use a "
    "rendezvous on port 443",
    ProxyRefusal.UNREACHABLE: "it can't reach the rendezvous; check the address",
    ProxyRefusal.FAILED: "its answer was {detail}",
    ProxyRefusal.NOT_A_PROXY: "what answers there is no such proxy; check its address and kind, "
    "and with https:// its certificate",
    ProxyRefusal.CLOSED: "it closed the connection",
    ProxyRefusal.SILENT: "it does not answer",
    ProxyRefusal.NO_CONNECTION: "nothing can be reached at its address; check it",
}


def event_sentence(event: CallFailed | Disconnected | PathLost | PathSlowed | Unregistered) -> str:
    """Return the sentence that says why a call, link, path or registration ended, or why a link is slow."""
    if isinstance(event, PathSlowed):
        return (
            f"The link to {_who(event.peer, event.name)} is slow now, since "
            f"{(_LIMITS_THERE if event.there else _LIMITS)[event.limit]}; "
            "nothing is lost, it only takes longer."
        )
    if isinstance(event, PathLost):
        why = "" if event.relay is None else f", and {_RELAY[event.relay]}"
        return _PATH_LOST.replace("{why}", why).replace("{who}", _who(event.peer, event.name))
    if isinstance(event, Unregistered):
        return cause_sentence(event.cause)
    return cause_sentence(event.cause, event.peer, event.name)


def cause_sentence(cause: Cause, peer: PeerID | None = None, name: str | None = None) -> str:
    """
    Return the sentence for a cause.

    :param peer: the other side of the call or link; None for causes that are about neither.
    :param name: the name that the other side gave itself, if it is known.
    """
    if isinstance(cause, OtherCause):
        return cause.text
    if isinstance(cause, ControlProblem):
        return problem_sentence(cause)
    if isinstance(cause, NoPathFound):
        sentence = _no_path(cause)
    elif isinstance(cause, IntroductionEnded):
        sentence = _introduction_ended(cause)
    else:
        sentence = _SIMPLE[cause]
    return sentence if peer is None else sentence.replace("{who}", _who(peer, name))


def problem_sentence(problem: ControlProblem) -> str:
    """Return the sentence that says why there is no connection to the rendezvous."""
    if problem.refusal is not None:
        contact = problem.contact.rstrip(".") or "whoever runs it"
        sentence, detail = _REFUSALS[problem.refusal].replace("{contact}", contact), ""
    elif problem.error is None:
        sentence, detail = _PROBLEMS[problem.code], problem.detail
        if problem.code is ProblemCode.WRONG_NAME and not detail:
            detail = "it names none"
    else:
        code = problem.error.value
        other = f"The rendezvous at {{where}} closed the connection ({code}); it is tried again."
        sentence, detail = _ERRORS.get(problem.error, other), problem.detail.rstrip(".")
    address = problem.address
    sentence = sentence.replace("{where}", address.location).replace("{host}", address.host)
    if problem.proxy is not None:
        settings, error = problem.proxy.settings, problem.proxy.error
        why = _PROXY_REFUSALS[error.refusal].replace("{detail}", error.detail)
        why = why.replace("{scheme}", settings.proxy.kind.value)
        detail = f" {settings.proxy.location} ({settings.source}): {why}"
    elif problem.code in _NO_CONNECTION and not _is_this_machine(address.host):
        sentence += " Where only a proxy leads out, name it with --proxy or in https_proxy."
    return sentence.replace("{detail}", detail)


def _who(peer: PeerID, name: str | None) -> str:
    """Return the name that a peer gave itself, if it has told one, with the start of its ID."""
    return f"{name} ({peer.short}…)" if name else f"{peer.short}…"


def _introduction_ended(cause: IntroductionEnded) -> str:
    code = cause.code
    if cause.rang:
        other = f"The call of {{who}} was ended by the rendezvous ({code.value}); call them back in a minute."
        return _RANG_ENDED.get(code, other)
    other = f"The call with {{who}} was ended by the rendezvous ({code.value}); try again in a minute."
    return _ENDED.get(code, other)


def _no_path(cause: NoPathFound) -> str:
    if cause.relay_only:
        why = "--relay only leaves no way but a relay, so use a rendezvous that has one, or call without it"
    elif cause.checks is None:
        why = "nothing came through in time, so try another network on one side"
    else:
        why = _checks_failed(cause.checks)
    relay = "" if cause.relay is None else f" ({_RELAY[cause.relay]})"
    return f"There is no path to {{who}}: {why}{relay}."


def _checks_failed(failure: CheckingFailure) -> str:
    if not failure.local:
        return (
            "this machine has no network address that a peer could reach: connect it to a network and call "
            "again"
        )
    if not failure.remote:
        return "the peer told no address that could be reached: it may be offline, so call again later"
    if failure.pairs == 0:
        if failure.local != failure.remote:
            here, there = _families(failure.local), _families(failure.remote)
            return (
                f"this machine has only {here} and the peer only {there}, so there is no path between them: "
                "give one of them the other kind of address too and call again"
            )
        return "no address of the peer can be reached from this machine: call again from another network"
    if failure.pairs == 1:
        what = "the only path to the peer did not let"
    else:
        what = f"none of the {failure.pairs} possible paths to the peer let"
    return (
        f"{what} anything through: the NATs or firewalls on the way block it, "
        "so call again from another network"
    )


def _families(families: Collection[str]) -> str:
    return " and ".join(sorted(families))


def _is_this_machine(host: str) -> bool:
    """Return whether a host is this machine, so that a proxy would not help to reach it."""
    try:
        return scope_of(host) is Scope.LOOPBACK
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
