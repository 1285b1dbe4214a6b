"""The command that installs an optional package, by the tool with which Punch was installed."""

from __future__ import annotations

import json
import shlex
import sys
import sysconfig
from itertools import pairwise
from pathlib import Path, PurePath
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "txpunch"


def install_command(
    extra: str,
    prefix: str = sys.prefix,
    python: str = sys.executable,
    source: str | None = None,
    managed: bool = False,
) -> str:
    """
    Return the command that adds an extra of txpunch to an installation.

    :param prefix: the directory of its environment, by which those of pipx and uv are recognized.
    :param source: the directory or URL that it was installed from; None: a package index. pip needs no
        source: it takes the package that is installed already, and adds what the extra needs.
    :param managed: this Python belongs to the operating system, and takes packages from that alone (PEP 668).
    """
    parts = PurePath(prefix).parts
    package = shlex.quote(_requirement(extra, source))
    if ("pipx", "venvs") in pairwise(parts):
        return f"pipx install --force {package}"
    if ("uv", "tools") in pairwise(parts):
        return f"uv tool install {package}"
    if managed:
        return f"pipx install {package}"
    return f"{shlex.quote(python)} -m pip install {shlex.quote(_requirement(extra, None))}"


def install_command_here(extra: str) -> str:
    """`install_command` for the Python and the environment of this process."""
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    managed = sys.prefix == sys.base_prefix and marker.exists()
    return install_command(extra, source=installed_from(), managed=managed)


def installed_from() -> str | None:
    """The directory or URL that txpunch was installed from; None: an index, or it is not known (PEP 610)."""
    # It takes longer to load than most of Punch, and is needed for errors only
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return None if text is None else parse_direct_url(text)


def parse_direct_url(text: str) -> str | None:
    """Return the directory or URL of a `direct_url.json` (PEP 610)."""
    found = json.loads(text)
    url = str(found["url"])
    parts = urlsplit(url)
    if "dir_info" in found and parts.scheme == "file":
        return url2pathname(parts.path)
    vcs = found.get("vcs_info")
    return url if vcs is None else f"{vcs['vcs']}+{url}"


def _requirement(extra: str, source: str | None) -> str:
    if source is None:
        return f"{NAME}[{extra}]"
    return f"{source}[{extra}]" if PurePath(source).is_absolute() else f"{NAME}[{extra}] @ {source}"
