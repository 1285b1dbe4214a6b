"""What the rendezvous is told when it starts: where to listen, which key to show, what strangers may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from punch.identity import Identity
from punch.rendezvous.deny import DenyList
from punch.turn.server.settings import RelaySettings
from punch.wire.rendezvous_address import DEFAULT_PORT
from punch.wire.turn_uri import TurnURI

DEFAULT_REFLECTOR_PORT = 3478


@dataclass(frozen=True)
class RendezvousLimits:
    """
    Bounds on everything a stranger can make grow. Times are seconds. An address is an IPv4 address or an
    IPv6 /64; an IPv6 /56 has twice as much, an IPv4 /24 or an IPv6 /48 four times as much.
    """

    handshakes: int = 512
    """Connections in all that have not finished their TLS handshake."""
    handshakes_per_address: int = 256
    """Beyond, the oldest of that address ends."""
    handshake_share: float = 0.5
    """Seconds of the processor a second that all handshakes together may take; they take turns by address."""
    handshake_time: float = 10.0
    handshake_bytes: int = 65_536
    cpu_share: float = 0.75
    """Seconds of the processor a second that all control connections together may take for long…"""
    cpu_burst: float = 0.5
    """…and at once…"""
    cpu_share_per_address: float = 0.25
    """…and those from one address for long…"""
    cpu_burst_per_address: float = 0.25
    """…and at once; beyond, those that take most are not read from for a while."""
    connections: int = 12_000
    """One in eight, at most two for each of `handshakes`, is kept for those in their handshake."""
    connections_per_address: int = 256
    register_time: float = 10.0
    """From the handshake to the `register` line."""
    registrations: int = 10_000
    """Peers in all; one place in eight is kept for peers that were registered before."""
    registrations_per_address: int = 256
    message_rate: float = 20.0
    """Lines a second that one peer may send for long…"""
    message_burst: float = 200.0
    """…and at once."""
    address_rate: float = 400.0
    """The same for all peers at one address together; beyond, those that send most are slowed down."""
    address_burst: float = 4000.0
    introductions: int = 2_000
    """Introductions going on in all; one in eight is kept for peers that have talked before."""
    introductions_per_address: int = 128
    calls_per_caller: int = 16
    """Calls of one peer that ring."""
    calls_per_callee: int = 8
    """Calls of strangers that ring at one peer. Callers that it has answered before have as many places."""
    incoming_rate: float = 5.0
    """Calls a second that one peer is told of for long…"""
    incoming_burst: float = 40.0
    """…and at once; beyond, it is busy."""
    calls_per_source: int = 2
    """Of the calls that ring at one peer, those from one address: no stranger alone makes another busy…"""
    source_rate: float = 2.0
    """…not with calls that follow each other, either: a second, for long, from one address to one peer…"""
    source_burst: float = 20.0
    """…and at once."""
    answered_per_callee: int = 24
    """Calls that one peer has answered, and that are not over; beyond, older ones end for newer ones."""
    answered_per_source: int = 6
    ring_time: float = 60.0
    answered_time: float = 60.0
    """How long candidates are forwarded after an answer."""
    keepalive: float = 20.0
    """After so long without a message a peer sends a ping…"""
    return_rate: float = 100.0
    """Registrations a second when the peers come back, if TCP was not accepted for a while."""
    silence: float = 50.0
    """…and after so long without a line its connection is given up."""
    unread_bytes: int = 262_144
    """What may wait for a peer that does not read."""
    relay_allocations: int = RelaySettings.allocations
    """Relayed addresses in all."""
    relay_allocations_per_peer: int = RelaySettings.allocations_per_user
    relay_allocations_per_address: int = RelaySettings.allocations_per_address
    """Identities cost nothing: without this, one machine could have all of them."""
    relay_rate: float = RelaySettings.rate
    """Bytes a second that are relayed for all peers together…"""
    relay_rate_per_peer: float = RelaySettings.rate_per_user
    """…and for one; what comes beyond is lost."""
    relay_lifetime: float = RelaySettings.lifetime
    """The longest that an allocation lives without a refresh."""
    relay_credentials_time: float = 1800.0
    """How long credentials for the relay are good: registered peers ask for new ones in time…"""
    relay_nonce_time: float = RelaySettings.nonce_time
    """…and how long the nonce that comes with them: after this time a peer asks for new ones."""
    relay_requests_rate: float = RelaySettings.requests_rate
    """Requests a second with credentials, of all clients of the relay at one address, for long…"""
    relay_requests_burst: float = RelaySettings.requests_burst
    """…and at once; beyond, those that ask most get no answer, or are read from more slowly."""
    relay_idle_time: float = 10.0
    """How long a TCP connection without an allocation stays."""

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


@dataclass(frozen=True)
class ServerCertificate:
    """What the service shows in TLS: its certificate, those of the authorities between, and the key."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes


@dataclass(frozen=True)
class AlternateAddress:
    """A further address of the reflector: `shown` to peers, and what this machine has it as, its `own`."""

    shown: str
    own: str


@dataclass(frozen=True)
class RendezvousConfig:
    """All that `make_service` needs to know."""

    identity: Identity
    """The service's own key, whose hash is the pin."""
    control: str | Sequence[str] | None = None
    """Twisted server endpoint strings; None: `port` on all IPv4 and IPv6 addresses."""
    port: int = DEFAULT_PORT
    reflector_port: int = DEFAULT_REFLECTOR_PORT
    """0 takes any free one."""
    reflector_host: str | None = None
    """The only address that the reflector answers on; None: all."""
    second_reflector: bool = True
    """Whether to have a second port for the reflector, by which peers learn what their NATs do."""
    second_reflector_port: int | None = None
    """None: the port after the first, or any free one if that is; without it if it is taken."""
    alternate_addresses: Sequence[AlternateAddress] = ()
    """Further addresses of the reflector, for the same purpose."""
    host: str | None = None
    """The name or address that peers will use; None: the one listened on, or `primary_address`."""
    public_port: int | None = None
    """The TCP port that peers will use; None: the one listened on."""
    primary_address: str = "127.0.0.1"
    certificate: ServerCertificate | None = None
    """One kept from before for `identity`; None makes one."""
    authority_certificate: ServerCertificate | None = None
    """One issued by an authority, shown instead: peers then check names, and need no pin."""
    relay: bool = True
    """Whether to be a relay."""
    relay_addresses: Sequence[str] = ()
    """What a 1:1 NAT in front makes of our addresses, at most one of each family; peers are shown these."""
    relay_allow: Sequence[IPv4Network | IPv6Network] = ()
    """Networks that are relayed to although they are private: for laboratories."""
    relay_ports: tuple[int, int] = (49152, 65535)
    """The first and last UDP port of relayed addresses."""
    machine_addresses: Sequence[str] = ()
    """Addresses of this machine that others reach, at most one of each family."""
    turn: Sequence[TurnURI] = ()
    """TURN servers elsewhere that peers are told of."""
    turn_secret: bytes | None = None
    """What is shared with those; the service's own relay accepts credentials made with it, too."""
    log_full_addresses: bool = False
    """Whether the log has whole addresses, instead of /24s and /48s."""
    deny: DenyList = field(default_factory=DenyList)
    """Whom the operator refuses, at first."""
    limits: RendezvousLimits = field(default_factory=RendezvousLimits)

    @property
    def endpoints(self) -> Sequence[str]:
        """The endpoint strings, none for the default."""
        if self.control is None:
            return ()
        return (self.control,) if isinstance(self.control, str) else self.control
