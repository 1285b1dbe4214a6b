"""When attempts over TCP may begin."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.node.punching.tcp import AGAIN, FIRST_AGAIN, TCPTries


class TriesTests(SynchronousTestCase):
    """`TCPTries`."""

    def test_refused(self) -> None:
        """An attempt that the other side refuses does not make the wait longer."""
        tries = TCPTries()
        for number in range(1, 4):
            tries.begin(number, 10.0)
        tries.refuse()
        self.assertEqual(tries.next_at(), 10.0 + AGAIN[0])

    def test_forgotten_before_it_is_refused(self) -> None:
        """If this machine is in another network by then, the next waits are the usual ones."""
        tries = TCPTries()
        tries.begin(1, 10.0)
        tries.clear()
        tries.refuse()
        waits = []
        for number in range(2, 4):
            tries.begin(number, 20.0)
            waits.append(tries.next_at() - 20.0)
        self.assertEqual(waits, [FIRST_AGAIN, AGAIN[0]])
