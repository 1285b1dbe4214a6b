"""The source distribution is complete: built as for a package index, unpacked elsewhere, tested there."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked distribution."""
    directory = tmp_path_factory.mktemp("sdist")
    original = directory / "original"
    kept_out = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "__pycache__", "_trial_temp*", ".*_cache"
    )
    shutil.copytree(ROOT, original, ignore=kept_out)
    subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--outdir", str(directory / "dist"), str(original)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (archive,) = (directory / "dist").iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    (unpacked,) = directory.glob("txpunch-*")
    return unpacked


def python(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=source,
        env=os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_all_files(source: Path) -> None:
    """What the repository tracks is there, but what only git reads."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    tracked = {name for name in listed.decode().split("\0") if name and (ROOT / name).exists()}
    missing = {name for name in tracked if not (source / name).exists()}
    assert missing <= {".gitignore"}


def test_its_own_tests(source: Path) -> None:
    """All of them can be collected, and some of them run."""
    collected = python(source, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests")
    assert collected.returncode == 0, collected.stdout + collected.stderr
    done = python(source, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_json_docs.py")
    assert done.returncode == 0, done.stdout + done.stderr
    done = python(source, "-m", "twisted.trial", "punch.test.test_layers", "punch.test.cli.test_main")
    assert done.returncode == 0, done.stdout + done.stderr
    where = python(source, "-c", "import punch; print(punch.__file__)").stdout
    assert where.startswith(str(source))


def test_the_description_stands_alone(source: Path) -> None:
    """On a package index there are no files beside it: no relative picture, no relative link."""
    message = email.message_from_string((source / "PKG-INFO").read_text("utf-8"))
    description = message.get_payload()
    assert isinstance(description, str)
    assert "# Punch" in description
    assert message["Description-Content-Type"] == "text/markdown"
    assert "<img" not in description
    assert "<source" not in description
    assert "![" not in description
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert targets
    assert all(target.startswith("https://") for target in targets), targets
