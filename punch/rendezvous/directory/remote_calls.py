"""
Calls between peers of different processes of one service. Pure.

An introduction belongs to the process of the called peer. This process keeps, for each caller that is
registered here, to which process its call went, and passes on what the caller and that process say.

    locating ──located──> forwarded ──ended──> over

Locating takes as long as a question to the directory. What the caller says meanwhile waits, in order. A call
that the caller ends meanwhile keeps its place until the directory has answered, so that no source can have
more questions waiting than places.

The places for these calls are shared between the sources of the callers (`SourceTable`), as those of
introductions are at the process of the called peer, which counts a caller for its source, too. Some are kept
for callers whom the called peer has answered before.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from punch.identity import PeerID
from punch.net.deadlines import Deadlines
from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.sources import Shares, Source, source_of
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.directory.messages import (
    UNKNOWN,
    PeerLost,
    PeerReply,
    PeerRequest,
)
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.introduction import DISPLACED
from punch.rendezvous.registry.places import RESERVE, room_in
from punch.rendezvous.registry.registry import NOT_REGISTERED, SETTLE_TIME, Registration, Registry
from punch.wire.control import (
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Reject,
    Reply,
    Trickle,
)

CallKey = tuple[str, PeerID]
"""A call ID and the caller, who chose it."""

MAX_WAITING = 64
"""Messages of a caller that wait until its call is located: as many as one side may trickle."""
_DENIED = "The operator of the process of the called peer refuses this peer or its network."
_PER_CALLER = 4
"""One caller may have this many times `RendezvousLimits.calls_per_caller` calls that are not over."""
_LATE = 5.0
"""Seconds after the end of a call's time in which the other process has to report that end."""
GONE = "The other peer lost its connection to the rendezvous."


@dataclass(frozen=True)
class Locate:
    """Ask the directory at which process the called peer is, then call `RemoteCalls.located`."""

    key: CallKey
    peer: PeerID
    source: Source
    """That of the caller, as in the other outputs."""


@dataclass(frozen=True)
class Send:
    """Send a message to another process; call `RemoteCalls.process_lost` if that is gone."""

    process: str
    message: PeerRequest | PeerReply | PeerLost
    source: Source


@dataclass(frozen=True)
class AwaitReturn:
    """Ask the directory to tell when a peer is back, then call `Registry.returned`."""

    peer: PeerID
    source: Source


Output = Locate | Send | AwaitReturn


@dataclass
class _Call:
    caller: PeerID
    name: str
    address: str
    establish: Establish
    source: Source
    account: PeerID
    """Whose calls are counted: the caller, or the member who vouches for it."""
    process: str | None = None
    callee_address: str = ""
    """Where the called peer is; empty if that is not known yet."""
    answered_at: float | None = None
    ended: bool = False
    """The caller has ended it or is gone, and it is not located yet."""
    waiting: list[Trickle | Cancel] = field(default_factory=list)


class RemoteCalls:
    """
    The calls of peers of this process to peers of other processes. It makes the registry of this process.

    All times are monotonic seconds.

    :param denies: returns whether the operator refuses a peer, or the address at which it is. Peers of other
        processes are asked about here, because a deny list is each process's own.
    :ivar places: those of all calls, and those reserved for acquainted peers.
    """

    def __init__(
        self, limits: RendezvousLimits, denies: Callable[[PeerID, str], bool] = lambda peer, address: False
    ) -> None:
        self.registry = Registry(limits, self)
        self._denies = denies
        self._limits = limits
        self._calls: dict[CallKey, _Call] = {}
        shares = Shares.growing(limits.introductions_per_address)
        reserve = limits.introductions // RESERVE
        self.places = [SourceTable[CallKey](limits.introductions - reserve, shares)]
        if reserve:
            self.places.append(SourceTable(reserve, shares))
        self._of_caller: dict[PeerID, set[CallKey]] = {}
        self._of_account: Counter[PeerID] = Counter()
        self._deadlines: Deadlines[CallKey] = Deadlines()
        self._outputs: deque[Output] = deque()

    def __len__(self) -> int:
        """The number of calls to other processes that are not over."""
        return len(self._calls)

    @property
    def processes(self) -> set[str]:
        """The other processes that introductions of peers of this process depend on."""
        own = {call.process for call in self._calls.values() if call.process is not None}
        return own | self.registry.processes

    def next_output(self) -> Output | None:
        """The next output; None if there is none."""
        return self._outputs.popleft() if self._outputs else None

    # -- OtherProcesses: what the peers of this process do --

    def establish(self, caller: Registration, request: Establish, now: float) -> None:
        """Locate the called peer."""
        if self._denies(request.to, ""):
            raise IntroductionRefusal(ErrorCode.NOT_REGISTERED, NOT_REGISTERED)
        key = (request.call, caller.peer)
        if key in self._calls:
            raise IntroductionRefusal(ErrorCode.FORBIDDEN, "A call of this ID is going on already.")
        account = caller.account or caller.peer
        if self._of_account[account] >= _PER_CALLER * self._limits.calls_per_caller:
            raise IntroductionRefusal(
                ErrorCode.TOO_MANY, "You have too many calls going on; end some of them first."
            )
        acquainted = self.registry.admission.acquainted(caller.peer, request.to)
        try:
            tables = self.places[::-1] if acquainted else self.places[:1]
            table, displaced = room_in(tables, lambda table: table.room(caller.source))
        except NoRoom as problem:
            text = f"Too many calls are going on {problem.scope.value}; try again later."
            raise IntroductionRefusal(ErrorCode.TOO_MANY, text) from problem
        if displaced is not None:
            self._displace(displaced)
        table.enter(caller.source, key)
        self._calls[key] = _Call(caller.peer, caller.name, caller.address, request, caller.source, account)
        self._of_account[account] += 1
        self._of_caller.setdefault(caller.peer, set()).add(key)
        self._deadlines.set(key, now + self._limits.ring_time + _LATE)
        self._outputs.append(Locate(key, request.to, caller.source))

    def request(self, peer: PeerID, request: Answer | Trickle | Reject | Cancel) -> bool:
        """Pass on a request of a caller, or keep it until the call is located."""
        key = (request.call, peer)
        call = self._calls.get(key)
        if call is None or call.ended or call.establish.to != request.to:
            return False
        if not isinstance(request, (Trickle, Cancel)):
            raise IntroductionRefusal(ErrorCode.FORBIDDEN, "Only the called peer answers or rejects a call.")
        if call.process is not None:
            self._pass_on(call, call.process, request)
        elif len(call.waiting) < MAX_WAITING:
            call.waiting.append(request)
        if isinstance(request, Cancel):
            self._end(key)
        return True

    def lost(self, peer: PeerID) -> None:
        """Tell the processes of its calls that a peer is gone."""
        keys = self._of_caller.get(peer, set()).copy()
        sources = {call.process: call.source for key in keys if (call := self._calls[key])}
        for process, source in sources.items():
            if process is not None:
                self._outputs.append(Send(process, PeerLost(peer), source))
        for key in keys:
            self._end(key)

    def unfinished(self, now: float) -> set[PeerID]:
        """The callers whose calls ring, or were answered a moment ago."""
        return {
            call.caller
            for call in self._calls.values()
            if not call.ended and (call.answered_at is None or now < call.answered_at + SETTLE_TIME)
        }

    # -- what the directory finds --

    def located(self, key: CallKey, process: str | None, now: float, problem: str | None = None) -> None:
        """
        The directory has answered.

        :param process: at which the called peer is; None if it is at none.
        :param problem: a sentence for the caller if the directory can't be asked.
        """
        call = self._calls.get(key)
        if call is None:
            return
        if process is not None:
            self.registry.admission.found_elsewhere(call.source)
        if call.ended:
            self._forget(key)
            return
        if process is None:
            self._forget(key)
            self._absent(call, problem or NOT_REGISTERED, now)
            return
        call.process = process
        self._pass_on(call, process, call.establish)
        for request in call.waiting:
            self._pass_on(call, process, request)
        call.waiting.clear()

    def process_lost(self, process: str, now: float) -> None:
        """Another process is gone: end all introductions with its peers."""
        for key, call in [each for each in self._calls.items() if each[1].process == process]:
            self._forget(key)
            if call.answered_at is not None:
                ended = Ended(key[0], ErrorCode.GONE, GONE, sender=call.establish.to)
                self.registry.deliver(call.caller, ended)
            else:
                # It may not have got the call, and whom it had registered is registered nowhere now.
                self._absent(call, NOT_REGISTERED, now)
        self.registry.process_lost(process, now)

    def request_lost(self, message: PeerRequest, problem: str, now: float) -> None:
        """
        The process of the called peer has not received `Establish`: the call is over.

        :param problem: a sentence for the caller.
        """
        key = (message.request.call, message.peer)
        call = self._calls.get(key)
        if call is not None:
            self._forget(key)
            self._absent(call, problem, now)

    # -- what the operator says --

    def end_denied(self, now: float) -> None:
        """End the introductions of peers of other processes that are denied now."""
        self.registry.end_away(self._denies, ErrorCode.DENIED, _DENIED, now)
        for key, call in list(self._calls.items()):
            callee = call.establish.to
            if not call.ended and self._denies(callee, call.callee_address):
                if call.process is not None:
                    self._pass_on(call, call.process, Cancel(key[0], callee))
                self._end(key)
                self.registry.deliver(call.caller, Ended(key[0], ErrorCode.GONE, GONE, sender=callee))

    # -- what other processes say --

    def receive(self, process: str, message: PeerRequest | PeerReply | PeerLost, now: float) -> None:
        """Handle a message of another process."""
        if isinstance(message, PeerRequest):
            source = source_of(message.address)
            if self._denies(message.peer, message.address):
                if isinstance(message.request, Establish):
                    self.registry.limit_hit(message.peer, message.address, "deny")
                    error = Error(ErrorCode.DENIED, _DENIED, message.request.call)
                    self.send(process, message.peer, error, source)
                return
            try:
                self.registry.request_from(
                    process, message.peer, message.name, message.address, message.request, now
                )
            except IntroductionRefusal as refusal:
                if refusal.code in (ErrorCode.TOO_MANY, ErrorCode.BUSY):
                    self.registry.limit_hit(message.peer, message.address, "calls")
                error = Error(refusal.code, refusal.text, message.request.call)
                self.send(process, message.peer, error, source)
        elif isinstance(message, PeerLost):
            self.registry.lost_at(process, message.peer, now)
        else:
            self._receive_reply(process, message, now)

    def send(
        self, process: str, peer: PeerID, reply: Reply, source: Source = UNKNOWN, address: str = ""
    ) -> None:
        """
        Send a reply to a peer that is registered at another process.

        :param source: that of the peer.
        :param address: where the called peer is, whose reply it is; empty if that is not known.
        """
        if isinstance(reply, (Answered, Candidates, Ended, Error)):
            self._outputs.append(Send(process, PeerReply(peer, reply, address), source))

    # -- time --

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called; None if nothing is due."""
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        """End the calls whose end the other process has not reported in time."""
        while (key := self._deadlines.pop(now)) is not None:
            call = self._calls[key]
            self._forget(key)
            if call.answered_at is None and not call.ended:
                text = "Nobody answered the call."
                ended = Ended(key[0], ErrorCode.TIMEOUT, text, sender=call.establish.to)
                self.registry.deliver(call.caller, ended)

    # -- within --

    def _receive_reply(self, process: str, message: PeerReply, now: float) -> None:
        reply = message.reply
        key = (reply.call or "", message.peer)
        call = self._calls.get(key)
        if call is None or call.process != process:
            return  # The call ended while the message was on its way.
        callee = call.establish.to
        if not isinstance(reply, Error) and reply.sender not in (callee, None):
            return
        call.callee_address = message.address or call.callee_address
        if self._denies(callee, call.callee_address):
            self._pass_on(call, process, Cancel(key[0], callee))
            self._forget(key)
            self.registry.deliver(call.caller, Error(ErrorCode.NOT_REGISTERED, NOT_REGISTERED, key[0]))
            return
        if isinstance(reply, Answered):
            if call.answered_at is None:
                self.registry.admission.remember(source_of(call.address), call.caller, callee, now)
            call.answered_at = now
            self._deadlines.set(key, now + self._limits.answered_time + _LATE)
        elif isinstance(reply, (Ended, Error)):
            self._forget(key)
            if isinstance(reply, Error) and reply.code is ErrorCode.NOT_REGISTERED:
                self._absent(call, reply.text, now)
                return
        self.registry.deliver(call.caller, reply)

    def _absent(self, call: _Call, text: str, now: float) -> None:
        """Tell a caller that the called peer is registered at no process."""
        if self.registry.absent(call.caller, call.establish, text, now):
            self._outputs.append(AwaitReturn(call.establish.to, call.source))

    def _displace(self, key: CallKey) -> None:
        """End a call to make room for one of another source."""
        call = self._calls[key]
        callee = call.establish.to
        self.registry.limit_hit(call.caller, call.address, "calls")
        if call.process is not None:
            self._pass_on(call, call.process, Cancel(key[0], callee))
        self._forget(key)
        if call.ended:
            return
        code = ErrorCode.BUSY if call.answered_at is None else ErrorCode.CANCELLED
        self.registry.deliver(call.caller, Ended(key[0], code, DISPLACED, sender=callee))

    def _pass_on(self, call: _Call, process: str, request: Establish | Trickle | Cancel) -> None:
        message = PeerRequest(call.caller, call.name, call.address, request)
        self._outputs.append(Send(process, message, call.source))

    def _end(self, key: CallKey) -> None:
        call = self._calls[key]
        if call.process is not None:
            self._forget(key)
            return
        call.ended = True
        call.waiting.clear()

    def _forget(self, key: CallKey) -> None:
        call = self._calls.pop(key, None)
        if call is None:
            return
        self._of_account[call.account] -= 1
        if not self._of_account[call.account]:
            del self._of_account[call.account]
        for table in self.places:
            table.leave(key)
        self._deadlines.discard(key)
        own = self._of_caller[key[1]]
        own.discard(key)
        if not own:
            del self._of_caller[key[1]]
