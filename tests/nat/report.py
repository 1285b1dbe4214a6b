"""What a run of the grid says: judgement against the table, and markdown."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence

from punch.test.scenarios.pages import sent_table, table

from .grid import LATER, SETTLED, WITHIN, CallOutcome, Pair, Results
from .profiles import ABOUT
from .table import CLASSES, DIRECT, LATE, MOSTLY, RELAY, TCP, class_of, expected

WORDS = {DIRECT: "direct", LATE: "direct later", RELAY: "relay", MOSTLY: "mostly direct later"}
MOST = 0.8
"""Which part of the calls of pairs that are direct later in most calls must be so, in 20 calls or more."""


def failures(
    results: Results, limit: float | None = None, wanted: Collection[Pair] | None = None
) -> list[str]:
    """
    What is wrong, a sentence each: no link, or one on the relay that must be direct, or a pair is missing.

    Over TCP, each lost packet costs a second before the first check, so with loss these pairs have `LATER`.

    :param limit: seconds within which every pair must have connected.
    :param wanted: the pairs that have to be there, if not only those of the run.
    """
    marks = expected()
    bad = bool(results.conditions.loss)
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
            elif outcome.relayed and marks[pair] == DIRECT and not (bad and class_of(pair) == TCP):
                found.append(
                    f"{name}, run {number}: on the relay {SETTLED:g} s later, but a direct path exists"
                )
            elif outcome.relayed_later and marks[pair] in (DIRECT, LATE):
                found.append(
                    f"{name}, run {number}: on the relay {LATER:g} s later, but a direct path exists"
                )
            if outcome.seconds is not None and limit is not None and outcome.seconds > limit:
                found.append(
                    f"{name}, run {number}: {outcome.seconds:.2f} s to connect, more than {limit:g} s"
                )
    outcomes = [
        each for pair in results.pairs if marks[pair] == MOSTLY for each in results.outcomes.get(pair, [])
    ]
    direct = sum(each.seconds is not None and not each.relayed_later for each in outcomes)
    if len(outcomes) >= 20 and direct < MOST * len(outcomes):
        found.append(f"direct later in most calls: {direct} of {len(outcomes)}, less than {MOST:.0%}")
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


def class_table(results: Results) -> str:
    """What makes pairs direct, and how many calls are, beside plain ICE."""
    beside = bool(results.plain)
    head = ["what makes it direct", "pairs", *(["aioice, pairs"] if beside else []), "calls"]
    head += [f"direct {SETTLED:g} s later", f"{LATER:g} s later", f"within {WITHIN:g} s of the call"]
    rows = []
    for name in CLASSES:
        pairs = [pair for pair in results.pairs if class_of(pair) == name]
        outcomes = [each for pair in pairs for each in results.outcomes.get(pair, [])]
        if not outcomes:
            continue
        plain = [str(sum(results.plain.get(pair, False) for pair in pairs))] if beside else []
        counts = (
            sum(each.seconds is not None and not each.relayed for each in outcomes),
            sum(each.seconds is not None and not each.relayed_later for each in outcomes),
            sum(each.direct is not None and each.direct <= WITHIN for each in outcomes),
        )
        rows.append([name, str(len(pairs)), *plain, str(len(outcomes)), *map(str, counts)])
    head += ["median s", "worst s", "packets sent, median", "most", "bytes sent, median", "most"]
    return table(head, [[*row, *_direct_time(results, row[0]), *_sent(results, row[0])] for row in rows])


def _sent(results: Results, name: str) -> list[str]:
    """The packets and bytes that both sides of a call of a class have sent, median and most."""
    found: list[str] = []
    calls = [
        [sent for side in each.sent for sent in side.values()]
        for pair in results.pairs
        if class_of(pair) == name
        for each in results.outcomes.get(pair, [])
        if each.seconds is not None
    ]
    for which in (0, 1):
        sums = [sum(sent[which] for sent in call) for call in calls]
        found += [f"{statistics.median(sums):,.0f}", f"{max(sums):,}"] if sums else ["–", "–"]
    return found


def _direct_time(results: Results, name: str) -> tuple[str, str]:
    """Median and worst time from the call to direct paths, of those calls of a class that got them."""
    times = [
        each.direct
        for pair in results.pairs
        if class_of(pair) == name
        for each in results.outcomes.get(pair, [])
        if each.direct is not None
    ]
    return (f"{statistics.median(times):.2f}", f"{max(times):.2f}") if times else ("–", "–")


def pair_row(pair: Pair, outcomes: Sequence[CallOutcome]) -> list[str]:
    """One pair as a row of the table."""
    median, worst = _time(outcomes)
    first = _in_one([path_of(outcome.first) for outcome in outcomes] or ["missing"])
    settled = _in_one([path_of(outcome.settled) for outcome in outcomes] or ["missing"])
    later = _in_one([path_of(outcome.later or outcome.settled) for outcome in outcomes] or ["missing"])
    direct = [outcome.direct for outcome in outcomes if outcome.direct is not None]
    return [
        *(*pair, WORDS[expected()[pair]], first, median, worst, settled, later),
        f"{max(direct):.2f}" if direct else "–",
    ]


def pair_table(results: Results) -> str:
    """All pairs, a row each."""
    head = ["one side", "other side", "by the table", "when connected", "median s", "worst s"]
    head += [f"{SETTLED:g} s later", f"{LATER:g} s later", "direct within s"]
    rows = [pair_row(pair, results.outcomes.get(pair, [])) for pair in results.pairs]
    if results.plain:
        head.append("aioice")
        rows = [
            [*row, {True: "direct", False: "no", None: "–"}[results.plain.get(pair)]]
            for row, pair in zip(rows, results.pairs, strict=True)
        ]
    return table(head, rows)


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
            class_table(results),
            sent_table(
                each.sent for pair in results.pairs for each in results.outcomes.get(pair, []) if each.sent
            ),
            "<details><summary>Pair by pair</summary>",
            pair_table(results),
            "</details>",
        ]
    )


def profiles_table() -> str:
    """What each profile is."""
    return table(["profile", "what it is"], [list(row) for row in ABOUT.items()])
