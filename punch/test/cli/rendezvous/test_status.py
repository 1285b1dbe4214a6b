"""`punch rendezvous status` when there is no service to ask."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.cli.main import main


class UnreachableTests(SynchronousTestCase):
    def ask(self, *arguments: str) -> tuple[int, str, str]:
        """The exit status, and what goes to stdout and stderr."""
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as error,
        ):
            status = main(["rendezvous", "status", *arguments])
        return status, out.getvalue(), error.getvalue()

    def test_nobody_runs(self) -> None:
        status, out, error = self.ask("--state-dir", self.mktemp())
        self.assertEqual((status, out), (1, ""))
        self.assertIn("No rendezvous runs with the state directory", error)

    def test_a_directory_that_cannot_be_read(self) -> None:
        # The path of a socket has little room.
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(directory.rmdir)
        directory.chmod(0)
        if os.geteuid() == 0:
            # Nothing is imported as that user.
            self.ask("--state-dir", self.mktemp())
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)
        status, out, error = self.ask("--state-dir", str(directory))
        self.assertEqual((status, out), (1, ""))
        self.assertIn("belongs to another user; ask as that user, or as root", error)

    def test_a_directory_that_cannot_be(self) -> None:
        names = {"~nobody-of-this-name/x": "there is no such user", "x" * 300: "does not answer"}
        for name, words in names.items():
            status, out, error = self.ask("--state-dir", name)
            self.assertEqual((status, out), (1, ""))
            self.assertIn(words, error)
            self.assertEqual(error.count("\n"), 1)

    def test_json(self) -> None:
        status, out, error = self.ask("--json", "--state-dir", self.mktemp())
        self.assertEqual(status, 1)
        self.assertEqual(json.loads(out)["reason"], "unreachable")
        self.assertEqual(error.count("\n"), 1)

    def test_what_is_no_url(self) -> None:
        for url in ("9464", "https://127.0.0.1:9464", "http://", "http://127.0.0.1:x", "http://[::1"):
            status, _, error = self.ask("--url", url)
            self.assertEqual(status, 1)
            self.assertIn("is no URL like http://127.0.0.1:9464", error)

    def test_nothing_listens(self) -> None:
        status, _, error = self.ask("--url", "http://127.0.0.1:1")
        self.assertEqual(status, 1)
        self.assertIn("is the service running with --metrics?", error)
