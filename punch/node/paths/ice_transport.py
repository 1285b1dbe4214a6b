"""
The ICE transport of one call: its ICE agents (RFC 8445), joined with the sockets and relays of the node.

The link's datagrams take the selected pair. What the link receives shows whether that pair still works: if
it receives nothing, the agent checks the pair (`punch.node.paths.path.ExpectedAnswer`). If the pair answers
checks, but the link's data stays unanswered (`UnansweredData`), another pair is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from punch.ice import events as ice
from punch.ice.agent import Agent
from punch.ice.budget import Route
from punch.ice.checks import IceCredentials
from punch.ice.generations import Generations
from punch.ice.limits import Sent
from punch.ice.pairs import Pair
from punch.ice.punching.techniques import Technique
from punch.identity import PeerID
from punch.link.events import LinkRole
from punch.link.link import Link
from punch.net.deadlines import earliest
from punch.net.udp.socket_set import DatagramSender
from punch.node.calls.call_context import CallContext
from punch.node.network.relay import StreamRelayClient
from punch.node.network.tcp_connections import TCPConnection
from punch.node.paths.local_candidates import CallRelays, Openings, servers
from punch.node.paths.path import EarlyHandshake, ExpectedAnswer, UnansweredData
from punch.node.policies import RelayPolicy
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.stun_attributes import RelayLimit

LONG_HEADER = 0x80
"""The bit of a QUIC packet's first byte that is set in handshake packets (RFC 9000, section 17.2)."""
MAX_HELD = 8
"""
Datagrams of the link that are kept until an address answers, or for another path; a handshake has fewer.
"""
LARGE = 1100
"""
If the link loses something, the path is checked in full size, provided that datagrams of at least so many
bytes were sent…
"""
LARGE_GAP = 2.0
"""…at most once in so many seconds."""
HINT_GAP = 2.0
"""If the other side sends on another path, ours is checked at most once in so many seconds."""


class IceTransport:
    """
    The ICE agents of one call, and the address pair that its link's datagrams take.

    :param changed: called when there is something to send, or an event, outside of a call of the owner.
    :param slowed: called when a relay of ours drops datagrams of the path because of this limit, about every
        ten seconds, and with whether it has begun to.
    :ivar generations: the agents: that of the call, and those of ICE restarts.
    :ivar relays: the relays that the call uses.
    :ivar openings: sockets of attempts and TCP connections, of which the path may be one.
    :ivar route: the local and remote address that datagrams are sent between now, or None.
    """

    def __init__(
        self,
        agent: Agent,
        peer: PeerID,
        context: CallContext,
        changed: Callable[[], None],
        slowed: Callable[[RelayLimit, bool], None],
    ) -> None:
        self.generations = Generations(agent)
        self.route: tuple[Address, Address] | None = None
        self._sender: DatagramSender | None = None
        self._context = context
        self._changed = changed
        self._peer = peer
        self._budget = context.budgets.of(peer, context.monotonic())
        self._sent_before = self._budget.sent.by_technique
        self.relays = CallRelays(
            self.generations, context, lambda: self.route, self._relay_lost, changed, slowed
        )
        self.openings = Openings(self.generations, self._budget, context.network.sockets, context.monotonic)
        self._early = EarlyHandshake((), self._budget.early)
        self._unanswered_data = UnansweredData()
        self._left_blocked = False
        self._large = False
        self._large_at = -LARGE_GAP
        self._link: Link | None = None
        self._losses = 0
        self._held: list[bytes] = []
        self._handshake: list[bytes] = []
        self._expected_answer = ExpectedAnswer()
        self._hinted_at = -HINT_GAP

    @property
    def sent(self) -> Mapping[Technique, Sent]:
        """What was sent since the call began to addresses that had not answered, by technique."""
        sent, before = self._budget.sent.by_technique, self._sent_before
        return {each: sent[each] - before.get(each, Sent()) for each in sent}

    # Candidates

    def gather(self, now: float) -> None:
        """Gather candidates for the newest agent. `changed` may be called before this returns."""
        ufrags = [agent.credentials.ufrag for agent in self.generations.agents]
        self._context.network.router.listen(self, ufrags)
        reflectors, relays = servers(self._context)
        mappings = self._context.network.port_mappings.may_follow
        self.generations.newest.gather(reflectors, now, relays=relays, mappings=mappings)
        if relays:
            self.relays.join()

    def restart(self, agent: Agent, number: int, now: float) -> None:
        """ICE restart: try a new agent, of the generation `number`."""
        self.generations.begin(agent, number, now)
        self.openings.join(agent)
        self.relays.restart(agent)
        self.gather(now)

    def set_remote(self, ufrag: str, password: str, pacing_ms: int, now: float) -> None:
        """Set the credentials of the peer's newest agent, and its Ta in milliseconds."""
        agent = self.generations.newest
        agent.set_remote(IceCredentials(ufrag, password), pacing_ms / 1000, now)
        if not self.generations.number:
            # Not when the call began: it may have rung for a while, in which this machine moved to another
            # network
            self._early = EarlyHandshake(self._context.paths.hosts(self._peer), self._budget.early)
        self.openings.check(agent)
        if self.route is not None:
            self.openings.check_path(*self.route, now)

    def add_remote(self, candidates: Sequence[Candidate], complete: bool, now: float) -> None:
        """Add candidates of the peer's newest agent; with `complete`, no others will come."""
        agent = self.generations.newest
        never = self._context.relay_policy is RelayPolicy.NEVER
        added = []
        for candidate in candidates:
            if never and candidate.type is CandidateType.RELAY:
                agent.refuse_remote(candidate.address, now)
            elif agent.add_remote_candidate(candidate, now):
                added.append(candidate.address)
        if added:
            self.relays.add_remote(added)
        if complete:
            agent.end_of_remote_candidates()

    def port_mappings_changed(self, now: float) -> bool:
        """
        A router has mapped a port, or no router that was asked will do so soon.

        :return: whether there is a new candidate.
        """
        agent, mappings = self.generations.newest, self._context.network.port_mappings
        added = sum(
            agent.reflexive.add_mapped(mapping.base, mapping.external) for mapping in mappings.current
        )
        if not mappings.may_follow:
            agent.end_of_mapped_candidates(now)
        return added > 0

    def bases_changed(self, bases: Sequence[Address], now: float) -> bool:
        """
        The machine's addresses have changed.

        :param bases: the local addresses of its sockets.
        :return: whether there is a new one, or that of the selected pair is gone.
        """
        if self._context.relay_policy is RelayPolicy.ONLY:
            return False
        changed = False
        for agent in self.generations.agents:
            selected = agent.selected
            sockets = {base: self.relays.base_of(base) for base in agent.bases}
            gone = {base for base, socket in sockets.items() if socket is not None and socket not in bases}
            hosts = {base.host for base in bases}
            gone |= {base for base in agent.openings.bases if base.host not in hosts}
            changed = changed or (selected is not None and selected.local_base in gone)
            agent.bases_lost(gone, now)
            for base in bases:
                if base not in agent.bases:
                    agent.add_local_address(base)
                    changed = True
        if changed:
            self.generations.network_changed(now)
        return changed

    # Datagrams

    def wants(self, data: bytes) -> bool:
        """Return whether this STUN response answers a request of one of the agents."""
        return self.generations.wants(data)

    def receive_stun(self, data: bytes, remote: Address, local: Address) -> None:
        """Hand a STUN message to its agent."""
        now = self._context.monotonic()
        self.generations.receive_datagram(data, remote, local, now)
        self.openings.received_stun(local, remote, now)
        self._changed()

    def awaits_initial(self, local: Address, remote: Address) -> bool:
        """Return whether a first Initial that came between these addresses may be for the link."""
        link = self._link
        return (
            link is not None
            and link.role is LinkRole.CALLEE
            and not link.proved
            and self.generations.validated(local, remote)
        )

    def receive_link(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Take QUIC datagrams of the link."""
        link = self._link
        if link is None:
            return
        allowed = False
        if not link.proved:
            allowed = self.generations.validated(local, remote)
            if allowed and self.route is None:
                self._take_route((local, remote))
            if link.role is LinkRole.CALLEE and allowed and local not in self.relays:
                self._early.received(datagrams, remote)
        self._link_received(remote, local)
        link.receive(datagrams, allowed)

    def _link_received(self, remote: Address, local: Address) -> None:
        now = self._context.monotonic()
        if self.route == (local, remote):
            self._unanswered_data.end()
            if self._left_blocked:
                self._left_blocked = False
                self.generations.current.path.link_received(local, remote, now)
            # More is expected from now on: a side that only receives would not notice otherwise that its
            # path died
            self._expect_answer(now)
            return
        if self.route is not None and self.generations.current.path.link_received(local, remote, now):
            # Perhaps only some packets got lost on this path, which the other side still uses
            self._changed()
        elif self.route is not None and now >= self._hinted_at + HINT_GAP:
            # The other side may have a reason not to use our path
            self._hinted_at = now
            self.generations.current.path.probe(now)
            self.generations.current.path.check_size(now)
            self._changed()

    def carry(self, link: Link) -> None:
        """From now on, hand datagrams of this link to it."""
        self._link = link

    def link_proved(self) -> None:
        """The handshake of the link is over: from now on, its measurements tell about the path."""
        self._unanswered_data.prove()
        self._handshake.clear()
        self._lost_some()

    def send(self, datagrams: Sequence[bytes]) -> None:
        """
        Send datagrams of the link to the other side; without a route, they are lost.

        Datagrams of a link are much larger than checks. Those for an address that has sent a check, but has
        not answered one yet, are held until it has. Some are sent there as well (`EarlyHandshake`).
        """
        if self.route is None or not datagrams:
            return
        local, remote = self.route
        now = self._context.monotonic()
        if not self._is_validated(local, remote, now):
            self._held = [*self._held, *datagrams][-MAX_HELD:]
            if early := self._early.reply(datagrams, remote, now):
                self._context.network.sockets.send(early, remote, local)
            return
        sender = self._current_sender()
        if sender is not None:
            sender.send(datagrams, remote)
        handshake = [data for data in datagrams if data[0] & LONG_HEADER]
        if handshake and sender is not None:
            # Twice: they are few, and the loss of one delays the handshake by half a second or more
            sender.send(handshake, remote)
        if not self._unanswered_data.proved:
            self._handshake = [*self._handshake, *handshake][-MAX_HELD:]
        else:
            self._large = self._large or len(datagrams[0]) >= LARGE
            if self._large and now >= self._large_at + LARGE_GAP and self._lost_some():
                self._large, self._large_at = False, now
                self.generations.current.path.check_size(now)
                self._changed()
        if self._unanswered_data.is_burst(now):
            link = self._link
            # All of a handshake is to be answered
            self._unanswered_data.sent(now, link is None or not link.proved or link.awaits_answer)
        if not self._expected_answer.expected:
            self._expect_answer(now)

    def room(self) -> int | None:
        """Return how many bytes of the link's streams the path takes now; None for any number."""
        shared = self._shared_stream()
        return None if shared is None else shared.room(self)

    def wait_for_room(self) -> None:
        """Arrange that the link sends when the path takes data of its streams again."""
        shared = self._shared_stream()
        if shared is not None:
            shared.wait(self)

    def room_made(self) -> None:
        """The path takes data of the link's streams (RoomUser)."""
        if self._link is not None:
            self._link.room_made()

    def _current_sender(self) -> DatagramSender | None:
        """Return what sends on the path; None if nothing does."""
        if self._sender is None and self.route is not None:
            # Once for a path, and not for each turn of a bulk transfer
            self._sender = self._context.network.sockets.sender(*self.route)
        return self._sender

    def _shared_stream(self) -> StreamRelayClient | None:
        """Return the connection to a relay that the path takes, together with other links, if it does."""
        sender = self._current_sender()
        return sender if isinstance(sender, StreamRelayClient) else None

    def use_pair(self, pair: Pair, now: float) -> bool:
        """
        Send on this pair from now on.

        :return: whether its addresses are different from those before.
        """
        self.relays.path_selected(now, relayed=pair.path == "relay")
        route = pair.local_base, pair.remote_address
        moved = self.route != route
        if moved:
            self._take_route(route)
            self._expected_answer.end()
            self._unanswered_data.end()
            again, self._handshake = self._handshake, []
            self.send(again)
        return moved

    def leave_route(self) -> None:
        """Send nothing to the other side until another pair is selected, and expect nothing from it."""
        self._expected_answer.end()
        self._take_route(None)

    def _take_route(self, route: tuple[Address, Address] | None) -> None:
        shared = self._shared_stream()
        if shared is not None:
            shared.forget(self)
        self.route, self._sender = route, None

    def probe(self, now: float) -> None:
        """Check whether the path works."""
        self.generations.current.path.probe(now)

    @property
    def relayed(self) -> bool:
        """Whether the link works over a relay, and may leave it."""
        generations = self.generations
        pair = generations.selected
        auto = self._context.relay_policy is RelayPolicy.AUTO
        return auto and pair is not None and pair.path == "relay" and generations.working

    def _relay_lost(self) -> None:
        self._sender = None

    def connection_made(self, connection: TCPConnection, mapped: Address | None) -> None:
        """There is a TCP connection to the other side; `mapped` as in `Openings.connection_made`."""
        self.openings.connection_made(connection, mapped)
        self._changed()

    def connection_lost(self, connection: TCPConnection) -> None:
        """A TCP connection has ended, and with it the path on it."""
        self._sender = None
        self.openings.connection_lost(connection)
        self._changed()

    # Output and time

    def flush(self, now: float) -> None:
        """Send what the agents have to send, and datagrams of the link whose address has answered by now."""
        if self._held and self.route is not None and self._is_validated(*self.route, now):
            held, self._held = self._held, []
            self.send(held)
        sockets = self._context.network.sockets
        for transmit in self.generations.datagrams_to_send(now):
            sockets.send([transmit.data], transmit.remote, transmit.local)
            if early := self._early_initial(transmit, now):
                sockets.send(early, transmit.remote, transmit.local)

    def _early_initial(self, check: Transmit, now: float) -> Sequence[bytes]:
        """Return what the caller sends of the handshake together with this check."""
        link = self._link
        if link is None or link.role is LinkRole.CALLEE or self.route is not None:
            return ()
        return () if check.local in self.relays else self._early.initial(check, link.start_early, now)

    def early_wait(self, pair: Pair, now: float) -> float:
        """Return for how many seconds to wait on this first pair for an answer to what was sent early."""
        return self._early.wait(pair.remote_address, pair.rtt, now)

    def next_event(self, now: float) -> ice.Event | None:
        """Return the oldest event not taken yet, or None."""
        return self.generations.next_event(now)

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        times = (
            self.generations.get_timer(),
            self.relays.get_timer(),
            self._leave_deadline(),
            self._expected_answer.get_timer(),
        )
        return earliest(times)

    def handle_timer(self, now: float) -> None:
        """
        Check or leave a path on which the link receives nothing; give relays back when a direct path has
        lasted.
        """
        self.generations.handle_timer(now)
        self._probe_if_unanswered(now)
        deadline = self._leave_deadline()
        if deadline is not None and now >= deadline:
            enough_at = self._unanswered_data.enough_at
            if enough_at is None or not self.generations.working:
                self._unanswered_data.end()
            elif self.generations.current.path.leave_blocked_pair(enough_at, now):
                self._left_blocked = True
                self._unanswered_data.end()
            else:
                self._unanswered_data.postpone(now)
        self.relays.handle_timer(now)

    def close(self) -> None:
        """Close the agents, receive nothing more, and give the relays back."""
        self._context.network.router.remove(self)
        self.leave_route()
        self.generations.close(self._context.monotonic())
        self.relays.close()

    def _rtt(self) -> float | None:
        """
        Return the round trip that the link measures, which includes queues, or otherwise that of checks, in
        seconds.
        """
        rtt = None if self._link is None else self._link.rtt
        if rtt is not None:
            return rtt
        pair = self.generations.selected
        return None if pair is None else pair.rtt

    def _is_validated(self, local: Address, remote: Address, now: float) -> bool:
        """Return whether a check between these addresses was answered, so that data may be sent."""
        relayed = local in self.relays
        return self._budget.is_validated(Route(remote, local if relayed else None), now)

    def _lost_some(self) -> bool:
        """Return whether the link has lost something since the last call."""
        before = self._losses
        self._losses = 0 if self._link is None else self._link.losses
        return self._losses > before

    def _leave_deadline(self) -> float | None:
        """Return when the path is left because the link's data is unanswered."""
        return None if self.route is None else self._unanswered_data.deadline(self._rtt())

    def _expect_answer(self, now: float) -> None:
        """Check the path if nothing is received soon."""
        if self._expected_answer.expect(now):
            self._changed()

    def _probe_if_unanswered(self, now: float) -> None:
        due = self._expected_answer.get_timer()
        if due is None or now < due:
            return
        path = self.generations.current.path
        if self._link is not None and self._link.rtt is not None:
            path.measured(self._link.rtt)
        if self._expected_answer.handle_timer(now, self._rtt()):
            path.probe(now)
