"""Real terminals: each a tmux server of its own, whose screen is read as a person would read it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.consoles import environment
from tests.needs import need

T = TypeVar("T")

_names = itertools.count()

_CONFIGURATION = """\
set -g remain-on-exit on
set -g history-limit 100000
set -g status off
set -g default-terminal screen-256color
set -sg escape-time 0
"""


class Screen:
    """A program in a terminal that tmux draws."""

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        size: tuple[int, int],
        extra: Mapping[str, str],
    ) -> None:
        self._name = f"punch-{os.getpid()}-{next(_names)}"
        self.arguments = list(arguments)
        settings = cwd / f"{self._name}.conf"
        settings.write_text(_CONFIGURATION)
        variables = environment(**extra)
        variables.pop("TERM")
        given = [f"{name}={value}" for name, value in extra.items()]
        # tmux itself does not always hear how it ended.
        self._status = cwd / f"{self._name}.status"
        command = f"{shlex.join(['env', *given, *arguments])}; echo $? > {shlex.quote(str(self._status))}"
        self._tmux(
            *("-f", str(settings), "new-session", "-d", "-x", str(size[0]), "-y", str(size[1])),
            *("-c", str(cwd), command),
            env=variables,
        )

    def _tmux(self, *words: str, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, *words],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=env,
        )
        if done.returncode != 0:
            raise RuntimeError(f"tmux {' '.join(words)}: {done.stderr}")
        return done.stdout

    def type(self, text: str) -> None:
        """Keys, one character each."""
        self._tmux("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Keys by name: Enter, C-c, Up, Tab."""
        self._tmux("send-keys", *keys)

    def line(self, text: str) -> None:
        """A line, and Enter."""
        self.type(text)
        self.press("Enter")

    def paste(self, text: str, marked: bool = True) -> None:
        """As a mouse would: between the marks of a paste, if the program asked for them."""
        self._tmux("load-buffer", "-", text=text)
        self._tmux("paste-buffer", *(["-p"] if marked else []))

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    @property
    def text(self) -> str:
        """All that was shown, what has scrolled away included, wrapped lines as one."""
        shown = self._tmux("capture-pane", "-p", "-J", "-S", "-")
        return "\n".join(line.rstrip() for line in shown.splitlines()).rstrip("\n")

    @property
    def visible(self) -> list[str]:
        """The rows that are seen now, without empty ones at the end."""
        rows = [row.rstrip() for row in self._tmux("capture-pane", "-p").splitlines()]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def picture(self) -> str:
        """What is seen now, with its colours as escape sequences."""
        return self._tmux("capture-pane", "-p", "-e")

    def wait(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Until `pattern` stands on the screen or above it."""
        return self._until(lambda: re.search(pattern, self.text, re.MULTILINE), pattern, timeout)

    def wait_for_all(self, pattern: str, number: int) -> None:
        """Until `pattern` stands there so many times, neither more nor fewer."""
        self._until(
            lambda: len(re.findall(pattern, self.text, re.MULTILINE)) == number, f"{number} times {pattern}"
        )

    def wait_for_rows(self, *rows: str) -> None:
        """Until these are the last rows that are seen."""
        self._until(lambda: self.visible[-len(rows) :] == [*rows], "\n".join(rows))

    def _until(self, found: Callable[[], T | None], what: str, timeout: float = 30.0) -> T:
        # A screen that is drawn just now is not one that stays: one look is none.
        end = time.monotonic() + timeout
        while True:
            result = found()
            if result:
                return result
            if time.monotonic() > end:
                raise AssertionError(f"{what!r} was not shown by {self.arguments}:\n{self.text}")
            time.sleep(0.1)

    def exit(self, timeout: float = 20.0) -> int:
        """Its exit status, negative after a signal."""
        end = time.monotonic() + timeout
        while not (self._status.exists() and self._status.read_text().endswith("\n")):
            if time.monotonic() > end:
                raise AssertionError(f"still running: {self.arguments}\n{self.text}")
            time.sleep(0.1)
        status = int(self._status.read_text())
        return status if status <= 128 else 128 - status

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._tmux("kill-server")


@contextlib.contextmanager
def screen(
    arguments: Sequence[str],
    cwd: Path,
    size: tuple[int, int] = (120, 40),
    extra: Mapping[str, str] | None = None,
) -> Iterator[Screen]:
    """A program in a terminal, until the end of the block."""
    need("tmux")
    shown = Screen(arguments, cwd, size, extra or {})
    try:
        yield shown
    finally:
        shown.close()
