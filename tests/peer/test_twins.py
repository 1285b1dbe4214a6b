"""Two copies of one identity, each started again by a supervisor when it ends."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from punch.node.control.replacements import EXIT_STATUS
from tests.local_peers import LocalPeers
from tests.processes import JSONProcess

DEPLOY = Path(__file__).parents[2] / "deploy"


def twin(local: LocalPeers, copy: str) -> JSONProcess:
    """Start one copy."""
    return local.running.peer("alice", "--accept", "anyone", "--rendezvous", local.address, state=copy)


def test_twins(local: LocalPeers) -> None:
    """The one that was replaced ends with a status of its own, waits when it starts again, and says why."""
    bob, _ = local.bob()
    one = twin(local, "one")
    identity = one.wait("ready")["id"]
    one.wait("registered")
    shutil.copytree(local.directory / "one", local.directory / "two", ignore=shutil.ignore_patterns("*.sock"))
    two = twin(local, "two")
    assert two.wait("ready")["id"] == identity
    two.wait("registered")
    assert one.wait("failed")["reason"] == "replaced"
    assert one.exit() == EXIT_STATUS == 3
    assert "replaced this one" in one.stderr
    # It comes back at once, as from a supervisor that does not care for the status.
    one = twin(local, "one")
    told = one.wait(("unregistered", "ready"))
    assert (told["event"], told["reason"], told["retry_in"]) == ("unregistered", "replaced", 5.0)
    assert "stop one of the two" in told["text"]
    # Meanwhile the other one is there, and messages reach it; on a slow machine it may be the first again.
    bob.command("send", peer=identity, text="to whom is there")
    deadline = time.monotonic() + 30.0
    while not any(event["event"] == "message" for twins in (one, two) for event in twins.settle()):
        assert time.monotonic() < deadline, one.said() + two.said()
        time.sleep(0.1)
    bob.wait("delivered")
    registered = [event["time"] for event in one.events if event["event"] == "registered"]
    assert all(at - told["time"] > 4.9 for at in registered)
    # A signal ends the pause as well.
    one.close()
    two.close()
    two = twin(local, "one")
    two.wait("unregistered")
    begin = time.monotonic()
    two.process.terminate()
    assert two.exit() < 0
    assert time.monotonic() - begin < 4.0


def test_units_do_not_restart_it() -> None:
    unit = (DEPLOY / "punch-peer.service").read_text()
    assert re.search(rf"^RestartPreventExitStatus={EXIT_STATUS}$", unit, re.MULTILINE)
    assert re.search(r"^Restart=on-failure$", unit, re.MULTILINE)
