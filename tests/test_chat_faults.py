"""
A chat while faults happen, on the simulated internet, under 40 seeds.

`PUNCH_SEEDS=all` runs two hundred.
"""

from __future__ import annotations

import pytest

from punch.test.chat_faults import run

from .seeds import seeds
from .workers import Workers

BATCH = 20


@pytest.mark.parametrize("first", seeds(40, 200)[::BATCH])
def test_seeds(workers: Workers, first: int) -> None:
    """Every message once, in order, on both sides; all shown, and all marked."""
    outcomes = workers.run(run, range(first, first + BATCH))
    for outcome in outcomes:
        print(outcome)
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []
