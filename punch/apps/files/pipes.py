"""Waiting for a pipe in a thread, which can be ended."""

from __future__ import annotations

import select
from collections.abc import Callable

INTERVAL = 200
"""Milliseconds after which it is checked whether the wait goes on."""


def wait_for_pipe(descriptor: int, wanted: Callable[[], bool]) -> bool:
    """
    Wait until a pipe has something to read, or its end.

    :param wanted: whether to go on waiting; called every `INTERVAL`.
    :return: False if the wait was ended by `wanted`.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while wanted():
        if poll.poll(INTERVAL):
            return True
    return False
