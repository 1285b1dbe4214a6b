"""
ICE restarts over a link (RFC 8445, section 9): the payloads of the control frames RESTART and CANDIDATES.

The payloads are JSON objects like the sealed messages, but neither sealed nor signed, because the link is
encrypted and authenticated. Each has the number of its ICE generation; that of the call is 0. There is no end
of candidates: a network that changes brings new ones at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

from punch.wire import strict_json
from punch.wire.fields import field, integer, mapping
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.sealed import (
    MAX_GENERATION,
    read_candidates,
    read_pacing,
    read_password,
    read_ufrag,
    write_candidates,
)

_later_generation = integer(1, MAX_GENERATION)


class RestartError(Exception):
    """A payload is malformed; `str()` says why."""


@dataclass(frozen=True)
class Restart:
    """The credentials and candidates of one side's ICE agent of a new generation."""

    generation: int
    ufrag: str
    password: str
    candidates: tuple[Candidate, ...]
    pacing_ms: int = 50

    def encode(self) -> bytes:
        """Encode the payload of a RESTART frame."""
        return strict_json.dumps(
            {
                "generation": self.generation,
                "ufrag": self.ufrag,
                "password": self.password,
                "candidates": write_candidates(self.candidates),
                "pacing": self.pacing_ms,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> Restart:
        """
        Decode a payload.

        :raise RestartError: it is malformed.
        """
        try:
            fields = mapping(strict_json.loads(payload))
            return cls(
                field(fields, "generation", _later_generation),
                field(fields, "ufrag", read_ufrag),
                field(fields, "password", read_password),
                field(fields, "candidates", read_candidates),
                field(fields, "pacing", read_pacing, 50),
            )
        except ValueError as error:
            raise RestartError(f"a RESTART frame is wrong: {error}") from error


@dataclass(frozen=True)
class LateCandidates:
    """Candidates that were found after the RESTART frame was sent."""

    generation: int
    candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """Encode the payload of a CANDIDATES frame."""
        return strict_json.dumps(
            {"generation": self.generation, "candidates": write_candidates(self.candidates)}
        )

    @classmethod
    def decode(cls, payload: bytes) -> LateCandidates:
        """
        Decode a payload.

        :raise RestartError: it is malformed.
        """
        try:
            fields = mapping(strict_json.loads(payload))
            return cls(
                field(fields, "generation", _later_generation),
                field(fields, "candidates", read_candidates),
            )
        except ValueError as error:
            raise RestartError(f"a CANDIDATES frame is wrong: {error}") from error
