"""Calls between two processes while Redis fails: peers speak, and processes connect again, in any order."""

from __future__ import annotations

import os

import txredisapi  # noqa: F401 (it asks for a reactor when it is imported, and tests have none)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.directory.connector import DirectoryConnector
from punch.rendezvous.directory.redis import REWRITE_TIME, RedisDirectory
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.rendezvous.directory.remote_calls import RemoteCalls
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.outputs import Deliver
from punch.test.internet import Internet
from punch.test.rendezvous.directory.directory_processes import REDIS
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.rendezvous.registry.test_registry import envelope
from punch.test.strategies import IDENTITIES, SETTINGS
from punch.test.system import EPOCH
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Reject,
    Reply,
    Trickle,
)

CALLER, CALLEE = (identity.peer_id for identity in IDENTITIES[:2])


class OnePeerProcess:
    """
    A process of the service with one peer, whose connection has the number 1.

    :ivar got: what the peer was told.
    """

    def __init__(self, net: Internet, number: int, peer: PeerID) -> None:
        self.net = net
        self.peer = peer
        self.host = net.host(f"process {number}", f"198.51.100.{number}")
        self.got: list[Reply] = []
        self.remote_calls = RemoteCalls(RendezvousLimits())
        self.directory = RedisDirectory(
            RedisAddress.parse(f"redis://{REDIS}"),
            secret=b"key",
            reactor=self.host.reactor,
            monotonic=net.monotonic,
            wall=lambda: EPOCH + net.now,
            random=net.random_bytes(f"process {number}"),
        )
        self.connector = DirectoryConnector(self.directory, self.remote_calls, net.monotonic, self.pass_on)
        self.connector.start()
        self.register()

    def register(self) -> None:
        """Register its peer."""
        registry = self.remote_calls.registry
        registry.register(1, self.peer, "name", Accept.ASK, self.host.addresses[0], self.net.monotonic())
        self.pass_on()

    def leave(self) -> None:
        """End the registration of its peer, whose connection was lost."""
        self.remote_calls.registry.disconnected(self.peer, 1, "lost", self.net.monotonic())
        self.pass_on()

    def request(self, request: Establish | Answer | Trickle | Reject | Cancel) -> None:
        """Its peer asks for something."""
        try:
            self.remote_calls.registry.request(self.peer, 1, request, self.net.monotonic())
        except IntroductionRefusal as refusal:
            self.got.append(Error(refusal.code, refusal.text, request.call))
        self.pass_on()

    def pass_on(self) -> None:
        """Pass on all outputs of the registry, and all that the connector has."""
        busy = True
        while busy:
            busy = False
            while (output := self.remote_calls.registry.next_output()) is not None:
                busy = True
                if isinstance(output, Deliver):
                    self.got.append(output.reply)
                self.connector.note(output)
            busy = self.connector.pass_on() or busy

    def state(self, call: str) -> str:
        """What the peer knows of a call: "none", "ringing", "answered" or "over"."""
        state = "none"
        for reply in self.got:
            if isinstance(reply, Incoming) and reply.call == call:
                state = "ringing"
            elif isinstance(reply, Answered) and reply.call == call:
                state = "answered"
            elif isinstance(reply, (Ended, Error)) and reply.call == call:
                state = "over"
        return state


class ReturningMachine(RuleBasedStateMachine):
    """
    The caller is at one process, the callee at another one, and Redis is started again; either process
    connects again later than the other. Peers speak while their own process is connected.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = Internet(seed=0)
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.caller = OnePeerProcess(self.net, 1, CALLER)
        self.callee = OnePeerProcess(self.net, 2, CALLEE)
        self.calls = 0
        self.states: dict[str, dict[str, str]] = {}
        """The state of each call after what each peer itself has done."""
        self.net.advance(2.0)

    @property
    def call(self) -> str:
        """The ID of the newest call."""
        return f"{self.calls:032x}"

    def connected(self, process: OnePeerProcess) -> bool:
        """Whether its peer may speak now."""
        return process.directory.problem is None

    @rule()
    def place_a_call(self) -> None:
        if self.connected(self.caller):
            self.calls += 1
            self.states[self.call] = {"caller": "ringing", "callee": "none"}
            self.caller.request(Establish(self.call, CALLEE, envelope(CALLEE)))
            self.net.advance(0.2)

    @precondition(lambda self: self.call in self.states)
    @rule(answers=st.booleans())
    def decide(self, answers: bool) -> None:
        """The callee answers or rejects."""
        if self.callee.state(self.call) == "ringing" and self.connected(self.callee):
            self.states[self.call]["callee"] = "answered" if answers else "over"
            self.callee.request(
                Answer(self.call, CALLER, envelope(CALLER))
                if answers
                else Reject(self.call, CALLER, ErrorCode.REFUSED)
            )

    @precondition(lambda self: self.call in self.states)
    @rule(by_caller=st.booleans())
    def cancel(self, by_caller: bool) -> None:
        process, other = (self.caller, CALLEE) if by_caller else (self.callee, CALLER)
        if (by_caller or self.callee.state(self.call) != "none") and self.connected(process):
            self.states[self.call]["caller" if by_caller else "callee"] = "over"
            process.request(Cancel(self.call, other))

    @precondition(lambda self: self.call in self.states)
    @rule(by_caller=st.booleans())
    def leave_and_return(self, by_caller: bool) -> None:
        process = self.caller if by_caller else self.callee
        if self.connected(process):
            process.leave()
            for states in self.states.values():
                states["caller" if by_caller else "callee"] = "over"
            process.register()

    @rule(late=st.sampled_from([1, 2]), seconds=st.sampled_from([0.3, 1.0, 2.0]))
    def start_redis_again(self, late: int, seconds: float) -> None:
        self.redis.delays = {f"198.51.100.{late}": seconds}
        self.redis.stop()
        self.net.advance(1.5)
        self.redis.start()
        first = self.callee if late == 1 else self.caller
        self.net.run_until(lambda: first.directory.problem is None, 10.0, "Redis works")

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.net.advance(seconds)

    @rule()
    def both_agree(self) -> None:
        """Both know the same of each call soon after both are connected, long before ringing times out."""
        self.redis.delays = {}
        self.net.advance(REWRITE_TIME + 5.0)
        for call, done in self.states.items():
            caller = "over" if done["caller"] == "over" else self.caller.state(call)
            callee = done["callee"] if done["callee"] == "over" else self.callee.state(call)
            if callee == "ringing" and done["callee"] == "answered":
                callee = "answered"
            both = (caller, callee)
            assert both in (
                ("none", "ringing"),
                ("answered", "answered"),
                ("over", "over"),
                ("over", "none"),
            ), (call, both)
        self.states.clear()

    def teardown(self) -> None:
        self.both_agree()
        for process in (self.caller, self.callee):
            process.connector.stop()
        self.net.advance(1.0)


class ReturningProcessesTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        many = os.environ.get("PUNCH_SEEDS") == "all"
        examples = settings(SETTINGS, max_examples=200 if many else 10, stateful_step_count=20)
        run_state_machine_as_test(ReturningMachine, settings=examples)
