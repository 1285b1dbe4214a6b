"""What a process loads when it starts, and when its first call begins."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

CHECK = """
import sys, threading
from punch.identity import Identity
from punch.node.events import Calling, IncomingCall, Registered
from punch.node.listeners import load_at_first_call
from punch.test.node.memory_node import MemoryNode

peer = Identity.generate().peer_id
modules = {"qh3", "punch.node.calls.call_link", "punch.unicode_tables"}
node = MemoryNode(lambda: 0.0)
load_at_first_call(node)
node.emit(Registered("punch://rendezvous.example"))
assert not modules & set(sys.modules), "nothing is loaded by a process that waits for calls"
event = {"calling": Calling(peer), "called": IncomingCall(peer, "", False, decided=False)}[sys.argv[1]]
for _ in range(2):
    node.emit(event)
threads = [thread for thread in threading.enumerate() if thread.name == "load"]
assert len(threads) <= 1, threads
for thread in threads:
    thread.join(60.0)
assert modules <= set(sys.modules), modules - set(sys.modules)
"""

START = """
import sys
import punch.cli.peer_tap
import punch.cli.peer_service

print(*sys.modules)
"""
NOT_AT_START = (
    "punch.apps.codes.client",
    "punch.apps.codes.exchange",
    "punch.apps.files.protocol",
    "punch.apps.files.source_reader",
    "punch.apps.files.receiver",
    "punch.apps.files.target",
    "punch.apps.forward",
    "punch.ice.punching.prediction",
    "punch.ice.punching.simultaneous_open",
    "punch.link.core",
    "punch.link.link",
    "punch.natcheck.core",
    "punch.natcheck.report",
    "punch.node.calls.call",
    "punch.node.calls.call_link",
    "punch.node.calls.description",
    "punch.node.calls.signaling",
    "punch.node.netcheck",
    "punch.node.netcheck_trials",
    "punch.node.network.relay",
    "punch.node.paths.ice_transport",
    "punch.node.punching",
    "punch.node.status",
    "punch.rendezvous",
    "punch.turn",
    "punch.ui.web",
    "punch.unicode_tables",
    "aioquic",
    "prompt_toolkit",
    "qh3",
    "segno",
    "spake2",
    "twisted.names",
    "twisted.web",
)
"""Modules and packages that the first call, a command, or an option loads."""


def test_at_the_start() -> None:
    """A start imports nothing that a peer can do without while it waits for calls."""
    done = subprocess.run([sys.executable, "-c", START], check=True, timeout=120, stdout=subprocess.PIPE)
    loaded = done.stdout.decode().split()
    assert "punch.node.node" in loaded
    for module in NOT_AT_START:
        assert not module.startswith("punch.") or find_spec(module), f"there is no {module}"
        assert not [name for name in loaded if f"{name}.".startswith(f"{module}.")], module


def test_at_the_first_call() -> None:
    """Whoever calls: in a thread, once."""
    for event in ("calling", "called"):
        subprocess.run([sys.executable, "-c", CHECK, event], check=True, timeout=120)
