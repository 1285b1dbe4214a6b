"""What a run of the grid finds wrong; no network is needed for that."""

from __future__ import annotations

from dataclasses import replace

from .grid import CallOutcome, Pair, Results
from .kernel_network import LinkConditions
from .report import class_table, failures, markdown, matrix, pair_table
from .table import CLASSES, class_of, expected

DIRECT: Pair = ("masq-drop", "masq-drop")
RELAYED: Pair = ("random-drop", "random-drop")
MOSTLY: Pair = ("masq-accept", "random-drop")
LATER: Pair = ("masq-drop", "random-drop")
OVER_TCP: Pair = ("masq-drop", "no-udp")

GOOD = CallOutcome(0.1, ("relay", "relay"), ("srflx", "srflx"))
RELAY = CallOutcome(0.1, ("relay", "relay"), ("relay", "relay"))
GOOD_LATER = CallOutcome(0.1, ("relay", "relay"), ("relay", "relay"), later=("prflx", "prflx"))


def results(
    pair: Pair, *outcomes: CallOutcome, runs: int | None = None, conditions: LinkConditions | None = None
) -> Results:
    """A run of one pair."""
    return Results(conditions or LinkConditions(), runs or len(outcomes), [pair], {pair: list(outcomes)})


def test_what_is_as_it_must_be() -> None:
    """A direct pair, one that is direct later, always or mostly, and one that needs the relay."""
    assert failures(results(DIRECT, GOOD, GOOD), 2.0) == []
    assert failures(results(RELAYED, RELAY)) == []
    assert failures(results(MOSTLY, GOOD, RELAY)) == []
    assert failures(results(LATER, GOOD, GOOD_LATER)) == []
    assert "| L |" in matrix(results(LATER, GOOD, GOOD_LATER))


def test_mostly() -> None:
    """Of many calls, a few may stay on the relay."""
    few = [*[GOOD_LATER] * 17, *[RELAY] * 3]
    assert failures(results(MOSTLY, *few)) == []
    assert failures(results(MOSTLY, *[GOOD_LATER] * 15, *[RELAY] * 5)) == [
        "direct later in most calls: 15 of 20, less than 80%"
    ]


def test_over_tcp() -> None:
    """Where packets get lost, a path over TCP has more time."""
    assert failures(results(OVER_TCP, GOOD_LATER)) == [
        "masq-drop to no-udp, run 1: on the relay 5 s later, but a direct path exists"
    ]
    lossy = LinkConditions(0.025, 0.05)
    assert failures(results(OVER_TCP, GOOD_LATER, conditions=lossy)) == []
    assert failures(results(OVER_TCP, RELAY, conditions=lossy)) == [
        "masq-drop to no-udp, run 1: on the relay 25 s later, but a direct path exists"
    ]
    assert failures(results(DIRECT, GOOD_LATER, conditions=lossy)) == [
        "masq-drop to masq-drop, run 1: on the relay 5 s later, but a direct path exists"
    ]


def test_classes() -> None:
    """Each pair has one, and the table counts its calls, those of plain ICE beside them."""
    assert {class_of(pair) for pair in expected()} == set(CLASSES)
    sent = {"ice": (10, 1200), "spraying": (900, 120_000)}, {"ice": (12, 1400)}
    late = CallOutcome(0.1, later=("prflx", "prflx"), settled=("relay", "relay"), direct=21.0, sent=sent)
    run = results(LATER, replace(GOOD, direct=3.0), replace(GOOD_LATER, direct=9.0), late, RELAY)
    run.plain[LATER] = False
    (*_, row) = class_table(run).splitlines()
    assert row == f"| {class_of(LATER)} | 1 | 0 | 4 | 1 | 3 | 2 | 9.00 | 21.00 | 0 | 922 | 0 | 122,600 |"
    assert (
        "| ice | 1 | 22 | 22 | 2,600 | 2,600 | 12 | 1,400 |\n"
        "| spraying | 1 | 900 | 900 | 120,000 | 120,000 | 900 | 120,000 |"
    ) in markdown(run)
    assert pair_table(run).splitlines()[-1].endswith("| 21.00 | no |")


def test_no_link() -> None:
    """The call failed, or its link was lost."""
    assert failures(results(DIRECT, GOOD, CallOutcome(None, problem="unreachable"))) == [
        "masq-drop to masq-drop, run 2: no link (unreachable)"
    ]
    lost = CallOutcome(0.1, ("srflx", "srflx"), ("srflx", ""), "the link was lost")
    assert failures(results(MOSTLY, lost)) == ["masq-accept to random-drop, run 1: the link was lost"]


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
