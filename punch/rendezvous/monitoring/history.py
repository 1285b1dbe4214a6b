"""The figures of the last day, for curves. Pure; its size is fixed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from punch.rendezvous.monitoring.figures import Figures

PERIOD = 300.0
"""Seconds between samples…"""
SAMPLES = 288
"""…so that this many are a day."""


@dataclass(frozen=True)
class Curve:
    """
    One curve of the page.

    :ivar key: its name in JSON.
    :ivar title: its title for people.
    :ivar value: the value of a period, from the figures at its beginning and at its end.
    :ivar is_sum: whether values of periods are added up; otherwise each is a state at that moment.
    """

    key: str
    title: str
    value: Callable[[Figures, Figures], float]
    is_sum: bool


CURVES = (
    Curve("peers", "Registered peers", lambda old, now: now.peers, False),
    Curve("calls", "Calls", lambda old, now: now.introductions_begun - old.introductions_begun, True),
    Curve("relayed_bytes", "Relayed bytes", lambda old, now: now.relayed_bytes - old.relayed_bytes, True),
    Curve("refusals", "Refusals", lambda old, now: now.refused - old.refused, True),
)


class FiguresHistory:
    """
    Samples of the figures, the oldest first.

    :param figures: the figures at the start.
    """

    def __init__(self, figures: Figures) -> None:
        self._last = figures
        self._samples: dict[str, deque[float]] = {each.key: deque(maxlen=SAMPLES) for each in CURVES}

    def add(self, figures: Figures) -> None:
        """A period is over."""
        for each in CURVES:
            self._samples[each.key].append(each.value(self._last, figures))
        self._last = figures

    def curve(self, key: str) -> list[float]:
        """The values of one curve."""
        return list(self._samples[key])

    def as_json(self) -> dict[str, object]:
        """All curves as JSON values, with the seconds between two values."""
        return {"period": PERIOD, **{each.key: self.curve(each.key) for each in CURVES}}
