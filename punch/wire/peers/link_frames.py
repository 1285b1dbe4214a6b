"""
What two peers say to each other over a link about paths: the payloads of control frames, JSON objects like
the sealed messages. They are neither sealed nor signed, since the link is encrypted and authenticated.

RESTART and CANDIDATES are for ICE restarts (RFC 8445, section 9). Each has the number of its ICE generation;
that of the call is 0. There is no end of candidates: a network that changes brings new ones at any time.

The optional frames NATS, TARGETS, OPENED, BEGIN and TCP are for opening a direct path (docs/protocol.md,
section 7.4). Each technique uses the same messages: the side that aims says with TARGETS from which ports it
expects to send, and the side that opens says with OPENED at which ports it may be reached then. Some
techniques have the side that aims say with BEGIN that the other side is to send now. TCP is for networks that
pass no UDP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, TypeVar

from punch.wire import strict_json
from punch.wire.fields import FieldError, boolean, field, integer, ip, mapping, one_of, sequence, token
from punch.wire.peers.candidate import Candidate, read_candidates, read_tcp_candidates
from punch.wire.peers.nat_profile import NatProfile, read_profiles, write_profiles
from punch.wire.peers.sealed import MAX_GENERATION, read_pacing, read_password, read_ufrag, write_candidates

MAX_TARGETS: Final = 10
"""How many ports TARGETS may name, and to how many OPENED may answer."""
MAX_ALTERNATIVES: Final = 4
"""How many ports OPENED may name for each target."""
MAX_TURN: Final = 4
"""The greatest `Targets.turn`."""
MAX_COUNT: Final = 1024
"""How many open ports OPENED may speak of without naming them."""


_later_generation = integer(1, MAX_GENERATION)
_attempt = integer(1, 2**31 - 1)
_port = integer(1, 65535)
_count = integer(0, MAX_COUNT)
_turn = integer(0, MAX_TURN)


def _near(value: object) -> tuple[int, int]:
    ports = sequence(_port, 2)(value)
    if len(ports) != 2 or ports[0] > ports[1]:
        raise FieldError("must be the lowest and the highest port of a range")
    return ports[0], ports[1]


Fields = Mapping[str, Any]
P = TypeVar("P", bound="Payload")


class PayloadError(Exception):
    """A payload is malformed; `str()` says why."""


class Payload(ABC):
    """
    The payload of one kind of frame.

    :cvar frame: the name of the frame with its article, for error messages.
    """

    frame: ClassVar[str]

    def encode(self) -> bytes:
        """Encode the payload."""
        return strict_json.dumps(self._write())

    @classmethod
    def decode(cls: type[P], payload: bytes) -> P:
        """
        Decode a payload.

        :raise PayloadError: it is malformed.
        """
        try:
            return cls._read(mapping(strict_json.loads(payload)))
        except ValueError as error:
            raise PayloadError(f"{cls.frame} frame is wrong: {error}") from error

    @abstractmethod
    def _write(self) -> dict[str, Any]:
        """Return the fields of the JSON object."""

    @classmethod
    @abstractmethod
    def _read(cls: type[P], fields: Fields) -> P:
        """Return what these fields say, or raise ValueError."""


@dataclass(frozen=True)
class Restart(Payload):
    """The credentials and candidates of one side's ICE agent of a new generation."""

    frame = "a RESTART"

    generation: int
    ufrag: str
    password: str
    candidates: tuple[Candidate, ...]
    pacing_ms: int = 50

    def _write(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "ufrag": self.ufrag,
            "password": self.password,
            "candidates": write_candidates(self.candidates),
            "pacing": self.pacing_ms,
        }

    @classmethod
    def _read(cls, fields: Fields) -> Restart:
        return cls(
            field(fields, "generation", _later_generation),
            field(fields, "ufrag", read_ufrag),
            field(fields, "password", read_password),
            field(fields, "candidates", read_candidates),
            field(fields, "pacing", read_pacing, 50),
        )


@dataclass(frozen=True)
class LateCandidates(Payload):
    """Candidates that were found after the RESTART frame was sent."""

    frame = "a CANDIDATES"

    generation: int
    candidates: tuple[Candidate, ...]

    def _write(self) -> dict[str, Any]:
        return {"generation": self.generation, "candidates": write_candidates(self.candidates)}

    @classmethod
    def _read(cls, fields: Fields) -> LateCandidates:
        return cls(
            field(fields, "generation", _later_generation), field(fields, "candidates", read_candidates)
        )


class First(str, Enum):
    """Which side of a simultaneous open sends first."""

    AIMS = "aims"
    OPENS = "opens"
    BOTH = "both"
    """Both at the same moment."""


@dataclass(frozen=True)
class Nats(Payload):
    """
    What the sender knows about its NATs now. It replaces what the offer or answer said.

    :ivar profiles: the first one is that of the address from which the sender makes attempts.
    :ivar pairs: whether the sender chooses among all pairs of profiles; older releases take the first one of
        each side.
    """

    frame = "a NATS"

    profiles: tuple[NatProfile, ...]
    pairs: bool = False

    def _write(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"nats": write_profiles(self.profiles)}
        if self.pairs:
            fields["pairs"] = True
        return fields

    @classmethod
    def _read(cls, fields: Fields) -> Nats:
        return cls(field(fields, "nats", read_profiles), field(fields, "pairs", boolean, False))


@dataclass(frozen=True)
class Targets(Payload):
    """
    The sender wants to try a technique, and will send from one of these ports of `host`.

    :ivar attempt: a number that is greater than in any attempt of the sender before, on this link.
    :ivar technique: its name; a receiver that does not know it, or would choose another one, refuses.
    :ivar first: which side sends first, for a simultaneous open; else None.
    :ivar turn: how many such attempts there were before, from 0 again after `MAX_TURN`: how far the first
        packets come depends on it. 0 if `first` is None.
    """

    frame = "a TARGETS"

    attempt: int
    technique: str
    host: str
    ports: tuple[int, ...]
    first: First | None = None
    turn: int = 0

    def _write(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "attempt": self.attempt,
            "technique": self.technique,
            "host": self.host,
            "ports": list(self.ports),
        }
        if self.first is not None:
            fields["first"], fields["turn"] = self.first.value, self.turn
        return fields

    @classmethod
    def _read(cls, fields: Fields) -> Targets:
        first, turn = field(fields, "first", one_of(*First), None), field(fields, "turn", _turn, 0)
        return cls(
            field(fields, "attempt", _attempt),
            field(fields, "technique", token),
            field(fields, "host", ip),
            field(fields, "ports", sequence(_port, MAX_TARGETS)),
            first,
            0 if first is None else turn,
        )


@dataclass(frozen=True)
class Opened(Payload):
    """
    The sender has sent a check to each target of an attempt, from a port for each, or will do so.

    :ivar ports: for each target in order, ports of `host`, from one of which the check to it was sent. It has
        fewer items than there are targets if nothing could be sent to some of them.
    :ivar count: how many ports of `host` are open that the sender does not know (spraying).
    :ivar near: the lowest and the highest port of `host` at which the sender was seen before. The open ports
        are likely to be near these (spraying). None: the sender does not say.
    """

    frame = "an OPENED"

    attempt: int
    host: str
    ports: tuple[tuple[int, ...], ...]
    count: int = 0
    near: tuple[int, int] | None = None

    @property
    def refused(self) -> bool:
        """Whether the attempt is refused: no port is open."""
        return not self.ports and not self.count

    def _write(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "attempt": self.attempt,
            "host": self.host,
            "ports": [list(each) for each in self.ports],
        }
        if self.count:
            fields["count"] = self.count
            if self.near is not None:
                fields["near"] = list(self.near)
        return fields

    @classmethod
    def _read(cls, fields: Fields) -> Opened:
        count, near = field(fields, "count", _count, 0), field(fields, "near", _near, None)
        return cls(
            field(fields, "attempt", _attempt),
            field(fields, "host", ip),
            field(fields, "ports", sequence(sequence(_port, MAX_ALTERNATIVES), MAX_TARGETS)),
            count,
            near if count else None,
        )


@dataclass(frozen=True)
class Begin(Payload):
    """The sender has begun to send, or has sent all: the other side is to send now, for this attempt."""

    frame = "a BEGIN"

    attempt: int

    def _write(self) -> dict[str, Any]:
        return {"attempt": self.attempt}

    @classmethod
    def _read(cls, fields: Fields) -> Begin:
        return cls(field(fields, "attempt", _attempt))


@dataclass(frozen=True)
class TCPCandidates(Payload):
    """
    The sender wants to connect over TCP, and listens at these candidates.

    :ivar attempt: the number of the attempt; an answer has the same one.
    :ivar candidates: none if it can't, or does not agree.
    """

    frame = "a TCP"

    attempt: int
    candidates: tuple[Candidate, ...]

    def _write(self) -> dict[str, Any]:
        return {"attempt": self.attempt, "candidates": write_candidates(self.candidates)}

    @classmethod
    def _read(cls, fields: Fields) -> TCPCandidates:
        return cls(field(fields, "attempt", _attempt), field(fields, "candidates", read_tcp_candidates))
