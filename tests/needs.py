"""Parts that a test needs from the machine: a missing one skips with its reason, and under CI fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from typing import NoReturn

import pytest

PACKAGES = {
    "nft": "nftables",
    "ip": "iproute2",
    "tcpdump": "tcpdump",
    "conntrack": "conntrack",
    "turnutils_stunclient": "coturn",
    "turnutils_natdiscovery": "coturn",
    "turnutils_uclient": "coturn",
    "turnutils_peer": "coturn",
    "turnserver": "coturn",
    "gcore": "gdb",
    "chromium": "chromium",
    "firefox-esr": "firefox-esr",
    "miniupnpd": "miniupnpd-nftables",
    "npm": "npm",
    "tayga": "tayga",
    "zsh": "zsh",
    "fish": "fish",
    "groff": "groff-base",
    "ssh": "openssh-client",
    "tinyproxy": "tinyproxy-bin",
    "microsocks": "microsocks",
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "systemd-analyze": "systemd",
    "promtool": "prometheus",
}


def missing(reason: str) -> NoReturn:
    """Skip with `reason`; under `CI=true` a missing part is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Each program must be on the path."""
    for program in programs:
        if shutil.which(program) is None:
            missing(f"{program} is not installed (Debian package {PACKAGES.get(program, program)})")


def need_namespaces() -> None:
    """Network namespaces with nftables, which only root can make."""
    need("ip", "nft")
    if os.geteuid() != 0:
        missing("network namespaces need root")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0:
        missing("this kernel or container does not allow network namespaces")


def has_ipv6() -> bool:
    """Whether this machine has IPv6, if only on its loopback interface."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1", 0))
        return True
    return False
