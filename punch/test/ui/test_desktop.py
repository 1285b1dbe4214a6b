"""The folder for downloads, and showing a folder on the desktop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.ui.desktop import download_folder, folder_opener


class RecordingReactor:
    """Starts no programs. :ivar started: what it was to start."""

    def __init__(self) -> None:
        self.started: list[tuple[str, list[str]]] = []

    def spawnProcess(self, protocol: object, program: str, arguments: list[str], **others: Any) -> object:
        self.started.append((program, arguments))
        return protocol


class DesktopTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        (self.home / ".config").mkdir(parents=True)

    def chosen(self, text: str, **environ: str) -> Path:
        (self.home / ".config" / "user-dirs.dirs").write_text(text)
        return download_folder({"HOME": str(self.home), **environ})

    def test_downloads(self) -> None:
        self.assertEqual(download_folder({"HOME": str(self.home)}), self.home / "Downloads")
        line = '# comment\nXDG_DOWNLOAD_DIR="$HOME/Herunter geladen"\n'
        self.assertEqual(self.chosen(line), self.home / "Herunter geladen")
        self.assertEqual(self.chosen('XDG_DOWNLOAD_DIR="/data/new"'), Path("/data/new"))
        for other in ("XDG_DOWNLOAD_DIR=relative", 'XDG_DOWNLOAD_DIR="$(rm -r x)"', "\0\xff"):
            self.assertEqual(self.chosen(other), self.home / "Downloads")
        self.assertEqual(
            self.chosen(line, XDG_CONFIG_HOME=str(self.home / "elsewhere")), self.home / "Downloads"
        )

    def test_a_folder_is_shown_only_on_a_desktop(self) -> None:
        """The path is one argument, and absolute."""
        programs = self.home / "bin"
        programs.mkdir()
        for name in ("xdg-open", "open"):
            (programs / name).write_text("#!/bin/sh\n")
            (programs / name).chmod(0o755)
        self.patch(os, "environ", {**os.environ, "PATH": str(programs)})
        reactor = RecordingReactor()
        self.assertIsNone(folder_opener(reactor, {}, "linux"))
        for environ, platform, name in (
            ({"DISPLAY": ":0"}, "linux", "xdg-open"),
            ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", "xdg-open"),
            ({}, "darwin", "open"),
        ):
            opener = folder_opener(reactor, environ, platform)
            assert opener is not None
            opener(Path("-a folder; $(x)"))
            program, arguments = reactor.started[-1]
            self.assertEqual(program, str(programs / name))
            self.assertEqual(arguments, [program, str(Path("-a folder; $(x)").absolute())])
        (programs / "xdg-open").unlink()
        self.assertIsNone(folder_opener(reactor, {"DISPLAY": ":0"}, "linux"))
