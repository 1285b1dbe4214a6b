"""What the README tells people to type is there, with the options that it names."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.processes import PUNCH, TWISTD

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("deployment", "json", "web"))]


def commands(page: str) -> Iterator[list[str]]:
    """Command lines of a page that call a program of ours, without what comes before it."""
    text = (ROOT / page).read_text("utf-8")
    for block in re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", line.removeprefix("$ ")):
                try:
                    words = shlex.split(part, comments=True)
                except ValueError:
                    continue  # it is no command, but what one shows
                if words and Path(words[0]).name in ("punch", "twistd"):
                    yield words
    for inline in re.findall(r"`((?:punch|twistd) [^`]*)`", text):
        yield shlex.split(inline)


@cache
def help_of(command: str) -> str:
    program = [TWISTD, command.partition(" ")[2]] if command.startswith("twistd ") else [PUNCH, command]
    done = subprocess.run(
        [*program, "--help-all"], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options(page: str) -> None:
    found = list(commands(page))
    assert found
    for words in found:
        program, *rest = words
        ours = [word for word in rest if word.startswith("punch-")]
        if Path(program).name == "twistd" and not ours:
            continue
        command = f"twistd {ours[0]}" if ours else rest[0]
        if command.startswith("-"):
            continue
        for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert option in help_of(command), (page, words)
        assert command.rpartition(" ")[2] in help_of(command), (page, words)


def test_what_most_people_have_on_the_path_is_enough() -> None:
    """pipx and uv put `punch` there, and neither `twistd` nor `trial`."""
    text = (ROOT / "README.md").read_text("utf-8")
    for block in re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert not re.search(r"^(?:\$ )?(?:twistd|trial|pip) ", block, re.MULTILINE), block
