"""What an operator sees of a rendezvous that is a real process."""

from __future__ import annotations

import json
import os
import signal
import socket
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
from tests.processes import Programs, programs
from tests.test_rendezvous_process import FREE, Client, listening


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Programs]:
    with programs(tmp_path) as all_programs:
        yield all_programs


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


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
