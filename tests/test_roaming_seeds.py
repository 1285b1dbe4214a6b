"""A hundred seeds of what may happen in the middle of a transfer, on the simulated internet."""

from __future__ import annotations

import pytest

from punch.test.roaming import run

SEEDS = 100
BATCH = 10


@pytest.mark.parametrize("first", range(1, SEEDS + 1, BATCH))
def test_seeds(first: int) -> None:
    """Each transfer goes on within 5 s, on the same link, with the same bytes."""
    outcomes = [run(seed) for seed in range(first, first + BATCH)]
    for outcome in outcomes:
        print(outcome)
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []
