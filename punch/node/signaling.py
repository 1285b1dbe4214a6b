"""
One call, from the offer to the introduction: which sealed messages go out, and what those that come in mean.

Pure: whoever holds a `Signaling` carries `messages_to_send()` to the rendezvous, takes `next_event()`, and
wakes `handle_timer` at `get_timer()`. Envelopes are opened and checked before the machine hears of them, so
what the rendezvous changed, mixed up or sent twice ends a call cleanly and reaches nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from punch.identity import Identity, PeerID, RandomBytes
from punch.node.signaling_state import (
    CallEvent,
    Description,
    Side,
    SignalingCore,
    new_machine,
)
from punch.wire.candidate import Candidate
from punch.wire.control import ErrorCode, Request, new_call
from punch.wire.sealed import (
    MAX_CANDIDATES,
    Envelope,
    Offer,
    SealError,
    TrickledCandidates,
    open_answer,
    open_offer,
    open_trickle,
)

MAX_TRICKLES = 64
"""Trickled messages that are taken from the other side in one call."""
MAX_GAP = 8
"""Trickled messages in a row that may be missing, for example after a control connection broke."""
SEEN_ENVELOPES = 4096
"""Offers that are remembered in order to refuse them a second time."""


class SeenEnvelopes:
    """A bounded memory of sealed messages, so that a recorded one is not taken again."""

    def __init__(self, limit: int = SEEN_ENVELOPES) -> None:
        self._order: deque[bytes] = deque()
        self._seen: set[bytes] = set()
        self._limit = limit

    def add(self, digest: bytes) -> bool:
        """Remember it; False if it had been seen before."""
        if digest in self._seen:
            return False
        if len(self._order) >= self._limit:
            self._seen.discard(self._order.popleft())
        self._order.append(digest)
        self._seen.add(digest)
        return True


def glare(me: PeerID, other: PeerID) -> Side:
    """Both have called each other: the offer from the smaller key wins, and this is the side I am on then."""
    return Side.CALLER if me < other else Side.CALLEE


class Signaling:
    """
    One call with one peer. Make it with `outgoing` or `incoming`.

    :ivar call_id: what the rendezvous knows this introduction by.
    """

    def __init__(self, core: SignalingCore) -> None:
        self._core = core
        self._machine = new_machine(core)
        self._trickles = SeenEnvelopes(MAX_TRICKLES)

    @classmethod
    def outgoing(
        cls, identity: Identity, peer: PeerID, description: Description, *, random: RandomBytes, now: float
    ) -> Signaling:
        """
        Call `peer`: the offer leaves at once with the candidates known now, more follow by `add_candidates`.

        :raise SealError: the peer's key cannot be sealed to.
        """
        call = cls(SignalingCore(identity, peer, Side.CALLER, new_call(random), random, now=now))
        call._machine.place(description)
        return call

    @classmethod
    def incoming(
        cls,
        identity: Identity,
        sender: PeerID,
        call_id: str,
        envelope: Envelope,
        *,
        random: RandomBytes,
        now: float,
    ) -> Signaling:
        """
        Take an offer in, and ring.

        :raise SealError: it was not sealed to us or not signed by `sender`.
        """
        offer = open_offer(identity, sender, envelope)
        try:
            X25519PublicKey.from_public_bytes(offer.reply_key)
        except ValueError as error:
            raise SealError("the reply key is no X25519 key") from error
        core = SignalingCore(
            identity, sender, Side.CALLEE, call_id, random, offer.name, offer, envelope.digest()
        )
        core.now = now
        core.waiting += offer.candidates
        core.received_candidates = len(offer.candidates)
        core.remote_complete = offer.complete
        call = cls(core)
        call._machine.ring()
        return call

    @property
    def peer(self) -> PeerID:
        """The other side."""
        return self._core.peer

    @property
    def call_id(self) -> str:
        """The name of this introduction."""
        return self._core.call_id

    @property
    def side(self) -> Side:
        """Caller or callee."""
        return self._core.side

    @property
    def generation(self) -> int:
        """Of an incoming call: above 0 it is a restart for the link `link`."""
        return 0 if self._core.offer is None else self._core.offer.generation

    @property
    def link(self) -> bytes:
        """Of an incoming call: the digest of the offer that began the link to restart."""
        return b"" if self._core.offer is None else self._core.offer.link

    @property
    def offer(self) -> Offer:
        """Of an incoming call: what the caller sent."""
        assert self._core.offer is not None
        return self._core.offer

    @property
    def complete(self) -> bool:
        """We have told that no more candidates of ours are coming."""
        return self._core.local_complete

    @property
    def offer_digest(self) -> bytes:
        """The digest of the offer that this call began with."""
        return self._core.offer_digest

    @property
    def name(self) -> str | None:
        """The name that the other side signed, once it is known."""
        return self._core.name

    def accept(self, description: Description, certificate_sha256: bytes, now: float) -> None:
        """
        Say yes to a ringing call.

        :raise SealError: the caller's reply key is unusable; the call rings on.
        """
        self._core.now = now
        self._machine.accept(description, certificate_sha256)

    def reject(self, code: ErrorCode, reason: str, text: str, now: float) -> None:
        """Say no to a ringing call (`code` tells the other side why), or give up one not yet linked."""
        self._core.now = now
        self._machine.reject(code, reason, text)

    def challenge(self, challenge: bytes, now: float) -> None:
        """Don't take a ringing call: its offer may be a copy. One with this challenge is none."""
        self._core.now = now
        self._machine.challenge(challenge)

    def fail(self, reason: str, text: str, now: float) -> None:
        """No link comes of an introduced call."""
        self._core.now = now
        self._machine.fail(reason, text)

    def add_candidates(self, candidates: Sequence[Candidate], complete: bool, now: float) -> None:
        """Trickle candidates of ours; those beyond 32 a generation stay here."""
        self._core.now = now
        self._machine.found(tuple(candidates), complete)

    def link_proved(self, now: float) -> None:
        """The link is up; whatever the rendezvous says from here on changes nothing."""
        self._core.now = now
        self._machine.link_proved()

    def link_ended(self, now: float) -> None:
        """The link is over: the rendezvous need not keep the introduction any longer."""
        self._core.now = now
        self._machine.link_ended()

    def receive_answer(self, envelope: Envelope, now: float) -> None:
        """The other side's answer came."""
        core = self._core
        core.now = now
        if core.reply_private is None:
            return
        try:
            answer = open_answer(
                core.identity.peer_id, core.reply_private, core.peer, core.offer_digest, envelope
            )
        except SealError:
            self._machine.broken()
        else:
            self._machine.answered(answer, envelope.digest())

    def receive_candidates(self, envelope: Envelope, now: float) -> None:
        """
        A trickled message came. Its place in the sequence is part of what was signed: gaps are possible,
        going back is not.
        """
        core = self._core
        core.now = now
        key = core.reply_private if core.side is Side.CALLER else core.identity.x25519()
        assert key is not None
        if not self._trickles.add(envelope.digest()):
            return
        trickle = self._open_trickle(key, envelope)
        if trickle is None:
            self._machine.broken()
            return
        core.received_candidates += len(trickle.candidates)
        if core.received_trickles > MAX_TRICKLES or core.received_candidates > MAX_CANDIDATES:
            self._machine.broken()
        elif trickle.challenge and core.repeatable:
            self._machine.challenged(trickle.challenge)
        else:
            self._machine.trickled(trickle)

    def _open_trickle(self, key: X25519PrivateKey, envelope: Envelope) -> TrickledCandidates | None:
        core = self._core
        first = core.received_trickles
        for sequence in range(first, first + MAX_GAP):
            try:
                trickle = open_trickle(
                    core.identity.peer_id,
                    key,
                    core.peer,
                    core.call_id,
                    core.offer_digest,
                    sequence,
                    envelope,
                )
            except SealError:
                continue
            core.received_trickles = sequence + 1
            return trickle
        return None

    def repeat_answer(self) -> None:
        """
        The offer came once more, over a new control connection: the answer may have been lost with the old.
        """
        core = self._core
        if core.answer_message is not None and core.deadline is not None:
            core.outbox.append(core.answer_message)

    def receive_end(self, code: ErrorCode, now: float) -> None:
        """The rendezvous says that the introduction is over."""
        self._core.now = now
        if code is ErrorCode.CANCELLED:
            self._machine.cancelled()
        else:
            self._machine.ended(code)

    def messages_to_send(self) -> list[Request]:
        """What to tell the rendezvous now."""
        outbox, self._core.outbox = self._core.outbox, []
        return outbox

    def next_event(self) -> CallEvent | None:
        """The next thing that happened, oldest first."""
        return self._core.events.popleft() if self._core.events else None

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in the seconds of `now`."""
        return self._core.deadline

    def handle_timer(self, now: float) -> None:
        """Ringing, or linking, took too long."""
        core = self._core
        if core.deadline is not None and now >= core.deadline:
            core.now = now
            self._machine.expire()
