"""The socket of a node between real processes: who has the node, who may attach, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from punch.identity import Identity
from tests.local_peers import LocalPeers
from tests.processes import PUNCH, JSONProcess

SHARE = """
import os, sys
from pathlib import Path
from twisted.internet.task import react
from punch.local.process import NodeOptions, attach_or_become
from punch.local.protocol import CommandError
from punch.net.reactor import use_monotonic_time
from punch.state import StateDirectory
from punch.ui.text.causes import event_sentence

async def main(reactor):
    use_monotonic_time(reactor)
    options = NodeOptions(StateDirectory(Path(sys.argv[1])), "alice", sys.argv[2] or None)
    try:
        node = await attach_or_become(options, reactor, os.environ, event_sentence)
        print(type(node).__name__, flush=True)
        await node.when_lost()
        await node.status()
    except CommandError as error:
        print(error.reason, error, flush=True)

react(main)
"""
CONNECT = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    print(connection.makefile().readline())
"""


def status(directory: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [PUNCH, "status", "--name", name, "--state-dir", str(directory), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def sharing(directory: Path, rendezvous: str) -> subprocess.Popen[str]:
    """A program that shares the node of alice."""
    command = [sys.executable, "-c", SHARE, str(directory), rendezvous]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def socket_of(local: LocalPeers, name: str) -> Path:
    return local.directory / "state" / "peers" / name / "node.sock"


class Connection:
    """A program that speaks lines."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self.greeting = self.event()

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self._file.readline())
        return event

    def say(self, **fields: Any) -> None:
        self._socket.sendall(json.dumps(fields).encode() + b"\n")

    def ask(self, **fields: Any) -> dict[str, Any]:
        self.say(**fields)
        return self.event()

    def write(self, data: bytes, *, last: bool = False) -> None:
        self._socket.sendall(data)
        if last:
            self._socket.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def bob(local: LocalPeers) -> tuple[JSONProcess, str]:
    return local.bob()


def test_status_and_streams(local: LocalPeers, bob: tuple[JSONProcess, str]) -> None:
    """What is shown of a running peer; and a service of one program, used by another, on raw streams."""
    alice = local.running.peer("alice")
    alice.wait("registered")
    state = local.directory / "state"
    path = socket_of(local, "alice")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server, program = Connection(socket_of(local, "bob")), Connection(path)
    assert server.ask(command="serve", service="upper/1", allow="anyone")["event"] == "result"
    program.say(command="open", peer=bob[1], service="upper/1")
    program.write(b"hello " * 10_000, last=True)
    number = server.event()["stream"]
    shown = json.loads(status(state, "alice", "--json").stdout)
    assert [link["peer"] for link in shown["links"]] == [bob[1]]
    assert shown["links"][0]["streams"] >= 1
    assert shown["waiting"] == {}
    answering = Connection(socket_of(local, "bob"))
    assert answering.ask(command="accept-stream", stream=number)["event"] == "result"
    assert program.event()["event"] == "result"
    answering.write(answering.rest().upper(), last=True)
    assert program.rest() == b"HELLO " * 10_000
    assert program.rest() == b""
    # The commands of the chat are there, too
    assert program.greeting["id"] == alice.events[0]["id"]
    other = Connection(path)
    assert other.ask(command="peers")["peers"][0]["peer"] == bob[1]
    assert other.ask(command="history", peer="nobody")["reason"] == "bad-peer-id"
    words = status(local.directory / "state", "bob")
    assert (words.returncode, words.stderr) == (0, "")
    assert "Service upper/1 for anyone" in words.stdout
    assert "direct" in words.stdout
    assert words.stdout.count(", post-quantum key exchange\n") == 2
    for each in (server, program, answering, other):
        each.close()
    alice.command("quit")
    assert alice.exit() == 0
    assert not path.exists()
    none = status(state, "alice")
    assert (none.returncode, none.stdout) == (1, "")
    assert "No node runs" in none.stderr


def test_processes_that_become_the_node_at_the_same_moment(local: LocalPeers) -> None:
    """One of them does, and the others attach. It is killed: each says so, and the next one takes over."""
    state = local.directory / "state"
    assert status(state, "alice").returncode == 1
    processes = [sharing(state, local.address) for _ in range(3)]
    try:
        kinds = [says(process) for process in processes]
        assert sorted(kinds) == ["AttachedNode", "AttachedNode", "OwnNode"], kinds
        asked = json.loads(status(state, "alice", "--json").stdout)
        assert asked["connections"] == 3
        processes.pop(kinds.index("OwnNode")).kill()
        for process in processes:
            reason, _, text = says(process).partition(" ")
            assert (reason, text[-1]) == ("node-lost", ".")
        assert socket_of(local, "alice").exists()
        assert status(state, "alice").returncode == 1
        processes.append(sharing(state, ""))
        assert says(processes[-1]) == "OwnNode"
        assert status(state, "alice").returncode == 0
        processes.append(sharing(state, "punch://127.0.0.1:9"))
        assert says(processes[-1]).startswith("other-rendezvous ")
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory that everybody may enter, with a short path."""
    directory = Path(tempfile.mkdtemp(prefix="p", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_a_path_that_is_too_long(local: LocalPeers, short: Path) -> None:
    """The socket is in the runtime directory, and found there; not in one that others may use."""
    state = local.directory / ("long" * 20) / "state"
    environment = {"XDG_RUNTIME_DIR": str(short), "TMPDIR": str(short)}
    command = [PUNCH, "peer", "--json", "--name", "alice", "--state-dir", str(state)]
    alice = local.running.start([*command, "--rendezvous", local.address], env=environment)
    alice.wait("registered")
    private = short / f"punch-{os.geteuid()}"
    places = [private, Path(f"/run/user/{os.geteuid()}")]
    (found,) = [path for place in places if place.is_dir() for path in place.glob("punch-*.sock")]
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
    asking = [PUNCH, "status", "--name", "alice", "--state-dir", str(state)]
    done = subprocess.run(
        asking, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    assert (done.returncode, done.stderr) == (0, "")
    alice.command("quit")
    alice.exit()
    assert not found.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_somebody_else(local: LocalPeers, short: Path) -> None:
    """Neither may another user attach, even if the permissions let them, nor is their socket used."""
    state = short / "state"
    alice = local.running.peer("alice", "--rendezvous", local.address, state=str(state))
    alice.wait("registered")
    path = state / "peers" / "alice" / "node.sock"
    for opened in (state, state / "peers", state / "peers" / "alice"):
        opened.chmod(0o755)
    path.chmod(0o666)
    command = [sys.executable, "-c", CONNECT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd="/")
    assert json.loads(done.stdout)["reason"] == "denied", done
    alice.command("quit")
    alice.exit()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        os.chown(path, 65534, 65534)
        refused = status(state, "alice")
    assert refused.returncode == 1
    assert "belongs to another user" in refused.stderr
    # A peer that has the lock replaces it
    again = local.running.peer("alice", "--rendezvous", local.address, state=str(state))
    again.wait("registered")
    assert status(state, "alice").returncode == 0


def test_a_peer_goes_on_without_a_socket(local: LocalPeers) -> None:
    """Something else is there."""
    path = socket_of(local, "alice")
    path.parent.mkdir(parents=True)
    path.mkdir()
    alice = local.running.peer("alice")
    alice.wait("registered")
    refused = status(local.directory / "state", "alice")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "not a socket" in refused.stderr


def test_a_node_that_sends_programs_away(local: LocalPeers) -> None:
    """What it says is shown."""
    path = socket_of(local, "alice")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def send_away() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b'{"event":"failed","reason":"too-many","text":"Close some of them."}\n')

        thread = threading.Thread(target=send_away, daemon=True)
        thread.start()
        refused = status(local.directory / "state", "alice")
        thread.join(20)
    assert refused.returncode == 1
    assert "Close some of them." in refused.stderr


def test_a_node_that_ends_before_it_greets(local: LocalPeers) -> None:
    """Whoever attaches at that moment becomes the node."""
    path = socket_of(local, "alice")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True)
        thread.start()
        with sharing(local.directory / "state", local.address) as process:
            try:
                assert says(process) == "OwnNode"
            finally:
                process.kill()
        thread.join(20)


def test_many_programs_at_once(local: LocalPeers) -> None:
    """They wait in the socket's queue, as a connection that finds no place there would fail."""
    alice = local.running.peer("alice")
    alice.wait("registered")
    alice.kill(signal.SIGSTOP)
    connections = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for connection in connections:
            connection.setblocking(False)
            connection.connect(str(socket_of(local, "alice")))
        alice.kill(signal.SIGCONT)
        for connection in connections:
            connection.settimeout(20)
            assert json.loads(connection.makefile().readline())["event"] == "ready"
    finally:
        alice.kill(signal.SIGCONT)
        for connection in connections:
            connection.close()


def test_a_process_that_hangs(local: LocalPeers) -> None:
    alice = local.running.peer("alice")
    alice.wait("registered")
    alice.kill(signal.SIGSTOP)
    options = ["--json", "--name", "alice", "--state-dir", str(local.directory / "state")]
    bob = str(Identity.generate().peer_id)
    try:
        for words, expected in ((["status"], 1), (["send", "--text", "hello", bob], 9), (["pipe", bob], 9)):
            done = subprocess.run(
                [PUNCH, *words, *options], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == expected, (words, done.stderr)
            assert "does not answer" in done.stderr, words
            (event,) = (json.loads(line) for line in (done.stdout or done.stderr).splitlines())
            assert event["reason"] == "node-timeout", words
    finally:
        alice.kill(signal.SIGCONT)


ENDPOINTS = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.wire import Echo

async def main(reactor):
    port = await serverFromString(reactor, sys.argv[1]).listen(Factory.forProtocol(Echo))
    print(port.getHost(), flush=True)
    await Deferred()

react(main)
"""


def test_a_service_goes_on_without_the_process_of_the_node(local: LocalPeers) -> None:
    """A served endpoint becomes the node when the one that it was attached to is killed."""
    state = local.directory / "state"
    alice = local.running.peer("alice")
    alice.wait("registered")
    endpoint = f"punch:service=echo/1:allow=anyone:identity=alice:state-dir={state}"
    command = [sys.executable, "-c", ENDPOINTS, endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert says(server) == alice.events[0]["id"]
            services = json.loads(status(state, "alice", "--json").stdout)["services"]
            assert {"service": "echo/1", "allow": "anyone"} in services
            alice.kill()
            deadline = time.monotonic() + 60
            while (done := status(state, "alice", "--json")).returncode:
                assert time.monotonic() < deadline
            assert json.loads(done.stdout)["services"] == [{"service": "echo/1", "allow": "anyone"}]
        finally:
            server.terminate()
