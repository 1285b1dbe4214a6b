"""When the client of a rendezvous that was off is connected again."""

from __future__ import annotations

from punch.test.node.control.test_client import ClientCase


class HostThatWasOffTests(ClientCase):
    def test_a_host_that_is_off(self) -> None:
        """It answers nothing, so an attempt lasts long; what waits is tried within 3 s of its return."""
        self.registered()
        for away in range(60, 102):
            self.server.down()
            self.net.advance(away)
            self.server.up()
            began = self.net.clock.seconds()
            self.returns()
            # The longest pause of a system between two SYNs is 3 s here.
            self.assertLess(self.net.clock.seconds() - began, 3.5, away)
