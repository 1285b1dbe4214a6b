"""What an operator sees of a rendezvous that is a real process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from punch.identity import Identity
from punch.test.control_client import key_of
from punch.wire.control import Accept, Register
from tests.ports import free_port
from tests.processes import PUNCH, Programs, programs
from tests.test_rendezvous_process import FREE, Client, listening


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Programs]:
    with programs(tmp_path) as all_programs:
        yield all_programs


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def status(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PUNCH, "rendezvous", "status", "--state-dir", str(directory), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_status_command(running: Programs, tmp_path: Path) -> None:
    """Over the socket in the state directory, without --metrics; also after a process that was killed."""
    directory = tmp_path / "state"
    nobody = status(directory)
    assert nobody.returncode == 1
    assert "No rendezvous runs with the state directory" in nobody.stderr
    service = running.rendezvous(*FREE)
    client = Client(listening(service), key_of(Identity.generate()), tmp_path)
    client.send(Register("alice", Accept.ASK))
    assert client.read()["type"] == "welcome"
    path = directory / "rendezvous" / "status.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = status(directory)
    assert (said.returncode, said.stderr) == (0, "")
    assert re.search(r"^registered peers +1$", said.stdout, re.MULTILINE)
    service.kill()
    service.exit()
    assert path.exists()
    assert status(directory).returncode == 1

    service = running.rendezvous(*FREE)
    listening(service)
    found = json.loads(status(directory, "--json").stdout)
    assert (found["status"], found["figures"]["peers"]) == ("ok", 0)
    # A second process with the same directory leaves the socket to the first.
    listening(running.rendezvous(*FREE))
    assert json.loads(status(directory, "--json").stdout)["uptime"] >= found["uptime"]
    os.kill(service.process.pid, signal.SIGTERM)
    service.exit()
    assert not path.exists()


def test_metrics_and_health(running: Programs, tmp_path: Path) -> None:
    port = free_port()
    service = running.rendezvous(*FREE, "--metrics", str(port), "--log-format", "json")
    address = listening(service)
    alice = Identity.generate()
    client = Client(address, key_of(alice), tmp_path)
    client.send(Register("alice", Accept.ASK))
    assert client.read()["type"] == "welcome"
    url = f"http://127.0.0.1:{port}"
    assert json.loads(get(f"{url}/healthz")) == {"status": "ok", "reasons": []}
    families = {each.name: each for each in text_string_to_metric_families(get(f"{url}/metrics"))}
    assert families["punch_peers"].samples[0].value == 1
    assert families["punch_registrations"].samples[0].value == 1
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{url}/nothing")
    # On loopback only.
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))

    second = running.rendezvous(*FREE, "--metrics", str(port), state="state-2")
    failed = second.wait("failed")
    assert failed["reason"] == "port-in-use"
    assert f"TCP port {port} of --metrics is in use already" in failed["text"]
    assert second.exit() == 1
    assert [event["event"] for event in second.events] == ["failed"]
    assert second.stderr.count("\n") == 1

    page = get(f"{url}/")
    assert "<dt>Registered peers</dt><dd>1</dd>" in page
    assert "alice" not in page
    assert get(f"{url}/status.css").startswith(":root")

    os.kill(service.process.pid, signal.SIGTERM)
    assert service.exit() in (0, -signal.SIGTERM)
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/healthz")
    log = (tmp_path / "state" / "rendezvous" / "rendezvous.log").read_text()
    assert "healthz" not in log
    assert "Traceback" not in log
    (registered,) = [each for each in map(json.loads, log.splitlines()) if each.get("event") == "registered"]
    assert registered["peer"] == alice.peer_id.short
    assert str(alice.peer_id) not in log
