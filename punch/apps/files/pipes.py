"""Waiting for a pipe in a thread, for as long as somebody wants what it brings."""

from __future__ import annotations

import select
from collections.abc import Callable

INTERVAL = 200
"""Milliseconds after which it is asked whether anybody does."""


def wait_for_pipe(descriptor: int, wanted: Callable[[], bool]) -> bool:
    """Wait until there is something to read, or the end; False: it is no longer wanted."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while wanted():
        if poll.poll(INTERVAL):
            return True
    return False
