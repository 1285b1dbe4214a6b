"""Any order of what peers, processes and Redis do, against a model of where each peer is."""

from __future__ import annotations

import math
import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.directory.peer_entries import AWAIT_LIFE
from punch.test.internet import Internet
from punch.test.rendezvous.directory.directory_processes import REDIS, Process
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.strategies import IDENTITIES, SETTINGS

PEERS = [identity.peer_id for identity in IDENTITIES[:2]]
RESIDENTS = 30
"""
Other peers of each process, which stay there: with few entries, all are refreshed each second, which mends
whatever went wrong.
"""
SLACK = 600.0
"""Seconds that pass beside: runs are much shorter."""
a_peer, a_process = st.sampled_from(PEERS), st.integers(0, 2)


class DirectoryMachine(RuleBasedStateMachine):
    """Three processes and their Redis. Whatever has happened, all is right soon after Redis is well."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Internet(seed=0)
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.running = True
        self.processes = [Process(self.net, number) for number in (1, 2, 3)]
        for number, process in enumerate(self.processes):
            for other in range(RESIDENTS):
                process.register(PeerID(bytes([number, other]) * 16))
        self.newest: dict[PeerID, Process] = {}
        """Where each peer registered last."""
        self.hours = 0.0
        """Seconds that have passed for the notices of returns, beside those of the net."""
        self.wanted: dict[tuple[Process, PeerID], float] = {}
        """Which processes have waited for which peers, and when they last did."""
        self.net.advance(2.0)

    @property
    def now(self) -> float:
        """Seconds, as the notices of returns count them."""
        return self.net.now + self.hours

    @rule(peer=a_peer, number=a_process)
    def register(self, peer: PeerID, number: int) -> None:
        process = self.processes[number]
        self.net.advance(0.01)
        process.register(peer)
        self.stop_waiting(peer, number)
        self.newest[peer] = process

    @precondition(lambda self: self.newest)
    @rule(peer=a_peer)
    def leave(self, peer: PeerID) -> None:
        process = self.newest.pop(peer, None)
        if process is not None:
            process.leave(peer)

    @rule(peer=a_peer, number=a_process)
    def await_return(self, peer: PeerID, number: int) -> None:
        process = self.processes[number]
        if peer not in process.peers and peer not in process.awaited:
            self.wanted[process, peer] = self.now
            process.await_return(peer)

    @rule(peer=a_peer, number=a_process)
    def stop_waiting(self, peer: PeerID, number: int) -> None:
        """Nobody at a process waits for a peer any more."""
        process = self.processes[number]
        if peer in process.awaited:
            process.awaited.remove(peer)
            self.wanted[process, peer] = self.now

    @rule(seconds=st.sampled_from([60.0, 0.9 * AWAIT_LIFE, AWAIT_LIFE + SLACK]))
    def time_passes(self, seconds: float) -> None:
        """For the notices of returns, which the users of the directory forget after an hour, too."""
        self.nobody_else_is_told()
        self.redis.age(b"punch:await:", seconds)
        self.hours += seconds
        for (process, peer), since in self.wanted.items():
            if peer in process.awaited and self.now >= since + AWAIT_LIFE:
                process.awaited.remove(peer)

    @rule(
        peer=a_peer,
        here=a_process,
        there=a_process,
        seconds=st.sampled_from([60.0, 0.9 * AWAIT_LIFE, AWAIT_LIFE + SLACK]),
    )
    def return_later(self, peer: PeerID, here: int, there: int, seconds: float) -> None:
        """A peer is waited for, and registers after a while."""
        self.leave(peer)
        self.await_return(peer, here)
        self.net.advance(0.3)
        self.time_passes(seconds)
        self.register(peer, there)

    @invariant()
    def nobody_else_is_told(self) -> None:
        """A process is told of a return only if it has waited for the peer within the last hour."""
        for process in self.processes:
            for peer in process.returned:
                assert self.now < self.wanted.get((process, peer), -math.inf) + AWAIT_LIFE + SLACK / 2
            process.returned.clear()

    @rule()
    def flush(self) -> None:
        self.redis.data.clear()

    @rule()
    def stop_or_start(self) -> None:
        (self.redis.stop if self.running else self.redis.start)()
        self.running = not self.running

    @rule(delay=st.sampled_from([0.0, 0.2, 5.0]))
    def slow(self, delay: float) -> None:
        self.redis.delay = delay

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0]))
    def wait(self, seconds: float) -> None:
        self.net.advance(seconds)

    @rule()
    def all_is_well(self) -> None:
        """Each peer is at one process at most, the newest; the directory says so, and who waits is told."""
        self.redis.delay = 0.0
        if not self.running:
            self.stop_or_start()
        self.net.advance(15.0)
        for process in self.processes:
            assert process.directory.problem is None
        for peer in PEERS:
            holders = [process for process in self.processes if peer in process.peers]
            newest = self.newest.get(peer)
            # An older registration may be left, if the newest ended before the other process was told.
            assert len(holders) < 2 if newest is None else holders == [newest]
            for process in self.processes:
                elsewhere = [each.name for each in holders if each is not process]
                assert process.locate(peer) == next(iter(elsewhere), None)
                expired = self.now >= self.wanted.get((process, peer), self.now) + AWAIT_LIFE
                assert not elsewhere or peer not in process.awaited or expired

    def teardown(self) -> None:
        """Processes that stop leave no connection."""
        self.all_is_well()
        for process in self.processes:
            process.directory.stop()
        self.net.advance(1.0)
        assert self.redis.connections == []


class ModelTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        many = os.environ.get("PUNCH_SEEDS") == "all"
        examples = settings(SETTINGS, max_examples=100 if many else 2, stateful_step_count=20)
        run_state_machine_as_test(DirectoryMachine, settings=examples)
