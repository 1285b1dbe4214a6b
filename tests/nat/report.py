"""What a run of the grid says: judgement against the table, and markdown."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence

from punch.test.pages import table

from .grid import LATER, SETTLED, CallOutcome, Pair, Results
from .profiles import ABOUT
from .table import DIRECT, LATE, RACE, RELAY, expected

WORDS = {DIRECT: "direct", LATE: "direct later", RELAY: "relay", RACE: "race"}


def failures(
    results: Results, limit: float | None = None, wanted: Collection[Pair] | None = None
) -> list[str]:
    """
    What is wrong, a sentence each: no link, or one on the relay that must be direct, or a pair is missing.

    :param limit: seconds within which every pair must have connected.
    :param wanted: the pairs that have to be there, if not only those of the run.
    """
    marks = expected()
    found = []
    for pair in results.pairs if wanted is None else wanted:
        name = " to ".join(pair)
        outcomes = results.outcomes.get(pair, [])
        if len(outcomes) != results.runs:
            found.append(f"{name}: {len(outcomes)} of {results.runs} runs")
        for number, outcome in enumerate(outcomes, 1):
            if outcome.seconds is None:
                found.append(f"{name}, run {number}: no link ({outcome.problem})")
            elif outcome.problem:
                found.append(f"{name}, run {number}: {outcome.problem}")
            elif outcome.relayed and marks[pair] == DIRECT:
                found.append(
                    f"{name}, run {number}: on the relay {SETTLED:g} s later, but a direct path exists"
                )
            elif outcome.relayed_later and marks[pair] == LATE:
                found.append(
                    f"{name}, run {number}: on the relay {LATER:g} s later, but a direct path exists"
                )
            if outcome.seconds is not None and limit is not None and outcome.seconds > limit:
                found.append(
                    f"{name}, run {number}: {outcome.seconds:.2f} s to connect, more than {limit:g} s"
                )
    return found


def path_of(paths: Sequence[str]) -> str:
    """The paths of both sides in a word or two."""
    return "no" if not paths else " / ".join(dict.fromkeys(path or "lost" for path in paths))


def _in_one(texts: Sequence[str]) -> str:
    """Several runs' words: each once, with how often if they differ."""
    counted = {text: texts.count(text) for text in texts}
    if len(counted) == 1:
        return texts[0]
    return ", ".join(f"{count} × {text}" for text, count in counted.items())


def _time(outcomes: Sequence[CallOutcome]) -> tuple[str, str]:
    """Median and worst time to connect."""
    seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    if not seconds:
        return "–", "–"
    return f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"


def summary(results: Results) -> str:
    """A sentence on the whole run."""
    outcomes = [outcome for each in results.outcomes.values() for outcome in each]
    connected = [outcome for outcome in outcomes if outcome.seconds is not None]
    direct = [outcome for outcome in connected if not outcome.relayed]
    later = [outcome for outcome in connected if not outcome.relayed_later]
    return (
        f"{len(results.pairs)} pairs, {results.runs} runs each, {results.conditions}: {len(connected)} of "
        f"{len(outcomes)} calls connected, {len(direct)} of them direct {SETTLED:g} s later and {len(later)} "
        f"{LATER:g} s later; "
        f"median {results.median:.2f} s, worst {results.worst:.2f} s."
    )


def pair_row(pair: Pair, outcomes: Sequence[CallOutcome]) -> list[str]:
    """One pair as a row of the table."""
    median, worst = _time(outcomes)
    first = _in_one([path_of(outcome.first) for outcome in outcomes] or ["missing"])
    settled = _in_one([path_of(outcome.settled) for outcome in outcomes] or ["missing"])
    later = _in_one([path_of(outcome.later or outcome.settled) for outcome in outcomes] or ["missing"])
    return [*pair, WORDS[expected()[pair]], first, median, worst, settled, later]


def pair_table(results: Results) -> str:
    """All pairs, a row each."""
    head = ["one side", "other side", "by the table", "when connected", "median s", "worst s"]
    rows = [pair_row(pair, results.outcomes.get(pair, [])) for pair in results.pairs]
    return table([*head, f"{SETTLED:g} s later", f"{LATER:g} s later"], rows)


def _mark(outcomes: Sequence[CallOutcome]) -> str:
    """A cell of the matrix."""
    if not outcomes or any(outcome.seconds is None for outcome in outcomes):
        return "no"
    relayed = sum(outcome.relayed_later for outcome in outcomes)
    if 0 < relayed < len(outcomes):
        return f"R{relayed}"
    if relayed:
        return "R"
    return "L" if any(outcome.relayed for outcome in outcomes) else "D"


def matrix(results: Results) -> str:
    """
    All pairs as a triangle: D direct in all runs, L in all of them later, R on the relay in all, R3 in three
    of them, no link.
    """
    names = list(dict.fromkeys(name for pair in results.pairs for name in pair))
    names.sort(key=list(ABOUT).index)
    rows = []
    for name in names:
        cells = [
            _mark(results.outcomes[name, other]) if (name, other) in results.outcomes else ""
            for other in names
        ]
        rows.append([f"**{name}**", *cells])
    return table(["", *names], rows)


def markdown(results: Results) -> str:
    """What docs/nat.md shows of one run."""
    return "\n\n".join(
        [
            summary(results),
            f"Path after the link came up: D direct {SETTLED:g} s later in every run, L direct {LATER:g} s "
            "later in every run, R on the relay in every run, R2 on the relay in two of them.",
            matrix(results),
            "<details><summary>Pair by pair</summary>",
            pair_table(results),
            "</details>",
        ]
    )


def profiles_table() -> str:
    """What each profile is."""
    return table(["profile", "what it is"], [list(row) for row in ABOUT.items()])
