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
    :ivar refused_by_quit: whether `/quit` answers it with no.
    :ivar by_user: whether the user's own command or paste has led to it: it is asked before all others.
    :ivar time: for how many seconds after it was shown first a line answers it; None: without a limit. As it
        can be answered by a command as well, other lines don't have to wait until it is answered.
    :ivar later: what is shown when that time is over.
    :ivar asked: the number of the line that asked it last; None: not asked yet.
    :ivar asked_first: when it was shown first.
    :ivar followed: the number of the first message that was shown since it was asked last, if one was.
    """

    text: Callable[[], str]
    yes: Callable[[], object]
    no: Callable[[], object]
    peer: PeerID | None = None
    refused_by_quit: bool = False
    waits: Callable[[], bool] = lambda: True
    by_user: bool = False
    time: float | None = None
    later: Callable[[], str] = str
    asked: int | None = None
    asked_first: float | None = None
    followed: int | None = None

    def is_late(self, now: float) -> bool:
        """Whether no line answers it any more."""
        return self.time is not None and self.asked_first is not None and now >= self.asked_first + self.time


class Questions:
    """
    The questions that wait for an answer; the first one is open.

    :param show: shows a line, and returns its number.
    :param seconds: a monotonic clock.
    """

    def __init__(self, show: Callable[[str], int], seconds: Callable[[], float]) -> None:
        self._show = show
        self._seconds = seconds
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
        """Ask a question as soon as no other is open; at once if it is `by_user`."""
        if question.by_user:
            self._waiting.insert(0, question)
        else:
            self._waiting.append(question)
        if self.open is question:
            self.ask_again()

    def ask_again(self) -> None:
        """Show the open question, once more if it was shown before."""
        if self._waiting:
            question = self._waiting[0]
            question.asked = self._show(question.text())
            question.followed = None
            if question.asked_first is None:
                question.asked_first = self._seconds()

    def message_shown(self, number: int) -> None:
        """A message was shown, as line `number`."""
        if self._waiting and self._waiting[0].followed is None:
            self._waiting[0].followed = number

    def drop_answered(self) -> None:
        """Drop the questions that do not wait any more, or not for a line."""
        first, now = self.open, self._seconds()
        waiting = [each for each in self._waiting if each.waits()]
        self._waiting = [each for each in waiting if not each.is_late(now)]
        for each in waiting:
            if each.is_late(now):
                self._show(each.later())
        if self.open is not first:
            self.ask_again()

    def take(self) -> Question:
        """Remove the open question, which is answered now, and return it."""
        return self._waiting.pop(0)
