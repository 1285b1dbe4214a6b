"""Two hundred seeds of a chat in which everything goes wrong, on the simulated internet."""

from __future__ import annotations

import pytest

from punch.test.chat_torture import run

from .workers import Workers

SEEDS = 200
BATCH = 20


@pytest.mark.parametrize("first", range(1, SEEDS + 1, BATCH))
def test_seeds(workers: Workers, first: int) -> None:
    """Every message once, in order, on both sides; all shown, and all marked."""
    outcomes = workers.run(run, range(first, first + BATCH))
    for outcome in outcomes:
        print(outcome)
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []
