"""What a person is asked with y or n, one question after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from punch.identity import PeerID


@dataclass
class Question:
    """
    Something that the next typed line may answer.

    :ivar peer: whose call it is about, if it is about one.
    :ivar asked: the number of the line that asked it; None: not asked yet.
    :ivar refused_by_quit: whether `/quit` answers it with no.
    """

    text: Callable[[], str]
    yes: Callable[[], object]
    no: Callable[[], object]
    peer: PeerID | None = None
    asked: int | None = None
    refused_by_quit: bool = False


class Questions:
    """
    Those that wait; the first is open.

    :param show: shows a line, and returns its number.
    """

    def __init__(self, show: Callable[[str], int]) -> None:
        self._show = show
        self._waiting: list[Question] = []

    @property
    def open(self) -> Question | None:
        """The one that the next line may answer."""
        return self._waiting[0] if self._waiting else None

    @property
    def caller(self) -> PeerID | None:
        """Whose call is asked about first."""
        return next((question.peer for question in self._waiting if question.peer is not None), None)

    def ask(self, question: Question) -> None:
        """Ask it, as soon as no other is open."""
        self._waiting.append(question)
        if len(self._waiting) == 1:
            self.ask_again()

    def ask_again(self) -> None:
        """Show the one that is open."""
        if self._waiting:
            self._waiting[0].asked = self._show(self._waiting[0].text())

    def keep(self, callers: Collection[PeerID]) -> None:
        """Only these calls still wait: others were answered elsewhere, or given up."""
        first = self.open
        self._waiting = [each for each in self._waiting if each.peer is None or each.peer in callers]
        if self.open is not first:
            self.ask_again()

    def take(self) -> Question:
        """The open one, which is answered now."""
        return self._waiting.pop(0)
