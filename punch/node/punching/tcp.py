"""
Finds a direct path over TCP for a link that works over a relay (RFC 6544; Ford 2005, section 4), where the
network of one side passes no UDP, or no path over UDP is found.

Either side may begin an attempt; the one whose network passes no UDP does so soon, and any other one when no
path over UDP was found (`Punching.time_for_udp`). Both then listen at a new port of one local address of
each family, ask the rendezvous over TCP how that port is seen, and tell each other in a TCP frame over the
link. So both have proved their keys, and nobody else can start any of this. When a side knows where the other
one listens, it connects there from its own port. NATs let the SYNs of both sides pass when they cross
(simultaneous open), and a side that anybody can reach just accepts. Anybody can reach a port that the router
maps, so each side has its port mapped for the attempt where the router does that, and for as long as a
connection uses it. Each attempt sends a few SYNs. They count as packets to addresses that have not answered
(`punch.ice.budget`).
If our NAT gives each destination another port, preserved or in sequence, every other attempt predicts it
(`punch.node.punching.tcp_attempt.predicted`).

A connection carries the connectivity checks of the ICE agents, as a socket of an attempt does
(`OpeningChecks.add`), so an agent selects it if it is better than the relay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred, TimeoutError
from twisted.python.failure import Failure

from punch.ice.pairs import PathKind
from punch.identity import PeerID
from punch.link.control_stream import OptionalFrameType
from punch.link.link import Link
from punch.net.deadlines import earliest
from punch.node.calls.call_context import CallContext
from punch.node.paths.ice_transport import IceTransport
from punch.node.punching.schedule import BUSY, doubled, refusal_wait
from punch.node.punching.tcp_attempt import CANCELLED, TCPAttempt, TCPPaths, kinds, public_host
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.link_frames import TCPCandidates

SETTLE = 0.5
"""Seconds on a relayed path after which the first attempt begins, so that plain ICE comes first."""
FIRST_AGAIN = 1.0
"""Seconds from the beginning of the first attempt to that of the second…"""
AGAIN = 5.0, 300.0
"""…from that to the third, doubled each time after that, and at most."""
LATE_FIRST = 0.3
"""
Seconds for which the side that begins a further attempt lets the other one connect first. A NAT that refused
a SYN before refuses none if its own host has sent one.
"""
ARRIVAL_TIME = 2.0
"""Seconds for which we still listen after the last round."""
LOOK = 1.0
"""Seconds after which it is decided again whether it is time for TCP."""
ATTEMPTS = 2
"""
How many attempts in which SYNs were sent must have found no path, so that TCP is taken to have failed on this
link. With each of them, the limit of SYNs to an address that has not answered is nearly used up.
"""
HOPELESS = 3600.0
"""Seconds until TCP is tried again where it was not worth trying."""
LONGEST_LOOK = 30.0
"""The most seconds until that is decided again: this machine may be in another network by then."""


@dataclass(frozen=True)
class TCPPunchingStatus:
    """
    What was tried to get a direct path over TCP.

    :ivar attempts: how many attempts there were on this link.
    :ivar packets: how many SYNs were sent.
    :ivar bytes: how many bytes they had, with headers.
    """

    attempts: int = 0
    packets: int = 0
    bytes: int = 0


@dataclass
class TCPTries:
    """
    When an attempt may begin on one link.

    :ivar newest: the number of the newest attempt of either side.
    :ivar wanted: the other side has begun one.
    :ivar made: how many were made, of those that count.
    :ivar refused: how many the other side has refused since.
    :ivar begun_at: when the last one began.
    :ivar failed: how many have failed between the same networks.
    :ivar between: which networks these are.
    :ivar network: in which network this machine was then, if that is known.
    :ivar held_until: until when this side begins none, for another reason than the wait after the last one.
    :ivar hopeless: the public host and the kinds of candidates of the other side with which TCP is not worth
        trying until `held_until`; None: this side waits for another reason.
    """

    newest: int = 0
    wanted: bool = False
    made: int = 0
    refused: int = 0
    begun_at: float = float("-inf")
    failed: int = 0
    between: object = None
    network: str | None = None
    held_until: float = float("-inf")
    hopeless: object = None

    def begin(self, number: int, now: float) -> None:
        """An attempt begins."""
        self.newest, self.begun_at, self.hopeless = number, now, None
        self.made += 1

    def refuse(self) -> None:
        """The other side refuses the last one, which does not count."""
        # Meanwhile the ones before may have been forgotten
        self.made = max(0, self.made - 1)
        self.refused += 1
        self.held_until = self.begun_at + refusal_wait(self.refused)

    def give_up(self, theirs: object) -> None:
        """TCP is not worth trying with this end of the other side."""
        self.held_until, self.hopeless = self.begun_at + HOPELESS, theirs

    def is_hopeless(self, theirs: object, now: float) -> bool:
        """
        Whether to refuse what this end of the other side begins. If it remembers the same, it asks no sooner
        than we do.
        """
        return self.hopeless == theirs and now < self.begun_at + HOPELESS / 2

    def in_network(self, network: str | None) -> None:
        """This machine is in this network now, if that is known: what was tried in another says nothing."""
        if network is not None and network != self.network:
            if self.network is not None:
                self.clear()
            self.network = network

    def fail(self, between: object) -> bool:
        """An attempt between these networks has failed; returns whether TCP has failed there by now."""
        self.failed = self.failed + 1 if between == self.between else 1
        self.between = between
        return self.failed == ATTEMPTS

    def clear(self) -> None:
        """Forget what was tried, except the number of the newest attempt."""
        self.made = self.refused = self.failed = 0
        self.held_until, self.hopeless = float("-inf"), None

    def next_at(self, part: float = 1.0) -> float:
        """
        Return when the next attempt may begin.

        :param part: which part of the wait has to be over.
        """
        wait = FIRST_AGAIN if self.made < 2 else doubled(AGAIN, self.made - 2)
        return self.begun_at + part * wait


# The states


@dataclass(frozen=True)
class _Resting:
    """
    Nothing is looked for, since the link is on no relay.

    :ivar direct: it has a direct path, or that was the last path that it had.
    """

    direct: bool = False


@dataclass(frozen=True)
class _Relayed:
    """
    The link is on a relay.

    :ivar since: since when.
    :ivar until: when to look whether to begin an attempt.
    """

    since: float
    until: float


@dataclass
class _Attempting:
    """
    An attempt is made.

    :ivar since: since when the link is on a relay.
    :ivar running: what makes it; None when it is over.
    """

    since: float
    attempt: TCPAttempt
    running: Deferred[None] | None = None

    def end(self) -> None:
        """Give up what is under way."""
        running, self.running = self.running, None
        if running is not None:
            running.cancel()
        self.attempt.close()


@dataclass(frozen=True)
class _Closed:
    """The link is over."""


class TCPPunching:
    """
    The attempts for one link, and its connections.

    :param time_for_udp: returns for how many seconds on a relayed path only one over UDP is looked for, in
        networks that pass UDP.
    :param changed: called when a connection is made or has ended, or the timer is another one.
    """

    def __init__(
        self,
        peer: PeerID,
        link: Link,
        transport: IceTransport,
        context: CallContext,
        time_for_udp: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._peer = peer
        self._link = link
        self._transport = transport
        self._context = context
        self._network = context.network
        self._time_for_udp = time_for_udp
        self._changed = changed
        self._budget = context.budgets.of(peer, context.monotonic())
        self._paths = TCPPaths(transport, context, changed)
        self._tries = TCPTries()
        self._sent = TCPPunchingStatus()
        self._state: _Resting | _Relayed | _Attempting | _Closed = _Resting()

    @property
    def status(self) -> TCPPunchingStatus:
        """What was tried so far."""
        sent, state = self._sent, self._state
        if not isinstance(state, _Attempting):
            return sent
        attempt = state.attempt
        return TCPPunchingStatus(
            sent.attempts + 1, sent.packets + attempt.packets, sent.bytes + attempt.bytes
        )

    # What happens

    def path_changed(self, now: float) -> None:
        """The link takes another path, or has one again."""
        state = self._state
        if not self._transport.relayed:
            if isinstance(state, _Resting | _Relayed):
                was_direct = isinstance(state, _Resting) and state.direct
                self._enter(_Resting(was_direct or self._is_direct))
        elif isinstance(state, _Resting):
            # The other side can make a direct path come and go as fast as it likes
            if state.direct and not self._transport.generations.damping.short_lived:
                self._tries.clear()
            settle = 0.0 if self._was_over_tcp else SETTLE
            self._enter(_Relayed(now, now + settle))

    def network_changed(self, now: float) -> None:
        """This machine has other addresses."""
        self._paths.hosts_changed()
        # What was tried on the last network says nothing about this one
        self._tries.clear()
        if isinstance(self._state, _Relayed):
            self._enter(_Relayed(now, now + SETTLE))

    def receive_frame(self, frame_type: int, payload: bytes, now: float) -> None:
        """
        Take a control frame of the link that is about this.

        :raise PayloadError: it is malformed.
        """
        if frame_type != OptionalFrameType.TCP:
            return
        said, state, tries = TCPCandidates.decode(payload), self._state, self._tries
        if isinstance(state, _Attempting) and said.attempt == state.attempt.number:
            state.attempt.answered(said.candidates)
        elif said.attempt > tries.newest:
            tries.newest, tries.wanted = said.attempt, True
            # Half the wait of the other side, whose messages may be late
            early = now < max(tries.next_at(0.5), self._damped_until(0.5))
            if not said.candidates:
                return
            theirs = public_host(said.candidates), kinds(said.candidates)
            hopeless = tries.is_hopeless(theirs, now)
            if early or hopeless or not self._may_begin or not self._context.punching_slot.take(self):
                self._say(said.attempt, ())
            else:
                self._start(said.attempt, said.candidates, now)

    def close(self) -> None:
        """The link is over: end all attempts and connections."""
        self._enter(_Closed())
        self._paths.close()

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        state = self._state
        return earliest((state.until if isinstance(state, _Relayed) else None, self._paths.get_timer()))

    def handle_timer(self, now: float) -> None:
        """Begin an attempt if it is time, and close connections that are of no use."""
        self._paths.handle_timer(now)
        if isinstance(self._state, _Relayed) and now >= self._state.until:
            self._begin(self._state.since, now)

    # Attempts

    @property
    def _may_begin(self) -> bool:
        return self._network.tcp.allowed and self._transport.relayed and not isinstance(self._state, _Closed)

    def _begin(self, since: float, now: float) -> None:
        """Begin an attempt if it is time for TCP, on a link that is on a relay since then."""
        self._tries.in_network(self._network.key)
        next_at = max(self._damped_until(), self._tries.next_at(), self._tries.held_until)
        if not self._may_begin:
            self._enter(_Resting())
        elif now < next_at:
            self._enter(_Relayed(since, min(next_at, now + LONGEST_LOOK)))
        elif not self._is_time(since, now):
            self._enter(_Relayed(since, now + LOOK))
        elif not self._context.punching_slot.take(self):
            self._enter(_Relayed(since, now + BUSY))
        else:
            self._start(self._tries.newest + 1, None, now)

    def _is_time(self, since: float, now: float) -> bool:
        soon = self._network.passes_no_udp or self._tries.wanted or self._was_over_tcp
        return soon or now >= since + self._time_for_udp()

    @property
    def _was_over_tcp(self) -> bool:
        """
        Whether this link's first attempt begins at once, because the last path to this peer was over TCP.
        """
        return not self._tries.made and self._context.paths.was_over_tcp(self._peer)

    def _damped_until(self, part: float = 1.0) -> float:
        """Return until when no attempt is made, because direct paths did not last."""
        return self._transport.generations.damping.allowed_at(PathKind.TCP, part)

    def _start(self, number: int, theirs: tuple[Candidate, ...] | None, now: float) -> None:
        """
        Begin an attempt.

        :param theirs: what the other side listens at, if it has begun.
        """
        self._tries.begin(number, now)
        # A NAT that gives each destination another UDP port may still have one TCP port for all
        predicts = self._tries.made % 2 == 0
        attempt = TCPAttempt(
            number, self._transport, self._context, self._paths, self._budget, predicts=predicts
        )
        if theirs is not None:
            attempt.answered(theirs)
        before = self._state
        state = _Attempting(before.since if isinstance(before, _Relayed | _Attempting) else now, attempt)
        self._enter(state)
        running = Deferred.fromCoroutine(self._run(state, asked=theirs is not None))
        if self._state is state:
            state.running = running
        running.addErrback(Failure.trap, *CANCELLED)

    async def _run(self, state: _Attempting, *, asked: bool) -> None:
        attempt, tries = state.attempt, self._tries
        try:
            ours = await attempt.gather()
            self._say(attempt.number, ours)
            if not ours:
                return
            theirs = await attempt.answer()
            if not theirs:
                tries.refuse()
                return
            tries.refused = 0
            host, both_kinds = public_host(theirs), (kinds(ours), kinds(theirs))
            network, paths = self._network.key, self._context.paths
            if host is not None and not paths.is_tcp_worth_trying(self._peer, host, both_kinds):
                tries.give_up((host, both_kinds[1]))
                return
            if attempt.number == 1:
                # The other side connects when it has our candidates; the first SYNs should cross
                pair = self._transport.generations.selected
                wait = 0.0 if pair is None or not asked else (pair.rtt or 0.0) / 2
            else:
                wait = 0.0 if asked else LATE_FIRST
            await attempt.sleep(wait)
            await attempt.connect(theirs)
            # From now on, the attempt sends nothing more
            self._context.punching_slot.release(self)
            if not attempt.refusals:
                await attempt.sleep(ARRIVAL_TIME)
            failed = attempt.packets and self._transport.relayed and network == self._network.key
            if failed and host is not None and tries.fail((network, host, both_kinds)):
                paths.failed_over_tcp(self._peer, host, both_kinds)
        except TimeoutError:
            return  # The other side is of an older release, or does not answer
        finally:
            if self._state is state:
                state.running = None
                # In that state, it is decided when the next attempt may begin
                after = _Relayed(state.since, self._context.monotonic())
                self._enter(after if self._transport.relayed else _Resting(self._is_direct))

    @property
    def _is_direct(self) -> bool:
        pair = self._transport.generations.selected
        return pair is not None and pair.path != "relay"

    def _enter(self, state: _Resting | _Relayed | _Attempting | _Closed) -> None:
        before, self._state = self._state, state
        if isinstance(before, _Attempting):
            before.end()
            attempt, sent = before.attempt, self._sent
            self._sent = TCPPunchingStatus(
                sent.attempts + 1, sent.packets + attempt.packets, sent.bytes + attempt.bytes
            )
        if not isinstance(state, _Attempting):
            self._context.punching_slot.release(self)
        self._changed()

    def _say(self, attempt: int, candidates: tuple[Candidate, ...]) -> None:
        self._link.try_send_control(OptionalFrameType.TCP, TCPCandidates(attempt, candidates).encode())
