"""
An older release of Punch, from the history of this repository, as programs beside today's.

Its dependencies are those of this environment.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import twisted

ROOT = Path(__file__).parents[2]
RELEASE = "f6ea53629702999d765d01b3ca5cbd725bcdee49"
"""Before members, invitations, several servers, and services on links."""


def unpack(directory: Path) -> Path:
    """Its source, unpacked below `directory`; skips where there is no history to take it from."""
    if not (ROOT / ".git").exists():
        pytest.skip("the older release is in the repository's history, and this is no checkout")
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{RELEASE}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    if found.returncode != 0:
        pytest.skip(f"the older release {RELEASE[:7]} is not in the history of this checkout")
    archive = directory / "old.tar"
    subprocess.run(
        ["git", "archive", "--output", str(archive), RELEASE, "punch", "twisted"], cwd=ROOT, check=True
    )
    source = directory / "old"
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    return source


def dependencies(directory: Path) -> Path:
    """The packages of this environment, but Punch: an installed one would hide the plugins of another."""
    packages = Path(twisted.__file__).parent.parent

    def link(folder: str, *but: str) -> None:
        (directory / folder).mkdir(exist_ok=True)
        for each in (packages / folder).iterdir():
            if not each.name.startswith(but):
                (directory / folder / each.name).symlink_to(each)

    link(".", "punch", "txpunch", "__editable__", "twisted")
    link("twisted", "plugins")
    link("twisted/plugins", "punch_dropin", "dropin.cache", "__pycache__")
    return directory


def command(source: Path, packages: Path) -> list[str]:
    """Put before `punch`'s own words, this runs it from `source`, with these packages and no others."""
    return ["env", f"PYTHONPATH={source}:{packages}", sys.executable, "-S", "-m", "punch"]
