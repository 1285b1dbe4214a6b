"""Every combination of RFC 4787's NAT behaviours, checked against the table in `nat_pairs`."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.test.internet import Filtering, Hairpin, InternetTestCase, Mapping, Ports
from punch.test.scenarios.grid import (
    BAD,
    CALM,
    NO_UDP,
    PLACES,
    SEEDS,
    CallOutcome,
    Results,
    must_be_direct,
    must_be_direct_later,
    run_grid,
)
from punch.test.scenarios.nat_pairs import must_connect, must_connect_behind_one
from punch.test.scenarios.pages import replace_section, table


class GridTests(InternetTestCase):
    """Two places of the grid, all of which is in `tests/simulation/test_simulated_grid.py`."""

    def test_two_places(self) -> None:
        """Every pair connects within 2 s, directly where that is possible."""
        results = run_grid(["EIM/APDF", "APDM/APDF"], seeds=SEEDS[:1], link=CALM)
        sys.stdout.write(f"\n{results.summary()}\n{results.matrix()}\n")
        self.assertEqual(results.failures(), [])
        self.assertEqual(len(results.outcomes), 4)
        self.assertLess(results.worst, 2.0)

    def test_the_tables_have_every_combination(self) -> None:
        """The tables have all pairs of mapping and filtering, and all shared NATs with each hairpinning."""
        kinds = {f"{mapping.name}/{filtering.name}" for mapping in Mapping for filtering in Filtering}
        self.assertEqual(set(must_connect()), set(product(kinds, kinds)))
        hairpins = {hairpin.name.lower() for hairpin in Hairpin}
        self.assertEqual(set(must_connect_behind_one()), set(product(kinds, hairpins)))
        self.assertLessEqual(kinds, set(PLACES))


class ReportTests(SynchronousTestCase):
    """The faults that a grid reports."""

    def results(self, outcome: CallOutcome, one: str = "EIM/EIF", other: str = "EIM/APDF") -> Results:
        """A grid of one pair, once in each direction and with itself."""
        good = CallOutcome(0.1, "srflx")
        names = [one, other]
        outcomes = {(a, b): [good] for a in names for b in names}
        outcomes[one, other] = [outcome]
        return Results(names, CALM, outcomes=outcomes)

    def test_relay_where_a_direct_path_exists(self) -> None:
        """A pair that the table calls direct must not be on the relay."""
        found = self.results(CallOutcome(0.1, "relay")).failures()
        self.assertEqual(
            found, ["EIM/EIF to EIM/APDF, try 1: on the relay after 5 s, but a direct path exists"]
        )
        self.assertEqual(self.results(CallOutcome(0.1, "relay"), "EIM/APDF", "APDM/APDF").failures(), [])
        over_tcp = self.results(CallOutcome(0.1, "relay"), "EIM/APDF", NO_UDP)
        self.assertEqual(len(over_tcp.failures()), 1)
        self.assertEqual(replace(over_tcp, link=BAD).failures(), [])

    def test_relay_later(self) -> None:
        """A pair that takes a technique must leave the relay, if the ports are such; the tables tell when."""
        for ports, outcome, wrong, mark in (
            (Ports.SEQUENTIAL, "relay", 1, "R"),
            (Ports.SEQUENTIAL, "prflx", 0, "L"),
            (Ports.SEQUENTIAL, "", 1, "L"),
            (Ports.RANDOM, "relay", 0, "R"),
        ):
            call = CallOutcome(0.1, "relay", outcome, ports)
            results = replace(self.results(call, "ADM/APDF", "APDM/APDF"), later=must_be_direct_later)
            self.assertEqual(len(results.failures()), wrong, call)
            self.assertIn(f"| {mark} 0.10 |", results.matrix())
            self.assertEqual(results.of(ports).outcomes["ADM/APDF", "APDM/APDF"], [call])
            self.assertEqual(results.of(Ports.PRESERVING).outcomes["ADM/APDF", "APDM/APDF"], [])

    def test_no_link(self) -> None:
        """A call that failed, and one whose link has ended."""
        self.assertEqual(self.results(CallOutcome(None)).failures(), ["EIM/EIF to EIM/APDF, try 1: no link"])
        self.assertEqual(
            self.results(CallOutcome(0.2, "")).failures(), ["EIM/EIF to EIM/APDF, try 1: the link was lost"]
        )

    def test_missing_pair(self) -> None:
        """A pair without a result is reported."""
        results = self.results(CallOutcome(0.1, "srflx"))
        del results.outcomes["EIM/APDF", "EIM/EIF"]
        self.assertEqual(results.failures(), ["EIM/APDF to EIM/EIF: missing"])

    def test_other_places(self) -> None:
        """The rules beside the table are the same in both directions."""
        for one in PLACES:
            self.assertEqual(must_be_direct(one, NO_UDP), must_be_direct(one, "EIM/APDF"))
            for other in PLACES:
                self.assertEqual(must_be_direct(one, other), must_be_direct(other, one), (one, other))

    def test_matrix(self) -> None:
        """A cell says the path and the worst time."""
        results = self.results(CallOutcome(0.25, "relay"))
        results.outcomes["EIM/EIF", "EIM/APDF"].append(CallOutcome(1.5, "srflx"))
        self.assertIn("| R1 1.50 |", results.matrix())
        results.outcomes["EIM/EIF", "EIM/APDF"].append(CallOutcome(None))
        self.assertIn("| 1 × no |", results.matrix())


class PageTests(SynchronousTestCase):
    """Tables in the documentation."""

    def setUp(self) -> None:
        self.page = Path(self.mktemp())

    def test_replace(self) -> None:
        r"""Only the text between the marks changes, and \1 is not a group reference."""
        self.page.write_text("a <!-- begin x -->old<!-- end x --> b <!-- begin y -->keep<!-- end y -->")
        replace_section(self.page, "x", r"new \1")
        self.assertEqual(
            self.page.read_text(),
            "a <!-- begin x -->\n\nnew \\1\n\n<!-- end x --> b <!-- begin y -->keep<!-- end y -->",
        )

    def test_no_such_section(self) -> None:
        """A page without the marks is left as it is."""
        self.page.write_text("nothing")
        self.assertRaises(ValueError, replace_section, self.page, "x", "new")
        self.assertEqual(self.page.read_text(), "nothing")

    def test_table(self) -> None:
        """Markdown."""
        self.assertEqual(table(["a", "b"], [["1", "2"]]), "| a | b |\n| --- | --- |\n| 1 | 2 |")
