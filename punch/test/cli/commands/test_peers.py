"""The command `punch peers`: the address book from a shell."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.cli.commands.peers import main
from punch.state import StateDirectory
from punch.test.ui.front_ends import BOB, EVE


class PeersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())

    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        """Status, stdout, stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["--name", "alice", "--state-dir", str(self.root), *arguments])
        return status, out.getvalue(), err.getvalue()

    def book(self) -> list[dict[str, Any]]:
        status, out, _ = self.run_command("list", "--json")
        self.assertEqual(status, 0)
        found: list[dict[str, Any]] = json.loads(out)["peers"]
        return found

    def test_from_the_first_to_the_last(self) -> None:
        status, out, err = self.run_command()
        self.assertEqual((status, err), (0, ""))
        self.assertIn("Nobody is in the address book yet", out)
        self.assertEqual(self.run_command("add", str(BOB).upper(), "bob")[0], 0)
        self.assertEqual(self.run_command("add", str(EVE))[0], 0)
        (bob, eve) = self.book()
        self.assertEqual((bob["peer"], bob["petname"], bob["known"]), (str(BOB), "bob", True))
        self.assertEqual((eve["peer"], eve["petname"]), (str(EVE), None))
        self.run_command("name", str(EVE), "eve")
        self.run_command("block", "EVE")
        self.assertEqual([entry["blocked"] for entry in self.book()], [False, True])
        self.assertIn(f"{EVE}  blocked", self.run_command("list")[1])
        self.run_command("unblock", "eve")
        self.run_command("name", "eve", "-")
        self.assertEqual([entry["petname"] for entry in self.book()], ["bob", None])
        self.run_command("forget", "bob")
        self.assertEqual([entry["peer"] for entry in self.book()], [str(EVE)])

    def test_grants(self) -> None:
        """A program that has the book open already follows."""
        self.run_command("add", str(BOB), "bob")
        running = StateDirectory(self.root).peer("alice").book
        self.assertFalse(running.granted(BOB, "echo/1"))
        status, out, err = self.run_command("grant", "bob", "echo/1")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("known, may open echo/1\n", out)
        self.run_command("grant", str(BOB), "counter/1")
        self.assertEqual(self.run_command("grant", "bob", "counter/1")[0], 0)
        self.assertIn("known, may open counter/1, echo/1\n", self.run_command()[1])
        self.assertEqual(self.book()[0]["services"], ["counter/1", "echo/1"])
        self.assertTrue(running.granted(BOB, "echo/1"))
        self.assertEqual(self.run_command("revoke", "bob", "echo/1")[0], 0)
        self.assertEqual(self.book()[0]["services"], ["counter/1"])
        self.assertFalse(running.granted(BOB, "echo/1"))
        self.run_command("forget", "bob")
        self.run_command("add", str(BOB), "bob")
        self.assertEqual(self.book()[0]["services"], [])

    def test_mistakes(self) -> None:
        me = str(StateDirectory(self.root).peer("alice").identity().peer_id)
        self.run_command("add", str(BOB), "bob")
        cases = [
            (["block", "nobody"], "bad-peer-id"),
            (["name", str(EVE), "Bob"], "name-taken"),
            (["name", str(EVE), "x" * 10_000], "bad-name"),
            (["name", str(EVE), "\x1b[31m"], "bad-name"),
            (["add", me], "self"),
            (["forget", str(EVE)], "unknown-peer"),
            (["add", str(EVE)[:-1]], "bad-peer-id"),
            (["grant", "nobody", "echo/1"], "bad-peer-id"),
            (["grant", str(EVE), "echo/1"], "unknown-peer"),
            (["grant", me, "echo/1"], "self"),
            (["grant", "bob", ""], "bad-service"),
            (["grant", "bob", "\x1b[31m"], "bad-service"),
            (["grant", "bob", "\udcff"], "bad-service"),
            (["grant", "bob", " echo/1"], "bad-service"),
            (["grant", "bob", "\u00e9" * 128], "bad-service"),
            (["grant", "bob", "chat/2"], "bad-service"),
            (["revoke", "bob", "echo/1"], "not-granted"),
            (["revoke", "bob", "chat/2"], "not-granted"),
            (["revoke", str(EVE), "echo/1"], "unknown-peer"),
        ]
        for arguments, reason in cases:
            with self.subTest(arguments):
                status, out, err = self.run_command("--json", *arguments)
                self.assertEqual((status, json.loads(out)["reason"]), (1, reason))
                self.assertEqual(len(err.splitlines()), 1)
                self.assertNotIn("\x1b", err)
                self.assertTrue(err.rstrip().endswith("."), err)

    def test_a_wrong_command_line(self) -> None:
        for arguments, problem in (
            (["--dance"], "unknown option --dance"),
            (["list", "--dance"], "unknown option --dance"),
            (["name"], "the following arguments are required: who, newname"),
            (["dance"], "'dance' is no action"),
            (["grant", "bob"], "the following arguments are required: service"),
        ):
            out, err = io.StringIO(), io.StringIO()
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                self.assertRaises(SystemExit) as ended,
            ):
                main(arguments)
            self.assertEqual((ended.exception.code, out.getvalue()), (2, ""))
            self.assertIn(problem, err.getvalue())
            self.assertTrue(err.getvalue().startswith("punch peers: "))
            self.assertTrue(err.getvalue().endswith("; see punch peers --help\n"), err.getvalue())

    def test_a_book_that_is_damaged(self) -> None:
        path = self.root / "peers" / "alice" / "known.json"
        path.parent.mkdir(parents=True)
        for content, part in (("{", "damaged"), ('{"version": 99, "peers": {}}', "newer")):
            path.write_text(content)
            status, _, err = self.run_command("add", str(BOB))
            self.assertEqual(status, 1)
            self.assertIn(part, err)
            self.assertEqual(path.read_text(), content)
