"""Punch's own programs as a script drives them: `--json` on stdout, commands on stdin."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.environment import plain_environment

Event = dict[str, Any]

TWISTD = str(Path(sys.executable).with_name("twistd"))
PUNCH = str(Path(sys.executable).with_name("punch"))


def cpu_seconds(pid: int) -> float:
    """What a process has used so far; 0 where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def comes_to_rest(pid: int, most: float, timeout: float = 10.0) -> bool:
    """Whether a process uses at most so many seconds in one, as soon as it has done what there is to do."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        before = cpu_seconds(pid)
        time.sleep(1.0)
        if cpu_seconds(pid) - before <= most:
            return True
    return False


class ProcessFailed(AssertionError):
    """What was waited for did not happen; the message has all that the process printed."""


class JSONProcess:
    """One running program whose stdout is JSON lines. `prefix` puts it somewhere (`ip netns exec …`)."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        prefix: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.arguments = [*prefix, *arguments]
        self.events: list[Event] = []
        self._stderr_path = cwd / f"stderr-{time.monotonic_ns()}.log"
        with self._stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                self.arguments,
                cwd=cwd,
                env=plain_environment() | (env or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._seen = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                if line.endswith(b"\n"):  # else it was killed in the middle of a line
                    self._queue.put(json.loads(line))
        finally:
            self._queue.put(None)

    @property
    def stderr(self) -> str:
        return self._stderr_path.read_text(errors="replace")

    def _fail(self, what: str) -> ProcessFailed:
        return ProcessFailed(f"{what}\n{self._said()}")

    def _said(self) -> str:
        lines = "\n".join(json.dumps(event) for event in self.events)
        return f"{' '.join(self.arguments)}\nexit: {self.process.poll()}\n{lines}\n{self.stderr}"

    def said(self) -> str:
        """How it was started, and all that it has printed; `wait` will look at none of it."""
        self.settle()
        return self._said()

    def wait(
        self,
        name: str | Sequence[str],
        timeout: float = 20.0,
        where: Callable[[Event], bool] = lambda event: True,
    ) -> Event:
        """The next event of a name, or one of several, for which `where` holds; none is looked at twice."""
        names = (name,) if isinstance(name, str) else name
        end = time.monotonic() + timeout
        while True:
            while self._seen < len(self.events):
                event = self.events[self._seen]
                self._seen += 1
                if event["event"] in names and where(event):
                    return event
            try:
                new = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise self._fail(f"no {name!r} event within {timeout} s") from None
            if new is None:
                self._queue.put(None)
                raise self._fail(f"ended before a {name!r} event")
            self.events.append(new)

    def settle(self) -> list[Event]:
        """All events so far, read without waiting; `wait` will look at none of them."""
        with contextlib.suppress(queue.Empty):
            while (new := self._queue.get_nowait()) is not None:
                self.events.append(new)
            self._queue.put(None)
        self._seen = len(self.events)
        return self.events

    def forget(self) -> None:
        """Forget all events so far, when they are many; `wait` will look at none of them."""
        self.settle()
        self.events.clear()
        self._seen = 0

    def rewind(self) -> None:
        """Let `wait` look at all events again, from the first."""
        self._seen = 0

    def command(self, command: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def exit(self, timeout: float = 20.0) -> int:
        """Wait for its end and give the exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._fail(f"still running after {timeout} s") from None

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """End it, and wait until it has ended."""
        close_all([self])


def close_all(processes: Sequence[JSONProcess]) -> None:
    """End them all at once, by SIGTERM if they can, and wait until they have ended."""
    for process in processes:
        if process.process.poll() is None:
            process.kill(signal.SIGTERM)
    deadline = time.monotonic() + 5.0
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.process.wait()


class Programs:
    """Starts rendezvous and peers below one directory, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[JSONProcess] = []

    def start(
        self, arguments: Sequence[str], *, prefix: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> JSONProcess:
        process = JSONProcess(arguments, cwd=self.directory, prefix=prefix, env=env)
        self._running.append(process)
        return process

    def rendezvous(self, *options: str, state: str = "state", prefix: Sequence[str] = ()) -> JSONProcess:
        directory = str(self.directory / state)
        return self.start(
            [TWISTD, "-n", "punch-rendezvous", "--json", "--state-dir", directory, *options], prefix=prefix
        )

    def peer(self, name: str, *options: str, state: str = "state", prefix: Sequence[str] = ()) -> JSONProcess:
        directory = str(self.directory / state)
        return self.start(
            [TWISTD, "-n", "punch-peer", "--json", "--state-dir", directory, "--name", name, *options],
            prefix=prefix,
        )

    def end(self, process: JSONProcess) -> None:
        """End one of them, and forget it."""
        process.close()
        self._running.remove(process)

    def close(self) -> None:
        """End them all."""
        close_all(self._running)


@contextlib.contextmanager
def programs(directory: Path) -> Iterator[Programs]:
    running = Programs(directory)
    try:
        yield running
    finally:
        running.close()
