"""Which rendezvous is used, and what the user is told if none can be."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.local.rendezvous import NoRendezvous, choose_rendezvous, rendezvous_sentence
from punch.state import StateDirectory


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
