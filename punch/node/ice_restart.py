"""
What keeps a link while the networks under it change: ICE restarts (RFC 8445, section 9), and patience.

Every restart is a *generation*, with a number one higher than the newest that either side knows. Each side
tells the other its credentials and candidates for it: over the link while that works, else in a sealed offer
or answer over the rendezvous. Neither side has to be first: if both begin the same generation at once, each
has what the other needs, and of two generations the higher number counts. So there is no glare to resolve.

A link without a path stays for `MAX_DARK`. Meanwhile whoever can reach the rendezvous tries, and whoever
comes back to it begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from punch.identity import PeerID
from punch.link.events import LinkError
from punch.link.frames import ControlFrameType
from punch.link.link import Link
from punch.node.call_context import CallContext, new_agent
from punch.node.ice_transport import IceTransport
from punch.node.policy import RelayPolicy
from punch.node.restart_signaling import RestartSignaling
from punch.node.signaling import Signaling
from punch.node.signaling_state import (
    CallEnded,
    Description,
    Introduction,
    MoreCandidates,
)
from punch.wire.candidate import Candidate
from punch.wire.control import ErrorCode
from punch.wire.ice_restart import LateCandidates, Restart
from punch.wire.sealed import MAX_CANDIDATES, Envelope, SealError

LOST_AFTER = 3.0
"""Seconds without a path after which the user is told."""
MAX_DARK = 3 * 86400.0
"""Seconds that a link without a path is kept: from Friday evening to Monday morning."""
RETRY = 1.0, 30.0
"""Seconds until the rendezvous is asked again for a peer that is not there: the first time, and at most."""
RESTART_GAP = 1.0
"""Seconds between two restarts of a path that works."""
IMPROVE = 15.0, 300.0
"""
Seconds on a relayed path until a better one is looked for, the first time and at most; twice as long each
time. What closed the direct path may have changed, and nobody else would notice.
"""
UNANSWERED = 60.0
"""Seconds that a generation which nobody answered, and which isn't needed any more, is kept for."""
RESTARTS_A_MINUTE = 30
"""Restarts by the other side that are followed."""


@dataclass(frozen=True)
class LinkTerms:
    """What both sides know a link by: the digest of the offer, and the hash of the callee's certificate."""

    offer_digest: bytes
    certificate_sha256: bytes


class IceRestartsOwner(Protocol):
    """The session whose link roams."""

    def path_missing(self, missing: bool) -> None:
        """There is no path, or there is one again."""

    def path_lost(self) -> None:
        """There has been none for a while: the user is to know."""

    def restart_over(self, gone: bool) -> None:
        """
        No path will come back.

        :param gone: because the other side has this link no more; else because it took too long.
        """


class IceRestarts:
    """
    Finds new paths for one live link.

    :ivar told_lost: the user was told that there is no path.
    """

    def __init__(
        self,
        peer: PeerID,
        terms: LinkTerms,
        link: Link,
        paths: IceTransport,
        around: CallContext,
        owner: IceRestartsOwner,
    ) -> None:
        self.told_lost = False
        self._peer = peer
        self._terms = terms
        self._link = link
        self._paths = paths
        self._around = around
        self._owner = owner
        self._ours: Description | None = None
        self._theirs = True
        self._over_link = False
        self._began_at = -RESTART_GAP
        self._calls: list[RestartSignaling] = []
        self._dark_since: float | None = None
        self._retry_at: float | None = None
        self._retry_wait = RETRY[0]
        self._planned_at: float | None = None
        self._improve_at: float | None = None
        self._improve_wait = IMPROVE[0]
        self._followed: deque[float] = deque(maxlen=RESTARTS_A_MINUTE)

    @property
    def working(self) -> bool:
        """Whether there is a path, and no doubt about it."""
        return self._paths.generations.working

    @property
    def disconnected(self) -> bool:
        """Whether a path is being looked for because there is none."""
        return self._dark_since is not None

    # What happens to the path

    def doubt(self, now: float) -> None:
        """The path does not answer, and no other is known."""
        if self._dark_since is None:
            self._dark_since = now
            self._retry_wait = RETRY[0]
            self._owner.path_missing(True)
        if self._pending and self._ours is not None:
            self._establish(now)
        else:
            self.restart(now)

    def path_found(self, now: float) -> None:
        """There is a path that works."""
        if not self._pending:
            self._drop_calls()
        if self._dark_since is not None and self.working:
            self._dark_since = self._retry_at = None
            self.told_lost = False
            self._owner.path_missing(False)
        pair = self._paths.generations.selected
        if pair is None or pair.path != "relay" or self._around.relay_policy is RelayPolicy.ONLY:
            self._improve_at, self._improve_wait = None, IMPROVE[0]
        elif self._improve_at is None:
            self._improve_at = now + self._improve_wait

    def session_failed(self, now: float) -> None:
        """The newest generation found no path."""
        if not self.working:
            self.restart(now)

    # What happens around

    def network_changed(self, now: float) -> None:
        """Addresses of this machine have come, or that of the path has gone."""
        if self.working and now < self._began_at + RESTART_GAP:
            self._planned_at = self._began_at + RESTART_GAP
        else:
            self.restart(now)

    def network_back(self, now: float) -> None:
        """The network, or the rendezvous, is back: a link without a path is tried at once."""
        if self.working:
            return
        self._retry_wait = RETRY[0]
        if self._pending and now < self._began_at + RESTART_GAP:
            self._drop_calls()
            self._establish(now)
        else:
            self.restart(now)

    # Restarts

    def restart(self, now: float) -> None:
        """Begin a generation, and tell the other side."""
        self._begin(self._paths.generations.number + 1, now)
        if self.working:
            self._tell_over_link()
        else:
            self._establish(now)

    def found(self, candidates: Sequence[Candidate]) -> None:
        """The newest generation has found candidates of ours."""
        for call in self._calls:
            call.add_candidates(candidates)
        if self._over_link and candidates:
            late = LateCandidates(self._paths.generations.number, tuple(candidates)[:MAX_CANDIDATES])
            self._send_frame(ControlFrameType.CANDIDATES, late.encode())

    def receive_frame(self, frame_type: int, payload: bytes, now: float) -> None:
        """
        The other side says something about restarts over the link.

        :raise RestartError: it makes no sense.
        """
        if frame_type == ControlFrameType.RESTART:
            restart = Restart.decode(payload)
            if not self._follow(restart.generation, now):
                return
            self._take_theirs(
                restart.ufrag,
                restart.password,
                restart.pacing_ms / 1000,
                restart.candidates,
                now,
            )
            if not self._over_link:
                self._tell_over_link()
        elif frame_type == ControlFrameType.CANDIDATES:
            late = LateCandidates.decode(payload)
            if late.generation == self._paths.generations.number and self._theirs:
                self._paths.add_remote(late.candidates, False, now)

    def receive_offer(self, call_id: str, offer: Envelope, now: float) -> bool:
        """An offer of the other side came: whether it is about this very link, and was taken."""
        around = self._around
        try:
            call = Signaling.incoming(
                around.identity, self._peer, call_id, offer, random=around.random, now=now
            )
        except SealError:
            return False
        if not call.generation or call.link != self._terms.offer_digest:
            return False
        self._receive_call(call, now)
        return True

    def _receive_call(self, call: Signaling, now: float) -> None:
        restart = RestartSignaling(call, self._around, self._happened)
        follows = self._follow(call.generation, now)
        if not follows or self._ours is None:
            restart.reject(ErrorCode.BUSY)
            if not self.working:
                # Its generation is an older one: it learns the newest from us
                self._establish(now)
            return
        try:
            restart.accept(self._description(), self._terms.certificate_sha256)
        except SealError:
            restart.reject(ErrorCode.REFUSED)
            return
        self._calls.append(restart)
        self._happened()

    # Time

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        times = [call.get_timer() for call in self._calls]
        times += [self._retry_at, self._planned_at, self._improve_at]
        if self._abandoned:
            times.append(self._began_at + UNANSWERED)
        if self._dark_since is not None:
            times.append(self._dark_since + (MAX_DARK if self.told_lost else LOST_AFTER))
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        for call in list(self._calls):
            call.handle_timer(now)
        self.take_events(now)
        if self._dark_since is not None:
            if not self.told_lost and now >= self._dark_since + LOST_AFTER:
                self.told_lost = True
                self._owner.path_lost()
            if now >= self._dark_since + MAX_DARK:
                self._owner.restart_over(gone=False)
                return
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            if not self.working:
                self.doubt(now)
        if self._abandoned and now >= self._began_at + UNANSWERED:
            self._paths.generations.give_up(now)
        if self._planned_at is not None and now >= self._planned_at:
            self._planned_at = None
            self.restart(now)
        if self._improve_at is not None and now >= self._improve_at:
            self._improve_wait = min(2 * self._improve_wait, IMPROVE[1])
            self._improve_at = now + self._improve_wait
            if self.working:
                self.restart(now)

    def take_events(self, now: float) -> None:
        """See what became of the calls."""
        for call in list(self._calls):
            while (event := call.next_event()) is not None:
                if call not in self._calls:
                    break
                if isinstance(event, Introduction):
                    self._introduced(event, now)
                elif isinstance(event, MoreCandidates):
                    self._paths.add_remote(event.candidates, event.complete, now)
                elif isinstance(event, CallEnded):
                    self._call_ended(call, event, now)

    def close(self) -> None:
        """The link is over."""
        self._drop_calls()

    # The inside

    @property
    def _pending(self) -> bool:
        """Whether the newest generation may still find a path."""
        return self._paths.generations.trial is not None

    @property
    def _abandoned(self) -> bool:
        return self._pending and not self._theirs and self.working

    def _happened(self) -> None:
        self._paths.owner.paths_changed()

    def _begin(self, number: int, now: float) -> None:
        self._drop_calls()
        self._planned_at = self._retry_at = None
        around, paths = self._around, self._paths
        controlling = paths.generations.use.controlling
        agent, self._ours = new_agent(around, self._peer, controlling=controlling, steady=True)
        self._theirs = self._over_link = False
        self._began_at = now
        paths.begin(agent, number, now)

    def _description(self) -> Description:
        """Of our newest agent, with all that is known now."""
        assert self._ours is not None
        generations = self._paths.generations
        return replace(
            self._ours,
            candidates=tuple(generations.newest.local_candidates),
            complete=False,
            generation=generations.number,
            link=self._terms.offer_digest,
        )

    def _tell_over_link(self) -> None:
        ours = self._description()
        self._over_link = True
        restart = Restart(
            ours.generation,
            ours.ufrag,
            ours.password,
            ours.candidates[:MAX_CANDIDATES],
            ours.pacing_ms,
        )
        self._send_frame(ControlFrameType.RESTART, restart.encode())

    def _send_frame(self, frame_type: ControlFrameType, payload: bytes) -> None:
        try:
            self._link.send_control(frame_type, payload)
        except LinkError:
            return  # It is over, which the session will hear of

    def _establish(self, now: float) -> None:
        """Tell the other side over the rendezvous, unless that is under way, or it knows."""
        self._retry_at = None
        if self._theirs or self._calls or not self._around.registered():
            return
        try:
            call = RestartSignaling.place(self._peer, self._description(), self._around, self._happened)
        except SealError:
            return
        self._calls.append(call)

    def _follow(self, number: int, now: float) -> bool:
        """Begin the other side's generation if it is newer than ours; False if it is older, or too much."""
        newest = self._paths.generations.number
        if number > newest:
            if len(self._followed) == RESTARTS_A_MINUTE and now < self._followed[0] + 60.0:
                return False
            self._followed.append(now)
            self._begin(number, now)
        return number >= newest

    def _introduced(self, event: Introduction, now: float) -> None:
        remote = event.remote
        if event.certificate_sha256 not in (None, self._terms.certificate_sha256):
            return
        self._take_theirs(remote.ufrag, remote.password, remote.pacing, remote.candidates, now)

    def _take_theirs(
        self,
        ufrag: str,
        password: str,
        pacing: float,
        candidates: Sequence[Candidate],
        now: float,
    ) -> None:
        if self._theirs or not self._pending:
            return
        self._theirs = True
        self._paths.set_remote(ufrag, password, pacing, now)
        self._paths.add_remote(candidates, False, now)

    def _call_ended(self, call: RestartSignaling, event: CallEnded, now: float) -> None:
        self._calls.remove(call)
        call.drop()
        if call.answered or self._theirs or self.working:
            return
        if event.reason == ErrorCode.REFUSED.value:
            self._owner.restart_over(gone=True)
            return
        self._retry_at = now + self._retry_wait
        self._retry_wait = min(2 * self._retry_wait, RETRY[1])

    def _drop_calls(self) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            call.drop()
