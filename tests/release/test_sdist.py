"""
The distributions are complete: built as for a package index, unpacked elsewhere, tested there.

The wheel is built from the source distribution. `PUNCH_SDIST=whole` runs `trial punch` in what was
unpacked, and more of `tests/`.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import punch
from tests.release import old_release

ROOT = Path(__file__).parents[2]
WHOLE = os.environ.get("PUNCH_SDIST") == "whole"

#: Those that read files of the distribution: documents, word lists, pages, plugins, completions.
TRIAL = (
    "punch.test.test_layers",
    "punch.test.cli.test_main",
    "punch.test.apps.codes.test_code",
    "punch.test.ui.web.test_server",
    "punch.test.rendezvous.monitoring.test_http",
)
PYTEST = (
    "tests/docs/test_json_docs.py",
    "tests/docs/test_architecture_docs.py",
    "tests/docs/test_protocol_docs.py",
    "tests/docs/test_security_docs.py",
)

#: More of them, with real processes.
MORE_PYTEST = (
    "tests/docs/test_readme.py",
    "tests/docs/test_shell_files.py",
    "tests/deploy/test_deploy.py",
    "tests/peer/test_peer_process.py",
    "tests/rendezvous/test_rendezvous_process.py",
    "tests/apps/test_codes.py",
    "tests/apps/test_forwards.py",
    "tests/apps/test_transfers.py",
    "tests/apps/test_examples.py",
    "tests/peer/test_output.py",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the source distribution and the wheel in `dist`."""
    directory = tmp_path_factory.mktemp("sdist")
    original = directory / "original"
    kept_out = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "__pycache__", "_trial_temp*", ".*_cache"
    )
    shutil.copytree(ROOT, original, ignore=kept_out)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(directory / "dist"), str(original)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return directory


@pytest.fixture(scope="module")
def source(built: Path) -> Path:
    """The unpacked source distribution."""
    (archive,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(built, filter="data")
    (unpacked,) = built.glob("txpunch-*")
    return unpacked


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """What the wheel puts into a directory of packages."""
    (wheel,) = (built / "dist").glob("*.whl")
    directory = built / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of this environment, but Punch: an installed one would hide the plugins of another."""
    return old_release.dependencies(tmp_path_factory.mktemp("dependencies"))


def python(source: Path, *arguments: str, more: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with the packages in `source`; with `more`, which has others, without those installed."""
    command = [sys.executable, *arguments] if more is None else [sys.executable, "-S", *arguments]
    path = os.pathsep.join(str(each) for each in (source, more) if each is not None)
    return subprocess.run(
        command,
        cwd=source,
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
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
    """All of them can be collected. Some run: those that read its files, or, if asked for, many more."""
    where = python(source, "-c", "import punch; print(punch.__file__)").stdout
    assert where.startswith(str(source))
    pytest_here = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    collected = python(source, *pytest_here, "--collect-only", "tests")
    assert collected.returncode == 0, collected.stdout + collected.stderr
    for command in (
        (*pytest_here, *PYTEST),
        # Each by itself: together they take longer than one command may on a busy machine.
        *((*pytest_here, name) for name in (MORE_PYTEST if WHOLE else ())),
        ("-m", "twisted.trial", *(["punch"] if WHOLE else TRIAL)),
    ):
        done = python(source, *command)
        print(done.stdout[-2000:])
        assert done.returncode == 0, done.stdout + done.stderr


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


def test_a_package_index_takes_them(built: Path) -> None:
    """Metadata and description are as it wants them."""
    files = [str(path) for path in (built / "dist").iterdir()]
    check = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == len(files) == 2, done.stdout


def test_one_version(built: Path, source: Path, installed: Path) -> None:
    """That of `punch.__version__`: in the names of the files, and in their metadata."""
    version = punch.__version__
    assert {path.name for path in (built / "dist").iterdir()} == {
        f"txpunch-{version}.tar.gz",
        f"txpunch-{version}-py3-none-any.whl",
    }
    for text in (source / "PKG-INFO", installed / f"txpunch-{version}.dist-info" / "METADATA"):
        assert email.message_from_string(text.read_text("utf-8"))["Version"] == version
    assert version not in (ROOT / "setup.cfg").read_text()


def test_the_wheel(installed: Path) -> None:
    """Plugin, pages, type marker, licences, completions and manual, and no file of another package."""
    for name in (
        "twisted/plugins/punch_dropin.py",
        "punch/py.typed",
        "punch/ui/web/static/index.html",
        "punch/rendezvous/monitoring/static/status.css",
        "punch/apps/codes/words.txt",
    ):
        assert (installed / name).is_file(), name
    for path in (ROOT / "punch").rglob("static/*"):
        assert (installed / path.relative_to(ROOT)).is_file(), path
    assert not (installed / "twisted" / "__init__.py").exists()
    assert not (installed / "twisted" / "plugins" / "__init__.py").exists()
    (metadata,) = installed.glob("*.dist-info")
    assert {path.name for path in metadata.rglob("LICENSE*")} == {"LICENSE", "LICENSE-EFF", "LICENSE-UNICODE"}
    assert "punch = punch.cli.main:main" in (metadata / "entry_points.txt").read_text()
    (shared,) = installed.glob("*.data")
    assert {path.name for path in installed.iterdir()} == {"punch", "twisted", metadata.name, shared.name}
    found = {path.relative_to(shared / "data") for path in shared.rglob("*") if path.is_file()}
    assert found == {path.relative_to(ROOT) for path in (ROOT / "share").rglob("*") if path.is_file()}


def test_the_wheel_runs(installed: Path, dependencies: Path) -> None:
    """The command, and the plugins as `twistd` finds them."""
    said = python(installed, "-m", "punch.cli.main", "--version", more=dependencies)
    assert said.stdout == f"Punch {punch.__version__}\n", said.stderr
    program = """
import twisted.plugins.punch_dropin as plugin
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
print(plugin.__file__)
print(sorted(each.tapname for each in getPlugins(IServiceMaker) if "punch" in each.tapname))
"""
    said = python(installed, "-c", program, more=dependencies)
    file, names = said.stdout.splitlines()
    assert file.startswith(str(installed)), said.stderr
    assert names == "['punch-peer', 'punch-rendezvous']"
