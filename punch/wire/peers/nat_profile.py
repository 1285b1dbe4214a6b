"""
What a peer knows about its NAT, as offers, answers and links carry it (docs/protocol.md, section 5.5).

The two behaviours are those of RFC 4787; `punch.natcheck` finds them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from punch.wire.fields import FieldError, field, integer, ip, one_of, sequence
from punch.wire.fields import mapping as read_object

MAX_PROFILES: Final = 4
"""How many profiles a peer sends."""
MAX_STEP: Final = 128
"""The largest step between ports that counts as an allocation in sequence."""
MAX_AGE: Final = 7 * 86400
"""The greatest age of a profile, in seconds."""
MAX_OBSERVED: Final = 64
"""The greatest number of differences that a profile rests on."""


class Mapping(str, Enum):
    """For which remote endpoints a mapping is reused (RFC 4787, section 4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class PortAssignment(str, Enum):
    """How external ports are chosen (RFC 4787, section 4.2)."""

    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class NatProfile:
    """
    What is known about the NAT in front of one local address.

    :ivar host: the public IP address.
    :ivar mapping: the mapping behaviours that are possible; empty if there is no NAT.
    :ivar step: from the port of one new mapping to that of the next, negative if ports go down; 0 unless they
        are allocated in sequence.
    :ivar agreeing: how many of the observed differences between ports are exactly `step`. Usually not
        all are, because other hosts take ports in between.
    :ivar observed: how many differences were observed.
    :ivar age: seconds since the newest observation.
    """

    host: str
    mapping: frozenset[Mapping] = frozenset()
    ports: PortAssignment = PortAssignment.UNKNOWN
    step: int = 0
    agreeing: int = 0
    observed: int = 0
    age: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the profile as a JSON object."""
        return {
            "host": self.host,
            "mapping": [each.value for each in Mapping if each in self.mapping],
            "ports": self.ports.value,
            "step": self.step,
            "agreeing": self.agreeing,
            "observed": self.observed,
            "age": self.age,
        }

    @classmethod
    def from_json(cls, value: object) -> NatProfile:
        """
        Read a profile.

        :raise FieldError: it is not one.
        """
        fields = read_object(value)
        profile = cls(
            field(fields, "host", ip),
            frozenset(field(fields, "mapping", sequence(one_of(*Mapping), len(Mapping)))),
            field(fields, "ports", one_of(*PortAssignment)),
            field(fields, "step", integer(-MAX_STEP, MAX_STEP)),
            field(fields, "agreeing", integer(0, MAX_OBSERVED)),
            field(fields, "observed", integer(0, MAX_OBSERVED)),
            field(fields, "age", integer(0, MAX_AGE)),
        )
        if (profile.ports is PortAssignment.SEQUENTIAL) != (profile.step != 0):
            raise FieldError("has a step if and only if ports are sequential")
        return profile


def write_profiles(profiles: Sequence[NatProfile]) -> list[dict[str, Any]]:
    """Return the profiles as a JSON value, `MAX_PROFILES` at most."""
    return [profile.to_json() for profile in profiles[:MAX_PROFILES]]


def read_profiles(value: object) -> tuple[NatProfile, ...]:
    """
    Read profiles. Those of another form are left out, since a newer release may know more behaviours.

    :raise FieldError: the value is no array.
    """
    if not isinstance(value, list):
        raise FieldError("must be an array")
    found = []
    for each in value[:MAX_PROFILES]:
        with suppress(FieldError):
            found.append(NatProfile.from_json(each))
    return tuple(found)
