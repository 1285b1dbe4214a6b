"""
The figures of a service: counters that only grow, what is there now, and curves of the last day. Pure.

None of them is by peer, address or name, so their number does not depend on what strangers do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

MAX_CAUSES = 64
"""Causes of refusals that are counted separately. They come from the code, so there are fewer."""
OTHER_CAUSES = "others"

PERIOD = 300.0
"""Seconds between samples…"""
SAMPLES = 288
"""…so that this many are a day."""

GAUGE, COUNTER = "gauge", "counter"


class Totals:
    """
    What has happened since the start.

    :ivar registrations: registrations that were accepted, also those that replaced another one.
    :ivar allocations: allocations of the relay that were made and proved.
    :ivar reflector_answers: Binding requests that were answered over UDP.
    :ivar refusals: refusals, by their cause.
    """

    def __init__(self) -> None:
        self.registrations = 0
        self.allocations = 0
        self.reflector_answers = 0
        self.refusals: dict[str, int] = {}

    def refused(self, cause: str) -> None:
        """Something was refused, closed or slowed down."""
        if cause not in self.refusals and len(self.refusals) >= MAX_CAUSES:
            cause = OTHER_CAUSES
        self.refusals[cause] = self.refusals.get(cause, 0) + 1

    def reflector_answered(self, number: int) -> None:
        """So many Binding requests were answered."""
        self.reflector_answers += number


def _gauge(meaning: str) -> int:
    """The field of a number that rises and falls."""
    return field(metadata={"kind": GAUGE, "help": meaning})  # type: ignore[no-any-return]


def _counter(meaning: str) -> int:
    """The field of a number that only grows while the process runs."""
    return field(metadata={"kind": COUNTER, "help": meaning})  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Figures:
    """The figures at one moment."""

    peers: int = _gauge("Registered peers.")
    introductions: int = _gauge("Introductions that are going on.")
    connections: int = _gauge("Open TCP connections.")
    handshakes: int = _gauge("TCP connections that have not finished their TLS handshake.")
    allocations: int = _gauge("Relayed addresses.")
    registrations: int = _counter("Registrations that were accepted.")
    introductions_begun: int = _counter("Introductions (calls) that were delivered to the called peer.")
    introductions_answered: int = _counter("Introductions that the called peer has accepted.")
    allocations_made: int = _counter("Relayed addresses that were allocated.")
    relayed_bytes_to_peers: int = _counter("Bytes that the relay has sent to peers, without headers.")
    relayed_bytes_to_clients: int = _counter("Bytes that the relay has sent to clients, headers included.")
    reflector_answers: int = _counter("Binding requests over UDP that were answered.")
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Refusals since the start, by their cause."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The limits of the configuration, by name."""

    @property
    def relayed_bytes(self) -> int:
        """All bytes that were relayed since the start."""
        return self.relayed_bytes_to_peers + self.relayed_bytes_to_clients

    @property
    def refused(self) -> int:
        """All refusals since the start."""
        return sum(self.refusals.values())

    def as_json(self) -> dict[str, object]:
        """The figures as JSON values."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


NUMBERS = tuple(each for each in fields(Figures) if each.metadata)
"""The fields that hold one number, with its `kind` and `help` as metadata."""


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
