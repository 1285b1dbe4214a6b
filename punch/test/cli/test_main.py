"""The console script: which command does what, without starting anything."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from twisted.scripts import twistd
from twisted.trial.unittest import SynchronousTestCase

from punch import __version__
from punch.cli import main
from punch.cli.twistd import commands
from punch.identity import PeerID


class CommandTests(SynchronousTestCase):
    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main.main(arguments)
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 1
        return status, out.getvalue(), err.getvalue()

    def test_help_names_every_command(self) -> None:
        for arguments in ([], ["--help"], ["-h"], ["help"]):
            status, out, err = self.run_command(*arguments)
            self.assertEqual((status, err), (0, ""))
            for command in ("demo", "rendezvous", "peer", "netcheck", "id"):
                self.assertIn(f"\n  {command} ", out)

    def test_what_is_not_seen(self) -> None:
        """It comes along when a command is pasted, and means nothing but in the names of files."""
        there = f"{self.mktemp()}\u200b"
        os.mkdir(there)
        for words, said in (
            (["peers", "\u200blist"], ""),
            (["rendezvous", "us\u2060age", "--days", "3\u200b"], "No rendezvous has run"),
            (
                ["rendezvous", "\u200binvite", "--uses", "\u200b2", "--expires", "7\u00add"],
                "No rendezvous has run",
            ),
        ):
            for state in (["--state-dir", there], [f"--state-\u200bdir={there}"]):
                name = ["--name", "ali\ufeffce"] if words[0] != "rendezvous" else []
                status, _, err = self.run_command(*words, *name, *state)
                self.assertNotEqual(status, 2, err)
                self.assertIn(said, err)
                self.assertIn(there if said else "", err)
        status, _, err = self.run_command("send", "no\u200bne", "bob", "--state-dir", there)
        self.assertNotIn("none", err)

    def test_version(self) -> None:
        self.assertEqual(self.run_command("--version"), (0, f"Punch {__version__}\n", ""))

    def test_an_unknown_command(self) -> None:
        status, out, err = self.run_command("dance\x1b")
        self.assertEqual((status, out), (2, ""))
        self.assertIn("dance\\x1b", err)

    def test_id_is_made_once_for_each_name(self) -> None:
        root = self.mktemp()
        first = self.run_command("id", "--state-dir", root, "--name", "a")
        self.assertEqual(first[0], 0)
        self.assertEqual(str(PeerID.parse(first[1])), first[1].strip())
        self.assertEqual(self.run_command("id", "--state-dir", root, "--name", "a"), first)
        self.assertNotEqual(self.run_command("id", "--state-dir", root, "--name", "b"), first)

    def test_id_for_scripts(self) -> None:
        options = ["--state-dir", self.mktemp(), "--name", "a"]
        printed = self.run_command("id", *options)[1].strip()
        status, out, err = self.run_command("id", "--json", *options)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(json.loads(out), {"event": "id", "id": printed, "name": "a"})
        root = Path(self.mktemp())
        root.write_text("a file")
        status, out, err = self.run_command("id", "--json", "--state-dir", str(root))
        self.assertEqual((status, json.loads(out)["reason"]), (1, "state"))
        self.assertEqual(err, f"punch id: {json.loads(out)['text']}\n")

    def test_id_that_cannot_be_made(self) -> None:
        root = Path(self.mktemp())
        root.write_text("a file")
        status, out, err = self.run_command("id", "--state-dir", str(root))
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(len(err.splitlines()), 1)
        self.assertEqual(self.run_command("id", "--dance")[0], 2)

    def test_netcheck_without_a_rendezvous(self) -> None:
        """It says where one would come from."""
        self.patch(os, "environ", {"PATH": os.environ.get("PATH", "")})
        options = ["--state-dir", self.mktemp(), "--name", "a"]
        for arguments, word in ((options, "--rendezvous"), ([*options, "--rendezvous", "ftp://x"], "ftp")):
            with self.assertRaises(SystemExit) as ended:
                main.main(["netcheck", *arguments])
            sentence = str(ended.exception.code)
            self.assertTrue(sentence.startswith("punch netcheck: "), sentence)
            self.assertIn(word, sentence)

    def test_a_wrong_command_line(self) -> None:
        """One sentence, which says where the right one is explained."""
        for command, arguments, problem in (
            ("netcheck", ["--dance\x1b"], "unknown option --dance\\x1b"),
            ("netcheck", ["--rendezvous"], "--rendezvous needs a value"),
            ("netcheck", ["--lifetime", "5"], "--lifetime takes a number of seconds from 10 to 600, not '5'"),
            ("id", ["me", "you"], "unexpected argument me"),
            ("demo", ["--keep=1"], "--keep takes no value"),
        ):
            said = f"punch {command}: {problem}; see punch {command} --help\n"
            self.assertEqual(self.run_command(command, *arguments), (2, "", said))
        status, out, err = self.run_command("netcheck", "--dance", "--json")
        event = json.loads(out)
        self.assertEqual((status, event["event"], event["reason"]), (2, "failed", "usage"))
        self.assertEqual(err, f"punch netcheck: {event['text']}\n")

    def test_a_name_that_can_not_be_given(self) -> None:
        """It is said before a code is made or used."""
        for name in ("anyone", "a b", "-"):
            words = ["invite", "--state-dir", self.mktemp(), "--as", name]
            with self.assertRaises(SystemExit) as ended:
                main.main(words)
            self.assertIn(f"punch invite: The name '{name}' ", str(ended.exception.code))

    def test_a_pipe_leaves_stdout_to_its_data(self) -> None:
        """With `--json`, what goes wrong is an event on stderr, where nothing else is."""
        options = ["--json", "--state-dir", self.mktemp()]
        status, out, err = self.run_command("pipe", "--dance", *options)
        self.assertEqual((status, out, json.loads(err)["reason"]), (2, "", "usage"))
        me = PeerID.parse(self.run_command("id", *options[1:])[1].strip())
        for words, reason in ((["nobody"], "bad-peer-id"), ([str(me), "localhost:0"], "bad-address")):
            with self.assertRaises(SystemExit) as ended:
                main.main(["pipe", *words, *options])
            event = json.loads(str(ended.exception.code))
            self.assertEqual((event["event"], event["reason"]), ("failed", reason))

    def test_files_without_permission(self) -> None:
        """The status and the reason are those of a transfer that fails by that."""
        folder = Path(self.mktemp())
        folder.mkdir()
        file = folder / "file"
        file.write_text("content")
        self.patch(os, "access", lambda path, mode: False)
        options = ["--json", "--state-dir", self.mktemp()]
        me = self.run_command("id", *options[1:])[1].strip()
        for words, expected, reason in (
            (["send", str(file), me], 7, "source-unreadable"),
            (["send", str(folder), me], 7, "source-unreadable"),
            (["receive", "--output", str(folder)], 8, "disk"),
        ):
            command, *rest = words
            read, write = os.pipe()
            kept = os.dup(1)
            os.dup2(write, 1)
            try:
                status, _, err = self.run_command(command, *options, *rest)
            finally:
                os.dup2(kept, 1)
                os.close(kept)
                os.close(write)
            with os.fdopen(read) as out:
                self.assertEqual((status, json.load(out)["reason"]), (expected, reason), err)
            self.assertIn("permission", err)

    def test_a_wrong_command_line_of_a_plugin(self) -> None:
        """It names the command that was typed."""
        self.addCleanup(commands.clear)
        self.patch(sys, "argv", ["punch"])
        for command in ("peer", "rendezvous"):
            with self.assertRaises(SystemExit) as ended:
                main.main([command, "--dance"])
            self.assertEqual(
                ended.exception.code,
                f"punch {command}: unknown option --dance; see punch {command} --help",
            )

    def test_netcheck_options(self) -> None:
        """Wrong ones are named."""
        for arguments in (["--lifetime", "5"], ["--lifetime", "x"], ["--dance"], ["--lifetime", "601"]):
            status, out, err = self.run_command("netcheck", *arguments)
            self.assertEqual((status, out), (2, ""))
            self.assertIn(arguments[0], err)
        status, out, _ = self.run_command("netcheck", "--help-all")
        self.assertEqual(status, 0)
        for option in ("--json", "--rendezvous", "--state-dir", "--name", "--lifetime"):
            self.assertIn(option, out)

    def test_plugins_run_under_twistd(self) -> None:
        started: list[list[str]] = []
        self.addCleanup(commands.clear)
        self.patch(sys, "argv", ["punch"])
        self.patch(twistd, "run", lambda: started.append(sys.argv))
        self.run_command("peer", "--peer", "ID")
        self.run_command("rendezvous")
        self.run_command("chat")
        self.run_command("chat", "bob", "--name", "alice")
        self.run_command("web", "--name", "alice")
        self.run_command("web", "bob")
        self.run_command("chat", "--name", "alice", "bob", "--no-history")
        self.run_command("chat", "bob", "eve")
        self.run_command("chat", "--dance", "bob")
        self.assertEqual(
            started,
            [
                ["twistd", "-n", "punch-peer", "--peer", "ID"],
                ["twistd", "-n", "punch-rendezvous"],
                ["twistd", "-n", "punch-peer"],
                ["twistd", "-n", "punch-peer", "--peer", "bob", "--name=alice"],
                ["twistd", "-n", "punch-peer", "--web", "--name=alice"],
                ["twistd", "-n", "punch-peer", "--web", "--peer", "bob"],
                ["twistd", "-n", "punch-peer", "--peer", "bob", "--name=alice", "--no-history"],
                ["twistd", "-n", "punch-peer", "--peer", "bob", "eve"],
                ["twistd", "-n", "punch-peer", "--dance", "bob"],
            ],
        )

    def test_demo_explains_itself(self) -> None:
        status, out, _err = self.run_command("demo", "--help")
        self.assertEqual(status, 0)
        self.assertIn("rendezvous and two peers", out)
