"""NAT profiles, and what techniques have sent, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from punch.amounts import format_duration
from punch.ice.port_lease import MappingProtocol
from punch.ice.punching.techniques import NatClass, Technique
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
    Technique.TCP: "TCP",
    Technique.RELAY: "a relay",
    None: "no link",
}
_BY = {
    Technique.ICE.value: "connectivity checks",
    Technique.PREDICTION.value: "prediction of ports",
    Technique.SIMULTANEOUS_OPEN.value: "simultaneous open",
    Technique.SPRAYING.value: "spraying",
    Technique.TCP.value: "TCP",
}
METHODS = {MappingProtocol.PCP: "PCP", MappingProtocol.NAT_PMP: "NAT-PMP", MappingProtocol.UPNP: "UPnP"}
"""The names of the protocols by which routers are asked for ports."""
_OTHERS = {
    NatClass.INDEPENDENT: "one port for all destinations",
    NatClass.PRESERVING: "preserved ports",
    NatClass.SEQUENTIAL: "sequential ports",
    NatClass.RANDOM: "random ports",
}


def ports_in_words(profile: NatProfile) -> str:
    """Return how a NAT allocates ports, and for a fixed step, how often it was observed."""
    if not profile.step:
        return profile.ports.value
    where = "above" if profile.step > 0 else "below"
    sure = f"{profile.agreeing} of {profile.observed} observed"
    return f"{profile.ports.value}, each {abs(profile.step)} {where} the one before ({sure})"


def techniques_in_words(techniques: Mapping[NatClass, Technique | None]) -> list[str]:
    """
    Return which technique leads to a direct path for which NATs of the other side, as one text for each
    technique.

    :param techniques: the technique for each class of the other NAT; None: there is no link.
    """
    found: dict[Technique | None, list[str]] = {}
    for other, technique in techniques.items():
        if other is not NatClass.UNKNOWN:
            found.setdefault(technique, []).append(_OTHERS[other])
    if len(found) == 1:
        return [f"{_TECHNIQUES[technique]}, whatever the other NAT does" for technique in found]
    subject, parts = "the other NAT", []
    for each, others in found.items():
        parts.append(f"{_TECHNIQUES[each]} if {subject} has {either(others)}")
        subject = "it"
    return parts


def cost_in_words(techniques: Mapping[str, Any]) -> str:
    """
    Return what a link has sent to find a direct path, by technique; "" if it has sent nothing.

    :param techniques: the field of this name in the answer of `status`.
    """
    parts = []
    for name, done in techniques.items():
        attempts = f"{count(done['attempts'], 'attempt')}, " if done["attempts"] else ""
        sent = f"{count(done['packets'], 'packet')}, {done['bytes']:,} bytes"
        parts.append(f"{_BY.get(name, printable(name))}: {attempts}{sent}")
    return "; ".join(parts)


def requests_in_words(asked: Mapping[str, Any]) -> str:
    """
    Return what was sent to routers to have ports mapped, by protocol; "" if nothing was sent.

    :param asked: `port_mapping_requests` in the answer of `status`.
    """
    names = {method.value: name for method, name in METHODS.items()}
    parts = []
    for method, sent in asked.items():
        words = f"{count(sent['packets'], 'packet')}, {sent['bytes']:,} bytes"
        over_tcp = f", {count(sent['requests'], 'request')} over TCP" if sent["requests"] else ""
        parts.append(f"{names.get(method, printable(method))}: {words}{over_tcp}")
    return "; ".join(parts)


def nat_in_words(profile: NatProfile) -> str:
    """Return one line with what is known about a NAT."""
    if not profile.mapping:
        return f"No NAT: seen as {printable(profile.host)}"
    mapping = " or ".join(MAPPING[each] for each in MAPPING if each in profile.mapping)
    ports, age = ports_in_words(profile), format_duration(profile.age)
    return f"NAT at {printable(profile.host)}: {mapping}; ports {ports}; seen {age} ago"
