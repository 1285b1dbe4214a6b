"""Three rendezvous processes and a real Redis are one service."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import PUNCH, JSONProcess, Programs
from tests.service_processes import Redis, RendezvousProcesses

PEER = ("--accept", "anyone", "--no-history")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    made = Redis(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def service(running: Programs, redis: Redis) -> RendezvousProcesses:
    return RendezvousProcesses(running, redis, 3)


def peers(running: Programs, **addresses: str) -> dict[str, tuple[JSONProcess, str]]:
    """Peers that are registered at these addresses, with their IDs."""
    started = {
        name: running.peer(name, *PEER, "--rendezvous", address, state=f"peer-{name}")
        for name, address in addresses.items()
    }
    found = {name: (process, str(process.wait("ready")["id"])) for name, process in started.items()}
    for process in started.values():
        process.wait("registered")
    return found


def say(sender: JSONProcess, receiver: tuple[JSONProcess, str], text: str, seconds: float) -> None:
    """A message arrives within so many seconds."""
    sender.command("send", peer=receiver[1], text=text)
    receiver[0].wait("message", seconds, lambda event: event["text"] == text)


def test_one_service(running: Programs, service: RendezvousProcesses) -> None:
    """
    Peers of different processes reach each other; when a process is killed, and when Redis is flushed, has
    keys of a wrong type, is stopped and started. A live link notices nothing.
    """
    one, two, three = service.addresses
    all_peers = peers(running, alice=one, bob=f"{two},{three}", carol=one, dave=three, erin=one)
    alice, bob, carol, dave, erin = all_peers.values()
    say(alice[0], bob, "through Redis", 15.0)

    # Its process is killed: bob is at the third within 10 s, and can be called; the link of before lives.
    service.processes[1].kill(signal.SIGKILL)
    bob[0].wait("registered", 10.0)
    say(bob[0], alice, "on the old link", 5.0)
    say(carol[0], bob, "to the other process", 10.0)

    # Flushed: all processes write their peers again.
    service.redis.ask("FLUSHALL")
    say(dave[0], carol, "after a flush", 10.0)

    # Something else writes to its keys: that is said, and all is well when they are gone.
    first = service.processes[0]
    first.wait("registry")
    keys = service.redis.ask("-n", "3", "KEYS", "punch:peer:*").split()
    service.redis.ask("-n", "3", "DEL", *keys)
    for key in keys:
        service.redis.ask("-n", "3", "LPUSH", key, "x")
    assert "something else has written to its keys" in first.wait("registry-failed", 10.0)["text"]
    service.redis.ask("-n", "3", "DEL", *keys)
    first.wait("registry", 10.0)
    say(dave[0], carol, "after strange keys", 10.0)

    # Away: peers of one process meet; those of others do after it is back.
    service.redis.stop()
    problem = first.wait("registry-failed", 10.0)["text"]
    assert "Only peers of this server can call each other" in problem
    say(erin[0], alice, "without Redis", 10.0)
    service.redis.start()
    first.wait("registry", 10.0)
    say(dave[0], erin, "Redis is back", 15.0)
    say(bob[0], alice, "still on the old link", 5.0)
    for name, (process, _) in all_peers.items():
        lost = [event for event in process.settle() if event["event"] in ("disconnected", "path-lost")]
        assert lost == [], name
    for process in (service.processes[0], service.processes[2]):
        assert process.process.poll() is None
        assert all("Redis at" in line for line in process.stderr.splitlines())


def test_a_waiting_message_leaves_when_its_receiver_is_back_elsewhere(
    running: Programs, service: RendezvousProcesses
) -> None:
    """The caller's process is told by the one that the peer comes back to."""
    one, two, three = service.addresses
    found = peers(running, alice=one, bob=two)
    (alice, _), (bob, identity) = found.values()
    bob.close()
    alice.command("send", peer=identity, text="when you are back")
    for _ in range(2):
        alice.wait("away")  # It calls again after 5 s, and then after 8 s.
    again = running.peer("bob", *PEER, "--rendezvous", three, state="peer-bob")
    again.wait("registered")
    again.wait("message", 4.0, lambda event: event["text"] == "when you are back")


def test_the_documented_permissions(running: Programs, redis: Redis) -> None:
    """The commands, keys and channels of docs/deployment.md are all that a user of Redis needs."""
    text = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    sentence = text[text.index("A process needs the commands") :].partition(". ")[0]
    commands = [f"+{name.lower()}" for name in re.findall("[A-Z]{3,}", sentence)]
    names = re.findall("`(.*?)`", sentence)
    assert names == ["punch:*", "punch:to:*"]
    allowed = [f"~{names[0]}", f"&{names[1]}", *commands]
    assert redis.ask("ACL", "SETUSER", "ann", "reset", "on", ">secret", *allowed) == "OK"
    service = RendezvousProcesses(running, redis, 2, "ann:secret@", ("--registrations-per-address", "1"))
    for each in service.processes:
        each.wait("registry")
    ((process, _),) = peers(running, alice=service.addresses[0]).values()
    keys = ["redis-cli", "-p", str(redis.port), "-n", "3", "KEYS", "punch:peer:*"]
    for here in (True, False):
        deadline = time.monotonic() + 5.0
        while bool(subprocess.run(keys, capture_output=True, check=True).stdout.strip()) != here:
            assert time.monotonic() < deadline, f"the entry of the peer is {'not there' if here else 'left'}"
            time.sleep(0.05)
        if here:
            # What alice has at one process counts at the other one, too.
            time.sleep(2.5)
            bob = running.peer("bob", *PEER, "--rendezvous", service.addresses[1], state="peer-bob")
            assert bob.wait("unregistered")["reason"] == "too-many"
            process.kill(signal.SIGTERM)
            bob.wait("registered", 20.0)
            bob.kill(signal.SIGTERM)
    assert redis.ask("ACL", "LOG") == ""
    assert service.processes[0].stderr == ""


def test_members_of_all_processes(running: Programs, redis: Redis) -> None:
    """
    What an operator and peers do at one process counts at all: invitations, redemptions, revocations, and for
    whom members vouch.
    """
    service = RendezvousProcesses(running, redis, 3, options=("--admit", "invited"))

    def operator(number: int, command: str, *options: str) -> dict[str, object]:
        directory = str(running.directory / f"service-{number}")
        line = [PUNCH, "rendezvous", command, "--json", "--state-dir", directory, *options]
        found: dict[str, object] = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
        return found

    def wait_for(records: int) -> None:
        """Until all processes have so many records."""
        deadline = time.monotonic() + 15.0
        for number in range(3):
            path = running.directory / f"service-{number}" / "rendezvous" / "members.sqlite"
            with closing(sqlite3.connect(path)) as database:
                while database.execute("SELECT count(*) FROM journal").fetchone() != (records,):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)

    made = operator(0, "invite", "--uses", "2")
    wait_for(1)
    addresses = [f"{address}?token={made['token']}" for address in service.addresses]
    found = peers(running, alice=addresses[1], bob=addresses[2])
    (alice, identity), _ = found.values()
    wait_for(3)
    late = running.peer("late", *PEER, "--rendezvous", addresses[0], state="peer-late")
    assert late.wait("failed")["reason"] == "invitation-used"
    # They redeem it at the same time, so either may be the first.
    members = [{each["peer"] for each in operator(number, "peers")["peers"]} for number in range(3)]  # type: ignore[attr-defined]
    assert members == [{peer for _, peer in found.values()}] * 3

    def code_command(name: str, number: int, *words: str) -> JSONProcess:
        state = ("--state-dir", str(running.directory / f"peer-{name}"), "--name", name)
        line = [PUNCH, words[0], "--json", *state, "--rendezvous", service.addresses[number], *words[1:]]
        return running.start(line)

    inviting = code_command("alice", 1, "invite")
    code = str(inviting.wait("code", 60.0)["code"])
    assert code_command("bob", 2, "join", code).wait("contact", 60.0)["peer"] == identity
    inviting.wait("contact")
    leaked = str(operator(0, "invite", "--uses", "100")["token"])
    wait_for(4)
    operator(1, "revoke", leaked)
    wait_for(5)
    thief = running.peer(
        "thief", *PEER, "--rendezvous", f"{service.addresses[2]}?token={leaked}", state="peer-thief"
    )
    assert thief.wait("failed")["reason"] == "invitation-expired"
    inviting = code_command("alice", 0, "invite")
    inviting.wait("code", 60.0)
    operator(2, "revoke", identity)
    for process in (alice, inviting):
        assert process.wait("failed", 15.0)["reason"] == "revoked"
    state = ("--state-dir", str(running.directory / "peer-bob"), "--name", "bob")
    owner = [PUNCH, "identity", "revoke", "--yes", *state, "--rendezvous", service.addresses[0]]
    subprocess.run(owner, check=True, capture_output=True)
    wait_for(7)
    again = running.peer("bob", *PEER, "--rendezvous", service.addresses[2], state="peer-bob")
    assert again.wait("failed")["reason"] == "id-revoked"


def test_newer_registration_at_another_process(running: Programs, service: RendezvousProcesses) -> None:
    """The older one is told that it is replaced."""
    found = peers(running, alice=service.addresses[0], bob=service.addresses[2])
    (first, identity), (caller, _) = found.values()
    state = running.directory / "peer-alice"
    shutil.copytree(
        state, running.directory / "peer-again", ignore=shutil.ignore_patterns("*lock*", "*.sock")
    )
    second = running.peer("alice", *PEER, "--rendezvous", service.addresses[1], state="peer-again")
    second.wait("registered")
    assert first.exit(10.0) == 3
    say(caller, (second, identity), "to the newer one", 10.0)
