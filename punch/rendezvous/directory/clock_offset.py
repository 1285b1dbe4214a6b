"""The offset of another machine's clock from ours, as its answers show it. Pure."""

from __future__ import annotations

from collections import deque

_KEPT = 30
"""The newest answers of which the quickest counts."""
_DRIFT = 0.005
"""Seconds by which two clocks may drift apart while that many answers come."""


class ClockOffset:
    """
    What to add to own seconds to get those of the other clock.

    An answer shows the other clock at some time between question and answer. The middle is taken, so the
    offset is wrong by half the round-trip time at most. The quickest of the newest answers counts, as in
    NTP's clock filter (RFC 5905, section 10): a slow one would put all that happens until the next one in a
    wrong order. If two answers contradict each other, the other clock was set, and only the newer one counts.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._answers: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        """By how much each may be wrong, and the offset that it tells; the newest last."""

    def answered(self, there: float, asked: float, answered: float) -> None:
        """
        Take an answer.

        :param there: what the other clock showed, in seconds.
        :param asked: when the question was sent, in own seconds.
        :param answered: when the answer came.
        """
        error, offset = (answered - asked) / 2, there - (asked + answered) / 2
        if any(abs(offset - each) > error + wrong + _DRIFT for wrong, each in self._answers):
            self._answers.clear()
        self._answers.append((error, offset))
        self.seconds = min(reversed(self._answers), key=lambda each: each[0])[1]
