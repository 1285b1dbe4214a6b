"""What a process loads when its first call begins, beside what it does."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import sys, threading
from punch.identity import Identity
from punch.node.events import Calling, IncomingCall, Registered
from punch.node.listeners import load_at_first_call
from punch.test.node.memory_node import MemoryNode

peer = Identity.generate().peer_id
modules = {"qh3", "punch.unicode_tables"}
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


def test_at_the_first_call() -> None:
    """Whoever calls: in a thread, once."""
    for event in ("calling", "called"):
        subprocess.run([sys.executable, "-c", CHECK, event], check=True, timeout=120)
