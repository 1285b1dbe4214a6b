"""The sentences about forwarded ports."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.addresses import AddressProblem, ForwardAddressError, parse_address
from punch.ui.text.forwards import address_error_sentence


class AddressSentenceTests(SynchronousTestCase):
    def test_every_problem(self) -> None:
        """One whole sentence for each, with a harmless part of what was typed."""
        for problem in AddressProblem:
            sentence = address_error_sentence(ForwardAddressError(problem, "{text}\x1b[31m" + "x" * 300))
            self.assertIn("'{text}\\x1b[31mxxx", sentence)
            self.assertTrue(sentence.isprintable() and sentence.endswith("."), sentence)
            self.assertLess(len(sentence), 250)

    def test_a_port(self) -> None:
        self.assertEqual(
            address_error_sentence(self.assertRaises(ForwardAddressError, parse_address, "localhost:0")),
            "A port is a number from 1 to 65535, unlike in 'localhost:0'.",
        )
