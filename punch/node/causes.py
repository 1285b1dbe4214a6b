"""
Why calls, links and registrations end, as codes and fields. `punch.ui.text.causes` has a sentence for each.

Every cause has a `reason`, the code for programs: the value of a `Reason` or of a rendezvous `ErrorCode`. One
reason may have several causes, which differ in what the user can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from punch.ice.events import CheckingFailure
from punch.link.events import CloseCode
from punch.wire.control import ErrorCode
from punch.wire.invitation import AdmissionRefusal
from punch.wire.proxy import ProxyError, ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress


class Reason(str, Enum):
    """Codes of this node. `punch.wire.control.ErrorCode` has those of the rendezvous."""

    UNREACHABLE = "unreachable"
    """No pair of candidates worked."""
    RENDEZVOUS_UNREACHABLE = "rendezvous-unreachable"
    """No connection to the rendezvous."""
    BAD_PIN = "bad-pin"
    """The rendezvous has another key than its address says."""
    CERTIFICATE = "certificate"
    """A certificate was refused, the rendezvous' by us or ours by the rendezvous."""
    SELF = "self"
    """A call to one's own ID."""
    LOST = "lost"
    """The path died and nothing replaced it."""
    BYE = "bye"
    """One side hung up."""
    PROOF = "proof"
    """The other side did not prove the ID that was called."""
    PROTOCOL = "protocol"
    """The other side broke the protocol, or someone changed its messages."""
    STATE = "state"
    """The state directory failed."""

    def __str__(self) -> str:
        return self.value


class SimpleCause(Enum):
    """The causes that have no fields."""

    OWN_ID = "own ID"
    """A call to one's own ID."""
    TOO_MANY_CALLS = "too many calls"
    """This node has as many calls and links as it can have."""
    NO_RENDEZVOUS = "no rendezvous"
    """The call waited for the rendezvous for too long."""
    GIVEN_UP = "given up"
    """The user of this node gave the call up."""
    DECLINED = "declined"
    """The user of this node refused the call."""
    TAMPERED = "tampered"
    """A message of the call was not what the peer had sent."""
    NO_LINK = "no link"
    """There was a path, but the link on it was not secured in time."""
    NOT_PROVED = "not proved"
    """The other side did not prove the peer ID."""
    LINK_BROKEN = "link broken"
    """The link broke a rule of its protocol."""
    LOST = "lost"
    """The link had no path for too long."""
    CLOSED_HERE = "closed here"
    """This node closed the link."""
    CLOSED_BY_PEER = "closed by peer"
    """The other side closed the link."""
    REPLACED = "replaced"
    """A newer link with the same peer took over."""
    STOPPED = "stopped"
    """This node was stopped."""
    REPLACED_LAST_TIME = "replaced last time"
    """The previous process with this identity was replaced by another one at the rendezvous."""

    @property
    def reason(self) -> str:
        """The code for programs."""
        return str(_REASONS[self].value)


_REASONS: dict[SimpleCause, Reason | ErrorCode] = {
    SimpleCause.OWN_ID: Reason.SELF,
    SimpleCause.TOO_MANY_CALLS: ErrorCode.TOO_MANY,
    SimpleCause.NO_RENDEZVOUS: Reason.RENDEZVOUS_UNREACHABLE,
    SimpleCause.GIVEN_UP: ErrorCode.CANCELLED,
    SimpleCause.DECLINED: ErrorCode.CANCELLED,
    SimpleCause.TAMPERED: Reason.PROTOCOL,
    SimpleCause.NO_LINK: Reason.UNREACHABLE,
    SimpleCause.NOT_PROVED: Reason.PROOF,
    SimpleCause.LINK_BROKEN: Reason.PROTOCOL,
    SimpleCause.LOST: Reason.LOST,
    SimpleCause.CLOSED_HERE: Reason.BYE,
    SimpleCause.CLOSED_BY_PEER: Reason.BYE,
    SimpleCause.REPLACED: ErrorCode.REPLACED,
    SimpleCause.STOPPED: ErrorCode.CANCELLED,
    SimpleCause.REPLACED_LAST_TIME: ErrorCode.REPLACED,
}


@dataclass(frozen=True)
class IntroductionEnded:
    """
    The peer, the rendezvous or a timeout ended the call before both sides were introduced, or the peer
    cancelled it afterwards.

    :ivar code: the code of the rendezvous.
    :ivar rang: the call rang here.
    """

    code: ErrorCode
    rang: bool = False

    @property
    def reason(self) -> str:
        """The code for programs."""
        return self.code.value


class RelayFailure(Enum):
    """Why no relay helped."""

    SWITCHED_OFF = "switched off"
    """The policy of this node allows no relays."""
    NOT_OFFERED = "not offered"
    """The rendezvous offers none."""
    NO_PATH = "no path"
    """There is a relay, but no path through it either."""
    FULL = "full"
    """The relay has no capacity left."""
    QUOTA = "quota"
    """This peer has as many allocations as the relay grants it."""
    CREDENTIALS = "credentials"
    """The relay did not accept the credentials of the rendezvous."""
    SILENT = "silent"
    """The relay does not answer."""
    UNREACHABLE = "unreachable"
    """There is no connection to the relay."""
    REFUSED = "refused"
    """The relay refused for another reason."""


@dataclass(frozen=True)
class NoPathFound:
    """
    No path to the peer was found.

    :ivar checks: what the ICE agent knows about it, if anything.
    :ivar relay: why no relay helped; None if it is not known.
    :ivar relay_only: only relayed paths are allowed here, and no relay could be used.
    """

    checks: CheckingFailure | None = None
    relay: RelayFailure | None = None
    relay_only: bool = False

    @property
    def reason(self) -> str:
        """The code for programs."""
        return Reason.UNREACHABLE.value


class ProblemCode(Enum):
    """Why there is no connection to the rendezvous."""

    NAME_UNKNOWN = "name unknown"
    """No IP address is known for its name."""
    REFUSED = "refused"
    """Nothing listens at its address."""
    TIMEOUT = "timeout"
    """Nothing answers at its address."""
    UNREACHABLE = "unreachable"
    """The TCP connection failed for another reason."""
    PROXY = "proxy"
    """The proxy does not connect to it."""
    CLOSED = "closed"
    """It closed the connection before the `welcome`."""
    NO_WELCOME = "no welcome"
    """It accepted the connection and did not answer."""
    SILENT = "silent"
    """It does not answer any more."""
    LOST = "lost"
    """The connection was lost after the `welcome`."""
    ERROR = "error"
    """It sent an `error` message and closed the connection."""
    BAD_MESSAGE = "bad message"
    """It sent something that is not a control message."""
    NOT_A_RENDEZVOUS = "not a rendezvous"
    """Something else answers at its address."""
    OUR_CERTIFICATE = "our certificate"
    """It refused the certificate of this node."""
    WRONG_PIN = "wrong pin"
    """It has another key than its address says."""
    EXPIRED = "expired"
    """Its certificate has expired."""
    NOT_YET_VALID = "not yet valid"
    """Its certificate is not valid yet."""
    UNTRUSTED = "untrusted"
    """No authority that this machine trusts vouches for its certificate."""
    WRONG_NAME = "wrong name"
    """Its certificate is for other names."""


_PROBLEM_REASONS = {
    ProblemCode.BAD_MESSAGE: Reason.PROTOCOL,
    ProblemCode.NOT_A_RENDEZVOUS: Reason.PROTOCOL,
    ProblemCode.OUR_CERTIFICATE: Reason.CERTIFICATE,
    ProblemCode.WRONG_PIN: Reason.BAD_PIN,
    ProblemCode.EXPIRED: Reason.CERTIFICATE,
    ProblemCode.NOT_YET_VALID: Reason.CERTIFICATE,
    ProblemCode.UNTRUSTED: Reason.CERTIFICATE,
    ProblemCode.WRONG_NAME: Reason.CERTIFICATE,
}


@dataclass(frozen=True)
class ProxyProblem:
    """A proxy, and why there is no connection through it."""

    settings: ProxySettings
    error: ProxyError


@dataclass(eq=False)
class ControlProblem(Exception):
    """
    Why there is no usable connection to the rendezvous.

    :ivar address: of the rendezvous.
    :ivar error: the code of its error message, if `code` is `ERROR`.
    :ivar detail: the text of its error message; what was wrong with its message; the day in question, or the
        names, of its certificate.
    :ivar proxy: the proxy and what it said, if `code` is `PROXY`.
    :ivar refusal: why it does not admit this peer, if that is the cause.
    :ivar contact: whom to ask about that, in the operator's words; may be empty.
    """

    code: ProblemCode
    address: RendezvousAddress
    error: ErrorCode | None = None
    detail: str = ""
    proxy: ProxyProblem | None = None
    refusal: AdmissionRefusal | None = None
    contact: str = ""

    @property
    def reason(self) -> str:
        """The code for programs."""
        if self.refusal is not None:
            return self.refusal.value
        if self.error is not None:
            return self.error.value
        return _PROBLEM_REASONS.get(self.code, Reason.RENDEZVOUS_UNREACHABLE).value

    @property
    def fatal(self) -> bool:
        """Whether trying again cannot help until somebody changes something."""
        if self.error is not None:
            return self.final
        return self.code in _PROBLEM_REASONS and self.code is not ProblemCode.BAD_MESSAGE

    @property
    def final(self) -> bool:
        """Whether a peer must not return by itself, even if it was registered before."""
        return self.error in (ErrorCode.REPLACED, ErrorCode.VERSION) or self.refusal is not None

    def __str__(self) -> str:
        return f"{self.reason}: {self.code.value}"


@dataclass(frozen=True)
class OtherCause:
    """A cause outside of the node, for example in the state directory. `text` is its sentence."""

    reason: str
    text: str


Cause = SimpleCause | IntroductionEnded | NoPathFound | ControlProblem | OtherCause


def cause_of_close(code: CloseCode, by_peer: bool, proved: bool) -> SimpleCause:
    """
    Return the cause for the end of a link.

    :param by_peer: the other side closed it.
    :param proved: both sides had proved their identity.
    """
    if code is CloseCode.PROOF:
        return SimpleCause.NOT_PROVED
    if code is CloseCode.REPLACED:
        return SimpleCause.REPLACED
    if code in (CloseCode.OK, CloseCode.SHUTDOWN):
        return SimpleCause.CLOSED_BY_PEER if by_peer else SimpleCause.CLOSED_HERE
    if code in (CloseCode.LOST, CloseCode.TIMEOUT):
        return SimpleCause.LOST if proved else SimpleCause.NO_LINK
    return SimpleCause.LINK_BROKEN
