"""A hundred seeds of what may happen in the middle of a transfer, on the simulated internet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from punch.test.roaming import Scenario, both_dark_for_twelve_hours, run, slept_for_twelve_hours

SEEDS = 100
BATCH = 10


@pytest.mark.parametrize("first", range(1, SEEDS + 1, BATCH))
def test_seeds(first: int) -> None:
    """Each transfer goes on within 5 s, on the same link, with the same bytes."""
    outcomes = [run(seed) for seed in range(first, first + BATCH)]
    for outcome in outcomes:
        print(outcome)
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []


@pytest.mark.parametrize("event", [both_dark_for_twelve_hours, slept_for_twelve_hours])
@pytest.mark.parametrize("seed", [1, 2])
def test_twelve_hours(seed: int, event: Callable[[Scenario], None]) -> None:
    """What was pending arrives within 5 s of the return."""
    outcome = run(seed, event)
    print(outcome)
    assert outcome.wrong == []
