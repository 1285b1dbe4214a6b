"""Any order of what peers do at one rendezvous, against a model of what each of them is told."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.outputs import Deliver, Disconnect
from punch.rendezvous.registry.registry import Introducing, Registry
from punch.test.rendezvous.registry.test_registry import envelope
from punch.test.strategies import IDENTITIES, SETTINGS
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Reject,
    Reply,
    Returned,
    Trickle,
)

PEERS = [identity.peer_id for identity in IDENTITIES[:3]]
CALLS = [f"{number:032x}" for number in range(2)]
LIMITS = replace(
    RendezvousLimits(),
    calls_per_caller=100,
    calls_per_callee=100,
    calls_per_source=100,
    answered_per_callee=100,
    answered_per_source=100,
    incoming_rate=1e6,
    incoming_burst=1e6,
    source_rate=1e6,
    source_burst=1e6,
)
a_peer, a_call = st.sampled_from(PEERS), st.sampled_from(CALLS)
two_peers = st.sampled_from([(one, other) for one in PEERS for other in PEERS if one != other])

Key = tuple[str, frozenset[PeerID]]
Told = tuple[int, str, str, object]
"""A connection, the kind of a message, its call, and from whom it is or its code."""


@dataclass
class Call:
    """What the model knows of an introduction."""

    caller: PeerID
    callee: PeerID
    deadline: float
    answered: bool = False


def told(connection: int, reply: Reply) -> Told:
    """What a message says."""
    if isinstance(reply, (Ended, Error)):
        return connection, type(reply).__name__, reply.call or "", reply.code
    if isinstance(reply, (Answered, Candidates)):
        return connection, type(reply).__name__, reply.call, reply.sender
    if isinstance(reply, Incoming):
        return connection, "Incoming", reply.call, reply.sender
    assert isinstance(reply, Returned)
    return connection, "Returned", "", reply.sender


class RegistryMachine(RuleBasedStateMachine):
    """A registry, and what it should do."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(LIMITS)
        self.now = 0.0
        self.connections = 0
        self.at: dict[PeerID, int] = {}
        self.calls: dict[Key, Call] = {}
        self.waiting: dict[tuple[PeerID, PeerID], float] = {}
        """Callers that wait for a peer, and until when: by peer and caller."""
        self.expected: list[Told] = []

    # -- the model --

    def expect(self, peer: PeerID, kind: str, call: str, more: object) -> None:
        if peer in self.at:
            self.expected.append((self.at[peer], kind, call, more))

    def end(self, key: Key, *codes: tuple[PeerID, ErrorCode]) -> None:
        del self.calls[key]
        for peer, code in codes:
            self.expect(peer, "Ended", key[0], code)

    def check(self) -> None:
        """The registry says what the model says, and nothing else."""
        found: list[Told] = []
        while (output := self.registry.next_output()) is not None:
            if isinstance(output, Deliver):
                found.append(told(output.connection, output.reply))
            elif isinstance(output, Disconnect):
                found.append(told(output.connection, output.error))
        assert sorted(found, key=str) == sorted(self.expected, key=str), (found, self.expected)
        self.expected.clear()

    def ask(self, peer: PeerID, request: Introducing, refused: ErrorCode | None = None) -> None:
        """A registered peer asks for something, which is refused with this code or not."""
        code = None
        try:
            self.registry.request(peer, self.at[peer], request, self.now)
        except IntroductionRefusal as refusal:
            code = refusal.code
        assert code is refused, (code, refused, request)
        self.check()

    # -- what happens --

    @initialize()
    def all_register(self) -> None:
        for peer in PEERS:
            self.register(peer)

    @rule(peer=a_peer)
    def register(self, peer: PeerID) -> None:
        before = self.at.get(peer)
        self.connections += 1
        if before is not None:
            self.expected.append((before, "Error", "", ErrorCode.REPLACED))
        self.at[peer] = self.connections
        for callee, caller in [each for each in self.waiting if each[0] == peer]:
            if self.waiting.pop((callee, caller)) > self.now:
                self.expect(caller, "Returned", "", peer)
        for (call, _), each in self.calls.items():
            if each.callee == peer and not each.answered:
                self.expect(peer, "Incoming", call, each.caller)
            elif each.caller == peer and each.answered:
                self.expect(peer, "Answered", call, each.callee)
        host = f"192.0.2.{PEERS.index(peer)}"
        self.registry.register(self.connections, peer, "name", Accept.ASK, host, self.now)
        self.registry.resume(peer)
        self.check()

    @rule(peer=a_peer, stale=st.booleans())
    def disconnect(self, peer: PeerID, stale: bool) -> None:
        connection = self.at.get(peer, 0)
        self.registry.disconnected(peer, connection - stale, "closed", self.now)
        if connection and not stale:
            del self.at[peer]
            for key, each in list(self.calls.items()):
                if peer in key[1]:
                    other = each.caller if peer == each.callee else each.callee
                    self.end(key, (other, ErrorCode.GONE))
        self.check()

    @rule(peer=a_peer, to=a_peer, call=a_call, notify=st.booleans())
    def establish(self, peer: PeerID, to: PeerID, call: str, notify: bool) -> None:
        if peer not in self.at:
            return
        key, refused = (call, frozenset({peer, to})), None
        if peer == to or (to in self.at and key in self.calls):
            refused = ErrorCode.FORBIDDEN
        elif to not in self.at:
            refused = ErrorCode.NOT_REGISTERED
            if notify:
                self.waiting[to, peer] = self.now + LIMITS.return_notice_time
        else:
            self.calls[key] = Call(peer, to, self.now + LIMITS.ring_time)
            self.expect(to, "Incoming", call, peer)
        self.ask(peer, Establish(call, to, envelope(to), notify=notify), refused)

    @rule(pair=two_peers, call=a_call)
    def answer(self, pair: tuple[PeerID, PeerID], call: str) -> None:
        peer, to = pair
        if peer not in self.at:
            return
        found, refused = self.calls.get((call, frozenset({peer, to}))), None
        if found is None:
            refused = ErrorCode.CANCELLED
        elif found.caller == peer:
            refused = ErrorCode.FORBIDDEN
        elif not found.answered:
            found.answered, found.deadline = True, self.now + LIMITS.answered_time
            self.expect(to, "Answered", call, peer)
        self.ask(peer, Answer(call, to, envelope(to)), refused)

    @rule(pair=two_peers, call=a_call)
    def trickle(self, pair: tuple[PeerID, PeerID], call: str) -> None:
        peer, to = pair
        if peer not in self.at:
            return
        if (call, frozenset({peer, to})) in self.calls:
            self.expect(to, "Candidates", call, peer)
        self.ask(peer, Trickle(call, to, envelope(to)))

    @rule(pair=two_peers, call=a_call, reject=st.booleans())
    def hang_up(self, pair: tuple[PeerID, PeerID], call: str, reject: bool) -> None:
        peer, to = pair
        if peer not in self.at:
            return
        key = (call, frozenset({peer, to}))
        found, refused = self.calls.get(key), None
        if found is not None and reject and found.caller == peer:
            refused = ErrorCode.FORBIDDEN
        elif found is not None:
            self.end(key, (to, ErrorCode.REFUSED if reject else ErrorCode.CANCELLED))
        self.ask(peer, Reject(call, to, ErrorCode.REFUSED) if reject else Cancel(call, to), refused)

    @rule(seconds=st.sampled_from([1.0, 25.0, 1800.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for key, each in list(self.calls.items()):
            if each.deadline <= self.now:
                ends = () if each.answered else (each.caller, each.callee)
                self.end(key, *((peer, ErrorCode.TIMEOUT) for peer in ends))
        self.registry.handle_timer(self.now)
        self.check()

    @rule(
        pair=two_peers,
        seconds=st.sampled_from([1.0, LIMITS.return_notice_time - 1.0, LIMITS.return_notice_time]),
    )
    def return_later(self, pair: tuple[PeerID, PeerID], seconds: float) -> None:
        """A peer is called that is not there, and registers after a while."""
        caller, callee = pair
        if callee in self.at:
            self.disconnect(callee, False)
        self.establish(caller, callee, CALLS[0], True)
        self.wait(seconds)
        self.register(callee)

    @invariant()
    def those_that_are_waited_for(self) -> None:
        """What is told to other processes of the service, up to those whose hour has just ended."""
        waited_for = {callee for (callee, _), end in self.waiting.items() if end > self.now}
        assert waited_for <= set(self.registry.awaited_peers) <= {callee for callee, _ in self.waiting}

    @invariant()
    def nothing_else_is_kept(self) -> None:
        assert {peer for peer in PEERS if peer in self.registry} == set(self.at)
        assert self.registry.introduction_count == len(self.calls)
        timer = self.registry.get_timer()
        assert (timer is None) == (not self.calls)
        assert timer is None or timer == min(each.deadline for each in self.calls.values())

    def teardown(self) -> None:
        """When all have left and time has passed, nothing is left."""
        for peer in list(self.at):
            self.disconnect(peer, False)
        assert len(self.registry) == self.registry.introduction_count == 0
        assert not any(len(table) for table in self.registry.places.tables)
        assert not any(len(table) for table in self.registry.admission.places)


class ModelTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        many = os.environ.get("PUNCH_SEEDS") == "all"
        examples = settings(SETTINGS, max_examples=1000 if many else 10, stateful_step_count=40)
        run_state_machine_as_test(RegistryMachine, settings=examples)
