"""Sentences that many connections, or a peer, may cause, told once in a while."""

from __future__ import annotations

from typing import Any

from punch.cli.node_command import NodeCommand
from punch.net.driver import Timer
from punch.net.token_bucket import TokenBucket

PAUSE = 5.0
"""Seconds in which the same sentence is not told again."""
CHANGES = 10
"""Changes of a state that are told at once; then one is in each `PAUSE`."""
_MOST = 100
"""Sentences that are remembered."""


class Notices:
    """Tells of connections that failed."""

    def __init__(self, command: NodeCommand) -> None:
        self._command = command
        self._told: dict[str, float] = {}

    def tell(self, sentence: str, **fields: Any) -> None:
        """Tell it, unless it was told a moment ago."""
        now = self._command.reactor.seconds()
        if now - self._told.get(sentence, now - PAUSE) < PAUSE:
            return
        self._told.pop(sentence, None)
        self._told[sentence] = now
        if len(self._told) > _MOST:
            del self._told[next(iter(self._told))]
        self._command.tell(sentence, event="connection-failed", text=sentence, **fields)


class StateNotices:
    """Tells of a state that a peer can change as often as it likes: always the last one, not each."""

    def __init__(self, command: NodeCommand) -> None:
        self._command = command
        self._bucket = TokenBucket(1 / PAUSE, CHANGES, command.reactor.seconds())
        self._timer = Timer(command.reactor)
        self._latest = self._told = ("", dict[str, Any]())

    def tell(self, sentence: str, **fields: Any) -> None:
        """Tell what the state is now, or what it is in a while, if it has changed too often."""
        self._latest = (sentence, fields)
        if self._timer.running:
            return
        missing = 1 - self._bucket.available(self._command.reactor.seconds())
        if missing > 0:
            self._timer.start(missing * PAUSE, self._tell)
        else:
            self._tell()

    def _tell(self) -> None:
        if self._latest != self._told:
            self._bucket.spend(1)
            self._told = self._latest
            sentence, fields = self._told
            self._command.tell(sentence, **fields)
