"""Whether the other side of a link is still there, asked because its peer is called again."""

from __future__ import annotations

from collections.abc import Callable

from punch.link.link import Link
from punch.node import limits


class LinkProbe:
    """Asks, and tells one who wants to know."""

    def __init__(self) -> None:
        self._asker: Callable[[bool], None] | None = None

    @property
    def pending(self) -> bool:
        """Somebody waits to hear."""
        return self._asker is not None

    def ask(self, link: Link, answered: Callable[[bool], None]) -> None:
        """
        Tell `answered` within `bounds.ANSWER_TIME`, once for all who ask meanwhile, and never after `cancel`.
        """
        if self._asker is None:
            self._asker = answered
            link.answers(limits.ANSWER_TIME).addCallback(self._answered)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self._asker = None

    def _answered(self, answered: bool) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            asker(answered)
