"""What an operator sees of a rendezvous that is a real process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

from punch.identity import Identity
from punch.test.rendezvous.control_client import key_of
from punch.wire.control import Accept, Ping, Register
from punch.wire.rendezvous_address import RendezvousAddress
from tests.ports import free_port
from tests.processes import PUNCH, TWISTD, Programs
from tests.rendezvous.test_rendezvous_process import FREE, ControlConnection, listening


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def health(port: int) -> dict[str, object]:
    """What the listener of `--metrics` at this port says of the service."""
    found: dict[str, object] = json.loads(get(f"http://127.0.0.1:{port}/healthz"))
    return found


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
    service = running.rendezvous(*FREE)
    client = ControlConnection(listening(service), key_of(Identity.generate()), tmp_path)
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
    client = ControlConnection(address, key_of(alice), tmp_path)
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


@pytest.mark.parametrize("form", ["json", "text"])
def test_stdout_as_the_log(form: str, tmp_path: Path) -> None:
    """
    What `deploy/` has: with `--logfile=-` stdout holds neither IDs nor names, and as JSON nothing else than
    the log, whatever happens.
    """
    state, deny, out = tmp_path / "state", tmp_path / "deny", tmp_path / "out"
    deny.write_text("")
    command = [
        *(TWISTD, "-n", "--pidfile=", "--logfile=-", "punch-rendezvous", "--log-format", form, *FREE),
        *("--state-dir", str(state), "--deny", str(deny)),
    ]
    alice = Identity.generate()

    def said() -> str:
        return out.read_text("utf-8")

    def wait(text: str) -> None:
        deadline = time.monotonic() + 60.0
        while text not in said():
            assert time.monotonic() < deadline, said()
            time.sleep(0.05)

    with out.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as service:
        try:
            path = state / "rendezvous" / "public-address"
            deadline = time.monotonic() + 60.0
            while not path.exists():
                assert time.monotonic() < deadline, said()
                time.sleep(0.05)
            address = RendezvousAddress.parse(path.read_text("utf-8").strip())
            client = ControlConnection(address, key_of(alice), tmp_path)
            client.send(Register("Alice in the log", Accept.ASK))
            assert client.read()["type"] == "welcome"
            service.send_signal(signal.SIGHUP)
            wait("deny list")
            deny.write_text("nonsense")
            service.send_signal(signal.SIGHUP)
            wait("column 1")
            client.close()
            wait("gone")
        finally:
            service.terminate()
            service.wait(30.0)
    assert str(alice.peer_id) not in said()
    assert "Alice" not in said()
    assert alice.peer_id.short in said()
    if form == "json":
        events = [json.loads(line) for line in said().splitlines()]
        (registered,) = [each for each in events if each.get("event") == "registered"]
        assert registered["peer"] == alice.peer_id.short
        (listening,) = [each for each in events if each.get("event") == "listening"]
        assert listening["address"] == str(address)


def test_more_connections_than_may_wait(running: Programs, tmp_path: Path) -> None:
    """Those of an address that a busy process closes unseen are in its metrics and in its log."""
    port = free_port()
    service = running.rendezvous(*FREE, "--metrics", str(port), "--log-format", "json")
    address = listening(service)

    def closed() -> float:
        text = get(f"http://127.0.0.1:{port}/metrics")
        (refusals,) = [each for each in text_string_to_metric_families(text) if each.name == "punch_refusals"]
        causes = {each.labels["cause"]: each.value for each in refusals.samples if "cause" in each.labels}
        return causes.get("connections-waiting", 0.0)

    assert closed() == 0.0
    with contextlib.ExitStack() as stack:
        service.kill(signal.SIGSTOP)
        try:
            for _ in range(150):
                stack.enter_context(socket.create_connection((address.host, address.port), 10.0))
        finally:
            service.kill(signal.SIGCONT)
        deadline = time.monotonic() + 20.0
        while closed() == 0.0 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert closed() == 150 - 128
    service.kill(signal.SIGTERM)
    service.exit()
    log = (tmp_path / "state" / "rendezvous" / "rendezvous.log").read_text()
    limits = [
        each.get("limit") for each in map(json.loads, log.splitlines()) if each.get("event") == "limit-hit"
    ]
    assert "connections-waiting" in limits


def issue(directory: Path, *, only_key: bool = False) -> bytes:
    """Write a self-signed certificate for localhost and its key, or only another key; the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(pem)
    if not only_key:
        (directory / "chain.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate.public_bytes(Encoding.DER)


def test_certificate_is_read_again_on_sighup(running: Programs, tmp_path: Path) -> None:
    """Another certificate for new connections; no connection ends, whether the files can be used or not."""
    port = free_port()
    first = issue(tmp_path)
    files = ("--certificate", str(tmp_path / "chain.pem"), "--key", str(tmp_path / "key.pem"))
    service = running.rendezvous(*FREE, *files, "--metrics", str(port))
    found = RendezvousAddress.parse(service.wait("listening")["address"])
    address = RendezvousAddress("127.0.0.1", found.port, None)
    alice = ControlConnection(address, key_of(Identity.generate()), tmp_path)
    alice.send(Register("alice", Accept.ASK))
    assert alice.read()["type"] == "welcome"

    def shown() -> bytes | None:
        client = ControlConnection(address, key_of(Identity.generate()), tmp_path)
        certificate = client.socket.getpeercert(binary_form=True)
        client.close()
        return certificate

    assert shown() == first
    second = issue(tmp_path)
    os.kill(service.process.pid, signal.SIGHUP)
    service.wait("certificate")
    assert shown() == second
    local = (tmp_path / "state" / "rendezvous" / "address").read_text()

    issue(tmp_path, only_key=True)
    os.kill(service.process.pid, signal.SIGHUP)
    text = service.wait("certificate-failed")["text"]
    assert "is not the key of the first certificate" in text
    assert shown() == second
    health = json.loads(get(f"http://127.0.0.1:{port}/healthz"))
    assert (health["status"], health["reasons"]) == ("degraded", [text])

    third = issue(tmp_path)
    os.kill(service.process.pid, signal.SIGHUP)
    service.wait("certificate")
    assert shown() == third
    assert json.loads(get(f"http://127.0.0.1:{port}/healthz"))["status"] == "ok"
    # Peers on this machine check the key of the certificate, so their address changes with it.
    assert (tmp_path / "state" / "rendezvous" / "address").read_text() != local
    alice.send(Ping())
    assert alice.read()["type"] == "pong"
    assert text in service.stderr
