"""The help of each command."""

from __future__ import annotations

import contextlib
import io
import os
import re

from twisted.trial.unittest import SynchronousTestCase

from punch.cli import main
from punch.cli.peer_tap import Options
from punch.cli.rendezvous.tap import Options as RendezvousOptions
from punch.cli.twistd import commands

ACTIONS = (
    "peers add",
    "peers grant",
    "identity",
    "identity revoke",
    "rendezvous status",
    "rendezvous invite",
    "rendezvous invitations",
    "rendezvous peers",
    "rendezvous usage",
    "rendezvous revoke",
)
PLUGINS = {"peer": Options, "chat": Options, "web": Options, "rendezvous": RendezvousOptions}
"""The options of those that twistd runs."""


class HelpTests(SynchronousTestCase):
    def setUp(self) -> None:
        environment = {"COLUMNS": "80", "HOME": "/home/a-user", "LOGNAME": "a-user"}
        self.patch(os, "environ", {**os.environ, **environment})
        self.addCleanup(commands.clear)

    def help_of(self, name: str, option: str = "--help") -> list[str]:
        """The lines of what a command says of itself."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            if name in PLUGINS:
                plugin = PLUGINS[name]()
                commands[plugin.plugin] = f"punch {name}"
                plugin.parseOptions([option])
            else:
                main.main([*name.split(), option])
        return output.getvalue().splitlines()

    def commands(self) -> list[str]:
        listed = [re.match("  ([a-z]+) ", line) for line in self.help_of("")]
        found = [match[1] for match in listed if match]
        self.assertLess({"chat", "send", "rendezvous", "id"}, set(found))
        return [*found, *ACTIONS]

    def test_one_screen(self) -> None:
        for name in ("", *self.commands()):
            lines = self.help_of(name)
            self.assertIn(len(lines), range(5, 25), name)
            self.assertLessEqual(max(map(len, lines)), 80, name)

    def test_all_options(self) -> None:
        """`--help` names `--help-all` where it leaves out an option, and only there."""
        rare = set()
        for name in self.commands():
            few, many = (
                set(
                    re.findall("^ +(?:-h, )?(--[a-z-]+)", "\n".join(self.help_of(name, option)), re.MULTILINE)
                )
                for option in ("--help", "--help-all")
            )
            self.assertIn("--help", many, name)
            self.assertLessEqual(few, many | {"--help-all"}, name)
            self.assertEqual("--help-all" in few, bool(many - few - {"--help-all"}), name)
            if "--help-all" in few:
                rare.add(name)
        self.assertLess({"chat", "send", "netcheck", "join", "rendezvous"}, rare)

    def test_all_are_for_scripts(self) -> None:
        """Each can print JSON, and its help says so where it lists all."""
        for name in self.commands():
            self.assertRegex("\n".join(self.help_of(name, "--help-all")), "(?m)^ +--json ", name)

    def test_whom_to_call(self) -> None:
        """Chats take it as a word, other programs as an option."""
        self.assertEqual(self.help_of("chat")[0], "Usage: punch chat [WHO] [options]")
        self.assertEqual(self.help_of("peer")[0], "Usage: punch peer [options]")
