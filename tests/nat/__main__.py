"""The command line of the grid: `python -m tests.nat --help`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from punch.test.scenarios.pages import replace_section

from .grid import CallOutcome, Pair, all_pairs, run_grid
from .kernel_network import LinkConditions
from .profiles import PROFILES
from .report import failures, markdown, pair_row, profiles_table
from .table import expected

SELECTIONS = ("kernel, techniques, no delay", "kernel, techniques, delay and loss")
"""The sections of the page that show some pairs only."""
LIMIT = 2.0
"""Seconds within which every pair connects where there is neither delay nor loss."""


def parse_pairs(text: str) -> list[Pair]:
    """
    `all`; names, for all pairs of them; or pairs as `one:other`; separated by commas.

    :raise ValueError: there is no such profile.
    """
    if text == "all":
        return all_pairs()
    words = text.split(",")
    for name in (name for word in words for name in word.split(":")):
        if name not in PROFILES:
            raise ValueError(f"there is no profile {name!r}; the profiles are {', '.join(PROFILES)}")
    order = list(PROFILES)
    given = {tuple(sorted(word.split(":"), key=order.index)) for word in words if ":" in word}
    return [pair for pair in all_pairs() if pair in given] + all_pairs(
        word for word in words if ":" not in word
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run pairs, print what became of each, and return 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.nat", description=__doc__)
    parser.add_argument(
        "--pairs", default="all", help="all, or names (all pairs of them), or one:other, by commas"
    )
    parser.add_argument("--runs", type=int, default=1, help="how often each pair is called")
    parser.add_argument(
        "--delay", type=float, default=0.0, help="milliseconds that an access link takes, each way"
    )
    parser.add_argument("--loss", type=float, default=0.0, help="percent of packets that it loses, each way")
    parser.add_argument("--write", metavar="SECTION", help="put the tables in this section of docs/nat.md")
    parser.add_argument(
        "--peer-option", action="append", default=[], help="an option for every peer: --relay=only"
    )
    parser.add_argument("--aioice", action="store_true", help="call each pair once with plain ICE, too")
    given = parser.parse_args(arguments)
    # Ended from outside, it removes its namespaces and processes as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        pairs = parse_pairs(given.pairs)
    except ValueError as problem:
        parser.error(str(problem))
    if given.write and given.pairs != "all" and given.write not in SELECTIONS:
        parser.error("the page shows all pairs there")
    conditions = LinkConditions(given.delay / 1000, given.loss / 100)

    def tell(pair: Pair, number: int, outcome: CallOutcome) -> None:
        problem = f" {outcome.problem}" if outcome.problem else ""
        print(
            f"run {number + 1}: {', '.join(pair_row(pair, [outcome]))}{problem}", file=sys.stderr, flush=True
        )

    def tell_plain(pair: Pair, connected: bool) -> None:
        print(f"aioice: {', '.join(pair)}: {'direct' if connected else 'no'}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="punch-grid-") as directory:
        results = run_grid(
            Path(directory),
            pairs,
            runs=given.runs,
            conditions=conditions,
            options=[word for option in given.peer_option for word in option.split("=", 1)],
            tell=tell,
            plain=given.aioice,
            tell_plain=tell_plain,
        )
    text = markdown(results)
    print(text)
    if given.write:
        page = Path(__file__).parents[2] / "docs" / "nat.md"
        replace_section(page, given.write, text)
        if given.pairs == "all":
            replace_section(page, "profiles", profiles_table())
    limit = None if conditions.delay or conditions.loss else LIMIT
    wrong = failures(results, limit, list(expected()) if given.pairs == "all" else None)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
