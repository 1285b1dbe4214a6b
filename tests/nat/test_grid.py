"""
Pairs of kernel NATs with the real programs, against the table in `table.py`.

By default a selection, once; with `--nat=whole` every pair, five times.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need, need_namespaces

from .__main__ import LIMIT, parse_pairs
from .grid import CallOutcome, Pair, all_pairs, run_grid
from .kernel_network import LinkConditions
from .profiles import ABOUT, PROFILES
from .report import failures, markdown, path_of
from .table import expected

# Each profile at least once with a peer that it must be direct to, or can't be; once as the first of a pair,
# with batched sockets, and once as the second, with portable ones; none in so many that others wait for it.
QUICK = (
    "masq-drop:masq-drop,masq-reject:masq-reject,masq-accept:masq-accept,masq-drop:masq-accept,"
    "masq-drop:random-drop,random-drop:random-reject,random-reject:random-accept,random-accept:fully-drop,"
    "masq-reject:fully-reject,fully-reject:fully-accept,fully-accept:cone,random-drop:cone,fully-drop:open,"
    "short:short,masq-reject:short,cone:cone,cone:cgnat,masq-accept:open,"
    "cgnat-hairpin:cgnat-hairpin,cgnat:cgnat,cgnat-hairpin:cgnat,open:open,open:ipv6,dual:dual,dual:ipv6,"
    "ipv6:ipv6,masq-reject:dual,masq-accept:ipv6,ipv6:tcp443,no-udp:no-udp,tcp443:tcp443,no-udp:tcp443,"
    "open:tcp443,masq-accept:no-udp,fully-drop:tcp443,docker:docker,docker:overlap,overlap:overlap,lan:lan,"
    "cgnat:lan,docker:lan,fully-drop:mapped,no-udp:mapped,mapped:mapped,"
    "lan:sequential,sequential:sequential"
)
QUICK_WEATHER = (
    "masq-drop:masq-drop,masq-drop:masq-reject,fully-drop:open,masq-reject:fully-reject,cgnat:cgnat,ipv6:ipv6,"
    "open:tcp443,docker:docker,random-drop:cone,cone:cone,cone:cgnat-hairpin"
)
BAD = LinkConditions(delay=0.025, loss=0.05)
MEDIAN = 0.8
"""Seconds within which half of all calls connect with delay and loss."""


def run(directory: Path, text: str, conditions: LinkConditions, runs: int) -> None:
    """Run pairs, print the table, fail if one is not as it must be."""
    need_namespaces()
    need("conntrack", "miniupnpd")

    def tell(pair: Pair, number: int, outcome: CallOutcome) -> None:
        seconds = "–" if outcome.seconds is None else f"{outcome.seconds:.2f} s"
        print(f"{' to '.join(pair)}: {seconds}, {path_of(outcome.settled)} {outcome.problem}", flush=True)

    results = run_grid(directory, parse_pairs(text), runs=runs, conditions=conditions, tell=tell)
    print(markdown(results))
    bad = bool(conditions.delay or conditions.loss)
    wrong = failures(results, None if bad else LIMIT, list(expected()) if text == "all" else None)
    if bad and results.median > MEDIAN:
        wrong.append(f"the median time to connect is {results.median:.2f} s, more than {MEDIAN:g} s")
    assert wrong == []


def test_pairs(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Without delay or loss: all connect within 2 s, and those that can are direct 5 s later."""
    whole = pytestconfig.getoption("--nat") == "whole"
    run(tmp_path, "all" if whole else QUICK, LinkConditions(), 5 if whole else 1)


def test_pairs_with_delay_and_loss(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """With 25 ms and 5 % loss on every access link: all connect, half of them within 0.8 s."""
    whole = pytestconfig.getoption("--nat") == "whole"
    run(tmp_path, "all" if whole else QUICK_WEATHER, BAD, 5 if whole else 3)


def test_the_table_has_every_pair() -> None:
    """A profile can't be added without saying what is expected of it."""
    assert list(expected()) == all_pairs()
    assert list(ABOUT) == list(PROFILES)


def test_the_quick_selection_has_every_profile() -> None:
    """Each of them with both kinds of sockets, and each mark but that of pairs that are mostly direct."""
    pairs = parse_pairs(QUICK)
    for side in (0, 1):
        assert {pair[side] for pair in pairs} == set(PROFILES)
    assert {expected()[pair] for pair in pairs} == {"d", "l", "r"}
    assert set(parse_pairs(QUICK_WEATHER)) <= set(all_pairs())


def test_an_unknown_profile_is_named() -> None:
    """The command line says which profiles there are."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.nat", "--pairs", "masq-drop:cones"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no profile 'cones'" in done.stderr


def test_nothing_is_left_behind() -> None:
    """No namespace of this process."""
    need_namespaces()
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"punch{os.getpid()}-" not in names
