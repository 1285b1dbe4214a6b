"""
Time for intervals: monotonic, in the whole process.

Twisted's reactors count `time.time`. When the wall clock is set back by an hour (NTP mends a wrong one, a
virtual machine is restored), every `callLater` that was set before is an hour late. `IReactorTime.seconds` is
the one clock that a reactor reads, so it is given another one, where a process is put together.
"""

from __future__ import annotations

import time
from typing import Any


def use_monotonic_time(reactor: Any) -> None:
    """
    Have `reactor` count `time.monotonic`, from now on and for what it was asked to call later.

    For composition roots, before or while the reactor runs. A program that runs a `Node` of Punch in its own
    reactor calls this once; `reactor.seconds()` is then no wall time any more.

    :param reactor: one of Twisted's.
    """
    before = reactor.seconds
    if before is time.monotonic:
        return
    now = before()
    waiting = [(call, call.getTime() - now) for call in reactor.getDelayedCalls()]
    reactor.seconds = time.monotonic
    for call, left in waiting:
        call.seconds = time.monotonic
        call.reset(max(0.0, left))
