"""Any order of what peers, processes and Redis do, against a model of where each peer is."""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.test.directory_processes import REDIS, Process
from punch.test.internet import Internet
from punch.test.simulated_redis import SimulatedRedis
from punch.test.strategies import IDENTITIES, SETTINGS

PEERS = [identity.peer_id for identity in IDENTITIES[:2]]
a_peer, a_process = st.sampled_from(PEERS), st.integers(0, 2)


class DirectoryMachine(RuleBasedStateMachine):
    """Three processes and their Redis. Whatever has happened, all is right soon after Redis is well."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Internet(seed=0)
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.running = True
        self.processes = [Process(self.net, number) for number in (1, 2, 3)]
        self.newest: dict[PeerID, Process] = {}
        """Where each peer registered last."""
        self.net.advance(2.0)

    @rule(peer=a_peer, number=a_process)
    def register(self, peer: PeerID, number: int) -> None:
        process = self.processes[number]
        self.net.advance(0.01)
        process.register(peer)
        while peer in process.awaited:
            process.awaited.remove(peer)
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
            process.await_return(peer)

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
                assert not elsewhere or peer not in process.awaited

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
