"""The deny list of a rendezvous that is a real process: read at the start, and again on SIGHUP."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from punch.identity import Identity
from punch.test.rendezvous.control_client import key_of
from punch.wire.control import Accept, Ping, Register
from tests.ports import free_port
from tests.processes import Programs
from tests.rendezvous.test_monitoring_process import health
from tests.rendezvous.test_rendezvous_process import FREE, ControlConnection, listening, register, run


def test_read_again_on_sighup(running: Programs, tmp_path: Path) -> None:
    path = tmp_path / "deny"
    path.write_text("# nobody yet\n")
    port = free_port()
    service = running.rendezvous(*FREE, "--deny", str(path), "--metrics", str(port))
    address = listening(service)
    alice = Identity.generate()
    client = ControlConnection(address, key_of(alice), tmp_path)
    client.send(Register("alice", Accept.ASK))
    assert client.read()["type"] == "welcome"

    path.write_text(f"\n{alice.peer_id}\n")
    os.kill(service.process.pid, signal.SIGHUP)
    assert service.wait("gone")["reason"] == "denied"
    read = service.wait("deny-list")
    assert (read["entries"], read["ended"]) == (1, 1)
    assert client.read()["code"] == "denied"
    again = ControlConnection(address, key_of(alice), tmp_path)
    assert again.read()["code"] == "denied"

    # A typo, a file that is gone, one that is none: the list stays.
    path.write_text(f"{alice.peer_id}\n192.0.2.0/24 # good\n  192.0.2.1/24\n")
    os.kill(service.process.pid, signal.SIGHUP)
    text = service.wait("deny-list-failed")["text"]
    assert f"{path}, line 3, column 3:" in text
    assert health(port) == {"status": "degraded", "reasons": [text]}
    path.unlink()
    os.kill(service.process.pid, signal.SIGHUP)
    assert str(path) in service.wait("deny-list-failed")["text"]
    os.mkfifo(path)
    os.kill(service.process.pid, signal.SIGHUP)
    assert "named pipe" in service.wait("deny-list-failed")["text"]
    assert ControlConnection(address, key_of(alice), tmp_path).read()["code"] == "denied"
    assert service.stderr.count("\n") == 3
    log = (tmp_path / "state" / "rendezvous" / "rendezvous.log").read_text()
    assert "column 3" in log
    assert "Traceback" not in log

    path.unlink()
    path.write_text("127.0.0.0/8\n")
    other = register(address, tmp_path, 10.0)
    os.kill(service.process.pid, signal.SIGHUP)
    assert service.wait("deny-list")["ended"] >= 1
    assert health(port) == {"status": "ok", "reasons": []}
    assert other.read()["code"] == "denied"
    path.write_text("")
    os.kill(service.process.pid, signal.SIGHUP)
    assert service.wait("deny-list")["entries"] == 0
    back = ControlConnection(address, key_of(alice), tmp_path)
    back.send(Register("alice", Accept.ASK), Ping())
    assert back.read()["type"] == "welcome"
    os.kill(service.process.pid, signal.SIGTERM)
    assert service.exit() in (0, -signal.SIGTERM)


def test_mistake_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "deny"
    path.write_text("192.0.2.1\nnonsense\n")
    result = run(tmp_path, "--state-dir", str(tmp_path / "state"), "--deny", str(path))
    assert result.returncode == 1
    assert "line 2, column 1" in result.stderr
    assert result.stderr.count("\n") == 1
    missing = run(tmp_path, "--state-dir", str(tmp_path / "state"), "--deny", str(tmp_path / "no-file"))
    assert missing.returncode == 1
    assert "no-file" in missing.stderr
