"""NAT profiles in words."""

from __future__ import annotations

from punch.amounts import format_duration
from punch.sanitize import printable
from punch.wire.nat_profile import Mapping, NatProfile

MAPPING = {
    Mapping.ENDPOINT_INDEPENDENT: "one port for all destinations",
    Mapping.ADDRESS_DEPENDENT: "another port for each destination address",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: "another port for each destination",
}


def ports_in_words(profile: NatProfile) -> str:
    """Return how a NAT allocates ports, and how sure that is."""
    if not profile.step:
        return profile.ports.value
    where = "above" if profile.step > 0 else "below"
    sure = f"{profile.agreeing} of {profile.observed} observed"
    return f"{profile.ports.value}, each {abs(profile.step)} {where} the one before ({sure})"


def nat_in_words(profile: NatProfile) -> str:
    """Return what is known about a NAT, as one line."""
    if not profile.mapping:
        return f"No NAT: seen as {printable(profile.host)}"
    mapping = " or ".join(MAPPING[each] for each in MAPPING if each in profile.mapping)
    ports, age = ports_in_words(profile), format_duration(profile.age)
    return f"NAT at {printable(profile.host)}: {mapping}; ports {ports}; seen {age} ago"
