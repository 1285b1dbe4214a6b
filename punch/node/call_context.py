"""What all sessions of a node share, and how a session's agent gets its candidates from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from punch.ice.agent import Agent
from punch.ice.budget import Budgets
from punch.ice.candidates import may_relay
from punch.ice.checks import IceCredentials
from punch.identity import Identity, PeerID, RandomBytes
from punch.link.services import Services
from punch.net.socket_set import SocketSet
from punch.node.offer_freshness import OfferTimes
from punch.node.policy import RelayPolicy
from punch.node.relay import RelayClient
from punch.node.relay_pool import RelayPool
from punch.node.router import Router
from punch.node.signaling_state import Description
from punch.wire.address import Address
from punch.wire.control import ErrorCode, Request
from punch.wire.sealed import Envelope


class CallOwner(Protocol):
    """Whoever takes part in an introduction: what the rendezvous says in it is handed here."""

    @property
    def peer(self) -> PeerID:
        """The other side."""

    def receive_answer(self, envelope: Envelope) -> None:
        """The callee's answer."""

    def receive_candidates(self, envelope: Envelope) -> None:
        """Trickled candidates."""

    def receive_end(self, code: ErrorCode) -> None:
        """The introduction is over."""

    def repeat_answer(self) -> None:
        """The same offer came again."""


@dataclass
class CallContext:
    """What all sessions of a node share."""

    identity: Identity
    name: str
    clock: IReactorTime
    monotonic: Callable[[], float]
    random: RandomBytes
    pacing: float
    sockets: SocketSet
    router: Router
    relays: RelayPool
    relay_policy: RelayPolicy
    send_control: Callable[[Request], bool]
    registered: Callable[[], bool]
    """Whether the rendezvous is there now."""
    calls: dict[str, CallOwner]
    """Who takes part in which introduction, by call ID."""
    refresh_sockets: Callable[[], list[Address]]
    """Opens what is missing; returns the local addresses to use."""
    mappings: Callable[[], list[tuple[Address, Address]]]
    """What is known about how reflectors see our sockets: local address, mapped address."""
    offer_times: OfferTimes
    """The times that our offers carry."""
    budgets: Budgets
    """What each peer may make us send to addresses that have not answered."""
    reflectors: list[Address] = field(default_factory=list)
    services: Services = field(default_factory=Services)
    """What answers the streams of links."""


def new_agent(
    around: CallContext, peer: PeerID, *, controlling: bool, steady: bool = False
) -> tuple[Agent, Description]:
    """
    An agent with all candidates that are known at once, and what an offer or answer says of it.

    :param peer: the other side.
    :param steady: as there.
    """
    agent = Agent(
        controlling=controlling,
        credentials=IceCredentials.generate(around.random),
        random=around.random,
        pacing=around.pacing,
        steady=steady,
        budget=around.budgets.of(peer, around.monotonic()),
    )
    bases = around.refresh_sockets()
    if around.relay_policy is not RelayPolicy.ONLY:
        for base in bases:
            agent.add_local_address(base)
        for base, mapped in around.mappings():
            if base in bases:
                agent.add_reflexive(base, mapped)
    if around.relay_policy is not RelayPolicy.NEVER:
        for relay in around.relays.current:
            add_relay(agent, relay, around, around.monotonic())
    while agent.next_event() is not None:
        pass  # These candidates are in the description
    return agent, describe(agent, around)


def add_relay(agent: Agent, relay: RelayClient, around: CallContext, now: float) -> None:
    """There is a relayed candidate, and, unless that is to stay hidden, a server-reflexive one."""
    hidden = around.relay_policy is RelayPolicy.ONLY
    if relay.base is not None and relay.mapped is not None and not hidden:
        agent.add_reflexive(relay.base, relay.mapped, relay.source)
    mapped = None if hidden else relay.mapped
    agent.add_relayed(relay.local, mapped, relay.source, now, streamed=relay.base is None)


def sources(around: CallContext) -> tuple[list[Address], bool]:
    """The reflectors to ask, and whether there are relays to ask."""
    policy = around.relay_policy
    reflectors = [] if policy is RelayPolicy.ONLY else around.reflectors
    return reflectors, policy is not RelayPolicy.NEVER and around.relays.available


def reachable(relayed: Address, remotes: Sequence[Address]) -> list[Address]:
    """Which of the peer's addresses that relay can reach."""
    return [remote for remote in remotes if may_relay(relayed, remote)]


def explain(around: CallContext, reason: str) -> tuple[str, str]:
    """
    Why no path was found, in two clauses: the cause, for which `reason` is the agent's, that knows of no
    policy; and what there is to say about relays.
    """
    if around.relay_policy is RelayPolicy.ONLY and not around.relays.current:
        reason = (
            "--relay only leaves no way but a relay, so use a rendezvous that has one, or call without it"
        )
    return reason, _relay_clause(around)


def _relay_clause(around: CallContext) -> str:
    """What there is to say about relays when no path was found."""
    if around.relay_policy is RelayPolicy.NEVER:
        return "relays are switched off here (--relay never)"
    if not around.relays.available and not around.relays.why_not():
        return "the rendezvous has no relay to offer"
    return around.relays.why_not() or "not even the relay led there"


def describe(agent: Agent, around: CallContext) -> Description:
    """What an offer or answer says of an agent, with the candidates that it has now."""
    credentials = agent.credentials
    return Description(
        around.name,
        credentials.ufrag,
        credentials.password,
        around.pacing,
        tuple(agent.local_candidates),
        complete=not any(sources(around)),
    )
