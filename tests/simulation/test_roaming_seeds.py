"""
What may happen in the middle of a transfer, on the simulated internet: each event under ten seeds.

A seed draws both NATs, the delays, who sends, when it happens and on which side. `PUNCH_SEEDS=all` runs a
hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from punch.test.scenarios.roaming import (
    EVENTS,
    Scenario,
    both_dark_for_an_hour,
    both_dark_for_twelve_hours,
    both_nats_flushed,
    one_moved_while_the_other_was_flushed,
    run,
    slept_for_an_hour,
    slept_for_twelve_hours,
)
from tests.simulation.seeds import seeds
from tests.simulation.workers import Workers

BATCH = 10
FIRSTS = seeds(BATCH, 100)[::BATCH]
"""The first seed of each batch."""
HOURS = (both_dark_for_an_hour, slept_for_an_hour)
HALF_DAYS = (both_dark_for_twelve_hours, slept_for_twelve_hours)
FEW = seeds(1, 5)
"""Seeds of half a day, which take several seconds each."""


def check(workers: Workers, event: Callable[[Scenario], None], batch: range) -> None:
    """Each transfer goes on within 5 s, on the same link, with the same bytes."""
    outcomes = workers.run(partial(run, event=event), batch)
    for outcome in outcomes:
        print(outcome)
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []


@pytest.mark.parametrize("first", FIRSTS)
@pytest.mark.parametrize("event", [*EVENTS, *HOURS])
def test_events(workers: Workers, event: Callable[[Scenario], None], first: int) -> None:
    """Networks change, are gone for an hour, or a machine sleeps."""
    check(workers, event, range(first, first + BATCH))


@pytest.mark.parametrize("event", HALF_DAYS)
def test_twelve_hours(workers: Workers, event: Callable[[Scenario], None]) -> None:
    """What was pending arrives within 5 s of the return."""
    check(workers, event, FEW)


@pytest.mark.parametrize(
    ("event", "seed"), [(both_nats_flushed, 96), (one_moved_while_the_other_was_flushed, 71)]
)
def test_towards_those_who_only_receive(event: Callable[[Scenario], None], seed: int) -> None:
    """
    They notice as soon as those who send, even if all that they have sent was answered: else the rendezvous
    can't reach them, whose connection to it is gone as well, until they next ask for consent.
    """
    outcome = run(seed, event)
    assert outcome.wrong == []
    assert outcome.stall < 3.0
