"""A rendezvous for invited and for listed peers, as operator and users meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from punch.state import StateDirectory
from tests.consoles import peer, run
from tests.local_peers import one_sentence
from tests.processes import PUNCH, Programs

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
    service = running.rendezvous(*FREE, "--admit", "listed", "--members", str(path))
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
    assert "a named pipe" in str(again(None)["text"])
    path.unlink()
    path.write_text(f"{id_of('bob')}\n")
    os.kill(service.process.pid, signal.SIGHUP)
    read = service.wait("members")
    assert (read["entries"], read["ended"]) == (1, 1)
    assert alice.wait("failed")["reason"] == "not-listed"
