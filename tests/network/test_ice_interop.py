"""
Our ICE agent against aioice's, over Ethernet between two namespaces: both roles, and role conflicts.

All sessions run at once, for more than 40 s, so that both sides have to ask for consent several times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.needs import need_namespaces
from tests.netns import Host, Namespaces

LEAST, MOST = 0, 2**64 - 1


@dataclass(frozen=True)
class Session:
    """Who begins as the controlling side, with which tiebreaker, and who must be it in the end."""

    ours: str
    theirs: str
    ends_controlling: bool
    our_changes: bool


SESSIONS = {
    "controlling": Session("1", "0", True, False),
    "controlled": Session("0", "1", False, False),
    "both controlling, we yield": Session(f"1:{LEAST}", f"1:{MOST}", False, True),
    "both controlling, they yield": Session(f"1:{MOST}", f"1:{LEAST}", True, False),
    "both controlled, we take over": Session(f"0:{MOST}", f"0:{LEAST}", True, True),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What came of each session: on our side, on theirs."""
    need_namespaces()
    with Namespaces() as namespaces:
        switch = namespaces.switch("switch")
        here, there = namespaces.host("ours"), namespaces.host("aioice")
        namespaces.plug(here, switch, "eth0", "10.77.0.1/24", "fd77::1/64")
        namespaces.plug(there, switch, "eth0", "10.77.0.2/24", "fd77::2/64")
        sessions = SESSIONS.values()
        ours = _start(here, "ours", [session.ours for session in sessions])
        theirs = _start(there, "aioice", [session.theirs for session in sessions])
        try:
            _introduce(ours, theirs, len(SESSIONS))
            first, second = _last_line(ours), _last_line(theirs)
        finally:
            for process in (ours, theirs):
                process.kill()
                process.communicate()
    return {name: (first[number], second[number]) for number, name in enumerate(SESSIONS)}


def _start(host: Host, engine: str, roles: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*host.prefix, sys.executable, "-m", "tests.network.ice_side", engine, *roles],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _introduce(first: subprocess.Popen[str], second: subprocess.Popen[str], sessions: int) -> None:
    for receiver, sender in ((first, second), (second, first)):
        assert receiver.stdin is not None
        assert sender.stdout is not None
        for _ in range(sessions):
            receiver.stdin.write(sender.stdout.readline())
        receiver.stdin.flush()


def _last_line(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    assert process.stdout is not None
    outcome: list[dict[str, Any]] = json.loads(process.stdout.readline())
    return outcome


@pytest.mark.parametrize("name", SESSIONS)
def test_connects_and_carries_datagrams_beyond_consent(
    name: str, outcomes: dict[str, tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    ours, theirs = outcomes[name]
    session = SESSIONS[name]
    assert "error" not in ours, ours
    assert "error" not in theirs, theirs
    assert (ours["received"], theirs["received"]) == (1000, 1000)
    assert ours["state"] == "connected"
    assert ours["controlling"] is session.ends_controlling
    assert theirs["controlling"] is not session.ends_controlling
    assert ours["role_changes"] == session.our_changes
    # 42 s have room for 7 consent checks of each side at the longest interval, 6 s
    assert ours["answers"] >= 6
    assert ours["requests"] >= 6
