"""`punch demo`, as the README's first command runs it, and however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.consoles import environment, run, terminal
from tests.processes import PUNCH


def descendants_of(directory: Path) -> list[str]:
    """Command lines of all processes that have this directory for their temporary files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                if f"TMPDIR={directory}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files that only the demonstration uses."""
    directory = tmp_path / "t"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return directory


def assert_nothing_is_left(place: Path) -> None:
    assert descendants_of(place) == []
    assert list(place.iterdir()) == []


def test_it_runs_to_the_end(place: Path) -> None:
    done = run([PUNCH, "demo"], place.parent)
    assert done.returncode == 0, done
    assert done.stderr == b""
    shown = done.stdout.decode()
    for part in ("Starting a rendezvous", "Introduced", "Connected", "path: host", "round trip"):
        assert part in shown
    assert shown.count("✓ delivered") == 2
    assert "\x1b" not in shown
    assert_nothing_is_left(place)


def test_events_for_scripts(place: Path) -> None:
    """Those of all three programs, each with its name, and nothing else; it does not chat in a terminal."""
    done = run([PUNCH, "demo", "--json"], place.parent)
    assert (done.returncode, done.stderr) == (0, b""), done
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["program"] for event in events} == {"rendezvous", "alice", "bob"}
    for name in ("alice", "bob"):
        told = [event["event"] for event in events if event["program"] == name]
        assert {"ready", "registered", "connected", "message", "delivered"} <= set(told)
    assert_nothing_is_left(place)


def test_chatting_along(place: Path) -> None:
    with terminal([PUNCH, "demo"], place.parent) as demo:
        demo.wait("you are Alice")
        demo.type("good morning\n")
        demo.wait("✓ delivered\n")
        demo.wait("^bob: .*good morning")
        demo.type("/quit\n")
        assert demo.exit() == 0
    assert_nothing_is_left(place)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("stage", ["Starting a rendezvous", "Starting two peers", "you are Alice"])
def test_a_signal_ends_all_of_it(place: Path, name: str, stage: str) -> None:
    number = getattr(signal, name)
    with terminal([PUNCH, "demo"], place.parent) as demo:
        demo.wait(stage)
        os.kill(demo.pid, number)
        assert demo.exit() == -number
        assert "Traceback" not in demo.text
    assert_nothing_is_left(place)


@pytest.mark.parametrize("stage", ["Starting a rendezvous", "Starting two peers", "you are Alice"])
def test_killed_it_leaves_no_process(place: Path, stage: str) -> None:
    """SIGKILL lets nobody clean up: the parts notice by themselves. (The directory stays.)"""
    with terminal([PUNCH, "demo"], place.parent) as demo:
        demo.wait(stage)
        os.kill(demo.pid, signal.SIGKILL)
        assert demo.exit() == -signal.SIGKILL
    end = time.monotonic() + 10
    while left := descendants_of(place):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_ctrl_c_and_ctrl_d(place: Path) -> None:
    for key, status in (("\x03", -signal.SIGINT), ("\x04", 0)):
        with terminal([PUNCH, "demo"], place.parent) as demo:
            demo.wait("you are Alice")
            demo.type(key)
            assert demo.exit() == status
    assert_nothing_is_left(place)


def test_output_without_a_reader(place: Path) -> None:
    done = run([PUNCH, "demo"], place.parent, redirect="| head -1")
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == 1
    assert_nothing_is_left(place)


def test_a_part_that_dies(place: Path) -> None:
    demo = subprocess.Popen(
        [PUNCH, "demo"], cwd=place.parent, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert demo.stdout is not None
        while b"Starting two peers" not in (line := demo.stdout.readline()):
            assert line
        end = time.monotonic() + 10
        while not (victims := [pid for pid in children(demo.pid) if "--name bob" in command(pid)]):
            assert time.monotonic() < end
        os.kill(victims[0], signal.SIGKILL)
        _out, err = demo.communicate(timeout=20)
        assert demo.returncode == 1
        assert err.decode().startswith("punch demo: The program bob ended too early")
        assert len(err.decode().strip().splitlines()) == 1
    finally:
        demo.kill()
        demo.wait()
    assert_nothing_is_left(place)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
