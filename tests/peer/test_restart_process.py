"""The rendezvous is killed (SIGKILL) in the middle of an introduction, and started again; real programs."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.peer import replaying_rendezvous as replaying
from tests.ports import free_port
from tests.processes import JSONProcess, Programs

ROOT = Path(__file__).parents[2]
TIMEOUT = 70.0
"""Seconds for a call to end in one way or the other: ringing alone may last 60."""


class RestartedRendezvous:
    """A rendezvous that can be killed and comes back at the same port, and two registered peers."""

    def __init__(self, running: Programs, accept: str) -> None:
        self._port = free_port()
        self._running = running
        self.address = self.start()
        self.bob = running.peer("bob", "--rendezvous", self.address, "--accept", accept)
        self.alice = running.peer("alice", "--rendezvous", self.address, "--accept", "anyone")
        self.ids = {peer: str(peer.wait("ready")["id"]) for peer in (self.alice, self.bob)}
        for peer in self.ids:
            peer.wait("registered")

    def start(self) -> str:
        """Start it."""
        self._rendezvous = self._running.rendezvous(
            *("--control", f"tcp:{self._port}:interface=127.0.0.1", "--reflector-port", "127.0.0.1:0"),
            *("--host", "127.0.0.1"),
        )
        return str(self._rendezvous.wait("listening")["address"])

    def restart(self, away: float = 0.0) -> None:
        """Kill it, and start it again after so many seconds."""
        self._rendezvous.kill(signal.SIGKILL)
        self._rendezvous.process.wait()
        time.sleep(away)
        assert self.start() == self.address

    def call(self) -> None:
        """Alice calls Bob."""
        self.alice.command("call", peer=self.ids[self.bob])

    def end(self) -> str:
        """How the call ended for Alice, with a sentence if it failed."""
        event = self.alice.wait(("connected", "failed"), TIMEOUT)
        if event["event"] == "failed":
            assert event["peer"] == self.ids[self.bob]
            assert event["text"].endswith(".")
        return str(event["event"])

    def talk(self) -> None:
        """A message each way; if there is no link, one is made first."""
        for here, there in ((self.alice, self.bob), (self.bob, self.alice)):
            here.command("send", peer=self.ids[there], text="hello")
            assert there.wait("message", where=lambda event: event["text"] == "hello")


def registered_again(peer: JSONProcess) -> None:
    """It has lost the rendezvous and found it."""
    if sum(event["event"] == "registered" for event in peer.events) < 2:
        peer.wait("registered", TIMEOUT)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
def test_at_any_moment(running: Programs, delay: float) -> None:
    """The call ends in a link or in a sentence; the next one in a link."""
    scenario = RestartedRendezvous(running, "anyone")
    scenario.call()
    time.sleep(delay)
    scenario.restart()
    if scenario.end() == "failed":
        # Alice is back, or her next call waits until she is
        registered_again(scenario.bob)
        scenario.call()
        assert scenario.end() == "connected"
    scenario.talk()


def test_away_for_long(running: Programs) -> None:
    """A message waits for half a minute, and for at most three seconds more when the rendezvous is back."""
    scenario = RestartedRendezvous(running, "anyone")
    scenario.alice.command("send", peer=scenario.ids[scenario.bob], text="first")
    scenario.restart(away=30.0)
    back = time.monotonic()
    assert scenario.bob.wait("message", TIMEOUT)["text"] == "first"
    print(f"the message is there {time.monotonic() - back:.1f} s after the return")
    for peer in scenario.ids:
        registered_again(peer)
    # The last peer is back after 2.6 s, the call takes 0.3 s; the rest is for a slow machine.
    assert time.monotonic() - back < 5.0


def test_while_it_rings(running: Programs) -> None:
    """Bob says yes to a call that the new process knows nothing of: both hear that, and can call again."""
    scenario = RestartedRendezvous(running, "ask")
    scenario.call()
    scenario.bob.wait("call")
    scenario.restart()
    for peer in scenario.ids:
        registered_again(peer)
    scenario.bob.command("accept", peer=scenario.ids[scenario.alice])
    if scenario.end() == "failed":
        scenario.call()
        assert scenario.end() == "connected"
    scenario.talk()


def test_a_recorded_offer(running: Programs) -> None:
    """The callee restarts, and the rendezvous delivers an offer again: no call comes of it."""
    rendezvous = running.start([sys.executable, "-m", replaying.__name__], env={"PYTHONPATH": str(ROOT)})
    options = ("--rendezvous", str(rendezvous.wait("listening")["address"]), "--accept", "anyone")
    bob, alice = (running.peer(name, *options) for name in ("bob", "alice"))
    bob_id = str(bob.wait("ready")["id"])
    for peer in (bob, alice):
        peer.wait("registered")
    alice.command("call", peer=bob_id)
    for peer in (alice, bob):
        peer.wait("connected")
    for peer in (alice, bob):
        peer.kill(signal.SIGKILL)
        peer.process.wait()
    again = running.peer("bob", *options)
    replies = ("Answer", "Reject")
    reply = rendezvous.wait(replies, where=lambda event: event["call"] == replaying.REPLAYED)
    assert reply["event"] == "Reject"
    again.wait("registered")
    assert {event["event"] for event in again.events} <= {"ready", "registered"}
