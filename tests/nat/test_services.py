"""The services of docs/examples on one link between two kernel NATs, with no chat on either side."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from punch.link.link import IDLE_TIME
from tests.needs import need_namespaces
from tests.processes import JSONProcess, Programs

from .grid import start_rendezvous
from .kernel_network import KernelNetwork, LinkConditions, Site
from .profiles import PROFILES

NODE = Path(__file__).with_name("service_node.py")
ECHO = Path(__file__).parents[2] / "docs" / "examples" / "echo.py"

DELAY = 0.05
"""Seconds on each access link, each way: a round trip between the peers takes four times as long."""


def start_node(programs: Programs, site: Site, *arguments: str) -> JSONProcess:
    """A node at a site."""
    return programs.start([sys.executable, str(NODE), *arguments], prefix=site.host.prefix)


def command(process: JSONProcess, line: str) -> None:
    """Write a line to a node."""
    assert process.process.stdin is not None
    process.process.stdin.write(f"{line}\n".encode())
    process.process.stdin.flush()


def test_two_services(tmp_path: Path) -> None:
    """Both are used at once, refusals take one round trip, and the link ends when nothing uses it."""
    need_namespaces()
    programs = Programs(tmp_path)
    with KernelNetwork(LinkConditions(DELAY)) as network:
        try:
            left, right = PROFILES["masq-drop"](network, "masq-drop", 1)
            network.start()
            _, address = start_rendezvous(programs, network)
            bob = start_node(programs, right, address)
            peer = bob.wait("registered", 60.0)["id"]
            alice = start_node(programs, left, address, peer)
            caller = alice.wait("registered", 60.0)["id"]
            assert alice.wait("connected", 30.0)["path"] in ("srflx", "prflx", "relay")
            for service, code in (("nobody/1", "NO_SERVICE"), ("counter/1", "NOT_ALLOWED")):
                refused = alice.wait("refused")
                assert (refused["service"], refused["code"]) == (service, code)
                assert refused["echoes"] <= 1  # both were sent together, and take one round trip
            command(bob, caller)
            bob.wait("granted")
            command(alice, "")
            assert alice.wait("answers")["answers"] == ["hello", 1, 2]
            asked = subprocess.run(
                [*left.host.prefix, sys.executable, str(ECHO), address, peer, "hello"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (asked.returncode, asked.stdout, asked.stderr) == (0, "hello\n", "")
            closed = alice.wait("closed", IDLE_TIME + 20.0)
            assert closed["code"] == "OK"
            assert closed["seconds"] > IDLE_TIME - 1
            assert alice.exit() == 0
            bob.wait("disconnected", where=lambda event: event["peer"] == caller)
            for process, other in ((alice, peer), (bob, caller)):
                links = [event["event"] for event in process.settle() if event.get("peer") == other]
                assert links == ["connected", "disconnected"]
            watched = [event["text"] for event in alice.events if event["event"] == "watched"]
            assert watched[0] == f"registered at {address}"
            *paths, end = [text for text in watched if text.startswith(f"{peer[:8]}: ")]
            assert paths
            assert all(re.fullmatch(r"\w+: (srflx|prflx|relay), \S+ to \S+", text) for text in paths), paths
            assert end == f"{peer[:8]}: the link is over (bye)"
            assert watched.index(paths[-1]) < len(watched) - 1, watched  # how it ended
        finally:
            programs.close()
