"""Calls that nearly cross, many calls, and peers that vanish or call again over an old link."""

from __future__ import annotations

from punch.link.events import CloseCode
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Connected,
    Disconnected,
    IncomingCall,
    PathChanged,
    PathLost,
)
from punch.test.scenarios.test_calls import D
from punch.test.system import SERVICE, SystemTestCase, connect, introduce
from punch.wire.control import Accept


class EventTests(SystemTestCase):
    """The events that each side gets, and their times."""

    def test_calls_that_nearly_cross(self) -> None:
        """A second call, placed at different moments of the first, leads to the same single link."""
        for step in range(0, 9, 2):
            alice, bob = self.peer(f"alice-{step}").register(), self.peer(f"bob-{step}").register()
            alice.call(bob.id)
            self.net.advance(step * D)
            bob.call(alice.id)
            alice.wait_for(Connected, 5.0)
            bob.wait_for(Connected, 5.0)
            self.net.advance(3.0)
            for peer in (alice, bob):
                self.assertEqual(len(peer.of(Connected)), 1, (step, peer.name))
                self.assertEqual(peer.of(Disconnected) + peer.of(CallFailed), [], (step, peer.name))


class PolicyTests(SystemTestCase):
    """Which callers are accepted, and what is sent before they are."""

    def test_too_many_callers(self) -> None:
        """Eight calls may ring at once; the ninth fails with `busy`."""
        bob = self.peer("bob").register()
        callers = [self.peer(f"caller-{number}").register() for number in range(9)]
        for caller in callers[:8]:
            caller.call(bob.id)
        self.net.advance(1.0)
        self.assertEqual(len(bob.of(IncomingCall)), 8)
        callers[8].call(bob.id)
        self.assertEqual(callers[8].wait_for(CallFailed, 5.0).reason, "busy")
        bob.node.reject(callers[0].id)
        callers[8].call(bob.id)
        bob.wait_for(IncomingCall, 5.0, 9)


class EndTests(SystemTestCase):
    """The ends of links."""

    def test_calls_in_a_row(self) -> None:
        """
        Calls that are over count for nothing: ten in half a minute, each hung up by one side while it still
        looks for addresses of its own, are not busy.
        """
        self.net.drop = lambda packet: (
            packet.protocol == "udp"
            and SERVICE
            in (
                packet.source[0],
                packet.destination[0],
            )
        )
        alice, carol = self.peer("alice").register(), self.public("carol").register()
        for number in range(1, 11):
            connect(alice, carol)
            (carol, alice)[number % 2].node.hangup((alice, carol)[number % 2].id)
            for peer in (alice, carol):
                peer.wait_for(Disconnected, 2.0, number)
            self.net.advance(2 * D)
            self.assertEqual(self.rendezvous.service.registry.introduction_count, 0)
        self.assertLess(self.net.now, 30.0)
        self.assertEqual(alice.of(CallFailed), [])

    def test_peer_vanishes(self) -> None:
        """
        A peer whose machine goes dark is noticed by the next consent check (RFC 7675); the link waits for it,
        and goes on when it is back.
        """
        alice, bob = self.linked()
        bob.host.down()
        start = self.net.now
        self.assertEqual(alice.wait_for(PathLost, 60.0).peer, bob.id)
        self.assertLess(self.net.now - start, 12.0)
        self.net.advance(100.0)
        bob.host.up()
        bob.wait_for(PathChanged, 10.0)
        alice.wait_for(PathChanged, 10.0)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])

    def test_peer_vanishes_while_connecting(self) -> None:
        """If either side vanishes at any moment of the introduction, the call fails with an explanation."""
        for step in (2, 3, 5):
            alice, bob = self.peer(f"alice-{step}").register(), self.peer(f"bob-{step}").register()
            introduce(alice, bob)
            alice.call(bob.id)
            self.net.advance(step * D + 0.001)
            bob.host.down()
            self.net.run_until(lambda: alice.of(CallFailed) or alice.of(PathLost), 130.0)  # noqa: B023
            if alice.of(Connected):
                # The handshake was done on this side: then it is a link, of which Bob knows nothing.
                self.net.advance(60.0)
                bob.host.up()
                self.assertEqual(alice.wait_for(Disconnected, 90.0).reason, "lost")
            else:
                self.assertIn(alice.last(CallFailed).reason, ("unreachable", "timeout"), step)
                bob.host.up()
            self.assertIsNone(alice.node.link(bob.id))

    def test_newer_link_replaces_the_older(self) -> None:
        """If a peer that lost its state calls again, the new link replaces the old one in one step."""
        alice, bob = self.linked()
        old = bob.link_to(alice)
        again = self.reborn(alice)
        again.call(bob.id)
        again.wait_for(Connected, 5.0)
        bob.wait_for(Connected, 5.0, 2)
        self.net.advance(3.0)
        self.assertIsNot(bob.link_to(again), old)
        assert old.closed is not None
        self.assertEqual(old.closed.code, CloseCode.REPLACED)
        self.assertEqual(bob.of(Disconnected), [])

    def test_calling_over_a_live_link(self) -> None:
        """The link's other side is probed and answers, so the link stays."""
        alice, bob = self.linked()
        for caller, called in ((alice, bob), (bob, alice)):
            old = caller.link_to(called)
            caller.call(called.id)
            caller.call(called.id)
            caller.wait_for(AlreadyConnected, 3 * D)
            self.net.advance(10.0)
            self.assertEqual(len(caller.of(AlreadyConnected)), 1)
            self.assertIs(caller.link_to(called), old)

    def test_calling_over_a_dead_link(self) -> None:
        """If the other side died and came back, a call replaces the link long before its consent expires."""
        alice, bob = self.linked()
        old = bob.link_to(alice)
        again = self.reborn(alice, Accept.ANYONE)
        bob.call(again.id)
        bob.wait_for(Connected, 5.0, 2)
        again.wait_for(Connected, 1.0)
        self.assertIsNot(bob.link_to(again), old)
        self.net.advance(60.0)
        self.assertEqual((bob.of(Disconnected), bob.of(AlreadyConnected)), ([], []))
