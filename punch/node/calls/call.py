"""
One call with one peer and the link it becomes: joins signaling, ICE transport and link.

QUIC sees one constant peer address. The ICE transport decides which path its datagrams take: the selected
pair or, until there is one, the path on which an Initial came from an address that passed an authenticated
check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from punch.ice import events as ice
from punch.ice.agent import Agent
from punch.ice.checklist import PairStatus
from punch.ice.events import CheckingFailure
from punch.ice.pairs import Pair
from punch.identity import PeerID
from punch.link.control_stream import FrameError
from punch.link.events import CloseCode, LinkClosed, LinkRole, LinkStatus
from punch.link.link import Link
from punch.link.proof import LinkCertificate
from punch.net.driver import Driver, Timed
from punch.node.calls.call_context import CallContext
from punch.node.calls.signaling import (
    Challenged,
    Introduction,
    MoreCandidates,
    Signaling,
    SignalingEvent,
)
from punch.node.causes import Cause, SimpleCause, cause_of_close
from punch.node.events import CallState, Checking, Event, Introduced
from punch.node.paths.ice_transport import IceTransport
from punch.node.paths.local_candidates import describe, new_agent
from punch.wire.address import Address
from punch.wire.control import ErrorCode
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.link_frames import PayloadError
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.peers.prekey import PrekeyError
from punch.wire.peers.sealed import Envelope
from punch.wire.stun_attributes import RelayLimit

if TYPE_CHECKING:
    from punch.node.calls.call_link import ProvedLink
    from punch.node.paths.ice_restart import IceRestarts, LinkTerms

ANSWER_TIME = 3.0
"""Seconds that a link has to answer when its peer is called again, before a new call is placed."""


class Call:
    """
    One call with one peer, from the offer to the end of the link. Made with `outgoing` or `incoming`.

    :ivar signaling: its signaling.
    :ivar transport: its ICE transport; None while an incoming call rings.
    :ivar link: the link; None until the introduction.
    :ivar proved: what finds other paths for the link; None until it is proved.
    :ivar pair: the selected pair, or the last one; None until there is one.
    :ivar guest: whether nobody was asked, and the call was accepted for a service (`Services.answer`).
    """

    def __init__(self, signaling: Signaling, context: CallContext) -> None:
        self.signaling = signaling
        self.transport: IceTransport | None = None
        self.link: Link | None = None
        self.proved: ProvedLink | None = None
        self.pair: Pair | None = None
        self.guest = False
        self._context = context
        self._checking = False
        self._over = False
        self._certificate: LinkCertificate | None = None
        self._terms: LinkTerms | None = None
        # In which network this machine was when the pair was selected
        self._pair_network: str | None = None
        self._nats: tuple[NatProfile, ...] = ()
        self._found: list[Candidate] = []
        self._gathered = False
        self._asker: Callable[[Call, bool], None] | None = None
        self._driver = Driver(context.clock, context.monotonic, self._step, self._timed)

    @classmethod
    def outgoing(cls, peer: PeerID, context: CallContext) -> Call:
        """
        Call `peer`: the offer is sent at once, with the candidates known now.

        :raise SealError: the peer's key cannot be sealed to.
        """
        now = context.monotonic()
        agent, description = new_agent(context, peer, controlling=True)
        call = cls(context.offer(peer, description, now), context)
        context.channel.add(call.signaling, call.changed)
        call._start_transport(agent, now)
        return call

    @classmethod
    def incoming(cls, signaling: Signaling, context: CallContext) -> Call:
        """Make a call from an offer that was received; it rings until `accept` or `reject`."""
        call = cls(signaling, context)
        context.channel.add(signaling, call.changed)
        call.changed()
        return call

    @property
    def peer(self) -> PeerID:
        """The other side."""
        return self.signaling.peer

    @property
    def name(self) -> str | None:
        """The name that the other side signed, if it is known yet."""
        return self.signaling.name

    @property
    def state(self) -> CallState:
        """The state of the call or its link."""
        if self._over:
            return CallState.CLOSED
        if self.proved is not None and self.proved.reports.status is not None:
            disconnected = self.proved.restarts.schedule.disconnected
            return CallState.DISCONNECTED if disconnected else CallState.CONNECTED
        if self.signaling.role is LinkRole.CALLEE and self.transport is None:
            return CallState.RINGING
        if self.signaling.role is LinkRole.CALLER and self.link is None:
            return CallState.CALLING
        return CallState.CHECKING if self._checking else CallState.INTRODUCED

    @property
    def pairs(self) -> list[PairStatus]:
        """The candidate pairs as they are now; none while the call rings."""
        return [] if self.transport is None else self.transport.generations.pairs

    # What the user decides

    def accept(self) -> None:
        """
        Accept a ringing call. Only now are candidates of ours sent, and only to the caller.

        :raise SealError: the caller's reply key is unusable.
        """
        if self.state is not CallState.RINGING:
            return
        context = self._context
        now = context.monotonic()
        agent, description = new_agent(context, self.peer, controlling=False)
        certificate = LinkCertificate.generate(context.random)
        self.signaling.accept(description, certificate.sha256, now)
        self._certificate = certificate
        self._start_transport(agent, now)

    def reject(self, code: ErrorCode, cause: Cause) -> None:
        """Reject a ringing call, or give up one whose link is not proved yet."""
        self.signaling.reject(code, cause)
        self.changed()

    def withdraw(self) -> None:
        """Give up the call, because another one takes its place. The node is not told."""
        if self._over:
            return
        self.signaling.reject(ErrorCode.REFUSED, SimpleCause.REPLACED)
        self._close()
        if self.link is not None:
            self.link.close(CloseCode.REPLACED, "Another call took its place.")

    def ask(self, answered: Callable[[Call, bool], None]) -> None:
        """
        Ask the other side of the link whether it is still there.

        :param answered: called within `ANSWER_TIME` with whether it is; never after `hang_up`, and only
            for the first of several questions at once.
        """
        if self.link is not None and self._asker is None:
            self._asker = answered
            self.link.answers(ANSWER_TIME).addCallback(self._answered)

    @property
    def asked(self) -> bool:
        """Whether an answer to `ask` is outstanding."""
        return self._asker is not None

    def hang_up(self, code: CloseCode = CloseCode.OK, reason: str = "") -> None:
        """End the link, or the call if its link is not proved or has no path yet."""
        self._asker = None
        if self.link is not None and self.link.proved and self.pair is not None:
            self.link.close(code, reason)
            return
        rings = self.state is CallState.RINGING
        self.reject(ErrorCode.REFUSED, SimpleCause.DECLINED if rings else SimpleCause.GIVEN_UP)

    # What happens to the network

    def network_changed(self, bases: Sequence[Address]) -> None:
        """
        The addresses of this machine have changed.

        :param bases: the local addresses of its sockets.
        """
        if self.transport is None or self._over:
            return
        now = self._context.monotonic()
        if self.transport.bases_changed(bases, now) and self._may_restart is not None:
            self._may_restart.network_changed(now)
        if self.proved is not None:
            self.proved.tcp_punching.network_changed(now)
        self.changed()

    def nat_observed(self) -> None:
        """There is a new observation of the NAT in front of this machine."""
        if self.proved is not None and not self._over:
            self.proved.punching.nat_observed(self._context.monotonic())

    def port_mappings_changed(self) -> None:
        """A router has mapped a port, or no router that was asked will do so soon."""
        transport = self.transport
        if transport is None or self._over:
            return
        now = self._context.monotonic()
        added, proved = transport.port_mappings_changed(now), self.proved
        if added and proved is not None and self.signaling.released and not transport.generations.number:
            # Too late for the call, whose candidates were complete
            proved.restarts.address_found(now)
        self.changed()

    def network_back(self) -> None:
        """The network, or the rendezvous, was away and is back."""
        if self._may_restart is not None and not self._over:
            self._may_restart.network_back(self._context.monotonic())
            self.changed()

    def woke(self) -> None:
        """The machine has slept: check the path, and look for another one at the same time."""
        restarts = self._may_restart
        if self.transport is None or restarts is None or self.link is None or self._over:
            return
        now = self._context.monotonic()
        self.transport.probe(now)
        restarts.restart(now)
        self.link.path_changed()
        self.changed()

    def receive_restart(self, call_id: str, offer: Envelope) -> bool:
        """Take an offer of the peer if it restarts this link; returns whether it does."""
        if self.proved is None or self._over:
            return False
        taken = self.proved.restarts.receive_offer(call_id, offer, self._context.monotonic())
        self.changed()
        return taken

    # Called by the parts

    def changed(self) -> None:
        """A part has something to send, or an event."""
        self._driver.run()

    # Inside

    @property
    def _may_restart(self) -> IceRestarts | None:
        """What finds new paths for the link; None: it is not proved, or has had no path yet."""
        return None if self.pair is None or self.proved is None else self.proved.restarts

    def _start_transport(self, agent: Agent, now: float) -> None:
        self.transport = IceTransport(agent, self.peer, self._context, self.changed, self._slowed)
        self.transport.gather(now)
        self.changed()

    def _timed(self) -> list[Timed]:
        parts: list[Timed] = [self.signaling]
        if self.transport is not None:
            parts.append(self.transport)
        if self.proved is not None:
            parts += self.proved.timed
        return parts

    def _step(self, now: float) -> bool:
        progress = False
        self._context.channel.flush(self.signaling)
        transport = self.transport
        if transport is not None:
            if self.proved is not None:
                self.proved.restarts.take_events(now)
            transport.flush(now)
            while not self._over and (event := transport.next_event(now)) is not None:
                progress = True
                self._take_ice_event(event, now)
            progress |= self._trickle(transport)
        while not self._over and (signaling_event := self.signaling.next_event()) is not None:
            progress = True
            self._take_signaling_event(signaling_event, now)
        return progress

    def _trickle(self, transport: IceTransport) -> bool:
        """Send the candidates found since the last time (RFC 8838); return whether there were any."""
        if not self._found and not self._gathered:
            return False
        found, self._found = self._found, []
        gathered, self._gathered = self._gathered, False
        if transport.generations.number and self.proved is not None:
            self.proved.restarts.add_candidates(found)
        else:
            self.signaling.add_candidates(found, gathered)
        return True

    def _take_ice_event(self, event: ice.Event, now: float) -> None:
        if isinstance(event, ice.LocalCandidate):
            self._found.append(event.candidate)
        elif isinstance(event, ice.GatheringDone):
            self._gathered = True
        elif isinstance(event, ice.CheckingStarted):
            if self.proved is None or self.proved.reports.status is None:
                self._checking = True
                self._tell(Checking(self.peer, event.pairs))
        elif isinstance(event, (ice.Selected, ice.Recovered)):
            self._use_pair(event.pair, now)
        elif isinstance(event, ice.ChecksUnanswered):
            if self.proved is not None and self.transport is not None:
                # Have relays ready in case the path is dead
                self.transport.relays.join()
                self._context.calls.call_silent()
        elif isinstance(event, (ice.PairDisconnected, ice.ConsentLost)):
            if isinstance(event, ice.ConsentLost) and self.transport is not None:
                self.transport.leave_route()
            if self.proved is not None:
                self.proved.restarts.path_unresponsive(now)
        elif isinstance(event, ice.PathFailed):
            self._transport_failed(event.failure, now)

    def _take_signaling_event(self, event: SignalingEvent, now: float) -> None:
        if isinstance(event, Introduction):
            self._introduce(event, now)
        elif isinstance(event, Challenged):
            self._call_again(event.challenge, now)
        elif isinstance(event, MoreCandidates):
            if self.transport is not None and not self.transport.generations.number:
                self.transport.add_remote(event.candidates, event.complete, now)
        else:
            if self.signaling.prekey_refused:
                self._context.prekeys.forget(self.peer)
            self._end(event.cause)

    def _call_again(self, challenge: bytes, now: float) -> None:
        """The callee cannot tell our offer from a copy of an old one: send one with its challenge."""
        context, transport = self._context, self.transport
        assert transport is not None
        description = replace(
            describe(transport.generations.newest, context),
            complete=self.signaling.complete,
            challenge=challenge,
        )
        context.channel.remove(self.signaling)
        self.signaling = context.offer(self.peer, description, now)
        context.channel.add(self.signaling, self.changed)

    def _introduce(self, event: Introduction, now: float) -> None:
        transport, remote = self.transport, event.remote
        assert transport is not None
        # Many calls are not answered; `load_at_first_call` loads this meanwhile
        from punch.node.calls.call_link import introduced_link

        link, self._terms = introduced_link(
            self.signaling,
            event,
            self._certificate,
            transport,
            self._context,
            guest=self.guest,
            status=self._link_status,
            on_control=self._receive_frame,
            on_connection_id=self._route,
        )
        self.link = link
        self._nats = remote.nats
        link.when_proved().addCallbacks(self._link_proved, lambda failure: None)
        link.when_closed().addCallback(self._link_closed)
        self._tell(Introduced(self.peer, self.name or ""))
        transport.set_remote(remote.ufrag, remote.password, remote.pacing_ms, now)
        transport.add_remote(remote.candidates, remote.complete, now)

    def _use_pair(self, pair: Pair, now: float) -> None:
        previous, self.pair = self.pair, pair
        self._pair_network = self._context.network.key
        link, proved = self.link, self.proved
        assert link is not None
        assert self.transport is not None
        moved = self.transport.use_pair(pair, now)
        if previous is None:
            link.start(self.transport.early_wait(pair, now))
            if proved is None:
                return
        back = self.state is CallState.DISCONNECTED
        if proved is not None:
            proved.path_found(now)
        if moved or back:
            link.path_changed()
        self._announce()
        if proved is not None:
            proved.reports.pair_selected(pair, self._pair_network, now)

    def _transport_failed(self, failure: CheckingFailure | None, now: float) -> None:
        if self._may_restart is not None:
            self._may_restart.generation_failed(now)
        else:
            self.signaling.fail(self._context.network.no_path(failure))

    def _route(self, connection_id: bytes, added: bool) -> None:
        if not self._over and self.transport is not None:
            self._context.network.router.route(connection_id, self.transport, added)

    def _receive_frame(self, frame_type: int, payload: bytes) -> None:
        if self.proved is None or self.link is None or self._over:
            return
        try:
            self.proved.receive_frame(frame_type, payload, self._context.monotonic())
        except (PayloadError, PrekeyError, FrameError) as error:
            self.link.fail(CloseCode.PROTOCOL, f"The other side's control frames are wrong: {error}.")
        else:
            self.changed()

    def _link_proved(self, result: object) -> None:
        if self._over:
            return
        assert self._terms is not None
        assert self.link is not None
        assert self.transport is not None
        self.transport.link_proved()
        from punch.node.calls.call_link import ProvedLink

        self.proved = ProvedLink(
            self.name,
            self.link,
            self.transport,
            self._context,
            terms=self._terms,
            nats=self._nats,
            changed=self.changed,
            tell=self._tell,
        )
        self.proved.path_found(self._context.monotonic())
        self.signaling.link_proved()
        self._announce()
        self.changed()

    def _announce(self) -> None:
        """Report that the link is connected, unless that was reported before."""
        proved, pair = self.proved, self.pair
        if proved is not None and pair is not None and proved.reports.status is None:
            self.signaling.path_found()
            proved.reports.connected(pair, self._pair_network, self.signaling.post_quantum)

    def _slowed(self, limit: RelayLimit, begins: bool) -> None:
        if self.proved is not None:
            self.proved.reports.slowed(limit, begins)
            self.changed()

    def _link_status(self) -> LinkStatus | None:
        return None if self.proved is None else self.proved.reports.current

    def _tell(self, event: Event) -> None:
        self._context.calls.call_event(self, event)

    def _answered(self, answered: bool) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            asker(self, answered)

    def _link_closed(self, closed: LinkClosed) -> None:
        if self._over:
            return
        proved = self.proved is not None
        cause = cause_of_close(closed.code, closed.by_peer, proved)
        if proved:
            self._end(cause)
        else:
            self.signaling.fail(cause)
            self.changed()

    def _end(self, cause: Cause) -> None:
        self._close()
        if self.link is not None:
            self.link.fail(CloseCode.LOST, "The call is over.")
        self._context.calls.call_ended(self, cause)

    def _close(self) -> None:
        if self.proved is not None:
            self.proved.reports.close()
        self._over = True
        self.signaling.link_ended()
        self._context.channel.remove(self.signaling)
        self._driver.stop()
        if self.proved is not None:
            self.proved.close()
        if self.transport is not None:
            self.transport.close()
