"""
The paths of one session: its ICE sessions, joined with the node's sockets and relays.

What leaves for the other side goes the way of the selected pair. Whether that way still works is noticed by
what comes back: if datagrams of the link get no answer, or come no more, the agent asks. If they get none
though the agent does (`punch.node.silence`), another path is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall

from punch.ice import events as ice
from punch.ice.agent import Agent
from punch.ice.checks import IceCredentials
from punch.ice.generations import Generations
from punch.ice.pairs import Pair
from punch.identity import PeerID
from punch.node.call_context import (
    CallContext,
    add_relay,
    reachable,
    sources,
)
from punch.node.policy import RelayPolicy
from punch.node.relay import RelayClient
from punch.node.router import Routed
from punch.node.silence import Silence
from punch.wire.address import Address
from punch.wire.candidate import Candidate, CandidateType

STABLE = 20.0
"""Seconds of a direct path after which the session needs no relay any more."""
SILENCE = 0.5
"""Seconds of silence after data was sent, or came, before the path is asked, once, whether it works."""
SLOW = 1.5
"""Round-trip times that this takes at least."""
LONG_HEADER = 0x80
"""The bit of a QUIC packet's first byte that those of a handshake have (RFC 9000, section 17.2)."""
MAX_HELD = 8
"""
Datagrams of the link that wait for an address to answer, or that are kept for another path; a handshake has
fewer.
"""
LARGE = 1100
"""Bytes of a datagram from which on the path is asked whether it carries the largest ones…"""
LARGE_GAP = 2.0
"""…at most once in so many seconds."""
HINT_GAP = 2.0
"""Seconds between two questions to our path because the other side takes another."""


class IceTransportOwner(Routed, Protocol):
    """The session whose paths these are."""

    def paths_changed(self) -> None:
        """Something is to be sent, or there are events."""


class IceTransport:
    """
    The way to one peer.

    :ivar generations: the ICE sessions.
    :ivar way: the local and remote address to send from and to now, if there are any.
    """

    def __init__(self, agent: Agent, peer: PeerID, around: CallContext, owner: IceTransportOwner) -> None:
        self.generations = Generations(agent)
        self.way: tuple[Address, Address] | None = None
        self._around = around
        self.owner = owner
        self._budget = around.budgets.of(peer, around.monotonic())
        self._silence = Silence()
        self._passed_over = False
        self._large_at = -LARGE_GAP
        self._held: list[bytes] = []
        self._handshake: list[bytes] = []
        self._remote_addresses: list[Address] = []
        self._relayed: list[Address] = []
        self._joined = False
        self._release_at: float | None = None
        self._unanswered_since: float | None = None
        self._listening: IDelayedCall | None = None
        self._hinted_at = -HINT_GAP

    # Candidates

    def start(self, now: float) -> None:
        """Gather for the newest session."""
        around, agent = self._around, self.generations.newest
        ufrags = [agent.credentials.ufrag for agent in self.generations.agents]
        around.router.listen(self.owner, ufrags)
        reflectors, relays = sources(around)
        agent.gather(reflectors, now, relays=relays)
        if relays:
            self.join_relays()

    def begin(self, agent: Agent, number: int, now: float) -> None:
        """Restart: a new session is tried."""
        self.generations.begin(agent, number, now)
        self._remote_addresses.clear()
        self._relayed = [relay.local for relay in self._around.relays.current if relay.local in agent.bases]
        self.start(now)

    def set_remote(self, ufrag: str, password: str, pacing: float, now: float) -> None:
        """What the peer's agent of the newest session is called."""
        self.generations.newest.set_remote(IceCredentials(ufrag, password), pacing, now)

    def add_remote(self, candidates: Sequence[Candidate], complete: bool, now: float) -> None:
        """The peer's candidates in the newest session."""
        agent = self.generations.newest
        never = self._around.relay_policy is RelayPolicy.NEVER
        for candidate in candidates:
            if never and candidate.type is CandidateType.RELAY:
                agent.refuse_remote(candidate.address, now)
                continue
            self._remote_addresses.append(candidate.address)
            agent.add_remote_candidate(candidate, now)
        for relay in self._around.relays.current:
            if relay.local in self._relayed:
                relay.permit(reachable(relay.local, self._remote_addresses))
        if complete:
            agent.end_of_remote_candidates(now)

    def bases_changed(self, bases: Sequence[Address], now: float) -> bool:
        """
        The machine's addresses have changed.

        :return: whether there is a new one, or that of the selected path is gone.
        """
        if self._around.relay_policy is RelayPolicy.ONLY:
            return False
        changed = False
        for agent in self.generations.agents:
            selected = agent.selected
            sockets = {base: self._socket_of(base) for base in agent.bases}
            gone = {base for base, socket in sockets.items() if socket is not None and socket not in bases}
            changed = changed or (selected is not None and selected.local_base in gone)
            agent.bases_lost(gone, now)
            for base in bases:
                if base not in agent.bases:
                    agent.add_local_address(base)
                    changed = True
        return changed

    def _socket_of(self, base: Address) -> Address | None:
        """The socket that is sent from, None for a relay that is reached over a stream."""
        return self._around.relays.base_of(base) if base in self._relayed else base

    # Relays (RelayUser)

    def join_relays(self) -> None:
        """Take part in relays from now on; if that was so already, see that they are alive."""
        self._release_at = None
        if self._joined:
            self._around.relays.leave(self)
        self._joined = sources(self._around)[1]
        if self._joined:
            self._around.relays.join(self)

    def relay_found(self, relay: RelayClient) -> None:
        """There is a relayed address: it is a candidate from now on."""
        now = self._around.monotonic()
        add_relay(self.generations.newest, relay, self._around, now)
        if relay.local not in self._relayed:
            self._relayed.append(relay.local)
        relay.permit(reachable(relay.local, self._remote_addresses))
        self.owner.paths_changed()

    def relay_lost(self, local: Address) -> None:
        """A relayed address is gone, and every path through it."""
        if local in self._relayed:
            self._relayed.remove(local)
            for agent in self.generations.agents:
                agent.remove_local(local, self._around.monotonic())
            self.owner.paths_changed()

    def relays_done(self) -> None:
        """No more relayed addresses are coming."""
        self.generations.newest.end_of_relayed_candidates(self._around.monotonic())
        self.owner.paths_changed()

    def _release_relays(self) -> None:
        """A direct path has been working for a while."""
        self._release_at = None
        self._joined = False
        self._around.relays.leave(self)
        for local in list(self._relayed):
            self.relay_lost(local)

    # Datagrams

    def receive_stun(self, data: bytes, remote: Address, local: Address) -> None:
        """A STUN message for one of the sessions."""
        self.generations.receive_datagram(data, remote, local, self._around.monotonic())

    def heard(self, remote: Address, local: Address) -> None:
        """Authentic datagrams of the link came this way."""
        if self.way == (local, remote):
            self._silence.end()
            if self._passed_over:
                self._passed_over = False
                self.generations.use.heard(self._around.monotonic())
            # From now on there is to be more: who only receives would else not notice that its path is gone
            self._expect(self._around.monotonic())
        elif self.way is not None:
            now = self._around.monotonic()
            if now >= self._hinted_at + HINT_GAP:
                # The other side may have a reason not to use our way
                self._hinted_at = now
                self.generations.use.probe(now)
                self.generations.use.check_size(now)
                self.owner.paths_changed()

    def proved(self) -> None:
        """The handshake of the link is over."""
        self._silence.prove()
        self._handshake.clear()

    def send(self, datagrams: Sequence[bytes]) -> None:
        """
        Send to the other side; without a path, datagrams are lost. Those for an address that has not answered
        a check, though one came from there, wait until it has: they are much larger than checks.
        """
        if self.way is None or not datagrams:
            return
        local, remote = self.way
        now = self._around.monotonic()
        if not self._budget.is_open(remote, now):
            self._held = [*self._held, *datagrams][-MAX_HELD:]
            return
        self._around.sockets.send(datagrams, remote, local)
        handshake = [data for data in datagrams if data[0] & LONG_HEADER]
        if handshake:
            # Twice: they are few, and the loss of one costs the handshake from half a second to several
            self._around.sockets.send(handshake, remote, local)
        if not self._silence.proved:
            self._handshake = [*self._handshake, *handshake][-MAX_HELD:]
        elif now >= self._large_at + LARGE_GAP and len(datagrams[0]) >= LARGE:
            self._large_at = now
            self.generations.use.check_size(now)
            self.owner.paths_changed()
        self._silence.sent(now)
        if self._unanswered_since is None:
            self._expect(now)

    def take(self, pair: Pair, now: float) -> bool:
        """
        Send by this pair from now on.

        :return: whether that is another way than before.
        """
        if pair.path == "relay":
            self._release_at = None
        elif self._release_at is None and self._joined:
            self._release_at = now + STABLE
        way = pair.local_base, pair.remote_address
        moved, self.way = self.way != way, way
        if moved:
            self._unanswered_since = None
            self._silence.end()
            again, self._handshake = self._handshake, []
            self.send(again)
        return moved

    def probe(self, now: float) -> None:
        """Make sure that the path works."""
        self.generations.use.probe(now)

    # Time

    def flush(self, now: float) -> None:
        """Send what the sessions have to send, and what waited for an answer."""
        if self._held and self.way is not None and self._budget.is_open(self.way[1], now):
            held, self._held = self._held, []
            self.send(held)
        for transmit in self.generations.datagrams_to_send(now):
            self._around.sockets.send([transmit.data], transmit.remote, transmit.local)

    def next_event(self, now: float) -> ice.Event | None:
        """What happened, oldest first."""
        return self.generations.next_event(now)

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        times = (self.generations.get_timer(), self._release_at, self._deadline())
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        self.generations.handle_timer(now)
        deadline = self._deadline()
        if deadline is not None and now >= deadline:
            self._silence.end()
            if self.generations.working:
                self._passed_over = True
                self.generations.use.pass_over(now)
        if self._release_at is not None and now >= self._release_at:
            if self.generations.trial is None:
                self._release_relays()
            else:
                self._release_at = now + STABLE

    def close(self) -> None:
        """No path is wanted any more."""
        if self._listening is not None and self._listening.active():
            self._listening.cancel()
        self.way = None
        self.generations.close(self._around.monotonic())
        self._around.relays.leave(self)

    def _deadline(self) -> float | None:
        """When the path is to be left because the link hears nothing on it."""
        pair = self.generations.selected
        return None if self.way is None else self._silence.deadline(None if pair is None else pair.rtt)

    def _expect(self, since: float) -> None:
        """Ask whether the path works if nothing comes back soon."""
        self._unanswered_since = since
        if self._listening is None:
            self._listening = self._around.clock.callLater(SILENCE, self._listen)

    def _listen(self) -> None:
        self._listening = None
        since, now = self._unanswered_since, self._around.monotonic()
        if since is None or self.way is None:
            return
        pair = self.generations.selected
        patience = max(SILENCE, SLOW * ((pair.rtt if pair is not None else None) or 0.0))
        if now < since + patience:
            self._listening = self._around.clock.callLater(since + patience - now, self._listen)
            return
        self._unanswered_since = None
        self.generations.use.probe(now)
        self.owner.paths_changed()
