"""
One call with one peer and the link it becomes: joins signaling, ICE transport and link.

QUIC sees one constant peer address. The ICE transport decides which path its datagrams take: the selected
pair or, until there is one, the path on which an Initial came from an address that passed an authenticated
check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from punch.ice import events as ice
from punch.ice.agent import Agent
from punch.ice.checklist import PairStatus
from punch.ice.failure import CheckingFailure
from punch.ice.pairs import Pair
from punch.ice.punching.techniques import Technique
from punch.identity import PeerID
from punch.link.core import LinkCore
from punch.link.events import CloseCode, LinkError, LinkRole
from punch.link.frames import FrameError, OptionalFrameType, decode_slowed
from punch.link.link import Link, LinkClosed
from punch.link.proof import LinkCertificate
from punch.link.status import LinkStatus, Path
from punch.net.driver import Driver, Timed, Timer
from punch.node.call_context import CallContext
from punch.node.causes import Cause, RelayFailure, SimpleCause, cause_of_close
from punch.node.events import (
    CallState,
    Checking,
    Connected,
    Event,
    Introduced,
    PathChanged,
    PathLost,
    PathSlowed,
)
from punch.node.ice_restart import IceRestarts, LinkTerms
from punch.node.ice_transport import IceTransport, describe, new_agent
from punch.node.path import DebouncedPath
from punch.node.punching.coordinator import Punching
from punch.node.signaling import (
    Challenged,
    Introduction,
    MoreCandidates,
    Signaling,
    SignalingEvent,
)
from punch.node.tcp_punching import TCPPunching
from punch.wire.address import Address
from punch.wire.control import ErrorCode
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.ice_restart import RestartError
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.peers.prekey import PrekeyError
from punch.wire.peers.punching import PunchingError
from punch.wire.peers.sealed import Envelope
from punch.wire.stun_attributes import RelayLimit

RELAYED = 10.0
"""Seconds that a link must have lasted when it ends on a relay, for that to be remembered."""
LASTED = 3.0
"""Seconds after which the path of a link is remembered, or at the end of a shorter link."""
ANSWER_TIME = 3.0
"""Seconds that a link has to answer when its peer is called again, before a new call is placed."""

PREKEY_DELAY = 5.0
"""
Seconds after which a link tells our prekey, if nothing is under way on it then: on a slow line, it would
delay what is, and lengthen the round trips by which queues are judged. Else it is tried again later.
"""


class Call:
    """
    One call with one peer, from the offer to the end of the link. Made with `outgoing` or `incoming`.

    :ivar signaling: its signaling.
    :ivar transport: its ICE transport; None while an incoming call rings.
    :ivar restarts: finds new paths for the link; None until it is proved. It begins nothing until there was
        a path: a link that is proved before fails like one that is not.
    :ivar punching: finds a direct path while there is a relayed one; None until the link is proved.
    :ivar tcp_punching: the same over TCP.
    :ivar link: the link; None until the introduction.
    :ivar pair: the selected pair, or the last one; None until there is one.
    :ivar guest: whether nobody was asked, and the call was accepted for a service (`Services.answer`).
    """

    def __init__(self, signaling: Signaling, context: CallContext) -> None:
        self.signaling = signaling
        self.transport: IceTransport | None = None
        self.restarts: IceRestarts | None = None
        self.punching: Punching | None = None
        self.tcp_punching: TCPPunching | None = None
        self.link: Link | None = None
        self.pair: Pair | None = None
        self.guest = False
        self._context = context
        self._checking = False
        self._status: LinkStatus | None = None
        self._over = False
        self._certificate: LinkCertificate | None = None
        self._terms: LinkTerms | None = None
        self._connected_at = 0.0
        # In which network this machine was when the pair was selected
        self._pair_network: str | None = None
        self._nats: tuple[NatProfile, ...] = ()
        self._found: list[Candidate] = []
        self._gathered = False
        self._asker: Callable[[Call, bool], None] | None = None
        self._driver = Driver(context.clock, context.monotonic, self._step, self._timed)
        self._debounced_path = DebouncedPath(self._tell_path)
        self._prekey_timer = Timer(context.clock)
        self._path_timer = Timer(context.clock)
        self._prekey_received = False

    @classmethod
    def outgoing(cls, peer: PeerID, context: CallContext) -> Call:
        """
        Call `peer`: the offer is sent at once, with the candidates known now.

        :raise SealError: the peer's key cannot be sealed to.
        """
        now = context.monotonic()
        agent, description = new_agent(context, peer, controlling=True)
        description = replace(description, time=context.offer_times.next())
        signaling = Signaling.outgoing(
            context.identity,
            peer,
            description,
            prekey=context.prekeys.of(peer),
            random=context.random,
            now=now,
        )
        call = cls(signaling, context)
        context.channel.add(signaling, call.changed)
        call._start_transport(agent, now)
        return call

    @classmethod
    def incoming(cls, signaling: Signaling, context: CallContext) -> Call:
        """Make a call of an offer that was received; it rings until `accept` or `reject`."""
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
        if self._status is not None:
            disconnected = self.restarts is not None and self.restarts.disconnected is not None
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
        """Give the call up without telling the node, because another one takes its place."""
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
        if self.tcp_punching is not None:
            self.tcp_punching.network_changed()
        self.changed()

    def nat_observed(self) -> None:
        """There is a new observation of the NAT in front of this machine."""
        if self.punching is not None and not self._over:
            self.punching.nat_observed(self._context.monotonic())

    def port_mappings_changed(self) -> None:
        """A router has mapped a port, or none that was asked will do so soon."""
        transport = self.transport
        if transport is None or self._over:
            return
        now = self._context.monotonic()
        added, restarts = transport.port_mappings_changed(now), self.restarts
        if added and restarts is not None and self.signaling.released and not transport.generations.number:
            # Too late for the call, whose candidates were complete
            restarts.address_found(now)
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
        """
        Take an offer of the peer if it restarts this link.

        :return: whether it does.
        """
        if self.restarts is None or self._over:
            return False
        taken = self.restarts.receive_offer(call_id, offer, self._context.monotonic())
        self.changed()
        return taken

    # What the parts say

    def changed(self) -> None:
        """A part has something to send, or an event."""
        self._driver.run()

    # Inside

    @property
    def _may_restart(self) -> IceRestarts | None:
        """What finds new paths for a link that had one; None: it is not proved, or had none yet."""
        return None if self.pair is None else self.restarts

    @property
    def _path(self) -> Path | None:
        """The path of the link, or its last one; None until there is one."""
        pair = self.pair
        if pair is None:
            return None
        rtt = pair.rtt or (self.link.rtt if self.link is not None else None) or 0.0
        return Path(pair.path, pair.local.address, pair.remote_address, pair.local.protocol, rtt)

    def _start_transport(self, agent: Agent, now: float) -> None:
        self.transport = IceTransport(agent, self.peer, self._context, self.changed, self._slowed)
        self.transport.gather(now)
        self.changed()

    def _timed(self) -> list[Timed]:
        parts = (self.signaling, self.transport, self.restarts, self._debounced_path)
        return [part for part in parts if part is not None]

    def _step(self, now: float) -> bool:
        progress = False
        self._context.channel.flush(self.signaling)
        transport = self.transport
        if transport is not None:
            if self.restarts is not None:
                self.restarts.take_events(now)
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
        if transport.generations.number and self.restarts is not None:
            self.restarts.add_candidates(found)
        else:
            self.signaling.add_candidates(found, gathered)
        return True

    def _take_ice_event(self, event: ice.Event, now: float) -> None:
        if isinstance(event, ice.LocalCandidate):
            self._found.append(event.candidate)
        elif isinstance(event, ice.GatheringDone):
            self._gathered = True
        elif isinstance(event, ice.CheckingStarted):
            if self._status is None:
                self._checking = True
                self._tell(Checking(self.peer, event.pairs))
        elif isinstance(event, (ice.Selected, ice.Recovered)):
            self._use_pair(event.pair, now)
        elif isinstance(event, ice.ChecksUnanswered):
            if self.restarts is not None and self.transport is not None:
                # Have relays ready in case the path is dead
                self.transport.join_relays()
                self._context.calls.call_silent()
        elif isinstance(event, (ice.PairDisconnected, ice.ConsentLost)):
            if isinstance(event, ice.ConsentLost) and self.transport is not None:
                self.transport.leave_route()
            if self.restarts is not None:
                self.restarts.path_unresponsive(now)
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
            time=context.offer_times.next(),
            challenge=challenge,
        )
        context.channel.remove(self.signaling)
        self.signaling = Signaling.outgoing(
            context.identity,
            self.peer,
            description,
            prekey=context.prekeys.of(self.peer),
            random=context.random,
            now=now,
        )
        context.channel.add(self.signaling, self.changed)

    def _introduce(self, event: Introduction, now: float) -> None:
        context, transport, remote = self._context, self.transport, event.remote
        assert transport is not None
        core = LinkCore(
            role=self.signaling.role,
            identity=context.identity,
            remote=self.peer,
            offer_digest=event.offer_digest,
            answer_digest=event.answer_digest,
            certificate=self._certificate,
            certificate_sha256=event.certificate_sha256,
            random=context.random,
            clock=context.monotonic,
            now=now,
        )
        digest = event.certificate_sha256 if self._certificate is None else self._certificate.sha256
        assert digest is not None
        self._terms = LinkTerms(event.offer_digest, digest)
        self._nats = remote.nats
        self.link = link = Link(
            core,
            clock=context.clock,
            monotonic=context.monotonic,
            send=transport.send,
            services=context.services,
            guest=self.guest,
            status=self._link_status,
        )
        transport.carry(link)
        link.on_connection_id = self._route
        link.on_control = self._receive_frame
        link.when_proved().addCallbacks(self._link_proved, lambda failure: None)
        link.when_closed().addCallback(self._link_closed)
        self._tell(Introduced(self.peer, self.name or ""))
        transport.set_remote(remote.ufrag, remote.password, remote.pacing_ms, now)
        transport.add_remote(remote.candidates, remote.complete, now)

    def _use_pair(self, pair: Pair, now: float) -> None:
        previous, self.pair = self.pair, pair
        self._pair_network = self._context.network.key
        link, restarts = self.link, self.restarts
        assert link is not None
        assert self.transport is not None
        moved = self.transport.use_pair(pair, now)
        if previous is None:
            link.start(self.transport.early_wait(pair, now))
            if restarts is None:
                return
        back = self.state is CallState.DISCONNECTED
        if restarts is not None:
            restarts.path_found(now)
        if self.punching is not None:
            self.punching.path_changed(now)
        if self.tcp_punching is not None:
            self.tcp_punching.path_changed(now)
        if moved or back:
            link.path_changed()
        self._announce()
        path = self._path
        if path is not None and self.state is CallState.CONNECTED:
            self._debounced_path.changed(path, now)

    def _transport_failed(self, failure: CheckingFailure | None, now: float) -> None:
        if self._may_restart is not None:
            self._may_restart.generation_failed(now)
        else:
            self.signaling.fail(self._context.network.no_path(failure))

    def _route(self, connection_id: bytes, added: bool) -> None:
        if not self._over and self.transport is not None:
            self._context.network.router.route(connection_id, self.transport, added)

    def _receive_frame(self, frame_type: int, payload: bytes) -> None:
        if self.restarts is None or self.link is None or self._over:
            return
        assert self.punching is not None
        assert self.tcp_punching is not None
        now = self._context.monotonic()
        try:
            self.restarts.receive_frame(frame_type, payload, now)
            self.punching.receive_frame(frame_type, payload, now)
            self.tcp_punching.receive_frame(frame_type, payload, now)
            if frame_type == OptionalFrameType.PREKEY:
                self._learn_prekey(payload)
            elif frame_type == OptionalFrameType.SLOWED:
                self._slowed_there(decode_slowed(payload), now)
        except (RestartError, PunchingError, PrekeyError, FrameError) as error:
            self.link.fail(CloseCode.PROTOCOL, f"The other side's control frames are wrong: {error}.")
        else:
            self.changed()

    def _send_prekey(self) -> None:
        assert self.link is not None
        if not self.link.core.delivered():
            self._prekey_timer.start(PREKEY_DELAY, self._send_prekey)
            return
        with suppress(LinkError):  # The link is over; `Link.when_closed` tells
            self.link.send_control(OptionalFrameType.PREKEY, self._context.prekeys.own)

    def _learn_prekey(self, signed: bytes) -> None:
        if self._prekey_received:
            # Each would be checked and written
            raise PrekeyError("a prekey comes once")
        self._prekey_received = True
        context = self._context
        context.prekeys.learn(self.peer, signed, keep=context.calls.knows(self.peer))

    def _link_proved(self, result: object) -> None:
        if self._over:
            return
        assert self._terms is not None
        assert self.link is not None
        assert self.transport is not None
        now = self._context.monotonic()
        self.transport.link_proved()
        self.restarts = IceRestarts(
            self.peer,
            self._terms,
            self.link,
            self.transport,
            self._context,
            changed=self.changed,
            path_lost=self._path_lost,
        )
        self.restarts.path_found(now)
        self.punching = Punching(
            self.peer, self.link, self.transport, self._context, self._nats, self.changed
        )
        self.punching.path_changed(now)
        self.tcp_punching = TCPPunching(self.peer, self.link, self.transport, self._context, self.changed)
        self.tcp_punching.path_changed(now)
        if self._context.prekeys.own:
            self._prekey_timer.start(PREKEY_DELAY, self._send_prekey)
        self.signaling.link_proved()
        self._announce()
        self.changed()

    def _announce(self) -> None:
        path, link = self._path, self.link
        if self.restarts is not None and path is not None and link is not None and self._status is None:
            self.signaling.path_found()
            self._status = LinkStatus(
                path,
                self._context.wall(),
                post_quantum=link.post_quantum,
                post_quantum_offers=self.signaling.post_quantum,
            )
            self._connected_at = self._context.monotonic()
            self._debounced_path.announced(path)
            self._path_timer.start(LASTED, self._remember_path)
            self._tell(Connected(self.peer, self.name or "", path, link))

    def _tell_path(self) -> None:
        path = self._path
        if path is not None and self._status is not None:
            self._status = replace(self._status, path=path, disconnected=False)
            if not self._path_timer.running:
                # Not at once: the other side may change the path as often as it likes, and this is written
                self._path_timer.start(LASTED, self._remember_path)
            self._tell(PathChanged(self.peer, path))

    def _remember_path(self, *, over: bool = False) -> None:
        """
        Remember a direct path over UDP that works, and when the link is `over` a relayed one that has lasted.
        """
        pair, transport, network = self.pair, self.transport, self._pair_network
        if pair is None or network is None or transport is None or not transport.generations.working:
            return
        if pair.path != "relay":
            if pair.local_base.protocol == "tcp":
                return  # The next call begins over UDP, about which this tells nothing
            opened = self.punching is not None and pair.local_base in transport.generations.use.openings
            technique = self.punching.status.technique if opened and self.punching else Technique.ICE
            host = pair.remote_address.host
            self._context.paths.worked(self.peer, network, host, pair.path, technique)
        elif over and self._nats and self._context.monotonic() >= self._connected_at + RELAYED:
            self._context.paths.worked(self.peer, network, self._nats[0].host, pair.path, Technique.RELAY)

    def _path_lost(self) -> None:
        """The link has had no path for a while."""
        self._debounced_path.lost()
        if self._status is not None:
            self._status = replace(self._status, disconnected=True)
        failure = self._context.network.relays.failure
        refused = failure if failure in (RelayFailure.QUOTA, RelayFailure.FULL) else None
        self._tell(PathLost(self.peer, self.name, refused))

    def _slowed(self, limit: RelayLimit, begins: bool) -> None:
        """A relay of ours drops datagrams of the path. Its other side is not told by it, but by us."""
        if self._status is None or self.link is None:
            return
        if begins:
            self._tell(PathSlowed(self.peer, limit, self.name))
        with suppress(LinkError):
            self.link.send_control(OptionalFrameType.SLOWED, bytes([limit]))
        self.changed()

    def _slowed_there(self, limit: RelayLimit | None, now: float) -> None:
        """A relay of the other side drops datagrams of the path; None: because of a limit not known here."""
        path = self._path
        if limit is None or self.transport is None or self._status is None:
            return
        # The path may have changed while the frame was on its way
        if path is not None and path.kind == "relay" and self.transport.peer_limited(limit, now):
            self._tell(PathSlowed(self.peer, limit, self.name, there=True))

    def _link_status(self) -> LinkStatus | None:
        if self._status is None or self.transport is None:
            return self._status
        return replace(self._status, slowed=self.transport.limit(self._context.monotonic()))

    def _tell(self, event: Event) -> None:
        self._context.calls.call_event(self, event)

    def _answered(self, answered: bool) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            asker(self, answered)

    def _link_closed(self, closed: LinkClosed) -> None:
        if self._over:
            return
        proved = self.restarts is not None
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
        if self._status is not None:
            self._remember_path(over=True)
        self._over = True
        self.signaling.link_ended()
        self._context.channel.remove(self.signaling)
        self._driver.stop()
        self._prekey_timer.cancel()
        self._path_timer.cancel()
        if self.restarts is not None:
            self.restarts.close()
        if self.punching is not None:
            self.punching.close()
        if self.tcp_punching is not None:
            self.tcp_punching.close()
        if self.transport is not None:
            self.transport.close()
