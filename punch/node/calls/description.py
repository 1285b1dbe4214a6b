"""What one side of a call tells the other about its ICE agent, in the terms of offers and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from punch.wire.peers.candidate import Candidate
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.peers.sealed import AnswerBody, Offer


@dataclass(frozen=True)
class Description:
    """
    An ICE agent as its side describes it. `pacing_ms` is its Ta, in milliseconds.

    A `generation` above 0 restarts the live link whose offer had the digest `link`. `time`, `challenge` and
    `nats` are those of `Offer`.
    """

    name: str
    ufrag: str
    password: str
    pacing_ms: int
    candidates: tuple[Candidate, ...] = ()
    complete: bool = False
    generation: int = 0
    link: bytes = b""
    time: int | None = None
    challenge: bytes = b""
    nats: tuple[NatProfile, ...] = ()

    @classmethod
    def received(
        cls, body: Offer | AnswerBody, candidates: Sequence[Candidate], complete: bool
    ) -> Description:
        """
        The description in the other side's offer or answer.

        :param candidates: those in it and those trickled since.
        :param complete: no more will be trickled.
        """
        return cls(
            body.name,
            body.ufrag,
            body.password,
            body.pacing_ms,
            tuple(candidates),
            complete,
            nats=body.nats,
        )

    def offer(self, candidates: tuple[Candidate, ...], reply_key: bytes, reply_kem: bytes) -> Offer:
        """
        An offer of this description.

        :param candidates: those of the description that may be sent.
        :param reply_key, reply_kem: as in `Offer`.
        """
        return Offer(
            self.name,
            self.ufrag,
            self.password,
            candidates,
            reply_key,
            self.pacing_ms,
            self.generation,
            self.complete,
            self.link,
            self.time,
            self.challenge,
            self.nats,
            reply_kem,
        )

    def answer(self, candidates: tuple[Candidate, ...], certificate_sha256: bytes) -> AnswerBody:
        """
        An answer with this description.

        :param candidates: those of the description that may be sent.
        :param certificate_sha256: the hash of the link certificate of this side.
        """
        return AnswerBody(
            self.name,
            self.ufrag,
            self.password,
            candidates,
            certificate_sha256,
            self.pacing_ms,
            self.complete,
            self.nats,
        )
