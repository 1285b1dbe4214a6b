"""The whole simulated grid, with all five seeds and all ways to choose ports (`trial punch` tries some)."""

from __future__ import annotations

import pytest

from punch.test.grid import BAD, CALM, PLACES, SEEDS, Results, run_grid, run_shared
from punch.test.internet import LinkSpec, Ports
from punch.test.nat_pairs import HAIRPINS, KINDS

WEATHER = pytest.mark.parametrize(
    ("link", "worst", "median"),
    [(CALM, 2.0, 2.0), (BAD, 60.0, 0.8)],
    ids=["calm", "25 ms and 5 % loss"],
)


def check(results: Results, count: int, worst: float, median: float) -> None:
    """Every pair connects, in time, and none is on the relay that the hand-written table calls direct."""
    print(results.summary())
    print(results.matrix())
    assert results.failures() == []
    assert len(results.outcomes) == count
    assert {len(outcomes) for outcomes in results.outcomes.values()} == {len(SEEDS) * len(Ports)}
    assert results.worst < worst
    assert results.median < median


@WEATHER
def test_every_pair_connects(link: LinkSpec, worst: float, median: float) -> None:
    """Of places, left and right."""
    check(run_grid(link=link, ports=Ports), len(PLACES) ** 2, worst, median)


@WEATHER
def test_homes_behind_one_nat_connect(link: LinkSpec, worst: float, median: float) -> None:
    """Of each kind, with each way of hairpinning."""
    check(run_shared(link=link, ports=Ports), len(KINDS) * len(HAIRPINS), worst, median)
