"""What the user is told if no rendezvous or socket can be used."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.local.rendezvous import NoRendezvous, choose_rendezvous
from punch.local.sentences import rendezvous_sentence, socket_sentence
from punch.local.socket_file import SocketError, SocketProblem, attaching_path
from punch.state import StateDirectory


class SocketTests(SynchronousTestCase):
    def test_every_problem(self) -> None:
        """One or more whole sentences for each."""
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


class RendezvousTests(SynchronousTestCase):
    def sentence(self, given: str | None, environ: dict[str, str]) -> str:
        """What the user is told of a wrong address."""
        state = StateDirectory(Path(self.mktemp()))
        error = self.assertRaises(NoRendezvous, choose_rendezvous, given, state, "bob", environ)
        return rendezvous_sentence(error)

    def test_none(self) -> None:
        self.assertRegex(self.sentence(None, {}), r"^No rendezvous is known: .*--rendezvous punch://")

    def test_a_wrong_address(self) -> None:
        """Whoever named it is named."""
        wrong = "A rendezvous address begins with punch://, not with 'http'."
        self.assertEqual(self.sentence("http://x", {}), f"--rendezvous: {wrong}")
        environ = {"PUNCH_RENDEZVOUS": "http://x"}
        self.assertEqual(self.sentence(None, environ), f"PUNCH_RENDEZVOUS: {wrong}")
