"""
A chat while faults happen, on the simulated internet, under 40 seeds; a peer with several states, under 8.

`PUNCH_SEEDS=all` runs 200 and 20.
"""

from __future__ import annotations

import pytest

from punch.test.apps.chat.chat_faults import run
from punch.test.apps.chat.chat_states import StatesInTurn
from tests.simulation.seeds import seeds
from tests.simulation.workers import Workers

BATCH = 20


@pytest.mark.parametrize("first", seeds(40, 200)[::BATCH])
def test_seeds(workers: Workers, first: int) -> None:
    """Every message once, in order, on both sides; all shown, and all marked."""
    outcomes = workers.run(run, range(first, first + BATCH))
    for outcome in outcomes:
        print(outcome)
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []


@pytest.mark.parametrize("seed", seeds(8, 20))
def test_many_states_in_turn(seed: int) -> None:
    """A peer is killed and comes back with another of its states: everything once, in each state's order."""
    assert StatesInTurn(seed).run() == []
