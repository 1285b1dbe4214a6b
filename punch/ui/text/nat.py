"""NAT profiles in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from punch.amounts import format_duration
from punch.ice.punching.techniques import NatClass, Technique, techniques_with_all
from punch.sanitize import printable
from punch.ui.text.sentences import count, either
from punch.wire.peers.nat_profile import Mapping as Mappings
from punch.wire.peers.nat_profile import NatProfile

MAPPING = {
    Mappings.ENDPOINT_INDEPENDENT: "one port for all destinations",
    Mappings.ADDRESS_DEPENDENT: "another port for each destination address",
    Mappings.ADDRESS_AND_PORT_DEPENDENT: "another port for each destination",
}

_TECHNIQUES = {
    Technique.ICE: "ICE",
    Technique.PREDICTION: "prediction",
    Technique.SIMULTANEOUS_OPEN: "ICE or simultaneous open",
    Technique.SPRAYING: "spraying",
    Technique.RELAY: "a relay",
}
_BY = {
    Technique.ICE: "ICE",
    Technique.PREDICTION: "prediction of ports",
    Technique.SIMULTANEOUS_OPEN: "simultaneous open",
    Technique.SPRAYING: "spraying",
    Technique.RELAY: "no technique",
}
_OTHERS = {
    NatClass.INDEPENDENT: "one port for all destinations",
    NatClass.PRESERVING: "preserved ports",
    NatClass.SEQUENTIAL: "sequential ports",
    NatClass.RANDOM: "random ports",
}


def ports_in_words(profile: NatProfile) -> str:
    """Return how a NAT allocates ports, and how sure that is."""
    if not profile.step:
        return profile.ports.value
    where = "above" if profile.step > 0 else "below"
    sure = f"{profile.agreeing} of {profile.observed} observed"
    return f"{profile.ports.value}, each {abs(profile.step)} {where} the one before ({sure})"


def techniques_in_words(profile: NatProfile) -> str:
    """Return which techniques get a direct path through a NAT, and with which NATs of the other side."""
    found: dict[Technique, list[str]] = {}
    for other, technique in techniques_with_all(profile).items():
        if other is not NatClass.UNKNOWN:
            found.setdefault(technique, []).append(_OTHERS[other])
    subject, parts = "the other NAT", []
    for each, others in found.items():
        parts.append(f"{_TECHNIQUES[each]} if {subject} has {either(others)}")
        subject = "it"
    return ", ".join(parts)


def punching_in_words(punching: Mapping[str, Any]) -> str:
    """Return what a link tried to leave the relay, from the answer to `status`; nothing if it did not."""
    attempts, packets = punching["attempts"], punching["packets"]
    if not attempts:
        return ""
    technique = _BY[Technique(punching["technique"])]
    return (
        f"{technique}: {count(attempts, 'attempt')}, {count(packets, 'packet')}, {punching['bytes']:,} bytes"
    )


def tcp_punching_in_words(punching: Mapping[str, Any]) -> str:
    """Return what a link tried to get a direct path over TCP; nothing if it did not."""
    attempts, packets = punching["attempts"], punching["packets"]
    if not attempts:
        return ""
    return f"over TCP: {count(attempts, 'attempt')}, {count(packets, 'packet')}, {punching['bytes']:,} bytes"


def nat_in_words(profile: NatProfile) -> str:
    """Return what is known about a NAT, as one line."""
    if not profile.mapping:
        return f"No NAT: seen as {printable(profile.host)}"
    mapping = " or ".join(MAPPING[each] for each in MAPPING if each in profile.mapping)
    ports, age = ports_in_words(profile), format_duration(profile.age)
    return f"NAT at {printable(profile.host)}: {mapping}; ports {ports}; seen {age} ago"
