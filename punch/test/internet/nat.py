"""
Network address translators, in the terms of RFC 4787 (UDP) and RFC 5382 (TCP), and stateful firewalls.

A NAT maps an internal endpoint X:x to an external X':x' (mapping, §4.1), lets packets to X':x' in or not
(filtering, §5), chooses x' (port assignment, §4.2), expires mappings (§4.3), and may send packets from inside
to X':x' back in (hairpinning, §6). Filtering is per mapping: a packet that went out by another mapping of the
same internal endpoint lets nothing in by this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from punch.test.internet.packet import (
    Endpoint,
    IPNetwork,
    Packet,
    canonical_host,
    contains,
    embedded,
    embedding,
    is_ipv6,
)


class Mapping(Enum):
    """For which destinations a mapping is reused (RFC 4787 §4.1)."""

    EIM = "endpoint-independent"
    ADM = "address-dependent"
    APDM = "address-and-port-dependent"


class Filtering(Enum):
    """From which sources packets are let in (RFC 4787 §5)."""

    EIF = "endpoint-independent"
    ADF = "address-dependent"
    APDF = "address-and-port-dependent"


class Hairpin(Enum):
    """What happens to packets from inside to an external endpoint of the same NAT (RFC 4787 §6)."""

    NONE = "dropped"
    INTERNAL = "internal source address and port"
    EXTERNAL = "external source address and port"


class Ports(Enum):
    """How external ports are chosen (RFC 4787 §4.2)."""

    PRESERVING = "preserving"
    """The internal port if it is free, else the next free one."""
    SEQUENTIAL = "sequential"
    RANDOM = "random"


class Unsolicited(Enum):
    """What answers packets from outside that are not let in."""

    DROP = "drop"
    REJECT = "reject"
    """TCP gets a reset, UDP nothing that a peer would notice (ICMP is not simulated)."""
    ACCEPT = "accept"
    """
    The router takes UDP for its own, and remembers it as a flow, as Linux does without a rule for it. What is
    sent from inside by the same port to the same remote then needs another port. TCP gets a reset.
    """


RemoteKey = tuple[str, int]
"""The parts of a remote endpoint that a mapping or filter compares; the other parts are blank."""

FLOW_TIME = 30.0
"""Seconds for which a router remembers a packet to itself (Linux: `nf_conntrack_udp_timeout`)."""
HEADERS_DIFFER = 20
"""How many bytes the header of IPv6 is longer than that of IPv4."""
_TCP_TIMEOUT = 7440.0  # RFC 5382 §5: at least two hours and four minutes


def _mapping_key(mapping: Mapping, remote: Endpoint) -> RemoteKey:
    if mapping is Mapping.EIM:
        return ("", 0)
    return (remote[0], 0) if mapping is Mapping.ADM else remote


class Permissions:
    """The remote endpoints whose packets are let in, each until it expires."""

    __slots__ = ("_filtering", "_until")

    def __init__(self, filtering: Filtering) -> None:
        self._filtering = filtering
        self._until: dict[RemoteKey, float] = {}

    def _key(self, remote: Endpoint) -> RemoteKey:
        if self._filtering is Filtering.EIF:
            return ("", 0)
        return (remote[0], 0) if self._filtering is Filtering.ADF else remote

    def grant(self, remote: Endpoint, until: float) -> None:
        """Let packets from `remote` in, because something was sent to it."""
        self._until[self._key(remote)] = until

    def allows(self, remote: Endpoint, now: float) -> bool:
        """Whether packets from `remote` are let in."""
        until = self._until.get(self._key(remote))
        return until is not None and until > now


class Entry:
    """One mapping in a NAT's table."""

    __slots__ = ("expires", "external_port", "internal", "permissions", "protocol", "remote_key")

    def __init__(
        self,
        protocol: str,
        internal: Endpoint,
        external_port: int,
        remote_key: RemoteKey,
        filtering: Filtering,
    ) -> None:
        self.protocol = protocol
        self.internal = internal
        self.external_port = external_port
        self.remote_key = remote_key
        self.permissions = Permissions(filtering)
        self.expires = 0.0


@dataclass
class NAT:
    """
    The NAT of one LAN. IPv6 passes by it (see `Firewall`), except with `nat64`, a /96: packets to addresses
    with this prefix are translated to the IPv4 address in their last 32 bits (RFC 6146). TCP and UDP have no
    checksums here, so addresses are all that is translated.

    `public` is its external IPv4 address, None for the next free one of the network outside.
    """

    public: str | None = None
    mapping: Mapping = Mapping.EIM
    filtering: Filtering = Filtering.APDF
    hairpin: Hairpin = Hairpin.EXTERNAL
    ports: Ports = Ports.PRESERVING
    timeout: float = 120.0
    """Seconds without use after which a UDP mapping is forgotten."""
    tcp_timeout: float = _TCP_TIMEOUT
    refresh_inbound: bool = False
    """Whether packets from outside refresh a mapping, too (RFC 4787 §4.3)."""
    unsolicited: Unsolicited = Unsolicited.DROP
    port_parity: bool = False
    """Whether even ports are mapped to even ones, odd to odd (RFC 4787 §4.2.2)."""
    overload: bool = False
    """Whether mappings to different remotes may share a port (RFC 4787 §4.2.1); not with EIM."""
    port_range: tuple[int, int] = (1024, 65535)
    step: int = 1
    """From one port to the next, if ports are sequential; negative: downwards."""
    others: float = 0.0
    """How many ports other hosts behind this NAT take in a second, on average, if ports are sequential."""
    block_udp: bool = False
    nat64: IPNetwork | None = None
    tcp_mapping: Mapping | None = None
    """How TCP is mapped; None: as UDP is."""
    _by_internal: dict[tuple[str, Endpoint, RemoteKey], Entry] = field(default_factory=dict, repr=False)
    _by_port: dict[tuple[str, int], dict[RemoteKey, Entry]] = field(default_factory=dict, repr=False)
    _flows: dict[tuple[int, Endpoint], float] = field(default_factory=dict, repr=False)
    """Flows of UDP to the router itself: the external port, the remote, and when it is forgotten."""
    _forwards: dict[tuple[str, int], Endpoint] = field(default_factory=dict, repr=False)
    _forwarded: dict[tuple[str, Endpoint], int] = field(default_factory=dict, repr=False)
    # The TCP connections, by their ends, that began from a port that was not forwarded then
    _translated: set[tuple[Endpoint, Endpoint]] = field(default_factory=set, repr=False)
    _next_port: int = field(default=0, repr=False)
    _taken_at: float = field(default=0.0, repr=False)
    """Until when `others` were considered."""
    _readdress: Callable[[str, str], None] | None = field(default=None, repr=False)
    _random: Random = field(default_factory=lambda: Random(0), repr=False)

    def install(self, readdress: Callable[[str, str], None], random: Random) -> None:
        """
        Attach the NAT to a router.

        :param readdress: called with the old and the new address when the NAT's address changes.
        :param random: draws ports.
        :raise ValueError: it is attached to another router.
        """
        if self._readdress is not None:
            raise ValueError("a NAT serves one LAN")
        self._readdress = readdress
        self._random = random
        low, high = self.port_range
        self._next_port = random.randint(low, high)

    def forget(self) -> None:
        """Lose the table, as a reboot does; forwarded ports stay."""
        self._by_internal.clear()
        self._by_port.clear()
        self._flows.clear()
        self._translated.clear()

    def renumber(self, public: str) -> None:
        """
        Get another external address, as after a reconnect; the table is lost, too.

        :raise ValueError: it is attached to no router.
        """
        if self._readdress is None or self.public is None:
            raise ValueError("a NAT without a LAN has no address to change")
        self._readdress(self.public, public)
        self.public = canonical_host(public)
        self.forget()

    def forward(self, protocol: str, port: int, internal: Endpoint) -> None:
        """
        Forward packets for an external port to an internal endpoint, whatever their source. What the endpoint
        sends comes from there, except on TCP connections that have begun before.
        """
        self._forwards[protocol, port] = internal
        self._forwarded[protocol, internal] = port

    def unforward(self, protocol: str, port: int) -> None:
        """Undo `forward`."""
        del self._forwarded[protocol, self._forwards.pop((protocol, port))]

    def mappings(self, now: float) -> list[tuple[str, Endpoint, Endpoint]]:
        """The mappings that have not expired: protocol, internal endpoint, external endpoint."""
        public = self.public or ""
        return [
            (entry.protocol, entry.internal, (public, entry.external_port))
            for entry in self._by_internal.values()
            if entry.expires > now
        ]

    # -- called by the router --

    def translates(self, destination: str) -> bool:
        """Whether packets from inside to this address are for the NAT."""
        return not is_ipv6(destination) or (self.nat64 is not None and contains(self.nat64, destination))

    def as_ipv4(self, packet: Packet) -> Packet:
        """A packet from inside with its destination as an IPv4 address."""
        host, port = packet.destination
        if not is_ipv6(host):
            return packet
        return packet.translated(packet.source, (embedded(host), port)).resized(-HEADERS_DIFFER)

    def _as_inside(self, packet: Packet) -> Packet:
        """A packet to a host inside with its source in the family of its destination."""
        host, port = packet.source
        if self.nat64 is None or is_ipv6(packet.destination[0]) == is_ipv6(host):
            return packet
        source = embedding(self.nat64, host), port
        return packet.translated(source, packet.destination).resized(HEADERS_DIFFER)

    def outbound(self, packet: Packet, now: float) -> Packet | None:
        """Translate a packet that goes out; None if it is dropped."""
        if self.public is None or (self.block_udp and packet.protocol == "udp"):
            return None
        port = self._forwarded.get((packet.protocol, packet.source))
        if packet.protocol == "tcp":
            ends = packet.source, packet.destination
            if port is None:
                self._translated.add(ends)
            elif ends in self._translated:
                port = None
        if port is None:
            entry = self._entry_for(packet, now)
            if entry is None:
                return None
            port = entry.external_port
        return packet.translated((self.public, port), packet.destination)

    def inbound(self, packet: Packet, now: float) -> Packet | None:
        """Translate a packet that comes in; None if it is not let in."""
        if self.block_udp and packet.protocol == "udp":
            return None
        port = packet.destination[1]
        internal = self._admit(packet.protocol, port, packet.source, now)
        if internal is None and self.unsolicited is Unsolicited.ACCEPT and packet.protocol == "udp":
            self._flows[port, packet.source] = now + FLOW_TIME
        return None if internal is None else self._as_inside(packet.translated(packet.source, internal))

    def hairpinned(self, packet: Packet, now: float) -> Packet | None:
        """Translate a packet from inside to our own external address; None if it is dropped."""
        if self.hairpin is Hairpin.NONE:
            return None
        out = self.outbound(packet, now)
        if out is None:
            return None
        back = self.inbound(out, now)
        if back is None or self.hairpin is Hairpin.EXTERNAL:
            return back
        return back.translated(packet.source, back.destination)

    def _entry_for(self, packet: Packet, now: float) -> Entry | None:
        protocol, source, remote = packet.protocol, packet.source, packet.destination
        remote_key = self._remote_key(protocol, remote)
        key = (protocol, source, remote_key)
        entry = self._by_internal.get(key)
        if entry is not None and entry.expires <= now:
            self._drop(entry)
            entry = None
        if entry is None:
            port = self._allocate(protocol, source, remote_key, remote, now)
            if port is None:
                return None
            entry = Entry(protocol, source, port, remote_key, self.filtering)
            self._by_internal[key] = entry
            self._by_port.setdefault((protocol, port), {})[remote_key] = entry
        entry.expires = now + self._lifetime(protocol)
        entry.permissions.grant(remote, entry.expires)
        return entry

    def _remote_key(self, protocol: str, remote: Endpoint) -> RemoteKey:
        mapping = self.mapping if protocol == "udp" or self.tcp_mapping is None else self.tcp_mapping
        return _mapping_key(mapping, remote)

    def _lifetime(self, protocol: str) -> float:
        return self.timeout if protocol == "udp" else self.tcp_timeout

    def _drop(self, entry: Entry) -> None:
        del self._by_internal[entry.protocol, entry.internal, entry.remote_key]
        sharing = self._by_port[entry.protocol, entry.external_port]
        del sharing[entry.remote_key]
        if not sharing:
            del self._by_port[entry.protocol, entry.external_port]

    def _admit(self, protocol: str, port: int, remote: Endpoint, now: float) -> Endpoint | None:
        sharing = self._by_port.get((protocol, port))
        if sharing:
            # The mapping made for this very remote comes first; a shared port has no other.
            entry = sharing.get(self._remote_key(protocol, remote))
            if entry is None and len(sharing) == 1:
                entry = next(iter(sharing.values()))
            if entry is not None and entry.expires > now and entry.permissions.allows(remote, now):
                if self.refresh_inbound:
                    entry.expires = now + self._lifetime(protocol)
                    entry.permissions.grant(remote, entry.expires)
                return entry.internal
        return self._forwards.get((protocol, port))

    # -- ports --

    def _allocate(
        self, protocol: str, internal: Endpoint, remote_key: RemoteKey, remote: Endpoint, now: float
    ) -> int | None:
        low, high = self.port_range
        parity = internal[1] % 2 if self.port_parity else None

        def is_free(port: int) -> bool:
            if protocol == "udp" and self._flows.get((port, remote), 0.0) > now:
                return False
            return (parity is None or port % 2 == parity) and self._is_free(protocol, port, remote_key, now)

        if self.ports is Ports.PRESERVING:
            start = internal[1] if low <= internal[1] <= high else self._random.randint(low, high)
            if protocol == "udp" and self._flows.get((start, remote), 0.0) > now:
                # As Linux does if a flow of its own has the port
                start = self._random.randint(low, high)
            return self._next_free(start, is_free)
        if self.ports is Ports.SEQUENTIAL:
            self._let_others_take(now)
            port = self._next_free(self._next_port or low, is_free, self.step)
            if port is not None:
                self._next_port = self._stepped(port)
            return port
        for _ in range(64):
            port = self._random.randint(low, high)
            if is_free(port):
                return port
        return self._next_free(self._random.randint(low, high), is_free)

    def _let_others_take(self, now: float) -> None:
        """Skip the ports that other hosts have taken since the last time (a Poisson process)."""
        while self.others:
            self._taken_at += self._random.expovariate(self.others)
            if self._taken_at >= now:
                # The next one has no memory of the wait so far
                self._taken_at = now
                return
            self._next_port = self._stepped(self._next_port)

    def _stepped(self, port: int) -> int:
        """The port after this one, around the ends of the range."""
        low, high = self.port_range
        return low + (port - low + self.step) % (high - low + 1)

    def _next_free(self, start: int, is_free: Callable[[int], bool], step: int = 1) -> int | None:
        low, high = self.port_range
        size = high - low + 1
        for number in range(size):
            port = low + (start - low + number * step) % size
            if is_free(port):
                return port
        return None

    def _is_free(self, protocol: str, port: int, remote_key: RemoteKey, now: float) -> bool:
        if (protocol, port) in self._forwards:
            return False
        sharing = self._by_port.get((protocol, port))
        if not sharing:
            return True
        for entry in [entry for entry in sharing.values() if entry.expires <= now]:
            self._drop(entry)
        if self.overload and self.mapping is not Mapping.EIM:
            return remote_key not in sharing
        return not sharing


@dataclass
class Firewall:
    """A stateful packet filter without translation: for IPv6, and for IPv4 with public addresses."""

    filtering: Filtering = Filtering.APDF
    timeout: float = 120.0
    tcp_timeout: float = _TCP_TIMEOUT
    block_udp: bool = False
    _sessions: dict[tuple[str, Endpoint], Permissions] = field(default_factory=dict, repr=False)

    def outbound(self, packet: Packet, now: float) -> Packet | None:
        """Return the packet if it may go out, else None."""
        if self.block_udp and packet.protocol == "udp":
            return None
        session = self._sessions.setdefault((packet.protocol, packet.source), Permissions(self.filtering))
        lifetime = self.timeout if packet.protocol == "udp" else self.tcp_timeout
        session.grant(packet.destination, now + lifetime)
        return packet

    def inbound(self, packet: Packet, now: float) -> Packet | None:
        """Return the packet if it may come in, else None."""
        if self.block_udp and packet.protocol == "udp":
            return None
        session = self._sessions.get((packet.protocol, packet.destination))
        return packet if session is not None and session.allows(packet.source, now) else None

    def forget(self) -> None:
        """Lose all state, as a reboot does."""
        self._sessions.clear()
