"""The results of a netcheck, as values and as JSON (docs/json.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from punch.ice.port_lease import PortMapping
from punch.ice.punching.techniques import NatClass, Technique, nat_class, techniques_with_all
from punch.ice.reach import is_local
from punch.natcheck.profile import ANY_MAPPING, Filtering, Filterings, Hairpinning, Mappings
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment
from punch.wire.special_addresses import is_clat

UNKNOWN = "unknown"


class Direct(str, Enum):
    """With which peers direct links are possible."""

    ALL = "all"
    """With every peer whose network lets UDP through."""
    MOST = "most"
    """
    At once with all peers but those whose NAT has another port for each destination, or that have no UDP.
    Most of the former are reached directly after some seconds, by a technique (`punch.ice.punching`).
    """
    SOME = "some"
    """
    At once with peers that have no NAT, or whose NAT lets in datagrams from other ports. With those whose
    port is known after some seconds, by spraying. If only IPv6 works: with peers that have IPv6.
    """
    NONE = "none"
    """No UDP gets through, or the user allows no direct links."""
    UNKNOWN = "unknown"
    """Too little is known of the NAT, or the service is not on the internet."""


class Transport(str, Enum):
    """A transport by which the service may be reached."""

    UDP = "udp"
    CONTROL = "tcp"
    """The control channel: TLS over TCP."""
    TURN_UDP = "turn-udp"
    TURN_TCP = "turn-tcp"
    TURN_TLS = "turn-tls"


@dataclass(frozen=True)
class Lifetime:
    """
    How long an unused mapping is kept, or a firewall lets answers in, in seconds.

    :ivar at_least: the longest time that it was kept.
    :ivar below: the shortest time that it was not kept; None if it always was.
    """

    at_least: float
    below: float | None


@dataclass(frozen=True)
class PathPolicy:
    """
    What the user allows the paths of links to be.

    :ivar direct: whether links may be direct.
    :ivar relayed: whether they may take a relay. Techniques begin on a link that does.
    :ivar spray: whether many packets may be sent to guessed ports of a peer.
    :ivar tcp: whether direct paths over TCP are looked for, which is not done beside a proxy.
    """

    direct: bool = True
    relayed: bool = True
    spray: bool = True
    tcp: bool = True

    def allowed(self, technique: Technique) -> Technique | None:
        """
        Return what links use if this technique is called for: itself, ICE or a relay in its place, or None if
        there is no link.
        """
        switched_off = {Technique.SPRAYING: not self.spray, Technique.TCP: not self.tcp}
        if not self.direct or switched_off.get(technique):
            technique = Technique.RELAY
        if self.relayed:
            return technique
        return Technique.ICE if technique in (Technique.ICE, Technique.SIMULTANEOUS_OPEN) else None


@dataclass(frozen=True)
class RouterReport:
    """
    What the router of the examined address does when it is asked for a port (RFC 6887, RFC 6886).

    :ivar mapping: the UDP port that it mapped; None if it maps none.
    :ivar tcp: whether it mapped a TCP port, too.
    :ivar upnp: whether it was asked by UPnP, too, for which a package is needed.
    :ivar reached: whether a datagram from where nothing was sent to has arrived at the UDP port; None if that
        could not be tried.
    """

    mapping: PortMapping | None = None
    tcp: bool = False
    upnp: bool = True
    reached: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object (docs/json.md)."""
        mapping = self.mapping
        if mapping is None:
            return {
                "method": None,
                "external_address": None,
                "tcp": False,
                "upnp": self.upnp,
                "reached": None,
            }
        return {
            "method": mapping.method.value,
            "external_address": mapping.external.host,
            "tcp": self.tcp,
            "upnp": self.upnp,
            "reached": self.reached,
        }


@dataclass(frozen=True)
class FamilyReport:
    """
    The results for one address family.

    :ivar udp: whether UDP reaches the service and returns; None if the service may have had no reflector
        there.
    :ivar near: whether the service is on this machine or in a private network. Then the results say nothing
        about the path to the internet.
    :ivar local_addresses: this machine's addresses; the first is the one that was examined.
    :ivar public_addresses: the addresses that reflectors see.
    :ivar translated: whether there is a NAT.
    :ivar mapping: the possible mapping behaviours; empty without a NAT.
    :ivar filtering: the possible filtering behaviours of a NAT or a firewall.
    :ivar latency: the round-trip time to the service in seconds.
    :ivar router: what the router says to a request for a port; None if none was asked.
    :ivar profile: what calls know about the NAT; None if there is none that is known.
    :ivar policy: what the user allows.
    """

    udp: bool | None = False
    near: bool = False
    local_addresses: tuple[str, ...] = ()
    public_addresses: tuple[str, ...] = ()
    translated: bool = False
    mapping: Mappings = frozenset()
    filtering: Filterings = frozenset()
    hairpinning: Hairpinning | None = None
    ports: PortAssignment | None = None
    lifetime: Lifetime | None = None
    latency: float | None = None
    router: RouterReport | None = None
    profile: NatProfile | None = None
    policy: PathPolicy = PathPolicy()

    @property
    def maps_ports(self) -> bool:
        """
        Whether the router says that it maps ports where reflectors see us, and everybody reaches them, as far
        as is known.
        """
        router = self.router
        if router is None or router.mapping is None or router.reached is False:
            return False
        return router.mapping.external.host in self.public_addresses

    @property
    def maps_tcp_ports(self) -> bool:
        """
        Whether everybody can connect to TCP ports that the router maps, as far as is known: it says that it
        maps them at an address that reflectors see, or at a public one if no reflector is reached.
        """
        router = self.router
        if router is None or router.mapping is None or not router.tcp or router.reached is False:
            return False
        return self.maps_ports or (self.udp is False and not is_local(router.mapping.external.host))

    @property
    def nat64(self) -> bool:
        """
        Whether its datagrams are translated to the other family (RFC 6146), also if this machine has IPv4 by
        464XLAT only (RFC 6877).
        """
        return any(map(is_clat, self.local_addresses)) or any(
            (":" in public) != (":" in local)
            for public in self.public_addresses
            for local in self.local_addresses
        )

    @property
    def direct(self) -> Direct:
        """With which peers direct links are possible over this family."""
        if self.udp is False or not self.policy.direct:
            return Direct.NONE
        if self.udp is None or self.near:
            return Direct.UNKNOWN
        if self.maps_ports:
            return Direct.ALL
        if self.translated and self.mapping == ANY_MAPPING:
            return Direct.UNKNOWN
        if self.translated and Mapping.ENDPOINT_INDEPENDENT not in self.mapping:
            return Direct.MOST if nat_class(self.profile).predictable else Direct.SOME
        if self.filtering and Filtering.ADDRESS_AND_PORT_DEPENDENT not in self.filtering:
            return Direct.ALL
        return Direct.MOST

    @property
    def certain(self) -> bool:
        """Whether everything that `direct` depends on is known."""
        if self.direct is Direct.UNKNOWN or not self.udp:
            return self.udp is False or not self.policy.direct
        if self.maps_ports:
            return self.router is not None and self.router.reached is True
        if self.translated and self.mapping != {Mapping.ENDPOINT_INDEPENDENT}:
            return Mapping.ENDPOINT_INDEPENDENT not in self.mapping
        return bool(self.filtering) and (
            len(self.filtering) == 1 or Filtering.ADDRESS_AND_PORT_DEPENDENT not in self.filtering
        )

    @property
    def techniques(self) -> dict[NatClass, Technique | None] | None:
        """
        The technique by which links with peers behind each class of NAT become direct: `Technique.RELAY` if
        they stay relayed, None if there is no link. None in place of the table if it is not known.
        """
        found: dict[NatClass, Technique] | None = None
        if self.udp is False and self.local_addresses:
            found = dict.fromkeys(NatClass, Technique.TCP if self.maps_tcp_ports else Technique.RELAY)
            # Their TCP port is the same for all destinations, or is predicted
            for known in (NatClass.INDEPENDENT, NatClass.PRESERVING, NatClass.SEQUENTIAL):
                found[known] = Technique.TCP
        elif self.udp and self.direct is Direct.ALL:
            found = dict.fromkeys(NatClass, Technique.ICE)
        elif self.udp and self.profile is not None:
            found = techniques_with_all(self.profile)
        return None if found is None else {other: self.policy.allowed(each) for other, each in found.items()}

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object (docs/json.md)."""
        lifetime = self.lifetime
        techniques = self.techniques
        return {
            "udp": self.udp,
            "near": self.near if self.udp else None,
            "local_addresses": list(self.local_addresses),
            "public_addresses": list(self.public_addresses),
            "nat": self.translated if self.udp else None,
            "mapping": _one(self.mapping) if self.translated else None,
            "mapping_may_be": _sorted(self.mapping, Mapping),
            "filtering": _one(self.filtering) if self.udp else None,
            "filtering_may_be": _sorted(self.filtering, Filtering),
            "hairpinning": _value(self.hairpinning) if self.translated else None,
            "port_allocation": _value(self.ports) if self.translated else None,
            "mapping_lifetime": None
            if lifetime is None
            else {"at_least": _rounded(lifetime.at_least), "below": _rounded(lifetime.below)},
            "latency": _rounded(self.latency),
            "profile": None if self.profile is None else self.profile.to_json(),
            "techniques": None
            if techniques is None
            else {other.value: None if each is None else each.value for other, each in techniques.items()},
            "port_mapping": None if self.router is None else self.router.to_json(),
        }


@dataclass(frozen=True)
class NetcheckReport:
    """
    The results of a netcheck.

    :ivar rendezvous: the address of the service.
    :ivar problem: why the service can't be reached over TCP; None if it can.
    :ivar reflector: whether the service has a reflector. Without one nothing is known about UDP.
    :ivar control_latency: the round-trip time over the control channel in seconds.
    :ivar transports: whether each transport reaches the service; None if the service does not offer it.
    :ivar captive_portal: whether the network answers web requests itself, until somebody signs in; None if it
        is not known.
    :ivar policy: what the user allows.
    """

    rendezvous: str
    ipv4: FamilyReport | None = None
    ipv6: FamilyReport | None = None
    problem: Exception | None = None
    reflector: bool = True
    control_latency: float | None = None
    transports: dict[Transport, bool | None] = field(default_factory=dict)
    captive_portal: bool | None = None
    policy: PathPolicy = PathPolicy()

    @property
    def families(self) -> list[FamilyReport]:
        """The reports of the families that were examined."""
        return [each for each in (self.ipv4, self.ipv6) if each is not None]

    @property
    def udp(self) -> bool | None:
        """Whether UDP works at all; None if it is not known."""
        tried = [each.udp for each in self.families if each.local_addresses]
        if any(tried):
            return True
        return None if not self.reflector or not tried or None in tried else False

    @property
    def relays(self) -> list[Transport]:
        """The transports by which a relay is reached."""
        turn = (Transport.TURN_UDP, Transport.TURN_TCP, Transport.TURN_TLS)
        return [each for each in turn if self.transports.get(each)]

    @property
    def direct(self) -> Direct:
        """With which peers direct links are possible."""
        if not self.policy.direct:
            return Direct.NONE
        if self.udp is None:
            return Direct.UNKNOWN
        if self.ipv4 is not None and self.ipv4.udp:
            return self.ipv4.direct
        if not self.udp:
            return Direct.NONE
        return Direct.UNKNOWN if self.ipv6 is not None and self.ipv6.near else Direct.SOME

    @property
    def certain(self) -> bool:
        """Whether `direct` is certain, and not only probable."""
        if self.direct is Direct.UNKNOWN:
            return False
        if not self.policy.direct:
            return True
        return self.ipv4 is None or not self.ipv4.udp or self.ipv4.certain

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object, without problem and sentences (docs/json.md)."""
        return {
            "rendezvous": self.rendezvous,
            "udp": self.udp,
            "ipv4": None if self.ipv4 is None else self.ipv4.to_json(),
            "ipv6": None if self.ipv6 is None else self.ipv6.to_json(),
            "transports": {each.value: self.transports.get(each) for each in Transport},
            "control_latency": _rounded(self.control_latency),
            "captive_portal": self.captive_portal,
            "policy": {
                "direct": self.policy.direct,
                "relayed": self.policy.relayed,
                "spray": self.policy.spray,
            },
            "direct": self.direct.value,
            "certain": self.certain,
        }


def _one(possible: Iterable[Enum]) -> str:
    values = [each.value for each in possible]
    return str(values[0]) if len(values) == 1 else UNKNOWN


def _sorted(possible: Iterable[Enum], order: type[Enum]) -> list[str]:
    chosen = set(possible)
    return [str(each.value) for each in order if each in chosen]


def _value(behaviour: Enum | None) -> str:
    return UNKNOWN if behaviour is None else str(behaviour.value)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
