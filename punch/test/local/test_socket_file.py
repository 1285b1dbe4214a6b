"""Where the socket of a node is, whatever path leads to its state directory."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.local.socket_file import (
    NAME,
    NotRunning,
    SocketError,
    SocketProblem,
    attaching_path,
    listening_path,
    socket_sentence,
)


class PlaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        # Not in the folder of the tests, whose path may be too long itself
        self.root = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.root)
        self.runtime = self.root / "run"
        self.long = self.root / ("x" * 120)
        self.short = self.root / "short"
        for each in (self.runtime, self.long, self.short):
            each.mkdir(mode=0o700)
        self.environ = {"XDG_RUNTIME_DIR": str(self.runtime)}

    def listen(self, path: Path) -> None:
        bound = socket.socket(socket.AF_UNIX)
        self.addCleanup(bound.close)
        bound.bind(str(path))

    def link(self, name: str, target: Path) -> Path:
        link = self.root / name
        link.symlink_to(target)
        return link

    def found(self, directory: Path) -> Path:
        return attaching_path(directory, self.environ)

    def test_a_long_directory_with_a_short_name(self) -> None:
        """Whichever of the two is used on either side."""
        link = self.link("link", self.long)
        for listening in (link, self.long):
            with self.assertRaises(NotRunning):
                self.found(link)
            path = listening_path(listening, self.environ)
            self.assertEqual(path.parent, self.runtime)
            self.listen(path)
            for attaching in (link, self.long):
                self.assertEqual(self.found(attaching), path)
            path.unlink()

    def test_a_short_directory_with_a_long_name(self) -> None:
        link = self.link("y" * 120, self.short)
        path = listening_path(link, self.environ)
        self.assertEqual(path, self.short / NAME)
        self.listen(path)
        for attaching in (link, self.short):
            self.assertEqual(self.found(attaching), path)

    def test_a_node_of_an_older_release(self) -> None:
        """It chose the place by the name of the directory; what it left is removed by the next one."""
        link = self.link("link", self.long)
        self.listen(link / NAME)
        self.assertEqual(self.found(link), link / NAME)
        listening_path(link, self.environ)
        with self.assertRaises(NotRunning):
            self.found(link)


class SocketTests(SynchronousTestCase):
    def test_every_problem(self) -> None:
        """Each problem has one or more whole sentences."""
        for problem in SocketProblem:
            sentence = socket_sentence(SocketError(problem, Path("/a/{b}"), "Permission denied"))
            self.assertTrue(sentence.endswith("."), sentence)
            self.assertEqual("/a/{b}" in sentence, problem is not SocketProblem.NODE_ENDS, sentence)

    def test_no_socket(self) -> None:
        root = Path(self.mktemp())
        root.mkdir()
        (root / "node.sock").write_bytes(b"")
        error = self.assertRaises(SocketError, attaching_path, root, {})
        self.assertRegex(socket_sentence(error), r"/node\.sock is not a socket\. Move it away\.$")
