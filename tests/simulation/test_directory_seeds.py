"""Processes of one service and their Redis fail at random: 10 seeds, with `PUNCH_SEEDS=all` 50."""

from __future__ import annotations

import pytest

from punch.test.internet import Internet
from punch.test.rendezvous.directory.directory_processes import run_seed
from tests.simulation.seeds import seeds


@pytest.mark.parametrize("seed", seeds(10, 50))
def test_nothing_stale_is_left(seed: int) -> None:
    """Each peer is at the process where it registered last, and the directory says so."""
    assert run_seed(Internet(seed=seed), seed) == []
