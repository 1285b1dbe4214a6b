"""
The states of one call, and what each of them does.

    caller:  new -> calling -> introduced -> linked
    callee:  new -> ringing -> introduced -> linked

and from every one but `linked` to `over`. The machine hears only of messages that are opened and checked:
`punch.node.signaling.Signaling` does that, and is what everybody else uses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from automat import TypeMachineBuilder, pep614
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from punch.identity import Identity, PeerID, RandomBytes
from punch.node import sentences
from punch.node.events import Reason
from punch.wire.candidate import Candidate
from punch.wire.control import (
    Answer as AnswerMessage,
)
from punch.wire.control import (
    Cancel,
    ErrorCode,
    Establish,
    Reject,
    Request,
    Trickle,
)
from punch.wire.sealed import (
    MAX_CANDIDATES,
    AnswerBody,
    Offer,
    TrickledCandidates,
    seal_answer,
    seal_offer,
    seal_trickle,
)

RING_TIME = float(sentences.RING_SECONDS)
"""Seconds until an offer that nobody answers is over."""
INTRODUCED_TIME = 60.0
"""Seconds from the introduction to a proved link."""


class Side(Enum):
    """Which end of the call this is."""

    CALLER = "caller"
    CALLEE = "callee"


@dataclass(frozen=True)
class Description:
    """
    What one side tells the other about its ICE agent. `pacing` is in seconds.

    `generation` above 0: it is a restart for the live link whose offer had the digest `link`. `time` and
    `challenge` are as in `Offer`.
    """

    name: str
    ufrag: str
    password: str
    pacing: float
    candidates: tuple[Candidate, ...] = ()
    complete: bool = False
    generation: int = 0
    link: bytes = b""
    time: int | None = None
    challenge: bytes = b""

    @property
    def pacing_ms(self) -> int:
        """`pacing` as it is signalled."""
        return round(self.pacing * 1000)


@dataclass(frozen=True)
class Introduction:
    """
    Event: both sides have each other's description, and the digests that bind their link to this call.

    `certificate_sha256` is the callee's link certificate, for the caller; None for the callee itself.
    """

    remote: Description
    offer_digest: bytes
    answer_digest: bytes
    certificate_sha256: bytes | None


@dataclass(frozen=True)
class MoreCandidates:
    """Event: the other side found more candidates; `complete` says that there are no more."""

    candidates: tuple[Candidate, ...]
    complete: bool


@dataclass(frozen=True)
class Challenged:
    """Event: the callee did not take the offer; it takes another one that has this challenge."""

    challenge: bytes


@dataclass(frozen=True)
class CallEnded:
    """Event: the call is over without a link. `reason` is a code, `text` a sentence for a person."""

    reason: str
    text: str


CallEvent = Introduction | MoreCandidates | Challenged | CallEnded


class SignalingMachine(Protocol):
    """What can happen to a call."""

    def place(self, description: Description) -> None:
        """We call."""

    def ring(self) -> None:
        """A valid offer came."""

    def accept(self, description: Description, certificate_sha256: bytes) -> None:
        """We say yes."""

    def reject(self, code: ErrorCode, reason: str, text: str) -> None:
        """We say no, or give up."""

    def answered(self, answer: AnswerBody, digest: bytes) -> None:
        """The other side said yes."""

    def found(self, candidates: tuple[Candidate, ...], complete: bool) -> None:
        """We have more candidates."""

    def trickled(self, trickle: TrickledCandidates) -> None:
        """The other side has."""

    def ended(self, code: ErrorCode) -> None:
        """The rendezvous says that the introduction came to nothing."""

    def cancelled(self) -> None:
        """The other side gave the call up."""

    def broken(self) -> None:
        """Something came that the other side did not send so."""

    def expire(self) -> None:
        """The time of this state is over."""

    def challenge(self, challenge: bytes) -> None:
        """We don't take the offer, but would take one with this challenge."""

    def challenged(self, challenge: bytes) -> None:
        """The other side doesn't take our offer, but would take one with this challenge."""

    def fail(self, reason: str, text: str) -> None:
        """No link comes of it."""

    def link_proved(self) -> None:
        """The link is up: nothing of the call is needed any more."""

    def link_ended(self) -> None:
        """The link is over, and so is what is left of the call."""


@dataclass
class SignalingCore:
    """What a call knows, whatever state it is in."""

    identity: Identity
    peer: PeerID
    side: Side
    call_id: str
    random: RandomBytes
    name: str | None = None
    """The other side's name, once it is known from a signed message."""
    offer: Offer | None = None
    offer_digest: bytes = b""
    reply_private: X25519PrivateKey | None = None
    answer_message: AnswerMessage | None = None
    sent_candidates: int = 0
    sent_trickles: int = 0
    received_candidates: int = 0
    received_trickles: int = 0
    waiting: list[Candidate] = field(default_factory=list)
    """Candidates that came before we said yes."""
    remote_complete: bool = False
    local_complete: bool = False
    repeatable: bool = False
    """The callee may ask for our offer once more, with a challenge."""
    released: bool = False
    """The rendezvous has been told that the introduction is over."""
    now: float = 0.0
    deadline: float | None = None
    """When the present state has lasted too long."""
    outbox: list[Request] = field(default_factory=list)
    events: deque[CallEvent] = field(default_factory=deque)

    def end(self, reason: str, text: str) -> None:
        self.deadline = None
        self.events.append(CallEnded(str(reason), text))

    def cancel(self) -> None:
        self.released = True
        self.outbox.append(Cancel(self.call_id, self.peer))

    def settle(self) -> None:
        """
        Free the rendezvous' memory of this call once nothing more is to be said in it.

        The callee does it: as the last to hear that the link is proved, it can't seem to give the call up.
        """
        if self.side is Side.CALLEE and self.local_complete and self.remote_complete and not self.released:
            self.cancel()

    def limit(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """As many of our candidates as one generation may still have."""
        taken = tuple(candidates)[: MAX_CANDIDATES - self.sent_candidates]
        self.sent_candidates += len(taken)
        return taken

    def trickle(self, candidates: Sequence[Candidate], complete: bool, challenge: bytes = b"") -> None:
        taken = self.limit(candidates)
        if self.local_complete or not (taken or complete or challenge):
            return
        self.local_complete = complete
        if self.side is Side.CALLER:
            key = self.peer.x25519()
        else:
            assert self.offer is not None
            key = X25519PublicKey.from_public_bytes(self.offer.reply_key)
        envelope = seal_trickle(
            self.identity,
            self.peer,
            key,
            self.call_id,
            self.offer_digest,
            self.sent_trickles,
            TrickledCandidates(taken, complete, challenge),
        )
        self.sent_trickles += 1
        self.outbox.append(Trickle(self.call_id, self.peer, envelope))


def _build() -> Callable[[SignalingCore], SignalingMachine]:
    builder = TypeMachineBuilder(SignalingMachine, SignalingCore)
    new = builder.state("new")
    calling = builder.state("calling")
    ringing = builder.state("ringing")
    introduced = builder.state("introduced")
    linked = builder.state("linked")
    over = builder.state("over")

    @pep614(new.upon(SignalingMachine.place).to(calling))
    def send_offer(machine: SignalingMachine, core: SignalingCore, description: Description) -> None:
        core.reply_private = X25519PrivateKey.from_private_bytes(core.random(32))
        offer = Offer(
            description.name,
            description.ufrag,
            description.password,
            core.limit(description.candidates),
            core.reply_private.public_key().public_bytes_raw(),
            description.pacing_ms,
            description.generation,
            description.complete,
            description.link,
            description.time,
            description.challenge,
        )
        core.repeatable = not description.challenge and not description.generation
        core.local_complete = description.complete
        envelope = seal_offer(core.identity, core.peer, offer)
        core.offer_digest = envelope.digest()
        core.deadline = core.now + RING_TIME
        core.outbox.append(Establish(core.call_id, core.peer, envelope))

    @pep614(new.upon(SignalingMachine.ring).to(ringing))
    def start_ringing(machine: SignalingMachine, core: SignalingCore) -> None:
        core.deadline = core.now + RING_TIME

    @pep614(ringing.upon(SignalingMachine.accept).to(introduced))
    def send_answer(
        machine: SignalingMachine, core: SignalingCore, description: Description, certificate_sha256: bytes
    ) -> None:
        assert core.offer is not None
        answer = AnswerBody(
            description.name,
            description.ufrag,
            description.password,
            core.limit(description.candidates),
            certificate_sha256,
            description.pacing_ms,
            description.complete,
        )
        core.local_complete = description.complete
        envelope = seal_answer(core.identity, core.peer, core.offer.reply_key, core.offer_digest, answer)
        core.answer_message = AnswerMessage(core.call_id, core.peer, envelope)
        core.outbox.append(core.answer_message)
        core.deadline = core.now + INTRODUCED_TIME
        remote = Description(
            core.offer.name,
            core.offer.ufrag,
            core.offer.password,
            core.offer.pacing_ms / 1000,
            tuple(core.waiting),
            core.remote_complete,
        )
        core.waiting.clear()
        core.events.append(Introduction(remote, core.offer_digest, envelope.digest(), None))

    @pep614(calling.upon(SignalingMachine.answered).to(introduced))
    def take_answer(
        machine: SignalingMachine, core: SignalingCore, answer: AnswerBody, digest: bytes
    ) -> None:
        core.name = answer.name
        core.received_candidates = len(answer.candidates)
        core.remote_complete = answer.complete
        core.deadline = core.now + INTRODUCED_TIME
        remote = Description(
            answer.name,
            answer.ufrag,
            answer.password,
            answer.pacing_ms / 1000,
            answer.candidates,
            answer.complete,
        )
        core.events.append(Introduction(remote, core.offer_digest, digest, answer.certificate_sha256))

    @pep614(calling.upon(SignalingMachine.found).loop())
    @pep614(introduced.upon(SignalingMachine.found).loop())
    def send_candidates(
        machine: SignalingMachine, core: SignalingCore, candidates: tuple[Candidate, ...], complete: bool
    ) -> None:
        core.trickle(candidates, complete)

    @pep614(ringing.upon(SignalingMachine.trickled).loop())
    def keep_candidates(machine: SignalingMachine, core: SignalingCore, trickle: TrickledCandidates) -> None:
        core.waiting += trickle.candidates
        core.remote_complete |= trickle.complete

    @pep614(introduced.upon(SignalingMachine.trickled).loop())
    def pass_candidates(machine: SignalingMachine, core: SignalingCore, trickle: TrickledCandidates) -> None:
        core.remote_complete |= trickle.complete
        core.events.append(MoreCandidates(trickle.candidates, trickle.complete))

    @pep614(calling.upon(SignalingMachine.reject).to(over))
    @pep614(introduced.upon(SignalingMachine.reject).to(over))
    def give_up(
        machine: SignalingMachine, core: SignalingCore, code: ErrorCode, reason: str, text: str
    ) -> None:
        core.cancel()
        core.end(reason, text)

    @pep614(ringing.upon(SignalingMachine.reject).to(over))
    def decline(
        machine: SignalingMachine, core: SignalingCore, code: ErrorCode, reason: str, text: str
    ) -> None:
        core.outbox.append(Reject(core.call_id, core.peer, code))
        core.end(reason, text)

    @pep614(ringing.upon(SignalingMachine.challenge).to(over))
    def ask_again(machine: SignalingMachine, core: SignalingCore, challenge: bytes) -> None:
        core.trickle((), False, challenge)
        core.outbox.append(Reject(core.call_id, core.peer, ErrorCode.REFUSED))

    @pep614(calling.upon(SignalingMachine.challenged).to(over))
    def hear_challenge(machine: SignalingMachine, core: SignalingCore, challenge: bytes) -> None:
        core.deadline = None
        core.events.append(Challenged(challenge))

    @pep614(calling.upon(SignalingMachine.ended).to(over))
    def hear_end(machine: SignalingMachine, core: SignalingCore, code: ErrorCode) -> None:
        core.end(code.value, sentences.call_ended(code, core.peer, core.name))

    @pep614(ringing.upon(SignalingMachine.ended).to(over))
    def hear_end_of_ringing(machine: SignalingMachine, core: SignalingCore, code: ErrorCode) -> None:
        core.end(code.value, sentences.incoming_ended(code, core.peer, core.name))

    @pep614(calling.upon(SignalingMachine.cancelled).to(over))
    @pep614(ringing.upon(SignalingMachine.cancelled).to(over))
    @pep614(introduced.upon(SignalingMachine.cancelled).to(over))
    def hear_cancel(machine: SignalingMachine, core: SignalingCore) -> None:
        core.end(ErrorCode.CANCELLED.value, sentences.call_ended(ErrorCode.CANCELLED, core.peer, core.name))

    @pep614(calling.upon(SignalingMachine.broken).to(over))
    @pep614(introduced.upon(SignalingMachine.broken).to(over))
    def cancel_broken(machine: SignalingMachine, core: SignalingCore) -> None:
        core.cancel()
        core.end(Reason.PROTOCOL, sentences.tampered(core.peer, core.name))

    @pep614(ringing.upon(SignalingMachine.broken).to(over))
    def reject_broken(machine: SignalingMachine, core: SignalingCore) -> None:
        core.outbox.append(Reject(core.call_id, core.peer, ErrorCode.REFUSED))
        core.end(Reason.PROTOCOL, sentences.tampered(core.peer, core.name))

    @pep614(calling.upon(SignalingMachine.expire).to(over))
    def give_up_ringing(machine: SignalingMachine, core: SignalingCore) -> None:
        core.cancel()
        core.end(ErrorCode.TIMEOUT.value, sentences.call_ended(ErrorCode.TIMEOUT, core.peer, core.name))

    @pep614(ringing.upon(SignalingMachine.expire).to(over))
    def stop_ringing(machine: SignalingMachine, core: SignalingCore) -> None:
        core.outbox.append(Reject(core.call_id, core.peer, ErrorCode.REFUSED))
        core.end(ErrorCode.TIMEOUT.value, sentences.unanswered(core.peer, core.name))

    # The other side finds out by itself, with its own reason: a word from here would look like hanging up.
    @pep614(introduced.upon(SignalingMachine.fail).to(over))
    def end_unlinked(machine: SignalingMachine, core: SignalingCore, reason: str, text: str) -> None:
        core.end(reason, text)

    @pep614(introduced.upon(SignalingMachine.expire).to(over))
    def give_up_linking(machine: SignalingMachine, core: SignalingCore) -> None:
        core.end(Reason.UNREACHABLE, sentences.unreachable(core.peer, core.name))

    @pep614(introduced.upon(SignalingMachine.link_proved).to(linked))
    def finish(machine: SignalingMachine, core: SignalingCore) -> None:
        core.deadline = None
        core.settle()

    @pep614(linked.upon(SignalingMachine.found).loop())
    def send_late_candidates(
        machine: SignalingMachine, core: SignalingCore, candidates: tuple[Candidate, ...], complete: bool
    ) -> None:
        if not core.released:
            core.trickle(candidates, complete)
            core.settle()

    @pep614(linked.upon(SignalingMachine.trickled).loop())
    def pass_late_candidates(
        machine: SignalingMachine, core: SignalingCore, trickle: TrickledCandidates
    ) -> None:
        core.remote_complete |= trickle.complete
        core.events.append(MoreCandidates(trickle.candidates, trickle.complete))
        core.settle()

    @pep614(linked.upon(SignalingMachine.link_ended).to(over))
    def free_rendezvous(machine: SignalingMachine, core: SignalingCore) -> None:
        # The caller had its link before the callee: to it, this can't look like giving the call up.
        if core.side is Side.CALLEE and not core.released:
            core.cancel()

    everything = (
        SignalingMachine.accept,
        SignalingMachine.reject,
        SignalingMachine.answered,
        SignalingMachine.found,
        SignalingMachine.trickled,
        SignalingMachine.ended,
        SignalingMachine.cancelled,
        SignalingMachine.broken,
        SignalingMachine.expire,
        SignalingMachine.challenge,
        SignalingMachine.challenged,
        SignalingMachine.fail,
        SignalingMachine.link_proved,
        SignalingMachine.link_ended,
    )
    proving = (SignalingMachine.fail, SignalingMachine.link_proved, SignalingMachine.link_ended)
    working = (SignalingMachine.found, SignalingMachine.trickled, SignalingMachine.link_ended)
    # What is left out below cannot happen in that state: `Call` never asks for it.
    for state, ignored in (
        (calling, (SignalingMachine.accept, SignalingMachine.trickled, *proving)),
        (ringing, (SignalingMachine.answered, SignalingMachine.found, *proving)),
        # The two know each other's candidates now: what becomes of the rendezvous, or of the other's
        # connection to it, changes nothing any more.
        (
            introduced,
            (
                SignalingMachine.accept,
                SignalingMachine.answered,
                SignalingMachine.ended,
                SignalingMachine.challenged,
                SignalingMachine.link_ended,
            ),
        ),
        (linked, tuple(each for each in everything if each not in working)),
        (over, everything),
    ):
        for input_ in ignored:
            state.upon(input_).loop().returns(None)
    return builder.build()


new_machine = _build()
