"""
The candidates that this side has for a call or an ICE restart, and their description for the other side.
"""

from __future__ import annotations

from punch.ice.agent import Agent
from punch.ice.checks import IceCredentials
from punch.identity import PeerID
from punch.node.calls.call_context import CallContext
from punch.node.calls.description import Description
from punch.node.network.relay import RelayClient
from punch.node.policies import RelayPolicy
from punch.wire.address import Address


def new_agent(
    context: CallContext, peer: PeerID, *, controlling: bool, restart: bool = False
) -> tuple[Agent, Description]:
    """
    Return an agent with all candidates that are known at once, and the description for an offer or answer.

    :param restart: the agent is for an ICE restart; `Agent` says what it does differently.
    """
    agent = Agent(
        controlling=controlling,
        credentials=IceCredentials.generate(context.random),
        random=context.random,
        pacing=context.pacing,
        steady=restart,
        budget=context.budgets.of(peer, context.monotonic()),
        familiar=context.paths.hosts(peer),
        refused=context.network.clat.translates,
    )
    network = context.network
    bases = network.refresh()
    if context.relay_policy is not RelayPolicy.ONLY:
        for base in bases:
            agent.add_local_address(base)
        # Before those that reflectors see: behind some NATs, only these work
        for mapping in network.port_mappings.current:
            agent.reflexive.add_mapped(mapping.base, mapping.external)
        for base, mapped in network.reflexive_addresses.mappings():
            if base in bases:
                agent.reflexive.add(base, mapped)
    if context.relay_policy is not RelayPolicy.NEVER:
        for relay in network.relays.current:
            add_relay(agent, relay, context)
    while agent.next_event() is not None:
        pass  # The description contains these candidates
    return agent, describe(agent, context)


def describe(agent: Agent, context: CallContext) -> Description:
    """Return the description of an agent with the candidates that it has now."""
    credentials = agent.credentials
    return Description(
        context.name(),
        credentials.ufrag,
        credentials.password,
        round(context.pacing * 1000),
        tuple(agent.local_candidates),
        complete=not any(servers(context)) and not context.network.port_mappings.may_follow,
        nats=tuple(context.network.nat_observer.current),
    )


def add_relay(agent: Agent, relay: RelayClient, context: CallContext) -> None:
    """Add a relayed candidate and, unless our addresses are to stay hidden, a server-reflexive one."""
    hidden = context.relay_policy is RelayPolicy.ONLY
    if relay.base is not None and relay.mapped is not None and not hidden:
        agent.reflexive.add(relay.base, relay.mapped, relay.source)
    mapped = None if hidden else relay.mapped
    agent.add_relayed(relay.local, mapped, relay.source, streamed=relay.base is None, host=relay.host)


def servers(context: CallContext) -> tuple[list[Address], bool]:
    """Return the reflectors to ask for candidates, and whether there are relays to ask."""
    policy = context.relay_policy
    reflectors = [] if policy is RelayPolicy.ONLY else context.network.reflectors
    return reflectors, policy is not RelayPolicy.NEVER and context.network.relays.available
