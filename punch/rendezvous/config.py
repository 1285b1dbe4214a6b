"""The configuration of the rendezvous: where it listens, its key, and its limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Network

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from punch.identity import Identity
from punch.rendezvous.members.lists import DenyList
from punch.turn.server.settings import RelaySettings
from punch.wire.control import RING_TIME
from punch.wire.rendezvous_address import DEFAULT_PORT
from punch.wire.turn import TurnURI

DEFAULT_REFLECTOR_PORT = 3478

_OTHER_FILES = 256
"""Descriptors for other things than connections: ports, logs, temporary files."""


@dataclass(frozen=True)
class RendezvousLimits:
    """
    Bounds on everything that a stranger can make grow. Times are in seconds. An address is an IPv4 address or
    an IPv6 /64; an IPv6 /56 has twice its limits, an IPv4 /24 or an IPv6 /48 four times.
    """

    handshakes: int = 512
    """Connections that have not finished their TLS handshake."""
    handshakes_per_address: int = 256
    """When an address has more, its oldest one is closed."""
    handshake_share: float = 0.5
    """Processor seconds per second that all handshakes together may take; addresses take turns."""
    handshake_time: float = 10.0
    handshake_bytes: int = 65_536
    cpu_share: float = 0.75
    """Processor seconds per second that all control connections together may take in the long run…"""
    cpu_burst: float = 0.5
    """…and at once…"""
    cpu_share_per_address: float = 0.25
    """…and those from one address for long…"""
    cpu_burst_per_address: float = 0.25
    """…and at once. Beyond, the connections that take most are not read from for a while."""
    connections: int = 12_000
    """
    In all. One in eight is reserved for connections in their handshake, but no more than two for each of
    `handshakes`, and one in 24 for peers that were registered before.
    """
    connections_per_address: int = 256
    register_time: float = 10.0
    """From the handshake to the `register` line."""
    registrations: int = 10_000
    """Peers in all; one place in eight is reserved for peers that were registered before."""
    registrations_per_address: int = 256
    message_rate: float = 20.0
    """Lines a second that one peer may send for long…"""
    message_burst: float = 200.0
    """…and at once."""
    address_rate: float = 400.0
    """The same for all peers at one address together; beyond, the peers that send most are slowed down."""
    address_burst: float = 4000.0
    introductions: int = 2_000
    """Introductions at the same time; one in eight is reserved for acquainted peers."""
    introductions_per_address: int = 128
    calls_per_caller: int = 16
    """Ringing calls of one caller."""
    calls_per_callee: int = 8
    """Ringing calls of strangers at one peer. Callers that it has answered before have as many places."""
    incoming_rate: float = 5.0
    """Calls a second that are delivered to one peer for long…"""
    incoming_burst: float = 40.0
    """…and at once; beyond, it is busy."""
    calls_per_source: int = 2
    """Ringing calls at one peer from one address, so that a single stranger cannot make it busy…"""
    source_rate: float = 2.0
    """…and calls a second from one address to one peer, for long…"""
    source_burst: float = 20.0
    """…and at once."""
    absent_rate: float = 10.0
    """Calls a second from one address to peers that are not registered here, for long…"""
    absent_burst: float = 300.0
    """…and at once, so that nobody can try all IDs that are derived from short numbers."""
    answered_per_callee: int = 24
    """Answered calls of one peer that are not over; beyond, older ones end for newer ones."""
    answered_per_source: int = 6
    return_notices: int = 20_000
    """Callers that are told when the peer that they called is back, counted for each such peer…"""
    return_notices_per_address: int = 128
    """…of these, those from one address…"""
    return_notices_per_callee: int = 32
    """…and those that wait for one peer."""
    return_notice_time: float = 3600.0
    """After this long without another call they are not told."""
    ring_time: float = RING_TIME
    """A call rings for this long; then the introduction ends. Both peers end the call by themselves, too."""
    answered_time: float = 60.0
    """Candidates are forwarded for this long after an answer."""
    stop_time: float = 5.0
    """Introductions that are under way may take this long when the service stops."""
    keepalive: float = 20.0
    """A peer that has sent nothing for this long sends a ping…"""
    silence: float = 50.0
    """…and after this long without a line its connection is closed."""
    return_rate: float = 100.0
    """Registrations a second that peers aim at when they reconnect after the service was unreachable."""
    unread_bytes: int = 262_144
    """Bytes that may be queued for a peer that does not read."""
    relay_allocations: int = RelaySettings.allocations
    """Relayed addresses in all."""
    relay_allocations_per_peer: int = RelaySettings.allocations_per_user
    relay_allocations_per_address: int = RelaySettings.allocations_per_address
    """Identities cost nothing: without this limit, one machine could have all relayed addresses."""
    relay_rate: float = RelaySettings.rate
    """Bytes a second that are relayed for all peers together…"""
    relay_rate_per_peer: float = RelaySettings.rate_per_user
    """…for one peer…"""
    relay_rate_per_address: float = RelaySettings.rate_per_address
    """…and for all peers at one address. Datagrams beyond are dropped."""
    relay_lifetime: float = RelaySettings.lifetime
    """The longest lifetime of an allocation without a refresh."""
    relay_credentials_time: float = 1800.0
    """The lifetime of credentials for the relay; registered peers ask for new ones in time…"""
    relay_nonce_time: float = RelaySettings.nonce_time
    """…and of the nonce that comes with them; after it a peer asks for new ones."""
    relay_requests_rate: float = RelaySettings.requests_rate
    """Requests with credentials a second, of all clients of the relay at one address, for long…"""
    relay_requests_burst: float = RelaySettings.requests_burst
    """…and at once. Beyond, the clients that ask most get no answer, or are read from more slowly."""
    relay_idle_time: float = 10.0
    """A TCP connection without an allocation is closed after this long."""

    probe_rate: float = 2.0
    """Probes of its own NAT that a peer may ask for each second, for long…"""
    probe_burst: float = 40.0
    """…and at once."""
    probe_prefix_rate: float = 20.0
    """The same for all peers whose NATs are in one IPv4 /24 or IPv6 /48."""
    probe_prefix_burst: float = 400.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            if getattr(self, entry.name) <= 0:
                raise ValueError(f"{entry.name} must be more than zero")

    def within_descriptors(self, raise_limit: Callable[[int], int], *, relay: bool) -> RendezvousLimits:
        """
        Return these limits, reduced to the available file descriptors: each connection and each relayed
        address takes one.

        :param raise_limit: asks the system for a number of descriptors, and returns how many it allows.
        :param relay: whether the service relays.
        """
        relayed = self.relay_allocations if relay else 0
        wanted = self.connections + relayed
        files = raise_limit(wanted + _OTHER_FILES)
        room = max(2, files - min(_OTHER_FILES, files // 4))
        if room >= wanted:
            return self
        relayed = relayed * room // wanted
        allocations = max(1, relayed) if relay else self.relay_allocations
        return replace(self, connections=max(1, room - relayed), relay_allocations=allocations)

    def reduced_from(self, wanted: RendezvousLimits) -> str | None:
        """A sentence for the operator if the limits that `within_descriptors` has returned are not these."""
        if self == wanted:
            return None
        limits = [(self.connections, wanted.connections, "connections")]
        if self.relay_allocations != wanted.relay_allocations:
            limits.append((self.relay_allocations, wanted.relay_allocations, "relayed addresses"))
        takes = " and ".join(f"{number} {what}" for number, _, what in limits)
        instead = " and ".join(str(number) for _, number, _ in limits)
        return (
            f"The system allows this process too few open files: it takes {takes} at most, not {instead}. "
            "Raise the limit (LimitNOFILE= of systemd, ulimit -n)."
        )


@dataclass(frozen=True)
class ServerCertificate:
    """What the service shows in TLS: its certificate, the intermediate certificates, and the key."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes


@dataclass(frozen=True)
class AlternateAddress:
    """A further address of the reflector: as peers see it (`shown`), and as this machine has it (`own`)."""

    shown: str
    own: str


@dataclass(frozen=True)
class RendezvousConfig:
    """How a `RendezvousService` is set up."""

    identity: Identity
    """The service's own key, whose hash is the pin."""
    control: str | Sequence[str] | None = None
    """Twisted server endpoint strings; None stands for `port` on all IPv4 and IPv6 addresses."""
    port: int = DEFAULT_PORT
    reflector_port: int = DEFAULT_REFLECTOR_PORT
    """0 takes any free port."""
    reflector_host: str | None = None
    """The only address that the reflector answers on; None stands for all."""
    second_reflector: bool = True
    """Whether the reflector has a second port, with which peers learn how their NATs behave."""
    second_reflector_port: int | None = None
    """None stands for the port after the first (any free one if the first is), if it is not taken."""
    alternate_addresses: Sequence[AlternateAddress] = ()
    """Further addresses of the reflector, for the same purpose."""
    host: str | None = None
    """The name or address that peers use; None stands for the one listened on, or `primary_address`."""
    public_port: int | None = None
    """The TCP port that peers use; None stands for the one listened on."""
    primary_address: str = "127.0.0.1"
    certificate: ServerCertificate | None = None
    """A certificate for `identity` that was stored before; None makes a new one."""
    authority_certificate: ServerCertificate | None = None
    """A certificate of an authority, which is shown instead: peers then check names and need no pin."""
    relay: bool = True
    """Whether the service relays."""
    relay_addresses: Sequence[str] = ()
    """The public addresses if a 1:1 NAT is in front, at most one of each family; peers are shown these."""
    relay_allow: Sequence[IPv4Network | IPv6Network] = ()
    """Private networks that are relayed to nevertheless, for test networks."""
    relay_ports: tuple[int, int] = (49152, 65535)
    """The first and last UDP port of relayed addresses."""
    machine_addresses: Sequence[str] = ()
    """Addresses of this machine that others can reach, at most one of each family."""
    relay_quota_per_peer: int | None = None
    """Bytes that are relayed for one peer in a day; None: any number…"""
    relay_quota_per_address: int | None = None
    """…and for all peers at one address."""
    turn: Sequence[TurnURI] = ()
    """Other TURN servers that peers may use."""
    turn_secret: bytes | None = None
    """The secret shared with them; the service's own relay accepts credentials made with it as well."""
    log_full_addresses: bool = False
    """Whether the log has full addresses instead of /24s and /48s."""
    log_full_peers: bool = True
    """Whether the log has whole peer IDs and names instead of the first eight characters of IDs."""
    deny: DenyList = field(default_factory=DenyList)
    """The peers and networks that the operator refuses at the start."""
    limits: RendezvousLimits = field(default_factory=RendezvousLimits)

    @property
    def endpoints(self) -> Sequence[str]:
        """The endpoint strings; empty for the default."""
        if self.control is None:
            return ()
        return (self.control,) if isinstance(self.control, str) else self.control
