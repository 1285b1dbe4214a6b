"""The chat as people and shells use it: in a pseudo-terminal, and with any kind of stdin and stdout."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.environment import plain_environment
from tests.processes import TWISTD

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(**extra: str) -> dict[str, str]:
    """The environment of a program in a terminal."""
    return plain_environment(TERM="xterm") | extra


class Terminal:
    """A program in a pseudo-terminal of its own, of which it is the foreground job."""

    def __init__(self, arguments: Sequence[str], cwd: Path, columns: int, extra: dict[str, str]) -> None:
        self.arguments = list(arguments)
        self.output = ""
        self._raw = b""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execve(arguments[0], list(arguments), environment(**extra))
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.status: int | None = None

    def modes(self) -> list[object]:
        """What `tcgetattr` says of the terminal now."""
        return list(termios.tcgetattr(self._master))

    def wait_for_editor(self, timeout: float = 20.0) -> None:
        """Until the program gets each key itself: a Ctrl-D that was typed before that may be lost."""
        end = time.monotonic() + timeout
        while termios.tcgetattr(self._master)[3] & termios.ICANON:
            assert time.monotonic() < end, f"{self.arguments} reads whole lines:\n{self.text}"
            self.pump(0.05)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def pump(self, timeout: float) -> bool:
        """Take in what it shows; whether there was something."""
        ready, _, _ = select.select([self._master], [], [], timeout)
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the last process has closed it
            return False
        self._raw += data
        self.output = self._raw.decode(errors="replace")
        return bool(data)

    @property
    def text(self) -> str:
        """What is on its screen: without colours, and without lines that were drawn over."""
        lines: list[str] = []
        for line in self.output.replace("\r\n", "\n").split("\n"):
            if line.startswith("\x1b[A") and lines:
                lines.pop()
            lines.append(line.rpartition("\r\x1b[K")[2])
        return _ESCAPES.sub("", "\n".join(lines)).replace("\r", "")

    def wait(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Until `pattern` has been shown."""
        end = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.text, re.MULTILINE)
            if found:
                return found
            left = end - time.monotonic()
            if left <= 0 or (not self.pump(min(left, 0.5)) and self.ended()):
                raise AssertionError(f"{pattern!r} was not shown by {self.arguments}:\n{self.text}")

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def exit(self, timeout: float = 15.0) -> int:
        """Its exit status, negative after a signal."""
        end = time.monotonic() + timeout
        while not self.ended():
            if time.monotonic() > end:
                raise AssertionError(f"still running: {self.arguments}\n{self.text}")
            self.pump(0.05)
        while self.pump(0.05):
            pass
        assert self.status is not None
        return self.status

    def close(self) -> None:
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)


def peer(directory: Path, name: str, *options: str) -> list[str]:
    """The command line of a peer."""
    return [TWISTD, "-n", "punch-peer", "--state-dir", str(directory / "state"), "--name", name, *options]


@contextlib.contextmanager
def terminal(
    arguments: Sequence[str], cwd: Path, columns: int = 200, extra: dict[str, str] | None = None
) -> Iterator[Terminal]:
    shown = Terminal(arguments, cwd, columns, extra or {})
    try:
        yield shown
    finally:
        shown.close()


def run(
    arguments: Sequence[str],
    cwd: Path,
    text: bytes | None = None,
    *,
    timeout: float = 60.0,
    redirect: str | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """
    A program to its end.

    :param text: what comes through a pipe on stdin; None is the null device.
    :param redirect: instead, a piece of shell after the command (`<&-`, `| head -1`).
    """
    if redirect is not None:
        arguments = ["bash", "-c", f'"$@" {redirect}', "bash", *arguments]
    return subprocess.run(
        list(arguments),
        cwd=cwd,
        env=environment(),
        input=text if text is not None else (None if redirect else b""),
        stdin=None if text is not None or not redirect else subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
