"""`punch netcheck` as a process, against a rendezvous on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.environment import plain_environment
from tests.processes import PUNCH, JSONProcess, Programs


def start(running: Programs) -> JSONProcess:
    """A rendezvous that local programs find by its state directory."""
    # A client at this machine's own address and a port of the relay's range is refused, so the range is one
    # that the system does not give to sockets (net.ipv4.ip_local_port_range).
    rendezvous = running.rendezvous(
        "--control", "tcp:0", "--reflector-port", "0", "--relay-ports", "61000-65535"
    )
    rendezvous.wait("listening")
    return rendezvous


def netcheck(directory: Path, *options: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [PUNCH, "netcheck", "--state-dir", str(directory / "state"), *options],
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_in_words_and_as_json(running: Programs, tmp_path: Path) -> None:
    """A machine reaches itself without a NAT, by every transport; nothing else is on stdout or stderr."""
    rendezvous = start(running)
    done = netcheck(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "UDP           yes",
        ": no NAT",
        "a relay over UDP",
        "* The rendezvous is on this machine or in a private network",
        "* A relay can be reached over",
    ):
        assert words in done.stdout
    done = netcheck(tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    report = json.loads(line)
    assert (report["event"], report["problem"], report["udp"]) == ("netcheck", None, True)
    assert report["transports"] == dict.fromkeys(("udp", "tcp", "turn-udp", "turn-tcp", "turn-tls"), True)
    assert 0 < report["control_latency"] < 1
    family = report["ipv4"] or report["ipv6"]
    assert (family["nat"], family["mapping"], family["near"]) == (False, None, True)
    assert report["direct"] == "unknown"
    assert "address-and-port-dependent" not in family["filtering_may_be"]
    gone = [rendezvous.wait(("registered", "gone"))["event"] for _ in range(4)]
    assert gone == ["registered", "gone"] * 2


def test_rendezvous_that_is_gone(running: Programs, tmp_path: Path) -> None:
    """Status 1 and a sentence; the report comes all the same."""
    rendezvous = start(running)
    rendezvous.kill(signal.SIGTERM)
    rendezvous.exit()
    done = netcheck(tmp_path, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["transports"]["tcp"] is False
    assert done.stderr == f"punch netcheck: {report['problem']}\n"


def test_a_state_directory_of_nobody(tmp_path: Path) -> None:
    """A sentence, and with --json also an event."""
    done = netcheck(tmp_path, "--state-dir", "~nobody-of-this-name/state", "--json")
    failed = json.loads(done.stdout)
    assert (done.returncode, failed["event"], failed["reason"]) == (1, "failed", "state")
    assert done.stderr == f"punch netcheck: {failed['text']}\n"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nobody_reads_it(running: Programs, tmp_path: Path, form: list[str]) -> None:
    """A reader that is gone is no failure; a full disk is one, in a sentence."""
    start(running)
    command = [PUNCH, "netcheck", "--state-dir", str(tmp_path / "state"), *form]
    reading, writing = os.pipe()
    os.close(reading)
    for out, status, said in (
        (writing, 0, ""),
        (os.open("/dev/full", os.O_WRONLY), 1, "punch netcheck: The report can't be written: No space left"),
    ):
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        os.close(out)
        assert done.returncode == status, done.stderr
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == bool(said)


def test_interrupt(running: Programs, tmp_path: Path) -> None:
    """It dies of the signal, without a traceback."""
    rendezvous = start(running)
    process = subprocess.Popen(
        [PUNCH, "netcheck", "--state-dir", str(tmp_path / "state"), "--lifetime", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    rendezvous.wait("registered")
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (-signal.SIGINT, b"", b"")
