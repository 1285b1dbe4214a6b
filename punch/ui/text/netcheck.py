"""The report of a netcheck as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from ipaddress import ip_address
from math import ceil, floor
from typing import Any, TypeVar

from punch.extras import install_command_here
from punch.ice.punching.techniques import NatClass, nat_class
from punch.natcheck.profile import Filtering, Hairpinning
from punch.natcheck.report import (
    Direct,
    FamilyReport,
    NetcheckReport,
    RouterReport,
    Transport,
)
from punch.node.causes import ControlProblem
from punch.ui.text.causes import problem_sentence
from punch.ui.text.nat import MAPPING, METHODS, ports_in_words, techniques_in_words
from punch.ui.text.sentences import either
from punch.wire.peers.nat_profile import PortAssignment

_FILTERING = {
    Filtering.ENDPOINT_INDEPENDENT: "lets everybody in",
    Filtering.ADDRESS_DEPENDENT: "lets in addresses that were sent to",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "lets in addresses and ports that were sent to",
}
_PORTS = {
    PortAssignment.PRESERVING: "preserved",
    PortAssignment.SEQUENTIAL: "sequential",
    PortAssignment.RANDOM: "random",
    PortAssignment.UNKNOWN: "unknown",
}
_TRANSPORTS = {
    Transport.UDP: "UDP",
    Transport.CONTROL: "TCP",
    Transport.TURN_UDP: "a relay over UDP",
    Transport.TURN_TCP: "a relay over TCP",
    Transport.TURN_TLS: "a relay over TLS",
}
_DIRECT = {
    Direct.ALL: "direct links to all peers whose network lets UDP through.",
    Direct.MOST: "direct links to most peers. To those whose NAT has another port for each destination, a "
    "link is on a relay for some seconds, until a port is found.",
    Direct.SOME: "few links are direct at once, as the NAT has another port for each destination: those to "
    "peers that everybody reaches, or whose NAT lets in what comes from another port. Others are on a relay; "
    "for some seconds, until a port is found, if the other NAT has one port for all destinations.",
}
_DIRECT_OVER_BOTH = (
    "direct links to all peers whose network lets UDP through, {} to those whose network lets only that "
    "through."
)
_WITHOUT_SPRAYING = {
    Direct.MOST: "direct links to most peers. To those whose NAT has another port for each destination, at "
    "random, links stay on a relay, as nothing is sprayed (--spray never).",
    Direct.SOME: "few links are direct, as the NAT has another port for each destination, and nothing is "
    "sprayed (--spray never): those to peers that everybody reaches, or whose NAT lets in what comes from "
    "another port. Others are on a relay.",
}
_WITHOUT_RELAY = {
    Direct.MOST: "direct links to most peers. With those whose NAT has another port for each destination, "
    "there is none, as links never take a relay (--relay never).",
    Direct.SOME: "few links, as the NAT has another port for each destination, and links never take a relay "
    "(--relay never): those to peers that everybody reaches, or whose NAT lets in what comes from another "
    "port.",
}
_NAT64 = (
    "This network makes IPv4 of IPv6 on the way to the rendezvous (NAT64). Over IPv6: direct links to peers "
    "that have it, too, where both networks let them in."
)
_NEVER_RELAYED = "as links never take a relay (--relay never)"
_PREDICTED = (
    "direct links to most peers, to many of them after some seconds on a relay, until the next ports are "
    "predicted. To those whose ports are random, links stay on a relay."
)
_HEADLINES = {
    Direct.ALL: "Direct links: with everybody",
    Direct.MOST: "Direct links: with most people",
    Direct.SOME: "Direct links: with some people",
    Direct.NONE: "Direct links: over TCP alone",
    Direct.UNKNOWN: "It is not known who can be reached directly",
}
_WIDTH = 14

Facts = list[tuple[str, list[str]]]
"""What is known about an address family: terms, each with one or more texts."""

B = TypeVar("B", bound=Enum)


def problem_of(report: NetcheckReport) -> str | None:
    """Return the sentence that says why the rendezvous can't be reached; None if it can."""
    return problem_sentence(report.problem) if isinstance(report.problem, ControlProblem) else None


def conclusions(report: NetcheckReport) -> list[str]:
    """Return what the report means for links, as sentences."""
    unreachable = problem_of(report)
    found = [] if unreachable is None else [unreachable]
    if report.captive_portal:
        found.append(
            "A captive portal answers web requests: open any web page in a browser, and sign in to this "
            "network."
        )
    if report.udp is None:
        found.append(_nothing_of_udp(report))
    elif not report.udp:
        found.append(f"No UDP gets through to the rendezvous and back: {_without_udp(report)}.")
    if not report.policy.direct:
        found.append("All links take a relay (--relay only).")
    else:
        found += _direct(report)
    hairpins = not any(each.hairpinning is Hairpinning.NO and not each.nat64 for each in report.families)
    if not hairpins and report.policy.direct:
        how = "reach each other by a relay" if report.policy.relayed else "don't reach each other"
        found.append(f"The NAT does not hairpin: two peers behind it, in different networks, {how}.")
    offered = [report.transports.get(each) for each in Transport if each.value.startswith("turn")]
    if report.relays:
        ways = [each.value.removeprefix("turn-").upper() for each in report.relays]
        found.append(f"A relay can be reached over {_and(ways)}.")
    elif any(each is False for each in offered):
        found.append("The relay that the rendezvous offers can't be reached.")
    elif report.problem is None:
        found.append("This rendezvous offers no relay.")
    return found


def headline(report: NetcheckReport) -> tuple[str, bool]:
    """Return the result in a few words, and whether it is a good one."""
    if report.captive_portal:
        return "Sign in to this network first", False
    if not report.policy.direct:
        return "Relayed links, as you have set it", report.problem is None and bool(report.relays)
    if report.direct is Direct.NONE and not report.policy.relayed:
        return "No links to other networks", False
    if report.direct is Direct.NONE and not report.policy.tcp:
        return "Relayed links alone", False
    return _HEADLINES[report.direct], report.problem is None and report.direct in (Direct.ALL, Direct.MOST)


def details(report: NetcheckReport) -> dict[str, Any]:
    """Return what a page shows, as JSON: the same facts as the lines of `text`."""
    words, good = headline(report)
    return {
        "headline": words,
        "good": good,
        **{
            name.lower(): [{"term": term, "texts": texts} for term, texts in _facts(family)]
            for name, family in _named(report)
        },
        "transports": [
            {"term": _TRANSPORTS[each], "works": works}
            for each, works in report.transports.items()
            if works is not None
        ],
    }


def text(report: NetcheckReport) -> str:
    """Return the whole report as lines."""
    lines = [_line("Rendezvous", report.rendezvous)]
    lines.append(_line("UDP", {True: "yes", False: "no", None: "unknown"}[report.udp]))
    for name, family in _named(report):
        (_, (first, *_)), *others = _facts(family)
        lines.append(_line(name, first))
        lines += [_line(f"  {term}", ", ".join(texts)) for term, texts in others]
    reached = [_TRANSPORTS[each] for each, works in report.transports.items() if works]
    failed = [_TRANSPORTS[each] for each, works in report.transports.items() if works is False]
    lines.append(_line("Reached by", _and(reached) or "nothing"))
    if failed:
        lines.append(_line("Not by", _and(failed)))
    if report.control_latency is not None:
        lines.append(_line("Control", f"{report.control_latency * 1000:.1f} ms to the rendezvous and back"))
    lines += ["", *(f"* {sentence}" for sentence in conclusions(report))]
    return "\n".join(lines)


def _nothing_of_udp(report: NetcheckReport) -> str:
    """Return why it is not known whether UDP works."""
    if not report.reflector:
        return "The rendezvous has no reflector, so nothing is known about UDP."
    if not report.families:
        return "So nothing is known about UDP."
    missing = [name for name, family in _named(report) if family is not None and not family.local_addresses]
    if missing and len(missing) == len(report.families):
        return (
            f"This machine has no {_and(missing)} address, and no other address of the rendezvous is known: "
            "give a name or another address of it."
        )
    return "Nothing answers over UDP either, so nothing is known about this network."


def _direct(report: NetcheckReport) -> list[str]:
    """Return with which peers links are direct, as sentences."""
    ipv4, ipv6 = (family if family is not None and family.udp else None for _, family in _named(report))
    if (ipv4 or ipv6 or FamilyReport()).near:
        return [
            "The rendezvous is on this machine or in a private network, so nothing is known of the way to "
            "peers on the internet: ask one that is there, with --rendezvous."
        ]
    if ipv6 is not None and ipv6.near:
        ipv6 = None
    found: list[str] = []
    if ipv4 is not None and ipv4.nat64:
        found = [_NAT64, *_direct_over(ipv4, "IPv4, through the NAT64")]
    elif ipv4 is not None:
        found = _direct_over(ipv4, "IPv4")
    if ipv6 is not None:
        if ipv6.nat64:
            found.append(_NAT64)
            if ipv4 is None:
                found.append(
                    "Peers that have IPv4 alone need a relay."
                    if report.policy.relayed
                    else f"There are no links to peers that have IPv4 alone, {_NEVER_RELAYED}."
                )
            return found
        if ipv6.translated:
            found += _direct_over(ipv6, "IPv6")
        else:
            found.append("Over IPv6: direct links to peers that have it, too.")
        if ipv4 is None:
            found.append(
                "There is no UDP over IPv4: peers that have no IPv6 need a relay."
                if report.policy.relayed
                else "There is no UDP over IPv4: there are no links to peers that have no IPv6, "
                f"{_NEVER_RELAYED}."
            )
    judged = [each for each in (ipv4, ipv6) if each is not None and (each is ipv4 or each.translated)]
    if not all(each.certain or each.maps_ports for each in judged):
        if report.problem is None:
            found.append("A rendezvous that has a second port and a second address can tell more.")
        else:
            found.append("More can be told when the rendezvous can be reached.")
    return found


def _without_udp(report: NetcheckReport) -> str:
    """Return what it means for links that no UDP gets through, as the second half of a sentence."""
    if not report.policy.relayed:
        return "there are no links to other networks, as they never take a relay (--relay never)"
    if not report.policy.tcp or not report.policy.direct:
        return "links to other networks are on a relay"
    mapped = any(each.maps_tcp_ports for each in report.families)
    where = "the other network lets that through" if mapped else "both networks let that through"
    return f"links to other networks are on a relay, until they get a direct path over TCP where {where}"


def _direct_over(family: FamilyReport, name: str) -> list[str]:
    if family.direct is Direct.UNKNOWN:
        return [f"Over {name}: it can't be told with whom links will be direct, as the mapping is unknown."]
    return [f"Over {name}: {'' if family.certain else 'probably '}{_sentence(family)}"]


def _sentence(family: FamilyReport) -> str:
    """Return with which peers links over an address family are direct, as the second half of a sentence."""
    policy, direct = family.policy, family.direct
    sequential = nat_class(family.profile) is NatClass.SEQUENTIAL and direct is Direct.MOST
    if family.maps_tcp_ports and policy.relayed and policy.tcp:
        # Only the mapped UDP port was tested, so it is merely probable that the TCP port can be reached.
        return _DIRECT_OVER_BOTH.format("and probably over TCP" if family.certain else "and over TCP")
    if not policy.relayed:
        return _WITHOUT_RELAY.get(Direct.SOME if sequential else direct, _DIRECT[direct])
    if sequential:
        return _PREDICTED
    return _DIRECT[direct] if policy.spray else _WITHOUT_SPRAYING.get(direct, _DIRECT[direct])


def _named(report: NetcheckReport) -> list[tuple[str, FamilyReport | None]]:
    return [("IPv4", report.ipv4), ("IPv6", report.ipv6)]


def _facts(family: FamilyReport | None) -> Facts:
    """Return what is known about an address family. The first fact is its address, or that it has none."""
    if family is None:
        return [("address", ["not tested: no such address of the rendezvous is known"])]
    if not family.local_addresses:
        return [("address", ["no, this machine has no such address"])]
    addresses = _and(family.local_addresses)
    if family.udp is None:
        return [("address", [f"unknown, nothing answers {addresses}"])]
    techniques = family.techniques
    by = [] if techniques is None else [("techniques", techniques_in_words(techniques))]
    router = [] if family.router is None else [("router", [_router(family, family.router)])]
    if not family.udp:
        return [("address", [f"no UDP from {addresses}"]), *by, *router]
    local = family.local_addresses[0]
    found: Facts = []
    if not family.translated:
        found.append(("address", [f"{local}, seen as it is: no NAT"]))
    else:
        seen = f"seen as {_and(family.public_addresses)}"
        if not family.nat64:
            address = f"{local}, {seen}: behind a NAT"
        elif ":" in local:
            address = f"{local}, {seen}: NAT64, which makes IPv4 of it"
        else:
            address = f"{seen}: through a NAT64, which makes it of IPv6"
        found.append(("address", [address]))
        found.append(("mapping", [_behaviour(family.mapping, MAPPING)]))
    found.append(("filtering", [_behaviour(family.filtering, _FILTERING)]))
    if family.translated:
        hairpinning = family.hairpinning or Hairpinning.UNKNOWN
        found += [("hairpinning", [hairpinning.value]), ("ports", [_ports(family)])]
    found += by
    if family.lifetime is not None:
        lived, below = family.lifetime.at_least, family.lifetime.below
        least = f"at least {floor(lived)} s" if lived else ""
        most = "" if below is None else f"less than {ceil(below)} s"
        found.append(("lifetime", [each for each in (least, most) if each]))
    found += router
    if family.latency is not None:
        found.append(("latency", [f"{family.latency * 1000:.1f} ms to the rendezvous and back"]))
    return found


def _ports(family: FamilyReport) -> str:
    """Return how ports are allocated, with the step if that is known."""
    if family.profile is not None and family.profile.step:
        return ports_in_words(family.profile)
    return _PORTS[family.ports or PortAssignment.UNKNOWN]


def _router(family: FamilyReport, router: RouterReport) -> str:
    """Return how the router has answered requests for ports."""
    mapping = router.mapping
    if mapping is None:
        if router.upnp or ":" in family.local_addresses[0]:
            return "maps no ports"
        return f"maps no ports by PCP or NAT-PMP; to ask by UPnP: {install_command_here('upnp')}"
    maps = f"maps {'UDP and TCP ports' if router.tcp else 'UDP ports alone'} ({METHODS[mapping.method]})"
    if router.reached is False:
        return f"{maps}, but nothing arrives there: a firewall or another NAT may keep it out"
    if router.reached:
        tcp = ", and should reach that of TCP" if router.tcp else ""
        return f"{maps}: everybody reaches the UDP port{tcp}"
    if family.maps_ports or family.maps_tcp_ports:
        return f"{maps}: everybody should reach them"
    ip = ip_address(mapping.external.host)
    if ip.is_unspecified:
        return f"{maps}, and does not say at which address"
    beyond = "" if ip.is_global else ", so there is another NAT beyond"
    unseen = "" if family.udp is False else ", which the rendezvous does not see"
    return f"{maps} at {ip}{unseen}{beyond}"


def _behaviour(possible: Iterable[B], meanings: dict[B, str]) -> str:
    known = set(possible)
    values = [each for each in meanings if each in known]
    if len(values) == 1:
        return f"{values[0].value}: {meanings[values[0]]}"
    return (
        "unknown" if len(values) == len(meanings) else f"unknown: {either([each.value for each in values])}"
    )


def _line(name: str, content: str) -> str:
    return f"{name:<{_WIDTH}}{content}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
