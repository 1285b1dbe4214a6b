"""
All tables of docs/nat.md, measured anew: `python -m tests.nat.page`, as root.

Takes about an hour, on a machine that has nothing else to do: what is measured is time, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from punch.test.scenarios import grid as simulated

from . import __main__ as kernel

PAGE = Path(__file__).parents[2] / "docs" / "nat.md"
BAD = ["--delay", "25", "--loss", "5"]


def main() -> int:
    """
    Run both grids with and without delay and loss, and the simulated one with more loss. Write the page, and
    return how many of the five failed.
    """
    wrong = _simulated(["--delay", "25", "--loss", "10", "--ports", "random"], "delay and more loss")
    for conditions, options in (("no delay", []), ("delay and loss", BAD)):
        wrong += _simulated(options, conditions)
        beside = [] if options else ["--aioice"]
        wrong += kernel.main(["--runs", "2", *beside, *options, "--write", f"kernel, {conditions}"])
    return wrong


def _simulated(options: list[str], conditions: str) -> int:
    section = ["--write", str(PAGE), f"simulated, {conditions}"]
    return simulated.main(["--later", "--seeds", "1", "2", *options, *section])


if __name__ == "__main__":
    sys.exit(main())
