"""Questions that a person answers with y or n, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from punch.identity import PeerID


@dataclass
class Question:
    """
    Something that the next typed line may answer.

    :ivar peer: whose call it is about, if it is about one.
    :ivar waits: whether it still waits for an answer: it may be answered elsewhere, or be given up.
    :ivar asked: the number of the line that asked it; None: not asked yet.
    :ivar refused_by_quit: whether `/quit` answers it with no.
    """

    text: Callable[[], str]
    yes: Callable[[], object]
    no: Callable[[], object]
    peer: PeerID | None = None
    asked: int | None = None
    refused_by_quit: bool = False
    waits: Callable[[], bool] = lambda: True


class Questions:
    """
    The questions that wait for an answer; the first one is open.

    :param show: shows a line, and returns its number.
    """

    def __init__(self, show: Callable[[str], int]) -> None:
        self._show = show
        self._waiting: list[Question] = []

    @property
    def open(self) -> Question | None:
        """The question that the next line may answer."""
        return self._waiting[0] if self._waiting else None

    @property
    def caller(self) -> PeerID | None:
        """The peer whose call is asked about first."""
        return next((question.peer for question in self._waiting if question.peer is not None), None)

    def ask(self, question: Question) -> None:
        """Ask a question as soon as no other is open."""
        self._waiting.append(question)
        if len(self._waiting) == 1:
            self.ask_again()

    def ask_again(self) -> None:
        """Show the open question, once more if it was shown before."""
        if self._waiting:
            self._waiting[0].asked = self._show(self._waiting[0].text())

    def drop_answered(self) -> None:
        """Drop the questions that do not wait any more."""
        first = self.open
        self._waiting = [each for each in self._waiting if each.waits()]
        if self.open is not first:
            self.ask_again()

    def take(self) -> Question:
        """Remove the open question, which is answered now, and return it."""
        return self._waiting.pop(0)
