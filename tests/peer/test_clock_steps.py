"""The wall clock is set, back and forward, under programs that run: nothing that waits depends on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clocks import WallClock
from tests.consoles import environment
from tests.ports import free_port
from tests.processes import PUNCH, TWISTD, JSONProcess, Programs, programs

ECHO = Path(__file__).parents[2] / "docs" / "examples" / "echo.py"
YEAR = 365 * 86400
STEPS = (-3600, 3600, -1, 1, -YEAR, YEAR)
"""Seconds; they cancel out."""
TIMEOUT = 25.0
"""Seconds that something may take that the programs do by themselves, on a slow machine."""


class Machine:
    """A rendezvous and two registered peers, all with the same wall clock, which the tests set."""

    def __init__(self, running: Programs) -> None:
        self.directory = running.directory
        self._running = running
        self.clock = WallClock(self.directory)
        self._port = free_port()
        self.rendezvous = self.serve()
        # One is started in each way.
        self.alice = self._start(PUNCH, "peer", "--name", "alice", "--accept", "anyone")
        self.bob = self._start(TWISTD, "-n", "punch-peer", "--name", "bob", "--accept", "ask")
        self.ids = {peer: str(peer.wait("ready")["id"]) for peer in (self.alice, self.bob)}
        for peer in self.ids:
            peer.wait("registered")

    def _start(self, *arguments: str) -> JSONProcess:
        state = ("--json", "--state-dir", str(self.directory / "state"))
        return self._running.start([*arguments, *state], env=self.clock.environment)

    def serve(self) -> JSONProcess:
        """Start the rendezvous; each time at the same port."""
        rendezvous = self._start(
            *(TWISTD, "-n", "punch-rendezvous", "--control", f"tcp:{self._port}:interface=127.0.0.1"),
            *("--reflector-port", "127.0.0.1:0", "--host", "127.0.0.1"),
        )
        rendezvous.wait("listening")
        return rendezvous

    def connect(self) -> None:
        """Alice calls Bob; the clock is not touched."""
        self.call()
        self.answer()

    def call(self) -> None:
        """Alice calls, and it rings."""
        self.alice.command("call", peer=self.ids[self.bob])
        event = self.bob.wait(("call", "connected"), TIMEOUT)
        assert event["event"] == "call"

    def answer(self) -> None:
        """Bob lets her in."""
        self.bob.command("accept", peer=self.ids[self.alice])
        for peer in self.ids:
            peer.wait("connected", TIMEOUT)

    def end_call(self) -> None:
        """As if they had never met."""
        self.alice.command("hangup", peer=self.ids[self.bob])
        for here, there in ((self.alice, self.bob), (self.bob, self.alice)):
            here.wait("disconnected", TIMEOUT)
            here.command("forget", peer=self.ids[there], request=1)
            here.wait("result", TIMEOUT)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with programs(tmp_path) as running:
        yield Machine(running)


def test_the_clock_itself(tmp_path: Path) -> None:
    """It is set for a process that runs, for the date that C libraries see too, and monotonic time is not."""
    clock = WallClock(tmp_path)
    program = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(**clock.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ahead = 0
        for step in STEPS:
            clock.set(step)
            ahead += step
            before = time.time(), time.monotonic()
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            after = time.time(), time.monotonic()
            date = subprocess.run(
                ["date", "+%s"], env=environment(**clock.environment), capture_output=True, check=True
            )
            assert before[0] + ahead <= wall <= after[0] + ahead
            assert before[1] <= monotonic <= after[1]
            assert int(before[0]) + ahead <= int(date.stdout) <= time.time() + ahead
        process.stdin.close()


def test_idle_and_ringing(machine: Machine) -> None:
    """A call comes about before which the clock was set, and set again the other way while it rang."""
    for step in STEPS:
        machine.clock.set(step)
        machine.call()
        machine.clock.set(-step)
        machine.answer()
        machine.end_call()


def test_a_program_of_ones_own(machine: Machine) -> None:
    """The clock is set while it is idle, and while it waits for the rendezvous: it is back soon."""
    command = [sys.executable, str(ECHO), str(machine.rendezvous.events[0]["address"])]
    env = environment(**machine.clock.environment)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            command.append(server.stdout.readline().strip())
            for step in (-3600, 3600):
                machine.clock.set(step)
                machine.rendezvous.kill(signal.SIGKILL)
                machine.rendezvous.exit()
                time.sleep(1.0)
                machine.clock.set(-step)
                machine.rendezvous = machine.serve()
                deadline = time.monotonic() + TIMEOUT
                said = ""
                while said != f"{step}\n":
                    assert time.monotonic() < deadline, said
                    # One that asks before the server is back ends with a failure.
                    said = subprocess.run(
                        [*command, str(step)],
                        env=env,
                        capture_output=True,
                        text=True,
                        timeout=60,
                        check=False,
                    ).stdout
        finally:
            server.kill()


def test_waiting_for_the_rendezvous(machine: Machine) -> None:
    """The next try comes when it was announced, and what waited is delivered."""
    machine.connect()
    machine.alice.command("hangup", peer=machine.ids[machine.bob])
    for peer in machine.ids:
        peer.wait("disconnected")
    for number, step in enumerate(STEPS):
        machine.rendezvous.kill(signal.SIGKILL)
        machine.rendezvous.exit()
        retries = {peer: peer.wait("unregistered")["retry_in"] for peer in machine.ids}
        machine.alice.command("send", peer=machine.ids[machine.bob], text=f"waits {number}")
        machine.clock.set(step)
        begin = time.monotonic()
        machine.rendezvous = machine.serve()
        for peer in machine.ids:
            peer.wait("registered", TIMEOUT + retries[peer])
        event = machine.bob.wait("message", TIMEOUT)
        assert event["text"] == f"waits {number}"
        machine.alice.wait("delivered", TIMEOUT)
        machine.alice.command("hangup", peer=machine.ids[machine.bob])
        for peer in machine.ids:
            peer.wait("disconnected")
        assert time.monotonic() - begin < TIMEOUT + max(retries.values())


def test_data_pending(machine: Machine) -> None:
    """The other process stands still while the clock is set: the message comes, and a path is found again."""
    machine.connect()
    for number, step in enumerate(STEPS):
        machine.bob.kill(signal.SIGSTOP)
        machine.alice.command("send", peer=machine.ids[machine.bob], text=f"pending {number}")
        time.sleep(0.2)
        machine.clock.set(step)
        time.sleep(0.2)
        machine.bob.kill(signal.SIGCONT)
        assert machine.bob.wait("message", TIMEOUT)["text"] == f"pending {number}"
        machine.alice.wait("delivered", TIMEOUT)
    # The dates are those of the wall clock, and the order is that in which it was said.
    machine.alice.command("history", peer=machine.ids[machine.bob], request=2)
    answer = machine.alice.wait("result", where=lambda event: event.get("request") == 2)
    texts = [message["text"] for message in answer["messages"]]
    assert texts == [f"pending {number}" for number in range(len(STEPS))]


def test_other_programs(machine: Machine) -> None:
    """The demonstration and netcheck come to their ends while the clock is set every moment."""
    state = ["--name", "alice", "--state-dir", str(machine.directory / "state")]
    for command, last in (([PUNCH, "demo"], "That was all"), ([PUNCH, "netcheck", *state], "TLS")):
        ended = threading.Event()
        setting = threading.Thread(target=set_until, args=(machine.clock, ended))
        setting.start()
        try:
            done = subprocess.run(
                command,
                cwd=machine.directory,
                env=environment(**machine.clock.environment, TMPDIR=str(machine.directory)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            ended.set()
            setting.join()
        assert last in done.stdout, done
        assert done.returncode == 0, done


def set_until(clock: WallClock, ended: threading.Event) -> None:
    for step in STEPS * 100:
        clock.set(step)
        if ended.wait(0.5):
            return
