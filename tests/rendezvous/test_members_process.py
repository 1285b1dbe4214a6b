"""A rendezvous for invited and for listed peers, as operator and users meet it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from punch.identity import Identity
from punch.rendezvous.members.database import MemberDatabase
from punch.state import StateDirectory
from tests.consoles import peer, run
from tests.local_peers import one_sentence
from tests.ports import free_port
from tests.processes import PUNCH, Programs
from tests.rendezvous.test_monitoring_process import health

FREE = (
    *("--control", "tcp:0:interface=127.0.0.1"),
    *("--reflector-port", "127.0.0.1:0"),
    *("--host", "127.0.0.1"),
)


def operator(directory: Path, command: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the operator."""
    state = ("--state-dir", str(directory / "state"))
    return run([PUNCH, "rendezvous", command, *state, *options], directory)


def test_a_new_user(running: Programs, tmp_path: Path) -> None:
    """Refused in one sentence that says how to get in; in with an invitation; out again when revoked."""
    service = running.rendezvous(*FREE, "--admit", "invited", "--contact", "Ann (ann@example.org)")
    address = service.wait("listening")["address"]
    refused = run(peer(tmp_path, "newcomer", "--rendezvous", address), tmp_path)
    one_sentence(refused, "for invited peers", "ask Ann (ann@example.org) for an invitation")
    as_json = running.peer("newcomer", "--rendezvous", address)
    failed = as_json.wait("failed")
    assert failed["reason"] == "not-invited"
    assert as_json.exit() == 1

    made = json.loads(operator(tmp_path, "invite", "--json", "--expires", "1h").stdout)
    assert made["address"] == f"{address}?token={made['token']}"
    alice = running.peer("alice", "--rendezvous", made["address"])
    alice.wait("registered")
    # It needs the invitation once: the address that it keeps has none.
    kept = (tmp_path / "state" / "peers" / "alice" / "last-rendezvous").read_text()
    assert kept.strip() == address
    late = run(peer(tmp_path, "late", "--rendezvous", made["address"]), tmp_path)
    one_sentence(late, "was used already")

    (member,) = json.loads(operator(tmp_path, "peers", "--json").stdout)["peers"]
    assert (member["name"], member["refusal"]) == ("alice", None)
    assert operator(tmp_path, "revoke", member["peer"]).returncode == 0
    assert alice.wait("failed")["reason"] == "revoked"
    assert alice.exit() == 1
    log = (tmp_path / "state" / "rendezvous" / "rendezvous.log").read_text()
    assert made["token"] not in log + (tmp_path / "state" / "peers" / "alice" / "peer.log").read_text()
    assert "Traceback" not in log


def test_the_owner_revokes_its_id(running: Programs, tmp_path: Path) -> None:
    address = running.rendezvous(*FREE).wait("listening")["address"]
    StateDirectory(tmp_path / "state").peer("alice").identity()
    state = ("--state-dir", str(tmp_path / "state"), "--name", "alice", "--rendezvous", address)
    hesitant = run([PUNCH, "identity", "revoke", *state], tmp_path)
    assert hesitant.returncode == 2
    assert "--yes" in hesitant.stderr.decode()
    done = run([PUNCH, "identity", "revoke", "--yes", *state], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "refuses it for ever" in done.stdout.decode()
    again = run(peer(tmp_path, "alice", "--rendezvous", address), tmp_path)
    one_sentence(again, "revoked by its owner", "--name")


def test_list_read_again_on_sighup(running: Programs, tmp_path: Path) -> None:
    def id_of(name: str) -> str:
        return str(StateDirectory(tmp_path / "state").peer(name).identity().peer_id)

    path = tmp_path / "members"
    path.write_text(f"{id_of('alice')}\n")
    port = free_port()
    service = running.rendezvous(*FREE, "--admit", "listed", "--members", str(path), "--metrics", str(port))
    address = service.wait("listening")["address"]
    alice = running.peer("alice", "--rendezvous", address)
    alice.wait("registered")
    one_sentence(run(peer(tmp_path, "bob", "--rendezvous", address), tmp_path), "punch id", "list")

    def again(content: bytes | None) -> dict[str, object]:
        if content is not None:
            path.write_bytes(content)
        os.kill(service.process.pid, signal.SIGHUP)
        text: dict[str, object] = service.wait("members-failed")
        return text

    # The old list stays: alice is still there afterwards.
    assert f"{path}, line 2, column 3:" in str(again(b"# friends\n  nonsense\n")["text"])
    assert "line 1, column 2: not UTF-8" in str(again(b"a\xff")["text"])
    path.unlink()
    assert str(path) in str(again(None)["text"])
    path.mkdir()
    assert "a directory" in str(again(None)["text"])
    path.rmdir()
    os.mkfifo(path)
    last = again(None)["text"]
    assert "a named pipe" in str(last)
    assert health(port) == {"status": "degraded", "reasons": [last]}
    path.unlink()
    path.write_text(f"{id_of('bob')}\n")
    os.kill(service.process.pid, signal.SIGHUP)
    read = service.wait("members")
    assert (read["entries"], read["ended"]) == (1, 1)
    assert health(port) == {"status": "ok", "reasons": []}
    assert alice.wait("failed")["reason"] == "not-listed"


def test_members_that_cannot_be_used(running: Programs, tmp_path: Path) -> None:
    """Peers are refused, so the service is not healthy, until it can use them again."""
    port = free_port()
    service = running.rendezvous(*FREE, "--admit", "invited", "--metrics", str(port))
    service.wait("listening")
    made = json.loads(operator(tmp_path, "invite", "--json").stdout)
    database = sqlite3.connect(tmp_path / "state" / "rendezvous" / "members.sqlite", isolation_level=None)
    with contextlib.closing(database):
        # As on a full disk: it can be read, and not be written.
        database.execute("BEGIN IMMEDIATE")
        alice = running.peer("alice", "--rendezvous", made["address"])
        alice.wait("unregistered")
        found = health(port)
        assert found["status"] == "degraded"
        assert "The list of members" in str(found["reasons"])
        database.execute("ROLLBACK")
    alice.wait("registered", 60.0)
    deadline = time.monotonic() + 30.0
    while health(port) != {"status": "ok", "reasons": []}:
        assert time.monotonic() < deadline, health(port)
        time.sleep(0.2)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_operator_as_root(running: Programs, tmp_path: Path) -> None:
    """The files stay those of the service's user, whether it runs or not (docs/deployment.md)."""
    service = running.rendezvous(*FREE, "--admit", "invited")
    service.wait("listening")
    service.kill(signal.SIGTERM)
    service.exit()
    state = tmp_path / "state"
    # The last one that closes it removes the files beside it.
    MemberDatabase(state / "rendezvous" / "members.sqlite").close()
    everything = [state, *state.rglob("*")]
    for path in everything:
        os.chown(path, 65534, 65534)
    invited = json.loads(operator(tmp_path, "invite", "--json").stdout)
    assert invited["token"]
    database = MemberDatabase(state / "rendezvous" / "members.sqlite")
    try:
        # Its files beside it are there while it is open.
        assert not database.members()
        assert operator(tmp_path, "revoke", str(Identity.generate().peer_id)).returncode == 0
        assert len(database.members()) == 1
        now = [state, *state.rglob("*")]
        assert len(now) > len(everything)
        assert {(path.stat().st_uid, path.stat().st_gid) for path in now} == {(65534, 65534)}
    finally:
        database.close()
