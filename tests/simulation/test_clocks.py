"""Wall clocks that are set back and forward: no timeout depends on them."""

from __future__ import annotations

from punch.node.events import Disconnected, IncomingCall, Registered
from punch.node.policies import RelayPolicy
from punch.test.scenarios.relayed import EASY, RelayTestCase
from punch.test.scenarios.test_nats import path_now
from punch.test.system import Peer, connect

YEAR = 365 * 86400.0
STEPS = (-3600.0, 3600.0, -1.0, 1.0, -YEAR, YEAR)


class ClockStepTests(RelayTestCase):
    def set_all(self, seconds: float, *peers: Peer) -> None:
        """Set the clocks of the rendezvous and of these machines."""
        for host in (self.rendezvous.host, *(peer.host for peer in peers)):
            host.set_wall(seconds)

    def test_idle_ringing_and_with_data_pending(self) -> None:
        """The clocks of two machines and of the service are set to the same new time."""
        self.start()
        alice, bob = self.pair(EASY, EASY)
        for number, step in enumerate(STEPS):
            self.set_all(step, alice, bob)
            self.net.advance(3.0)
            alice.known.forget(bob.id)
            bob.known.forget(alice.id)
            alice.call(bob.id)
            bob.wait_for(IncomingCall, 5.0, number + 1)
            self.set_all(-step, alice, bob)
            self.net.advance(3.0)
            bob.node.accept(alice.id)
            self.net.run_until(lambda: bob.node.link(alice.id) is not None, 5.0, "the link")
            self.net.advance(1.0)
            for interface in bob.host.interfaces:
                interface.set_up(False)
            alice.chat.send(bob.id, "pending")
            self.set_all(step, alice, bob)
            self.net.advance(5.0)
            for interface in bob.host.interfaces:
                interface.set_up(True)
            self.net.run_until(lambda n=number: len(alice.delivered) > n, 8.0, "the mark")  # type: ignore[misc]
            bob.node.hangup(alice.id)
            alice.wait_for(Disconnected, 5.0, number + 1)

    def test_waiting_for_the_rendezvous(self) -> None:
        """Setting the clock does not change when the rendezvous is tried next."""
        self.start()
        alice = self.peer(self.home("alice", EASY))
        for number, step in enumerate(STEPS):
            self.rendezvous.stop()
            self.net.advance(3.0)
            self.set_all(step, alice)
            self.rendezvous.start()
            alice.wait_for(Registered, 10.0, number + 2)

    def test_credentials_for_relays(self) -> None:
        """If only the service's clock is set, calls succeed, and allocations are kept or made again."""
        self.start()
        alice = self.peer(self.home("alice"), RelayPolicy.ONLY)
        bob = self.peer(self.home("bob"))
        for step in (-YEAR, YEAR):
            self.net.advance(61.0)
            self.rendezvous.host.set_wall(step)
            connect(alice, bob)
            self.chat(alice, bob, 1)
            self.net.advance(61.0)
            self.rendezvous.host.set_wall(-step)
            # Permissions are renewed meanwhile, with credentials of another time.
            self.net.advance(240.0)
            self.chat(alice, bob, 1)
            self.assertEqual(path_now(alice, bob), "relay")
            alice.node.hangup(bob.id)

    def test_credentials_after_sleep(self) -> None:
        """Credentials that expired while the machine slept have been renewed."""
        self.start()
        alice = self.peer(self.home("alice"), RelayPolicy.ONLY)
        bob = self.peer(self.home("bob"))
        # A day and more, without the wait for it.
        self.rendezvous.host.set_wall(30 * 3600.0)
        alice.host.sleep(10.0)
        self.net.advance(12.0)
        bob.host.sleep(10.0)
        self.net.advance(12.0)
        start = self.net.now
        connect(alice, bob)
        self.assertLess(self.net.now - start, 0.6)
        self.chat(alice, bob, 3)
