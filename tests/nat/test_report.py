"""What a run of the grid finds wrong; no network is needed for that."""

from __future__ import annotations

from .grid import CallOutcome, Pair, Results
from .kernel_network import LinkConditions
from .report import failures, matrix
from .table import expected

DIRECT: Pair = ("masq-drop", "masq-drop")
RELAYED: Pair = ("random-drop", "random-drop")
RACE: Pair = ("masq-accept", "random-drop")
LATER: Pair = ("masq-drop", "random-drop")

GOOD = CallOutcome(0.1, ("relay", "relay"), ("srflx", "srflx"))
RELAY = CallOutcome(0.1, ("relay", "relay"), ("relay", "relay"))
GOOD_LATER = CallOutcome(0.1, ("relay", "relay"), ("relay", "relay"), later=("prflx", "prflx"))


def results(pair: Pair, *outcomes: CallOutcome, runs: int | None = None) -> Results:
    """A run of one pair."""
    return Results(LinkConditions(), runs or len(outcomes), [pair], {pair: list(outcomes)})


def test_what_is_as_it_must_be() -> None:
    """A direct pair, one that is direct later, one that needs the relay, and a race."""
    assert failures(results(DIRECT, GOOD, GOOD), 2.0) == []
    assert failures(results(RELAYED, RELAY)) == []
    assert failures(results(RACE, GOOD, RELAY)) == []
    assert failures(results(LATER, GOOD, GOOD_LATER)) == []
    assert "| L |" in matrix(results(LATER, GOOD, GOOD_LATER))


def test_no_link() -> None:
    """The call failed, or its link was lost."""
    assert failures(results(DIRECT, GOOD, CallOutcome(None, problem="unreachable"))) == [
        "masq-drop to masq-drop, run 2: no link (unreachable)"
    ]
    lost = CallOutcome(0.1, ("srflx", "srflx"), ("srflx", ""), "the link was lost")
    assert failures(results(RACE, lost)) == ["masq-accept to random-drop, run 1: the link was lost"]


def test_on_the_relay() -> None:
    """One side is enough."""
    sides = (
        CallOutcome(0.1, ("prflx", "relay"), ("prflx", "relay")),
        CallOutcome(0.1, ("relay",), ("relay", "srflx")),
    )
    sentence = "on the relay 5 s later, but a direct path exists"
    assert failures(results(DIRECT, *sides)) == [
        f"masq-drop to masq-drop, run 1: {sentence}",
        f"masq-drop to masq-drop, run 2: {sentence}",
    ]
    assert "| R |" in matrix(results(DIRECT, *sides))


def test_on_the_relay_later() -> None:
    """A pair that has more time does not have any time."""
    one_side = CallOutcome(0.1, ("relay",), ("relay",), later=("prflx", "relay"))
    assert failures(results(LATER, GOOD_LATER, RELAY, one_side)) == [
        f"masq-drop to random-drop, run {run}: on the relay 25 s later, but a direct path exists"
        for run in (2, 3)
    ]
    assert "| R2 |" in matrix(results(LATER, GOOD_LATER, RELAY, one_side))


def test_too_slow() -> None:
    """A pair that is slower than the limit is a failure."""
    slow = CallOutcome(2.5, ("srflx", "srflx"), ("srflx", "srflx"))
    assert failures(results(DIRECT, slow)) == []
    assert failures(results(DIRECT, slow), 2.0) == [
        "masq-drop to masq-drop, run 1: 2.50 s to connect, more than 2 s"
    ]


def test_a_pair_is_missing() -> None:
    """It did not run as often as it should, or is not among the pairs of the run at all."""
    assert failures(results(DIRECT, GOOD, runs=5)) == ["masq-drop to masq-drop: 1 of 5 runs"]
    found = failures(results(DIRECT, GOOD), wanted=list(expected()))
    assert len(found) == len(expected()) - 1
    assert "random-drop to random-drop: 0 of 1 runs" in found
