"""
The signaling of one call: the sealed messages that two peers exchange through the rendezvous.

    caller:  calling -> introduced -> linked
    callee:  ringing -> introduced -> linked

Every state but `linked` may also lead to `over`, and so does `linked` when the link ends.

`Signaling` is a pure core. Its owner sends `messages_to_send` to the rendezvous, takes events with
`next_event`, and calls `handle_timer` at `get_timer`. Envelopes are opened and verified before they change
the state, so a message that the rendezvous altered, misdelivered or repeated can end this call but has no
other effect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from punch.identity import Identity, PeerID, RandomBytes
from punch.link.events import LinkRole
from punch.node.calls.description import Description, TrickleReceiver, TrickleSender
from punch.node.causes import Cause, IntroductionEnded, NoPathFound, SimpleCause
from punch.wire.control import (
    RING_TIME,
    Answer,
    Cancel,
    ErrorCode,
    Establish,
    Reject,
    Request,
    Trickle,
    new_call,
)
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.prekey import SEED_SIZE, PrekeyError, public_kem_key, supported
from punch.wire.peers.sealed import (
    AnswerBody,
    Envelope,
    Offer,
    SealError,
    TrickledCandidates,
    open_answer,
    open_offer,
    seal_answer,
    seal_offer,
)

INTRODUCED_TIME = 60.0
"""Seconds from the introduction within which the link must be proved and have a path."""


class SignalingState(Enum):
    """The states of a `Signaling`; the module's docstring shows the transitions."""

    CALLING = "calling"
    """Our offer was sent and has no answer yet."""
    RINGING = "ringing"
    """An offer was received and was neither accepted nor rejected yet."""
    INTRODUCED = "introduced"
    """Both sides have each other's description; the link is not proved yet."""
    LINKED = "linked"
    """The link is proved. The rendezvous can no longer end the call, which still fails without a path."""
    OVER = "over"
    """Nothing is sent or received any more."""


@dataclass(frozen=True)
class Introduction:
    """
    Event: both sides have each other's description, and the digests that bind their link to this call.

    `certificate_sha256` is the hash of the callee's link certificate on the caller's side, None on the
    callee's.
    """

    remote: Description
    offer_digest: bytes
    answer_digest: bytes
    certificate_sha256: bytes | None


@dataclass(frozen=True)
class MoreCandidates:
    """Event: the other side found more candidates; with `complete`, it will find no others."""

    candidates: tuple[Candidate, ...]
    complete: bool


@dataclass(frozen=True)
class Challenged:
    """Event: the callee refused the offer, and would accept a new one that contains this challenge."""

    challenge: bytes


@dataclass(frozen=True)
class CallEnded:
    """Event: the call ended without a link."""

    cause: Cause


SignalingEvent = Introduction | MoreCandidates | Challenged | CallEnded


class Signaling:
    """
    The signaling of one call with one peer. Made with `outgoing` or `incoming`.

    :ivar state: the current state.
    :ivar peer: the other side.
    :ivar role: caller or callee.
    :ivar call_id: identifies the introduction at the rendezvous.
    :ivar name: the name that the other side signed; None until one of its messages was verified.
    :ivar answered: the call was accepted, by whichever side is the callee.
    :ivar offer_digest: the digest of the offer of this call.
    :ivar complete: the other side was told that there are no further candidates of ours.
    :ivar post_quantum: offer and answer were sealed with MLKEM768-X25519; False until both are known.
    :ivar prekey_refused: the callee has refused an offer that was sealed to its prekey.
    """

    def __init__(
        self,
        identity: Identity,
        peer: PeerID,
        call_id: str,
        offer: Offer | None,
        reply_private: X25519PrivateKey | None,
        now: float,
    ) -> None:
        self.peer = peer
        self.call_id = call_id
        self.role = LinkRole.CALLER if offer is None else LinkRole.CALLEE
        self.state = SignalingState.CALLING if offer is None else SignalingState.RINGING
        self.name: str | None = None if offer is None else offer.name
        self.answered = False
        self.offer_digest = b""
        self.complete = False
        self.post_quantum = False
        self.prekey_refused = False
        self._identity = identity
        self._offer = offer
        self._offer_is_hybrid = False
        self._reply_private = reply_private
        self._reply_kem: MLKEM768PrivateKey | None = None
        self._kem = b""
        """The other side's key of ML-KEM-768 to which later candidates are sealed; empty: none."""
        self._deadline: float | None = now + RING_TIME
        self._repeatable = False
        self._answer: Answer | None = None
        self._sender = TrickleSender(identity, peer, call_id)
        self._receiver = TrickleReceiver(identity, peer, call_id)
        self._remote_complete = False
        self._released = False
        self._outbox: list[Request] = []
        self._events: deque[SignalingEvent] = deque()

    @classmethod
    def outgoing(
        cls,
        identity: Identity,
        peer: PeerID,
        description: Description,
        *,
        prekey: bytes = b"",
        random: RandomBytes,
        now: float,
    ) -> Signaling:
        """
        Call `peer` with the candidates known now; `add_candidates` sends those found later.

        :param prekey: the public prekey of the peer (`punch.wire.peers.prekey`); with it, all messages of the
            call are hybrid; empty if it is not known.
        :raise SealError: the peer's key cannot be sealed to.
        """
        key = X25519PrivateKey.from_private_bytes(random(32))
        signaling = cls(identity, peer, new_call(random), None, key, now)
        reply_kem = b""
        if prekey:
            signaling._reply_kem = MLKEM768PrivateKey.from_seed_bytes(random(SEED_SIZE))
            reply_kem = signaling._reply_kem.public_key().public_bytes_raw()
            signaling._kem = prekey
        candidates = signaling._sender.take(description.candidates)
        offer = description.offer(candidates, key.public_key().public_bytes_raw(), reply_kem)
        envelope = seal_offer(identity, peer, offer, prekey=signaling._kem)
        signaling._offer_is_hybrid = envelope.hybrid
        signaling.offer_digest = envelope.digest()
        signaling.complete = description.complete
        # The callee may ask for this offer once more, with a challenge
        signaling._repeatable = not description.challenge and not description.generation
        # If there is no answer, the rendezvous tells it for the next call; also if it is known, since a
        # refusal makes us forget it
        wanted = supported() and not description.generation
        signaling._outbox.append(Establish(signaling.call_id, peer, envelope, notify=True, prekey=wanted))
        return signaling

    @classmethod
    def incoming(
        cls, identity: Identity, sender: PeerID, call_id: str, envelope: Envelope, *, now: float
    ) -> Signaling:
        """
        Open an offer; the call rings from now on.

        :raise SealError: the offer was not sealed to us or not signed by `sender`.
        """
        offer = open_offer(identity, sender, envelope)
        try:
            X25519PublicKey.from_public_bytes(offer.reply_key)
        except ValueError as error:
            raise SealError("the reply key is no X25519 key") from error
        signaling = cls(identity, sender, call_id, offer, None, now)
        if offer.reply_kem and supported():
            try:
                public_kem_key(offer.reply_kem)
            except PrekeyError as error:
                raise SealError(str(error)) from error
            signaling._kem = offer.reply_kem
        signaling._offer_is_hybrid = envelope.hybrid
        signaling.offer_digest = envelope.digest()
        signaling._take_first(offer)
        return signaling

    @property
    def offer(self) -> Offer:
        """The caller's offer. Only the callee has it."""
        assert self._offer is not None
        return self._offer

    # What the user and the link do

    def accept(self, description: Description, certificate_sha256: bytes, now: float) -> None:
        """
        Accept a ringing call.

        :raise SealError: the caller's reply key is unusable; the call still rings.
        """
        if self.state is not SignalingState.RINGING:
            return
        answer = description.answer(self._sender.take(description.candidates), certificate_sha256)
        envelope = seal_answer(
            self._identity,
            self.peer,
            self.offer.reply_key,
            self.offer_digest,
            answer,
            reply_kem=self._kem,
        )
        self.post_quantum = self._offer_is_hybrid and envelope.hybrid
        self.complete = description.complete
        self._answer = Answer(self.call_id, self.peer, envelope)
        self._outbox.append(self._answer)
        self._introduce(self.offer, envelope.digest(), None, now)

    def reject(self, code: ErrorCode, cause: Cause) -> None:
        """
        Reject a ringing call (`code` tells the other side why), or cancel one that has no link with a path
        yet.
        """
        if self.state is SignalingState.RINGING:
            self._outbox.append(Reject(self.call_id, self.peer, code))
        elif self.state is SignalingState.CALLING or self._may_fail:
            self._cancel()
        else:
            return
        self._end(cause)

    def challenge(self, challenge: bytes) -> None:
        """Refuse a ringing call whose offer may be a copy; a new offer with this challenge is not one."""
        if self.state is SignalingState.RINGING:
            self._send_trickle((), False, challenge)
            self._outbox.append(Reject(self.call_id, self.peer, ErrorCode.REFUSED))
            self._over()

    def fail(self, cause: Cause) -> None:
        """
        End an introduced call that led to no link, or to a link without a path. The other side is not told:
        it finds out by itself, with its own reason, and would take a message for a hang-up.
        """
        if self._may_fail:
            self._end(cause)

    @property
    def released(self) -> bool:
        """Whether the rendezvous forwards nothing more, since both sides have said that this was all."""
        if self.state is SignalingState.LINKED:
            # The callee releases it when the link is proved; the caller is not told
            return self._released or (self.complete and self._remote_complete)
        return self.state is SignalingState.OVER

    def add_candidates(self, candidates: Sequence[Candidate], complete: bool) -> None:
        """Trickle candidates of ours (RFC 8838); those beyond 32 of one generation are not sent."""
        if self.state in (SignalingState.CALLING, SignalingState.INTRODUCED):
            self._send_trickle(candidates, complete)
        elif self.state is SignalingState.LINKED and not self._released:
            self._send_trickle(candidates, complete)
            self._release_when_complete()

    def link_proved(self) -> None:
        """
        The link is proved; from now on the rendezvous cannot end the call.

        A handshake that began early may prove it before there is a path: it fails if none is found in time.
        """
        if self.state is SignalingState.INTRODUCED:
            self.state = SignalingState.LINKED
            self._release_when_complete()

    def path_found(self) -> None:
        """The proved link has a path: from now on the call cannot fail; only the link can end."""
        if self.state is SignalingState.LINKED:
            self._deadline = None

    def link_ended(self) -> None:
        """The proved link has ended, so the rendezvous may forget the introduction."""
        if self.state is SignalingState.LINKED:
            # The caller had its link before the callee, so it cannot take this for a hang-up.
            if self.role is LinkRole.CALLEE and not self._released:
                self._cancel()
            self._over()

    # What the rendezvous delivers

    def receive_answer(self, envelope: Envelope, now: float) -> None:
        """Take the callee's answer."""
        if self._reply_private is None:
            return
        try:
            answer = open_answer(
                self._identity.peer_id,
                self._reply_private,
                self.peer,
                self.offer_digest,
                envelope,
                reply_kem=self._reply_kem,
            )
        except SealError:
            self._broken()
            return
        if self.state is not SignalingState.CALLING:
            return
        self.name = answer.name
        self.post_quantum = self._offer_is_hybrid and envelope.hybrid
        self._take_first(answer)
        self._introduce(answer, envelope.digest(), answer.certificate_sha256, now)

    def receive_candidates(self, envelope: Envelope) -> None:
        """Take a trickled message of the other side."""
        if not self._receiver.is_new(envelope):
            return
        trickle = self._receiver.open(envelope, self.offer_digest, self._reply_private, self._reply_kem)
        if trickle is None or self._receiver.exceeded:
            self._broken()
        elif trickle.challenge and self._repeatable:
            if self.state is SignalingState.CALLING:
                self._events.append(Challenged(trickle.challenge))
                self._over()
        elif self.state is SignalingState.RINGING:
            self._remote_complete |= trickle.complete
        elif self.state in (SignalingState.INTRODUCED, SignalingState.LINKED):
            self._remote_complete |= trickle.complete
            self._events.append(MoreCandidates(trickle.candidates, trickle.complete))
            if self.state is SignalingState.LINKED:
                self._release_when_complete()

    def receive_end(self, code: ErrorCode) -> None:
        """
        The introduction is over at the rendezvous.

        Once both sides know each other's candidates, only the other side's `cancelled` ends the call.
        """
        by_peer = self.state is SignalingState.INTRODUCED and code is ErrorCode.CANCELLED
        if not by_peer and self.state not in (SignalingState.CALLING, SignalingState.RINGING):
            return
        refused = self.state is SignalingState.CALLING and code is ErrorCode.REFUSED
        self.prekey_refused = refused and self._offer_is_hybrid
        self._end(IntroductionEnded(code, rang=self.state is SignalingState.RINGING))

    def repeat_answer(self) -> None:
        """Send the answer again: the offer came again, so the answer may have been lost."""
        if self.state is SignalingState.INTRODUCED and self._answer is not None:
            self._outbox.append(self._answer)

    # Output and time

    def messages_to_send(self) -> list[Request]:
        """Return what to send to the rendezvous now."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_event(self) -> SignalingEvent | None:
        """Return the oldest event not taken yet, or None."""
        return self._events.popleft() if self._events else None

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, in the seconds of `now`, or None."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """End the call if ringing, the proof of the link, or finding a path for it, has taken too long."""
        if self._deadline is None or now < self._deadline:
            return
        if self._may_fail:
            self._end(NoPathFound())
        else:
            rang = self.state is SignalingState.RINGING
            self.reject(ErrorCode.REFUSED, IntroductionEnded(ErrorCode.TIMEOUT, rang=rang))

    # Inside

    @property
    def _may_fail(self) -> bool:
        """Whether there is no link with a path yet, between peers that know each other's description."""
        without_path = self.state is SignalingState.LINKED and self._deadline is not None
        return without_path or self.state is SignalingState.INTRODUCED

    def _take_first(self, body: Offer | AnswerBody) -> None:
        """Take the candidates in the other side's offer or answer."""
        self._receiver.candidates = list(body.candidates)
        self._remote_complete = body.complete

    def _introduce(
        self, body: Offer | AnswerBody, answer_digest: bytes, certificate_sha256: bytes | None, now: float
    ) -> None:
        """Both sides have each other's description. `body` is the other side's offer or answer."""
        remote = Description.received(body, self._receiver.candidates, self._remote_complete)
        self.state = SignalingState.INTRODUCED
        self.answered = True
        self._deadline = now + INTRODUCED_TIME
        self._events.append(Introduction(remote, self.offer_digest, answer_digest, certificate_sha256))

    def _over(self) -> None:
        self.state = SignalingState.OVER
        self._deadline = None

    def _end(self, cause: Cause) -> None:
        self._over()
        self._events.append(CallEnded(cause))

    def _broken(self) -> None:
        """A message came that the other side did not send in this form."""
        if self.state is not SignalingState.LINKED:
            self.reject(ErrorCode.REFUSED, SimpleCause.TAMPERED)

    def _cancel(self) -> None:
        self._released = True
        self._outbox.append(Cancel(self.call_id, self.peer))

    def _release_when_complete(self) -> None:
        """
        Let the rendezvous forget the call once neither side has more candidates to send.

        Only the callee does this. It is the last to learn that the link is proved, so the caller cannot take
        the message for a hang-up.
        """
        if self.role is LinkRole.CALLEE and self.complete and self._remote_complete and not self._released:
            self._cancel()

    def _send_trickle(self, candidates: Sequence[Candidate], complete: bool, challenge: bytes = b"") -> None:
        taken = self._sender.take(candidates)
        if self.complete or not (taken or complete or challenge):
            return
        self.complete = complete
        if self.role is LinkRole.CALLER:
            key = self.peer.x25519()
        else:
            key = X25519PublicKey.from_public_bytes(self.offer.reply_key)
        trickle = TrickledCandidates(taken, complete, challenge)
        envelope = self._sender.seal(trickle, self.offer_digest, key, self._kem)
        self._outbox.append(Trickle(self.call_id, self.peer, envelope))
