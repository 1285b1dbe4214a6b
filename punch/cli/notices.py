"""Sentences that many connections may cause, told once in a while."""

from __future__ import annotations

from typing import Any

from punch.cli.node_command import NodeCommand

PAUSE = 5.0
"""Seconds in which the same sentence is not told again."""
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
