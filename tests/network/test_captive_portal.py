"""Behind a captive portal that answers in place of every host: `punch netcheck` and a peer say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from punch.wire.rendezvous_address import RendezvousAddress
from tests.needs import need_namespaces
from tests.netns import Namespaces
from tests.processes import PUNCH, Programs, programs

from .portal import CONTROL_PORT

ROOT = Path(__file__).parents[2]
PORTAL, GUEST, SERVICE = "10.9.0.1", "10.9.0.2", "198.51.100.1"
NAME = "rendezvous.example.org"
PIN = bytes(32)


class Hotel:
    """A guest's machine, and the router of the hotel, which takes all TCP connections as its own."""

    def __init__(self, namespaces: Namespaces, running: Programs) -> None:
        self._running = running
        switch = namespaces.switch("hotel")
        router, guest = namespaces.host("router"), namespaces.host("guest")
        namespaces.plug(router, switch, "eth0", f"{PORTAL}/24")
        namespaces.plug(guest, switch, "eth0", f"{GUEST}/24")
        guest.route(PORTAL)
        router.nft(
            "table ip portal { chain in { type nat hook prerouting priority -100; "
            'iifname "eth0" meta l4proto tcp redirect\n}\n}\n'
        )
        configuration = running.directory / "resolv.conf"
        configuration.write_text(f"nameserver {PORTAL}\n")
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        self._prefix = [*guest.prefix, "unshare", "-m", "sh", "-c", mount, str(configuration)]
        # It ends with its namespace
        portal = subprocess.Popen(
            [*router.prefix, sys.executable, "-m", "tests.network.portal", PORTAL],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert portal.stdout is not None
        assert portal.stdout.readline() == b"ready\n"

    def netcheck(self, address: str) -> dict[str, Any]:
        """The report of `punch netcheck`, which can't reach the rendezvous."""
        state = ("--state-dir", str(self._running.directory / "netcheck"))
        done = subprocess.run(
            [*self._prefix, PUNCH, "netcheck", "--json", "--rendezvous", address, *state],
            env={key: value for key, value in os.environ.items() if not key.startswith("PUNCH_")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def peer(self, address: str) -> str:
        """Why a peer says that it is not registered."""
        peer = self._running.peer("guest", "--rendezvous", address, prefix=self._prefix)
        failed = peer.wait("failed", 60.0)
        assert peer.exit() == 1
        return str(failed["text"])


@pytest.fixture(scope="module")
def hotel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hotel]:
    need_namespaces()
    directory = tmp_path_factory.mktemp("portal")
    with Namespaces() as namespaces, programs(directory) as running:
        yield Hotel(namespaces, running)


@pytest.mark.parametrize(("host", "pin"), [(NAME, None), (SERVICE, PIN)], ids=["name", "address"])
def test_netcheck_and_a_peer(hotel: Hotel, host: str, pin: bytes | None) -> None:
    """The name leads to the portal, and so do connections to the address; TLS there has another key."""
    address = str(RendezvousAddress(host, CONTROL_PORT, pin))
    report = hotel.netcheck(address)
    assert report["captive_portal"] is True
    assert report["details"]["headline"] == "Sign in to this network first"
    (sentence,) = (each for each in report["conclusions"] if "captive portal" in each)
    assert "sign in to this network" in sentence
    said = hotel.peer(address)
    assert said == report["problem"]
    assert "sign in" in said
    assert said.count(". ") == 0
