"""Every combination of RFC 4787 on the simulated internet, with all five seeds (`trial punch` tries one)."""

from __future__ import annotations

import pytest

from punch.test.grid import BAD, CALM, PLACES, SEEDS, run_grid
from punch.test.internet import LinkSpec
from punch.test.nat_pairs import KINDS


@pytest.mark.parametrize(
    ("places", "link", "worst", "median"),
    [(list(PLACES), CALM, 2.0, 2.0), (list(KINDS), BAD, 60.0, 0.8)],
    ids=["calm", "25 ms and 5 % loss"],
)
def test_every_pair_connects(places: list[str], link: LinkSpec, worst: float, median: float) -> None:
    results = run_grid(places, seeds=SEEDS, link=link)
    print(results.summary())
    print(results.matrix())
    assert results.failures() == []
    assert len(results.outcomes) == len(places) ** 2
    assert results.worst < worst
    assert results.median < median
