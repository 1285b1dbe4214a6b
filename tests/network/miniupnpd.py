"""Debian's miniupnpd at a router in a network namespace."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.netns import Host

RULES = """
table ip nat {
    chain post { type nat hook postrouting priority 100; oifname "wan" masquerade fully-random; }
}
table inet filter {
    chain input {
        type filter hook input priority 0;
        iifname "wan" ct state established,related accept
        iifname "wan" drop
    }
    chain forward {
        type filter hook forward priority 0;
        jump miniupnpd
        iifname "wan" ct state new drop
    }
    chain miniupnpd {}
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain prerouting_miniupnpd {}
    chain postrouting { type nat hook postrouting priority 99; jump postrouting_miniupnpd; }
    chain postrouting_miniupnpd {}
}
"""
"""A router with another port for each destination, and the chains that the daemon uses."""

CONFIGURATION = """
ext_ifname=wan
ext_ifname6=wan
listening_ip=lan
secure_mode=yes
uuid=00000000-0000-0000-0000-000000000001
allow 1024-65535 {network}.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
PCP = "enable_natpmp=yes\nenable_upnp=no\n"
"""PCP and NAT-PMP, and no UPnP."""
PCP_READY = "Listening for NAT-PMP/PCP"
"""What the daemon says when it answers these."""
UPNP = "enable_natpmp=no\nenable_upnp=yes\n"
UPNP_READY = "HTTP listening"


def wait_for(condition: Callable[[], bool], log: Path) -> None:
    """Wait at most 20 s; `log` is shown if it takes longer."""
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def start_miniupnpd(
    router: Host, directory: Path, options: str, ready: str, *, network: str = "10.1.0"
) -> tuple[subprocess.Popen[bytes], Path]:
    """
    Start the daemon at a router, and wait until it answers; returns its process and its log.

    :param options: lines for its configuration.
    :param ready: what it says when it answers.
    :param network: the first three numbers of the addresses to which it gives ports.
    """
    configuration = directory / "miniupnpd.conf"
    configuration.write_text(CONFIGURATION.format(network=network) + options)
    log = directory / "miniupnpd.log"
    with log.open("w") as output:
        daemon = subprocess.Popen(
            [*router.prefix, "miniupnpd", "-d", "-f", configuration, "-P", directory / "miniupnpd.pid"],
            stdout=output,
            stderr=output,
        )
    wait_for(lambda: ready in log.read_text(), log)
    return daemon, log


@contextmanager
def miniupnpd(router: Host, directory: Path, options: str, ready: str) -> Iterator[Path]:
    """The daemon at a router; its log."""
    daemon, log = start_miniupnpd(router, directory, options, ready)
    try:
        yield log
    finally:
        daemon.kill()
        daemon.wait()
