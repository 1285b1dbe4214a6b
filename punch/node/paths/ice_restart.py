"""
ICE restarts (RFC 8445, section 9), which keep a link while the networks under it change.

Every restart is a *generation*, numbered one higher than the newest that either side knows. Each side tells
the other its credentials and candidates for it: over the link while that works, else in a sealed offer or
answer through the rendezvous. Either side may begin. If both begin the same generation at once, each has
what the other needs, and of two generations the one with the higher number counts, so there is no glare to
resolve.

A link without a path is kept for some days (`punch.node.paths.restart_schedule`). Meanwhile each side that
can reach the rendezvous tries to restart, and does so at once when the rendezvous is back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from punch.identity import PeerID
from punch.link.control_stream import ControlFrameType
from punch.link.events import CloseCode, LinkRole
from punch.link.link import Link
from punch.net.deadlines import earliest
from punch.node.calls.call_context import CallContext
from punch.node.calls.description import Description
from punch.node.calls.signaling import CallEnded, Introduction, MoreCandidates, Signaling
from punch.node.causes import IntroductionEnded
from punch.node.paths.ice_transport import IceTransport
from punch.node.paths.local_candidates import new_agent
from punch.node.paths.restart_schedule import Due, RestartSchedule
from punch.node.policies import RelayPolicy
from punch.wire.control import ErrorCode
from punch.wire.peers.candidate import MAX_CANDIDATES, Candidate
from punch.wire.peers.link_frames import LateCandidates, Restart
from punch.wire.peers.sealed import Envelope, SealError

RESTART_GAP = 1.0
"""Seconds between two restarts of a path that works."""
UNANSWERED = 60.0
"""Seconds that a generation which the other side did not answer is kept for while the path works."""
RESTARTS_A_MINUTE = 30
"""Restarts that the other side may begin in a minute; further ones are ignored."""


@dataclass(frozen=True)
class LinkTerms:
    """
    What identifies a link for both sides: the digest of the offer, and the hash of the callee's certificate.
    """

    offer_digest: bytes
    certificate_sha256: bytes


@dataclass(frozen=True)
class Exchange:
    """
    What the two sides have told each other about the newest generation. It is `Unanswered` until the other
    side's description has come, and `Exchanged` from then on; a restart begins with `Unanswered` again.

    :ivar ours: our description as the generation began; None for that of the call.
    :ivar began_at: when it began.
    :ivar over_link: the other side was told over the link.
    :ivar next_at: when the next generation begins, because the network changed soon after this one began;
        None: it did not.
    """

    ours: Description | None = None
    began_at: float = float("-inf")
    over_link: bool = False
    next_at: float | None = None


class Unanswered(Exchange):
    """
    The other side's description is not known. While the path works, the generation ends after `UNANSWERED`
    seconds.
    """


class Exchanged(Exchange):
    """Both descriptions are known."""


class IceRestarts:
    """
    Finds new paths for one live link.

    :param changed: called when something was received through the rendezvous.
    :param path_lost: called when there has been no path for a while, of which the user is told.
    :ivar schedule: the state of the path, and what is due in it.
    """

    def __init__(
        self,
        peer: PeerID,
        terms: LinkTerms,
        link: Link,
        transport: IceTransport,
        context: CallContext,
        changed: Callable[[], None],
        path_lost: Callable[[], None],
    ) -> None:
        self.schedule = RestartSchedule(transport.generations.damping)
        self._peer = peer
        self._terms = terms
        self._link = link
        self._transport = transport
        self._generations = transport.generations
        self._context = context
        self._changed = changed
        self._path_lost = path_lost
        self._exchange: Unanswered | Exchanged = Exchanged()
        self._signalings: list[Signaling] = []
        self._followed: deque[float] = deque(maxlen=RESTARTS_A_MINUTE)

    @property
    def working(self) -> bool:
        """Whether there is a path that answers."""
        return self._generations.working

    # What happens to the path

    def path_unresponsive(self, now: float) -> None:
        """The path does not answer, and no other pair is known to work: look for a new one."""
        if self.schedule.path_lost(now):
            self._context.calls.call_disconnected(True)
        if self._pending and self._exchange.ours is not None:
            self._send_offer(now)
        else:
            self.restart(now)

    def path_found(self, now: float) -> None:
        """There is a path that works."""
        if not self._pending:
            self._end_signaling()
        disconnected = self.schedule.disconnected
        if disconnected and not self.working:
            return
        improvable = self._generations.current.path.improvable
        self.schedule.path_found(improvable and self._context.relay_policy is not RelayPolicy.ONLY, now)
        if disconnected:
            self._context.calls.call_disconnected(False)

    def generation_failed(self, now: float) -> None:
        """The newest generation found no path."""
        if not self.working:
            self.restart(now)

    def network_changed(self, now: float) -> None:
        """This machine has a new address, or that of the path is gone."""
        exchange = self._exchange
        if self.working and now < exchange.began_at + RESTART_GAP:
            self._exchange = replace(exchange, next_at=exchange.began_at + RESTART_GAP)
        else:
            self.restart(now)

    def address_found(self, now: float) -> None:
        """There is a new address of ours, which may lead to a better path than a relay or TCP."""
        pair = self._generations.selected
        if pair is not None and pair.improvable:
            self.network_changed(now)

    def network_back(self, now: float) -> None:
        """The network, or the rendezvous, is back: look for a path at once if there is none."""
        if self.working:
            return
        self.schedule.retry_soon()
        if self._pending and now < self._exchange.began_at + RESTART_GAP:
            self._end_signaling()
            self._send_offer(now)
        else:
            self.restart(now)

    # Restarts

    def restart(self, now: float) -> None:
        """Begin a generation, and tell the other side."""
        self._begin(self._generations.number + 1, now)
        if self.working:
            self._send_over_link()
        else:
            self._send_offer(now)

    def add_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Send candidates of ours that the newest generation has found."""
        for signaling in self._signalings:
            signaling.add_candidates(candidates, False)
            self._context.channel.flush(signaling)
        # The link has a path already if a relay was faster
        if candidates and (self._exchange.over_link or (self.working and not self._signalings)):
            late = LateCandidates(self._generations.number, tuple(candidates)[:MAX_CANDIDATES])
            self._link.try_send_control(ControlFrameType.CANDIDATES, late.encode())

    def receive_frame(self, frame_type: int, payload: bytes, now: float) -> None:
        """
        Take a control frame of the link that is about restarts.

        :raise PayloadError: it is malformed.
        """
        if frame_type == ControlFrameType.RESTART:
            restart = Restart.decode(payload)
            if not self._follow(restart.generation, now):
                return
            self._set_remote(restart, now)
            if not self._exchange.over_link:
                self._send_over_link()
        elif frame_type == ControlFrameType.CANDIDATES:
            late = LateCandidates.decode(payload)
            if late.generation == self._generations.number and isinstance(self._exchange, Exchanged):
                self._transport.add_remote(late.candidates, False, now)

    def receive_offer(self, call_id: str, offer: Envelope, now: float) -> bool:
        """
        Take an offer of the other side if it restarts this link.

        :return: whether it does.
        """
        try:
            signaling = Signaling.incoming(self._context.identity, self._peer, call_id, offer, now=now)
        except SealError:
            return False
        if not signaling.offer.generation or signaling.offer.link != self._terms.offer_digest:
            return False
        code: ErrorCode | None = None
        if not self._follow(signaling.offer.generation, now) or self._exchange.ours is None:
            code = ErrorCode.BUSY
        else:
            try:
                signaling.accept(self._description(), self._terms.certificate_sha256, now)
            except SealError:
                code = ErrorCode.REFUSED
        if code is None:
            self._forget_incoming()
            self._add_signaling(signaling)
            return True
        signaling.reject(code, IntroductionEnded(code))
        self._context.channel.remove(signaling)
        if code is ErrorCode.BUSY and not self.working:
            # Its generation is an older one: our offer tells it the newest
            self._send_offer(now)
        return True

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        times = [signaling.get_timer() for signaling in self._signalings]
        exchange = self._exchange
        if self._unanswered:
            times.append(exchange.began_at + UNANSWERED)
        return earliest((*times, exchange.next_at, self.schedule.get_timer()))

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for signaling in list(self._signalings):
            signaling.handle_timer(now)
            self._context.channel.flush(signaling)
        self.take_events(now)
        if self._unanswered and now >= self._exchange.began_at + UNANSWERED:
            self._generations.give_up(now)
        if self._exchange.next_at is not None and now >= self._exchange.next_at:
            self.restart(now)
        for due in self.schedule.handle_timer(now):
            if due is Due.TELL:
                self._path_lost()
            elif due is Due.END:
                self._link.fail(CloseCode.LOST, "There was no path for too long.")
            elif due is Due.RETRY and not self.working:
                self.path_unresponsive(now)
            elif due is Due.IMPROVE and self.working:
                self.restart(now)

    def take_events(self, now: float) -> None:
        """Take the events of the signaling through the rendezvous."""
        for signaling in list(self._signalings):
            while signaling in self._signalings and (event := signaling.next_event()) is not None:
                if isinstance(event, Introduction):
                    self._introduced(event, now)
                elif isinstance(event, MoreCandidates):
                    self._transport.add_remote(event.candidates, event.complete, now)
                elif isinstance(event, CallEnded):
                    self._signaling_ended(signaling, event, now)

    def close(self) -> None:
        """The link is over."""
        self._end_signaling()

    # Inside

    @property
    def _pending(self) -> bool:
        """Whether the newest generation may still find a path."""
        return self._generations.trial is not None

    @property
    def _unanswered(self) -> bool:
        """Whether the path works, and the newest generation was not answered."""
        return self._pending and isinstance(self._exchange, Unanswered) and self.working

    def _begin(self, number: int, now: float) -> None:
        self._end_signaling()
        self.schedule.asked()
        controlling = self._generations.current.controlling
        agent, ours = new_agent(self._context, self._peer, controlling=controlling, restart=True)
        self._exchange = Unanswered(ours, now)
        self._transport.restart(agent, number, now)

    def _follow(self, number: int, now: float) -> bool:
        """
        Begin the other side's generation if it is newer than ours.

        :return: whether it is the newest one now; False if it is older, or there were too many restarts.
        """
        newest = self._generations.number
        if number > newest:
            if len(self._followed) == RESTARTS_A_MINUTE and now < self._followed[0] + 60.0:
                return False
            self._followed.append(now)
            self._begin(number, now)
        return number >= newest

    def _set_remote(self, theirs: Restart | Description, now: float) -> None:
        exchange = self._exchange
        if isinstance(exchange, Exchanged) or not self._pending:
            return
        self._exchange = Exchanged(exchange.ours, exchange.began_at, exchange.over_link, exchange.next_at)
        self._transport.set_remote(theirs.ufrag, theirs.password, theirs.pacing_ms, now)
        self._transport.add_remote(theirs.candidates, False, now)

    def _description(self) -> Description:
        """Return the description of our newest agent, with all candidates found so far."""
        ours = self._exchange.ours
        assert ours is not None
        return replace(
            ours,
            candidates=tuple(self._generations.newest.local_candidates),
            complete=False,
            generation=self._generations.number,
            link=self._terms.offer_digest,
        )

    # Over the link

    def _send_over_link(self) -> None:
        ours = self._description()
        self._exchange = replace(self._exchange, over_link=True)
        restart = Restart(
            ours.generation, ours.ufrag, ours.password, ours.candidates[:MAX_CANDIDATES], ours.pacing_ms
        )
        self._link.try_send_control(ControlFrameType.RESTART, restart.encode())

    # Through the rendezvous

    def _send_offer(self, now: float) -> None:
        """
        Tell the other side through the rendezvous, unless that is under way or the other side has answered.
        """
        context = self._context
        self.schedule.asked()
        if isinstance(self._exchange, Exchanged) or self._signalings or not context.channel.registered:
            return
        try:
            signaling = Signaling.outgoing(
                context.identity, self._peer, self._description(), random=context.random, now=now
            )
        except SealError:
            return
        self._add_signaling(signaling)

    def _add_signaling(self, signaling: Signaling) -> None:
        self._context.channel.add(signaling, self._changed)
        self._signalings.append(signaling)

    def _forget_incoming(self) -> None:
        """Forget an earlier offer of the other side, which has given that one up if it makes another."""
        for signaling in [each for each in self._signalings if each.role is LinkRole.CALLEE]:
            self._signalings.remove(signaling)
            self._context.channel.remove(signaling)

    def _introduced(self, event: Introduction, now: float) -> None:
        if event.certificate_sha256 in (None, self._terms.certificate_sha256):
            self._set_remote(event.remote, now)

    def _signaling_ended(self, signaling: Signaling, event: CallEnded, now: float) -> None:
        self._signalings.remove(signaling)
        self._context.channel.remove(signaling)
        if signaling.answered or isinstance(self._exchange, Exchanged) or self.working:
            return
        if event.cause.reason == ErrorCode.REFUSED.value:
            self._link.fail(CloseCode.LOST, "The other side has this link no more.")
            return
        self.schedule.retry(now)

    def _end_signaling(self) -> None:
        """End what is under way through the rendezvous, which is no longer needed."""
        signalings, self._signalings = self._signalings, []
        for signaling in signalings:
            signaling.reject(ErrorCode.CANCELLED, IntroductionEnded(ErrorCode.CANCELLED))
            self._context.channel.remove(signaling)
