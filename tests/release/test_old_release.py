"""Today's programs with those of an older release: control protocol, calls, and state directories."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.processes import PUNCH, JSONProcess, Programs, programs
from tests.release import old_release

OLD, NEW = "old", "new"


class Releases:
    """Starts programs of both releases, with one service at a time, which keeps its ports."""

    def __init__(self, running: Programs, old: list[str]) -> None:
        self.running = running
        self._commands = {OLD: old, NEW: [PUNCH]}
        self._ports = free_port(), free_port()
        self.service: JSONProcess | None = None
        self.address = ""

    def start(self, release: str, command: str, state: str, *options: str) -> JSONProcess:
        directory = str(self.running.directory / state)
        return self.running.start(
            [*self._commands[release], command, "--json", "--state-dir", directory, *options]
        )

    def serve(self, release: str, *options: str) -> None:
        """Start the service of a release, in place of the one that runs."""
        if self.service is not None:
            self.service.kill(signal.SIGTERM)
            self.service.exit()
        control, reflector = self._ports
        self.service = self.start(
            *(release, "rendezvous", "state-service", "--control", f"tcp:{control}:interface=127.0.0.1"),
            *("--reflector-port", f"127.0.0.1:{reflector}", "--host", "127.0.0.1", *options),
        )
        address = self.service.wait("listening")["address"]
        # The key is the same, whichever release has made it.
        assert self.address in ("", address)
        self.address = address

    def peer(self, release: str, name: str, *options: str) -> JSONProcess:
        return self.start(
            *(release, "peer", f"state-{name}", "--name", name, "--accept", "anyone"),
            *("--rendezvous", self.address, *options),
        )


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How to run `punch` of the older release."""
    directory = tmp_path_factory.mktemp("old-release")
    return old_release.command(
        old_release.unpack(directory), old_release.dependencies(directory / "packages")
    )


@pytest.fixture
def releases(tmp_path: Path, old: list[str]) -> Iterator[Releases]:
    with programs(tmp_path) as running:
        yield Releases(running, old)


def talk(caller: JSONProcess, called: JSONProcess) -> None:
    """Call, and say something on each side."""
    ids = {peer: peer.events[0]["id"] for peer in (caller, called)}
    caller.command("call", peer=ids[called])
    caller.wait("connected")
    called.wait("connected")
    for sender, receiver in ((caller, called), (called, caller)):
        sender.command("send", peer=ids[receiver], text="hello")
        assert receiver.wait("message")["text"] == "hello"
        sender.wait("delivered")


@pytest.mark.parametrize(
    ("service", "next_service", "alice", "bob"),
    [
        pytest.param(OLD, NEW, OLD, OLD, id="the service is upgraded"),
        pytest.param(NEW, OLD, NEW, NEW, id="the service is downgraded"),
        pytest.param(NEW, NEW, OLD, NEW, id="an old peer calls a new one"),
        pytest.param(OLD, OLD, NEW, OLD, id="a new peer calls an old one at an old service"),
    ],
)
def test_with_each_other(releases: Releases, service: str, next_service: str, alice: str, bob: str) -> None:
    """
    Two peers register and talk; the service is restarted, the link stays, and both register again.

    A third peer then calls one of them.
    """
    releases.serve(service)
    one, other = releases.peer(alice, "alice"), releases.peer(bob, "bob")
    for peer in (one, other):
        peer.wait("registered")
    talk(one, other)
    releases.serve(next_service)
    for peer in (one, other):
        peer.wait("registered", timeout=60.0)
    one.command("send", peer=other.events[0]["id"], text="still here")
    assert other.wait("message")["text"] == "still here"
    third = releases.peer(bob, "carol")
    third.wait("registered")
    talk(third, one)
    assert not [event for event in one.settle() + other.settle() if event["event"] in ("closed", "failed")]


def test_an_old_peer_that_is_not_admitted(releases: Releases) -> None:
    """It knows no refusals, but stops, and says that it should be updated; then it says the reason."""
    releases.serve(NEW, "--admit", "invited", "--contact", "Ann")
    old = releases.peer(OLD, "alice")
    failed = old.wait("failed", timeout=60.0)
    assert failed["reason"] == "version"
    assert "update the older of the two" in failed["text"]
    assert old.exit() == 1
    new = releases.peer(NEW, "alice")
    failed = new.wait("failed", timeout=60.0)
    assert failed["reason"] == "not-invited"
    assert "ask Ann for an invitation" in failed["text"]
    assert new.exit() == 1


def test_a_peer_that_returns_to_an_old_release(releases: Releases) -> None:
    """
    Offers to it were sealed with ML-KEM, which the old release can't open: the caller is refused once, and
    its next call is one for the old release.
    """
    releases.serve(NEW)
    alice, bob = releases.peer(NEW, "alice"), releases.peer(NEW, "bob")
    for peer in (alice, bob):
        peer.wait("registered")
    bobs = bob.events[0]["id"]
    for expected in (False, True):
        talk(alice, bob)
        alice.command("status")
        [link] = alice.wait("result", where=lambda event: event["command"] == "status")["links"]
        assert link["post_quantum_offers"] is expected
        kept = releases.running.directory / "state-alice" / "peers" / "alice" / "prekeys" / bobs
        end = time.monotonic() + 30.0
        while not kept.exists():  # The link tells it when it is quiet
            assert time.monotonic() < end
            time.sleep(0.2)
        alice.command("hangup", peer=bobs)
        alice.wait("disconnected")
        bob.wait("disconnected")
    bob.command("quit")
    bob.exit()
    bob = releases.peer(OLD, "bob", "--no-history")
    bob.wait("registered")
    alice.command("call", peer=bobs)
    assert alice.wait("failed")["reason"] == "refused"
    talk(alice, bob)
