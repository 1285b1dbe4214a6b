"""What is said to install where something is missing."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from punch.extras import install_command


class InstallTests(SynchronousTestCase):
    def test_each_way(self) -> None:
        for prefix, command in (
            ("/home/a/.local/share/pipx/venvs/txpunch", "pipx install --force 'txpunch[chat]'"),
            ("/home/a/.local/pipx/venvs/txpunch", "pipx install --force 'txpunch[chat]'"),
            ("/home/a/.local/share/uv/tools/txpunch", "uv tool install 'txpunch[chat]'"),
            ("/home/a/my venv", "'/home/a/my venv/bin/python' -m pip install 'txpunch[chat]'"),
            ("/opt/punch", "/opt/punch/bin/python -m pip install 'txpunch[chat]'"),
        ):
            self.assertEqual(install_command("chat", prefix, f"{prefix}/bin/python"), command)

    def test_here(self) -> None:
        """The environment that this runs in."""
        self.assertIn("txpunch[web]", install_command("web"))
        self.assertTrue(sys.executable)
