"""What is said to install where something is missing."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from punch.extras import install_command, install_command_here, parse_direct_url


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

    def test_from_a_checkout(self) -> None:
        """A package that is on no index is named by the place that it was installed from."""
        for prefix, command in (
            ("/home/a/.local/share/pipx/venvs/txpunch", "pipx install --force '/home/a/my punch[chat]'"),
            ("/home/a/.local/share/uv/tools/txpunch", "uv tool install '/home/a/my punch[chat]'"),
            ("/opt/punch", "/opt/punch/bin/python -m pip install 'txpunch[chat]'"),
        ):
            found = install_command("chat", prefix, f"{prefix}/bin/python", "/home/a/my punch")
            self.assertEqual(found, command)
        self.assertEqual(
            install_command("chat", "/a/pipx/venvs/txpunch", "p", "git+https://git.example/punch"),
            "pipx install --force 'txpunch[chat] @ git+https://git.example/punch'",
        )

    def test_a_python_of_the_operating_system(self) -> None:
        """Debian's refuses pip (PEP 668)."""
        found = install_command("chat", "/usr", "/usr/bin/python3", managed=True)
        self.assertEqual(found, "pipx install 'txpunch[chat]'")

    def test_direct_urls(self) -> None:
        for text, source in (
            ('{"url": "file:///home/a/my%20punch", "dir_info": {}}', "/home/a/my punch"),
            ('{"url": "file:///p", "dir_info": {"editable": true}}', "/p"),
            ('{"url": "file:///p/txpunch-1.tar.gz", "archive_info": {}}', "file:///p/txpunch-1.tar.gz"),
            ('{"url": "https://h/p", "vcs_info": {"vcs": "git", "commit_id": "1"}}', "git+https://h/p"),
        ):
            self.assertEqual(parse_direct_url(text), source)

    def test_here(self) -> None:
        """The environment that this runs in."""
        self.assertIn("[web]", install_command_here("web"))
        self.assertTrue(sys.executable)
