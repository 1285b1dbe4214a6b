"""What a node has and uses at one moment, as values: `Node.status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from punch.ice.limits import Sent
from punch.ice.port_lease import MappingProtocol, PortMapping
from punch.ice.port_mapper import SentRequests
from punch.ice.punching.techniques import Technique
from punch.identity import PeerID
from punch.link.events import LinkStatus
from punch.link.services import Services
from punch.node.calls.call_context import SignalingChannel
from punch.node.calls.call_link import ProvedLink
from punch.node.calls.calls import Calls
from punch.node.network.network import Network
from punch.node.punching.coordinator import PunchingStatus
from punch.node.punching.tcp import TCPPunchingStatus
from punch.wire.address import Address
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.turn import TurnTransport


@dataclass(frozen=True)
class RelayStatus:
    """
    A relay on which this node has an allocation.

    :ivar transport: how the relay is reached.
    :ivar socket: the local address of the UDP socket it is reached from; None over TCP and TLS.
    :ivar relayed: the address that the relay forwards from.
    """

    transport: TurnTransport
    socket: Address | None
    relayed: Address


@dataclass(frozen=True)
class TechniqueStatus:
    """
    What a technique has done to get a direct path to a peer, on one link.

    :ivar attempts: how many attempts there were; 0 for connectivity checks (`Technique.ICE`), which are not
        counted as attempts.
    :ivar packets: how many packets were sent to addresses of the peer that had not answered a check yet.
    :ivar bytes: how many bytes they had, with headers.
    """

    attempts: int
    packets: int
    bytes: int


@dataclass(frozen=True)
class LinkSummary:
    """
    A link to a peer.

    :ivar name: what the peer calls itself.
    :ivar streams: how many streams are open on it.
    :ivar post_quantum: its keys were agreed with X25519MLKEM768.
    :ivar punching: what is tried for a direct path, and what that has cost.
    :ivar tcp_punching: the same for a direct path over TCP.
    :ivar techniques: what each technique that was used since the call began has done.
    """

    peer: PeerID
    name: str
    status: LinkStatus
    streams: int
    post_quantum: bool
    punching: PunchingStatus
    tcp_punching: TCPPunchingStatus
    techniques: Mapping[Technique, TechniqueStatus]


@dataclass(frozen=True)
class NodeStatus:
    """
    What a node has at one moment.

    :ivar rendezvous: the address of the rendezvous; None while the node is not registered.
    :ivar post_quantum: the keys of the connection to the rendezvous were agreed with X25519MLKEM768.
    :ivar links: the links, the oldest first.
    :ivar calling: the peers with whom a call is under way that is no link yet.
    :ivar services: the names of the services that answer here.
    :ivar sockets: the local addresses of the open UDP sockets.
    :ivar reflectors: the STUN servers that are asked for server-reflexive addresses.
    :ivar relays: the relays with an allocation.
    :ivar relay_attempts: how many relays are being asked for an allocation.
    :ivar port_mappings: the ports of routers that lead to the sockets, and to TCP ports of attempts.
    :ivar port_mapping_requests: what routers were sent to map ports, by each protocol that was used.
    :ivar nats: what is known about the NATs in front of the sockets.
    :ivar signaling: how many calls and ICE restarts exchange messages through the rendezvous.
    :ivar connection_ids: how many QUIC connection IDs lead to a call or a link.
    :ivar generations: for each peer with a link, the number of the newest ICE generation; 0 before the first
        ICE restart (RFC 8445, section 9).
    """

    rendezvous: str | None
    post_quantum: bool
    links: tuple[LinkSummary, ...]
    calling: tuple[PeerID, ...]
    services: tuple[str, ...]
    sockets: tuple[Address, ...]
    reflectors: tuple[Address, ...]
    relays: tuple[RelayStatus, ...]
    relay_attempts: int
    port_mappings: tuple[PortMapping, ...]
    port_mapping_requests: Mapping[MappingProtocol, SentRequests]
    nats: tuple[NatProfile, ...]
    signaling: int
    connection_ids: int
    generations: Mapping[PeerID, int]


def node_status(
    network: Network,
    channel: SignalingChannel,
    calls: Calls,
    services: Services,
    rendezvous: str | None,
    post_quantum: bool,
) -> NodeStatus:
    """Return what a node has now."""
    return NodeStatus(
        rendezvous=rendezvous,
        post_quantum=post_quantum,
        links=tuple(
            LinkSummary(
                peer,
                call.name or "",
                call.link.status,
                call.link.stream_count,
                call.link.post_quantum,
                call.proved.punching.status,
                call.proved.tcp_punching.status,
                _techniques(call.proved, call.transport.sent),
            )
            for peer, call in calls.links.items()
            if call.link is not None and call.link.status is not None
            if call.proved is not None and call.transport is not None
        ),
        calling=tuple(calls.attempts),
        services=tuple(services.names),
        sockets=tuple(network.sockets.bases),
        reflectors=tuple(network.reflectors),
        relays=tuple(
            RelayStatus(relay.server.url.transport, relay.base, relay.local)
            for relay in network.relays.current
        ),
        relay_attempts=network.relays.attempt_count,
        port_mappings=(*network.port_mappings.current, *network.port_mappings.tcp),
        port_mapping_requests=network.port_mappings.sent,
        nats=tuple(network.nat_observer.current),
        signaling=len(channel),
        connection_ids=network.router.connection_id_count,
        generations={
            peer: call.transport.generations.number
            for peer, call in calls.links.items()
            if call.transport is not None
        },
    )


def _techniques(proved: ProvedLink, sent: Mapping[Technique, Sent]) -> Mapping[Technique, TechniqueStatus]:
    """Return what each technique that was used on a link has done."""
    attempts = {**proved.punching.attempts, Technique.TCP: proved.tcp_punching.status.attempts}
    return {
        each: TechniqueStatus(attempts.get(each, 0), *astuple(sent.get(each, Sent())))
        for each in Technique
        if attempts.get(each) or sent.get(each, Sent()).packets
    }
