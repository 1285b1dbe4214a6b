"""
The whole simulated grid with all ways to choose ports, under one seed (`trial punch` tries two places).

`PUNCH_SEEDS=all` runs five seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest

from punch.test.internet import LinkSpec, Ports
from punch.test.scenarios.grid import BAD, CALM, PLACES, CallOutcome, Pair, Results, run_grid, run_shared
from punch.test.scenarios.grid import SEEDS as ALL_SEEDS
from punch.test.scenarios.nat_pairs import HAIRPINS, KINDS
from tests.simulation.seeds import seeds
from tests.simulation.workers import Workers

SEEDS = seeds(1, len(ALL_SEEDS))
Run = Callable[..., Results]
CONDITIONS = pytest.mark.parametrize(
    ("link", "worst", "median"),
    [(CALM, 2.0, 2.0), (BAD, 60.0, 0.8)],
    ids=["no delay", "25 ms and 5 % loss"],
)


def part(run: Run, link: LinkSpec, case: tuple[Ports, int]) -> dict[Pair, list[CallOutcome]]:
    """One simulated internet's calls."""
    ports, seed = case
    return run(seeds=[seed], link=link, ports=[ports]).outcomes


def whole(workers: Workers, run: Run, link: LinkSpec) -> Results:
    """All of them, in the order in which `run` itself makes them."""
    results = run(seeds=[], link=link)
    for outcomes in workers.run(partial(part, run, link), list(product(Ports, SEEDS))):
        for pair, found in outcomes.items():
            results.outcomes.setdefault(pair, []).extend(found)
    return results


def check(results: Results, count: int, worst: float, median: float) -> None:
    """Every pair connects, in time, and none is on the relay that the hand-written table calls direct."""
    print(results.summary())
    print(results.matrix())
    assert results.failures() == []
    assert len(results.outcomes) == count
    assert {len(outcomes) for outcomes in results.outcomes.values()} == {len(SEEDS) * len(Ports)}
    assert results.worst < worst
    assert results.median < median


@CONDITIONS
def test_every_pair_connects(workers: Workers, link: LinkSpec, worst: float, median: float) -> None:
    """Each pair of places connects, within the times that are given."""
    check(whole(workers, run_grid, link), len(PLACES) ** 2, worst, median)


@CONDITIONS
def test_homes_behind_one_nat_connect(workers: Workers, link: LinkSpec, worst: float, median: float) -> None:
    """Two homes behind one NAT connect, for each kind of NAT and each way of hairpinning."""
    check(whole(workers, run_shared, link), len(KINDS) * len(HAIRPINS), worst, median)


def test_ports_in_sequence() -> None:
    """Pairs that need prediction, which is looked for until 25 s later."""
    results = run_grid(["EIM/APDF", "APDM/APDF"], seeds=[1], ports=[Ports.SEQUENTIAL], later=True)
    assert results.failures() == []
    assert len(results.outcomes) == 4
    assert "R" not in results.matrix().split("---")[-1]
