"""A name server that keeps silent: nothing waits for it longer than it must."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consoles import peer as console_peer
from tests.consoles import terminal
from tests.needs import need_namespaces
from tests.netns import Namespaces
from tests.processes import PUNCH, JSONProcess, Programs, programs

ADDRESS = "punch://rendezvous.example:7001/wzpekjwf5ih6byzm2vvnuwuofwsmdlmyfczishzucqfjgzgpsgaibfac"
SOON = 2.5
"""Seconds that an end may take on a busy machine; 1.5 are promised, it takes up to 1.1, and a look-up 20."""
PATIENCE = 10.0
"""Seconds from its start after which a peer that nobody watches gives up."""


class UnansweredLookups:
    """A host whose name server takes questions and answers none."""

    def __init__(self, namespaces: Namespaces, running: Programs) -> None:
        self.running = running
        self.directory = running.directory
        self.host = namespaces.host("silent")
        self.host.nft("table inet f { chain i { type filter hook input priority 0; udp dport 53 drop; }; }")
        configuration = self.directory / "resolv.conf"
        configuration.write_text("nameserver 127.0.0.1\n")
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        self.prefix = [*self.host.prefix, "unshare", "-m", "sh", "-c", mount, str(configuration)]

    def peer(self, *options: str) -> JSONProcess:
        return self.running.peer("alice", "--rendezvous", ADDRESS, *options, prefix=self.prefix)


@pytest.fixture
def lookups(tmp_path: Path) -> Iterator[UnansweredLookups]:
    need_namespaces()
    with Namespaces() as namespaces, programs(tmp_path) as running:
        yield UnansweredLookups(namespaces, running)


@pytest.mark.parametrize("how", ["SIGTERM", "quit", "end of input"])
def test_the_end_waits_for_no_look_up(lookups: UnansweredLookups, how: str) -> None:
    """A process can end while a look-up is under way."""
    peer = lookups.peer()
    peer.wait("ready")
    time.sleep(0.5)
    begin = time.monotonic()
    if how == "SIGTERM":
        peer.process.terminate()
    elif how == "quit":
        peer.command("quit")
    else:
        assert peer.process.stdin is not None
        peer.process.stdin.close()
    status = peer.exit()
    took = time.monotonic() - begin
    print(f"{how}: status {status} after {took:.2f} s")
    assert status == (-signal.SIGTERM if how == "SIGTERM" else 0), peer.said()
    assert took < SOON, peer.said()


@pytest.mark.parametrize("editor", [True, False])
def test_the_end_of_a_persons_input_waits_for_no_look_up(lookups: UnansweredLookups, editor: bool) -> None:
    """Ctrl-D, with a line editor and without."""
    arguments = [*lookups.prefix, *console_peer(lookups.directory, "alice", "--rendezvous", ADDRESS)]
    extra = {"TERM": "xterm" if editor else "dumb"}
    with terminal(
        [shutil.which(arguments[0]) or "", *arguments[1:]], lookups.directory, extra=extra
    ) as alice:
        alice.wait("Your ID")
        if editor:
            alice.wait_for_editor()
        time.sleep(0.5)
        begin = time.monotonic()
        alice.type("\x04")
        assert alice.exit() == 0
        assert time.monotonic() - begin < SOON, alice.text


def test_patience_counts_from_the_start(lookups: UnansweredLookups) -> None:
    """A peer that nobody watches ends ten seconds after its start, with a sentence, and at once."""
    peer = lookups.peer()
    ready = peer.wait("ready")
    failed = peer.wait("failed")
    begin = time.monotonic()
    assert peer.exit() == 1
    assert time.monotonic() - begin < SOON
    assert PATIENCE - 0.1 < failed["time"] - ready["time"] < PATIENCE + 1.0, peer.said()
    assert failed["reason"] == "rendezvous-unreachable"
    # It was tried before, and that try failed for a reason that a person can do something about.
    (first,) = [event for event in peer.events if event["event"] == "unregistered"][:1]
    assert first["time"] - ready["time"] < PATIENCE - 1.0
    assert "rendezvous.example" in first["text"]
    assert "no name server answers" in first["text"]


def test_netcheck(lookups: UnansweredLookups) -> None:
    """It says what the trouble is, and ends."""
    process = lookups.running.start(
        [PUNCH, "netcheck", "--json", "--rendezvous", ADDRESS, "--state-dir", str(lookups.directory / "n")],
        prefix=lookups.prefix,
    )
    assert process.exit(40.0) == 1
    assert "no name server answers" in process.stderr
