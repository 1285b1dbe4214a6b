"""
How programs end: by signals, from their first import to a connected link; help that nobody reads.

How far a process is at a given time depends on the machine. So the tests count its imports, which `-X
importtime` reports: an interrupt is sent after a number of them, counted from that of `punch.cli.startup`.
Before that one, Python itself and, for the plugins, `twistd` decide what an interrupt does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.consoles import terminal
from tests.environment import plain_environment
from tests.local_peers import LocalPeers
from tests.processes import PUNCH, TWISTD, JSONProcess, ProcessFailed

#: After how many imports; every command makes more.
LATER = (0, 1, 5, 25, 50, 100, 150)

ADDRESS = "punch://127.0.0.1:9"
COMMANDS = {
    "punch id": [PUNCH, "id"],
    "punch netcheck": [PUNCH, "netcheck", "--rendezvous", ADDRESS],
    "punch demo": [PUNCH, "demo"],
    "punch peer": [PUNCH, "peer", "--rendezvous", ADDRESS],
    "python -m punch": ["-m", "punch", "netcheck", "--rendezvous", ADDRESS],
    "twistd punch-peer": [TWISTD, "-n", "punch-peer", "--rendezvous", ADDRESS],
    "twistd punch-rendezvous": [
        *(TWISTD, "-n", "punch-rendezvous", "--control", "tcp:0:interface=127.0.0.1"),
        *("--reflector-port", "127.0.0.1:0"),
    ],
}


def interrupted(arguments: list[str], directory: Path, later: int) -> tuple[int, bytes]:
    """Run it, interrupt it, and give its status and what it wrote to stderr besides the imports."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=directory,
        env=plain_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        lines = iter(process.stderr.readline, b"")
        before = list(
            itertools.takewhile(lambda line: not line.rstrip().endswith(b" punch.cli.startup"), lines)
        )
        before += itertools.islice(lines, later)
        process.send_signal(signal.SIGINT)
        said = b"".join(line for line in [*before, *lines] if not line.startswith(b"import time:"))
        status = process.wait()
        watchdog.cancel()
    return status, said


@pytest.mark.parametrize("name", COMMANDS)
def test_while_it_loads(tmp_path: Path, name: str) -> None:
    """An interrupt ends a program without a traceback while it imports modules."""
    state = ["--state-dir", str(tmp_path / "state")] if name != "punch demo" else []
    for later in LATER:
        assert interrupted([*COMMANDS[name], *state], tmp_path, later) == (-signal.SIGINT, b""), later


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "id --help", "peer --help", "rendezvous --version"]
)
def test_nobody_reads_the_help(arguments: str) -> None:
    """A reader that closes its end, as `| head` does, causes no error and no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [PUNCH, *arguments.split()], stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        ([PUNCH, "--help"], {"twisted", "cryptography", "unicodedata", "punch.names"}),
        (
            [TWISTD, "-n", "punch-peer", "--help"],
            {"automat", "qh3", "prompt_toolkit", "punch.extras", "punch.link.link", "punch.node.node"},
        ),
    ],
)
def test_help_loads_little(arguments: list[str], unneeded: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "punch.cli.usage" in loaded
    assert not loaded & unneeded


@pytest.mark.parametrize("arguments", ["--version", "peer --help", "netcheck --help"])
def test_a_full_disk(arguments: str) -> None:
    """Status 1 and a sentence."""
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(
            [PUNCH, *arguments.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "punch: The output can't be written: No space left on device.\n"


def test_the_final_line(local: LocalPeers) -> None:
    """After ^C a person reads one sentence, and nothing else."""
    state = ["--state-dir", str(local.directory / "mine")]
    quiet = ["--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "127.0.0.1:0"]
    for command, shown, sentence in (
        ([PUNCH, "rendezvous", *quiet, *state], r"with --host\.\n", "The rendezvous has stopped."),
        ([PUNCH, "peer", "--rendezvous", local.address, *state], "Waiting.*\n", "The peer has stopped."),
    ):
        with terminal(command, local.directory, extra={"TERM": "dumb"}) as program:
            program.wait(shown)
            program.type("\x03")
            assert program.exit() == -signal.SIGINT
            assert program.text.partition("^C")[2].strip("\n") == sentence, program.output
            assert program.text.endswith(f"\n{sentence}\n")
            assert "\x1b" not in program.output


def handles_signals(process: JSONProcess) -> bool:
    """Whether it has read its options, and all signals are its own to handle."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def interrupt_until_it_ends(process: JSONProcess) -> None:
    """
    As people do while a program loads. What looks for plugins in Twisted catches every exception, also an
    interrupt, and goes on; and Python has a status of its own for one in its first moments. From where on it
    is ours to decide, one is enough: `test_interrupts`.
    """
    for _ in range(10):
        process.process.send_signal(signal.SIGINT)
        with contextlib.suppress(ProcessFailed):
            assert process.exit(2) in (-signal.SIGINT, 1)
            return
    raise AssertionError("ten interrupts did not end it")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_at_every_stage(local: LocalPeers, name: str) -> None:
    number = getattr(signal, name)
    bob, identity = local.bob("--accept", "ask")

    def ends_well(process: JSONProcess) -> None:
        process.process.send_signal(number)
        assert process.exit(10) == -number
        assert process.stderr == ""

    nobody = local.stranger("nobody")
    for delay in (0.05, 0.2, 0.4):
        starting = local.running.peer("alice", "--peer", nobody)
        time.sleep(delay)
        if name == "SIGINT" and not handles_signals(starting):
            interrupt_until_it_ends(starting)
        else:
            ends_well(starting)
    handling = local.running.peer("alice", "--peer", nobody)
    while not handles_signals(handling):
        time.sleep(0.001)
    ends_well(handling)
    ready = local.running.peer("alice")
    ready.wait("ready")
    ends_well(ready)
    registered = local.running.peer("alice")
    registered.wait("registered")
    ends_well(registered)
    ringing = local.running.peer("alice", "--peer", identity)
    bob.wait("call")
    ends_well(ringing)
    bob.wait("failed", where=lambda event: event["reason"] == "cancelled")
    for stage in ("introduced", "checking", "connected"):
        going = local.running.peer("alice", "--peer", identity)
        bob.command("accept", peer=bob.wait("call", where=lambda event: not event["known"])["peer"]) if (
            stage == "introduced"
        ) else None
        going.wait(stage)
        ends_well(going)
        if stage == "connected":
            assert bob.wait("disconnected")["reason"] == "bye"
