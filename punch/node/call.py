"""
One call and the link it becomes: joins the call's messages, the ICE agent and the link with the node's
sockets.

QUIC sees one constant peer. Here it is decided which way its datagrams take: the pair that the agent has
selected, or, until it has, the way an Initial came from an address that passed an authenticated check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from twisted.python.failure import Failure

from punch.ice import events as ice
from punch.ice.agent import Agent
from punch.ice.checklist import PairStatus
from punch.ice.pairs import Pair
from punch.identity import PeerID
from punch.link.certificate import LinkCertificate
from punch.link.events import CloseCode
from punch.link.link import Link, LinkClosed
from punch.net.driver import Driver, Timed
from punch.node import sentences
from punch.node.call_context import (
    CallContext,
    describe,
    explain,
    new_agent,
)
from punch.node.debounced_path import DebouncedPath
from punch.node.events import Reason
from punch.node.ice_restart import IceRestarts, LinkTerms
from punch.node.ice_transport import IceTransport
from punch.node.link_endings import link_ended
from punch.node.link_probe import LinkProbe
from punch.node.linking import make_link
from punch.node.observer import CallObserver
from punch.node.signaling import Signaling
from punch.node.signaling_state import (
    CallEvent,
    Challenged,
    Introduction,
    MoreCandidates,
    Side,
)
from punch.node.trickle import CandidateTrickler
from punch.wire.address import Address
from punch.wire.control import ErrorCode
from punch.wire.ice_restart import RestartError
from punch.wire.sealed import Envelope


class Call:
    """
    One call with one peer, from the offer to the end of the link.

    :ivar call: its signalling.
    :ivar paths: its paths; None while an incoming call rings.
    :ivar roaming: what keeps the link, from its proof on.
    :ivar link: the link, from the introduction on.
    :ivar proved: the other side has proved its ID.
    :ivar pair: the path that is selected now.
    """

    def __init__(self, call: Signaling, around: CallContext, observer: CallObserver) -> None:
        self.call = call
        self.paths: IceTransport | None = None
        self.ice_restarts: IceRestarts | None = None
        self.link: Link | None = None
        self.proved = False
        self.connected = False
        self.pair: Pair | None = None
        self._around = around
        self._observer = observer
        self._certificate: LinkCertificate | None = None
        self._over = False
        self._trickle = CandidateTrickler()
        self._terms: LinkTerms | None = None
        self._pump = Driver(around.clock, around.monotonic, self._step, self._timed)
        self._link_probe = LinkProbe()
        self._news = DebouncedPath(partial(observer.call_path_changed, self))

    # Making one

    @classmethod
    def outgoing(cls, peer: PeerID, around: CallContext, observer: CallObserver) -> Call:
        """
        Call `peer`: the offer leaves at once, with the candidates that are known now.

        :raise SealError: its key cannot be sealed to.
        """
        now = around.monotonic()
        agent, description = new_agent(around, peer, controlling=True)
        description = replace(description, time=around.offer_times.next())
        call = Signaling.outgoing(around.identity, peer, description, random=around.random, now=now)
        session = cls(call, around, observer)
        session._take_agent(agent, now)
        return session

    @classmethod
    def incoming(cls, call: Signaling, around: CallContext, observer: CallObserver) -> Call:
        """A call came in: it rings until `accept` or `reject`."""
        session = cls(call, around, observer)
        session._pump.run()
        return session

    @property
    def peer(self) -> PeerID:
        """The other side."""
        return self.call.peer

    @property
    def name(self) -> str | None:
        """The name the other side signed, if it is known yet."""
        return self.call.name

    @property
    def ringing(self) -> bool:
        """An incoming call that was not decided yet."""
        return self.call.side is Side.CALLEE and self.paths is None and not self._over

    @property
    def waiting(self) -> bool:
        """An outgoing call that was not answered yet."""
        return self.call.side is Side.CALLER and self.link is None and not self._over

    @property
    def pairs(self) -> list[PairStatus]:
        """The candidate pairs as they are now; none while it rings."""
        return [] if self.paths is None else self.paths.generations.pairs

    # What the user decides

    def accept(self) -> None:
        """
        Say yes to a ringing call: only now do candidates of ours leave, and only to the caller.

        :raise SealError: the caller's reply key is unusable.
        """
        if not self.ringing:
            return
        around = self._around
        now = around.monotonic()
        agent, description = new_agent(around, self.peer, controlling=False)
        certificate = LinkCertificate.generate(around.random)
        self.call.accept(description, certificate.sha256, now)
        self._certificate = certificate
        self._take_agent(agent, now)

    def reject(self, code: ErrorCode, reason: str, text: str) -> None:
        """Say no to a ringing call, or give up one that is not linked yet."""
        self.call.reject(code, reason, text, self._around.monotonic())
        self._pump.run()

    def withdraw(self) -> None:
        """Give the call up without a word to the observer, because another one takes its place."""
        if self._over:
            return
        self.call.reject(ErrorCode.REFUSED, "", "", self._around.monotonic())
        self._finish()
        if self.link is not None:
            self.link.close(CloseCode.REPLACED, "Another call took its place.")

    def ask(self, answered: Callable[[Call, bool], None]) -> None:
        """
        Find out whether the other side is still there, and tell `answered` soon; never after `hang_up`, and
        once for all who ask meanwhile.
        """
        if self.link is not None:
            self._link_probe.ask(self.link, lambda there: answered(self, there))

    @property
    def asked(self) -> bool:
        """Somebody waits to hear whether the other side is still there."""
        return self._link_probe.pending

    def hang_up(self, code: CloseCode = CloseCode.OK, reason: str = "") -> None:
        """End the link, or the call if there is none yet."""
        self._link_probe.cancel()
        if self.proved and self.link is not None:
            self.link.close(code, reason)
        else:
            text = (
                sentences.declined(self.peer, self.name)
                if self.ringing
                else sentences.hung_up_early(self.peer, self.name)
            )
            self.reject(ErrorCode.REFUSED, ErrorCode.CANCELLED.value, text)

    # What the rendezvous brings

    def receive_answer(self, envelope: Envelope) -> None:
        """The callee's answer."""
        self.call.receive_answer(envelope, self._around.monotonic())
        self._pump.run()

    def repeat_answer(self) -> None:
        """The same offer came again: the rendezvous may have lost our answer."""
        self.call.repeat_answer()
        self._pump.run()

    def receive_candidates(self, envelope: Envelope) -> None:
        """Trickled candidates."""
        self.call.receive_candidates(envelope, self._around.monotonic())
        self._pump.run()

    def receive_end(self, code: ErrorCode) -> None:
        """The introduction is over, says the rendezvous."""
        self.call.receive_end(code, self._around.monotonic())
        self._pump.run()

    # What the sockets bring

    def receive_stun(self, data: bytes, remote: Address, local: Address) -> None:
        """A STUN message for one of our agents."""
        if self.paths is not None:
            self.paths.receive_stun(data, remote, local)
            self._pump.run()

    def wants(self, data: bytes, remote: Address) -> bool:
        """Whether this STUN response is for one of our agents."""
        return self.paths is not None and self.paths.generations.wants(data, remote)

    def awaits_initial(self, local: Address, remote: Address) -> bool:
        """Whether a first Initial that came this way may be for this link."""
        return (
            self.call.side is Side.CALLEE
            and self.link is not None
            and not self.proved
            and self.paths is not None
            and self.paths.generations.validated(local, remote)
        )

    def receive_link(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """QUIC for our link."""
        paths = self.paths
        if self.link is None or paths is None:
            return
        allowed = False
        if not self.proved:
            allowed = paths.generations.validated(local, remote)
            if allowed and paths.way is None:
                paths.way = local, remote
        paths.heard(remote, local)
        self.link.receive(datagrams, allowed)

    # What happens to the network

    def network_changed(self, bases: Sequence[Address]) -> None:
        """
        The addresses of this machine have changed.

        :param bases: the local addresses of its sockets.
        """
        if self.paths is None or self._over:
            return
        now = self._around.monotonic()
        if self.paths.bases_changed(bases, now) and self.ice_restarts is not None:
            self.ice_restarts.network_changed(now)
        self._pump.run()

    def network_back(self) -> None:
        """The network, or the rendezvous, was away and is back."""
        if self.ice_restarts is not None and not self._over:
            self.ice_restarts.network_back(self._around.monotonic())
            self._pump.run()

    def woke(self) -> None:
        """The machine has slept: nobody knows what is left of the path."""
        if self.paths is None or self.ice_restarts is None or self.link is None or self._over:
            return
        now = self._around.monotonic()
        self.paths.probe(now)
        self.ice_restarts.restart(now)
        self.link.path_changed()
        self._pump.run()

    def receive_restart(self, call_id: str, offer: Envelope) -> bool:
        """An offer of the peer came: whether it restarts this very link, and was taken."""
        if self.ice_restarts is None or self._over:
            return False
        taken = self.ice_restarts.receive_offer(call_id, offer, self._around.monotonic())
        self._pump.run()
        return taken

    # What roaming and paths say (RoamingOwner, PathsOwner)

    def paths_changed(self) -> None:
        """Something waits inside."""
        self._pump.run()

    def path_missing(self, missing: bool) -> None:
        """There is no path, or there is one again."""
        self._observer.call_disconnected(self, missing)

    def path_lost(self) -> None:
        """There has been no path for a while."""
        self._news.lost()
        self._observer.call_path_lost(self)

    def restart_over(self, gone: bool) -> None:
        """No path will come back."""
        assert self.link is not None
        text = "The other side has this link no more." if gone else "There was no path for too long."
        self.link.fail(CloseCode.LOST, text)

    # The inside

    def _take_agent(self, agent: Agent, now: float) -> None:
        self.paths = IceTransport(agent, self.peer, self._around, self)
        self.paths.start(now)
        self._pump.run()

    def _timed(self) -> list[Timed]:
        return [part for part in (self.call, self.paths, self.ice_restarts, self._news) if part is not None]

    def _step(self, now: float) -> bool:
        progress = False
        self._send_requests()
        paths = self.paths
        if paths is not None:
            if self.ice_restarts is not None:
                self.ice_restarts.take_events(now)
            paths.flush(now)
            while not self._over and (event := paths.next_event(now)) is not None:
                progress = True
                if not self._trickle.take(event):
                    self._take_path_event(event, now)
            progress |= self._trickle.tell(
                self.call, self.ice_restarts if paths.generations.number else None, now
            )
        while not self._over and (call_event := self.call.next_event()) is not None:
            progress = True
            self._take_call_event(call_event, now)
        return progress

    def _send_requests(self) -> None:
        for request in self.call.messages_to_send():
            self._around.send_control(request)

    def _take_path_event(self, event: ice.Event, now: float) -> None:
        if isinstance(event, ice.CheckingStarted):
            if not self.connected:
                self._observer.call_checking(self, event.pairs)
        elif isinstance(event, (ice.Selected, ice.Recovered)):
            self._take_path(event.pair, now)
        elif isinstance(event, ice.ChecksUnanswered):
            self._prepare()
        elif isinstance(event, (ice.Disconnected, ice.ConsentLost)):
            self._lose_path(event, now)
        elif isinstance(event, ice.PathFailed):
            self._fail(event.reason, now)

    def _take_call_event(self, event: CallEvent, now: float) -> None:
        if isinstance(event, Introduction):
            self._introduce(event, now)
        elif isinstance(event, Challenged):
            self._call_again(event.challenge, now)
        elif isinstance(event, MoreCandidates):
            if self.paths is not None and not self.paths.generations.number:
                self.paths.add_remote(event.candidates, event.complete, now)
        else:
            self._end(event.reason, event.text)

    def _call_again(self, challenge: bytes, now: float) -> None:
        """The callee could not tell our offer from a copy of an old one: send another, which says so."""
        around, paths = self._around, self.paths
        assert paths is not None
        description = replace(
            describe(paths.generations.newest, around),
            complete=self.call.complete,
            time=around.offer_times.next(),
            challenge=challenge,
        )
        around.calls.pop(self.call.call_id, None)
        self.call = Signaling.outgoing(around.identity, self.peer, description, random=around.random, now=now)
        around.calls[self.call.call_id] = self

    def _introduce(self, event: Introduction, now: float) -> None:
        paths, remote = self.paths, event.remote
        assert paths is not None
        self.link, self._terms = make_link(self.call, event, self._certificate, paths, self._around)
        self.link.on_connection_id = self._route
        self.link.on_control = self._receive_frame
        self.link.when_proved().addCallbacks(self._link_proved, _ignore)
        self.link.when_closed().addCallbacks(self._link_closed, _ignore)
        self._observer.call_introduced(self)
        paths.set_remote(remote.ufrag, remote.password, remote.pacing, now)
        paths.add_remote(remote.candidates, remote.complete, now)

    def _take_path(self, pair: Pair, now: float) -> None:
        previous, self.pair = self.pair, pair
        assert self.link is not None
        assert self.paths is not None
        moved = self.paths.take(pair, now)
        if previous is None:
            self.link.start()
            self._announce()
            return
        ice_restarts = self.ice_restarts
        disconnected = ice_restarts is not None and ice_restarts.disconnected
        if ice_restarts is not None:
            ice_restarts.path_found(now)
        if moved or disconnected:
            self.link.path_changed()
        if self.connected and not (ice_restarts is not None and ice_restarts.disconnected):
            self._news.changed(pair, now)

    def _prepare(self) -> None:
        """The path does not answer at once: see to it that there are other ways, should it be dead."""
        if self.ice_restarts is not None and self.paths is not None:
            self.paths.join_relays()
            self._observer.call_silent(self)

    def _lose_path(self, event: ice.Event, now: float) -> None:
        assert self.paths is not None
        if isinstance(event, ice.ConsentLost):
            self.paths.way = None
        if self.ice_restarts is not None:
            self.ice_restarts.doubt(now)

    def _fail(self, reason: str, now: float) -> None:
        if self.ice_restarts is not None:
            self.ice_restarts.session_failed(now)
        else:
            cause, relay = explain(self._around, reason)
            text = sentences.unreachable(self.peer, self.name, cause, relay)
            self.call.fail(Reason.UNREACHABLE.value, text, now)

    def _route(self, connection_id: bytes, added: bool) -> None:
        if not self._over:
            self._around.router.route(connection_id, self, added)

    def _receive_frame(self, frame_type: int, payload: bytes) -> None:
        if self.ice_restarts is None or self._over:
            return
        try:
            self.ice_restarts.receive_frame(frame_type, payload, self._around.monotonic())
        except RestartError as error:
            assert self.link is not None
            self.link.fail(CloseCode.PROTOCOL, f"The other side's control frames are wrong: {error}.")
        else:
            self._pump.run()

    def _link_proved(self, result: object) -> None:
        if self._over:
            return
        assert self._terms is not None
        assert self.link is not None
        assert self.paths is not None
        now = self._around.monotonic()
        self.proved = True
        self.paths.proved()
        self.ice_restarts = IceRestarts(self.peer, self._terms, self.link, self.paths, self._around, self)
        self.ice_restarts.path_found(now)
        self.call.link_proved(now)
        self._announce()
        self._pump.run()

    def _announce(self) -> None:
        if self.proved and self.pair is not None and not self.connected:
            self.connected = True
            self._news.told(self.pair)
            self._observer.call_connected(self)

    def _link_closed(self, closed: LinkClosed) -> None:
        if self._over:
            return
        reason, text = link_ended(closed, self.peer, self.name, self.proved)
        if self.proved:
            self._end(reason, text)
        else:
            self.call.fail(reason, text, self._around.monotonic())
            self._pump.run()

    def _end(self, reason: str, text: str) -> None:
        self._finish()
        if self.link is not None:
            self.link.fail(CloseCode.LOST, "The call is over.")
        self._observer.call_ended(self, reason, text)

    def _finish(self) -> None:
        self._over = True
        self.call.link_ended(self._around.monotonic())
        self._send_requests()
        self._pump.stop()
        if self.ice_restarts is not None:
            self.ice_restarts.close()
        if self.paths is not None:
            self.paths.close()
        self._around.router.remove(self)


def _ignore(failure: Failure) -> None:
    """A link that is never proved, or was closed: `when_closed` has told."""
