"""TCP is tried first where it worked last time, not where it never works, and for one link at a time."""

from __future__ import annotations

from itertools import groupby

from punch.contact_entries import MAX_TRIES
from punch.node.punching.tcp import ATTEMPTS
from punch.node.punching.tcp_attempt import ROUNDS
from punch.test.internet import NAT, LinkSpec, Packet, Ports
from punch.test.scenarios.tcp_punching import ALICE, BOB, TCPTestCase
from punch.test.system import Peer, introduce
from punch.wire.control import Accept
from tests.simulation.test_tcp_fallback import IN_TIME, only_to_the_rendezvous

CAROL = "203.0.113.3"
DAY = 86400.0


class TCPLearningTests(TCPTestCase):
    """Links of two peers who know each other."""

    def meet(self, left: NAT | None = None) -> None:
        """Register both, who have each other in their address books."""
        self.place(NAT(ports=Ports.RANDOM), left=left)
        introduce(self.alice, self.bob)
        introduce(self.bob, self.alice)

    def hang_up(self) -> None:
        """End the link, on both sides."""
        self.alice.node.hangup(self.bob.id)
        self.net.advance(1.0)
        for peer in self.peers:
            peer.events.clear()

    def seconds_to_direct(self) -> float:
        """How long a call takes until its path is direct over TCP; the link ends after 10 s more."""
        began = self.call()
        self.wait(lambda: self.over_tcp, IN_TIME)
        seconds = self.net.now - began
        self.net.advance(10.0)
        self.hang_up()
        return seconds

    def failures(self) -> list[tuple[str, int]]:
        """Which techniques failed, and how often, by what alice knows of bob."""
        paths = self.alice.known.entry(self.bob.id).paths
        return [(each.technique, each.times) for path in paths for each in path.failures]

    def let_fail(self) -> list[int]:
        """Have a link on which nothing direct works; returns how many SYNs both send."""
        self.call()
        self.net.advance(25.0)
        sent = [self.syns(peer) for peer in self.peers]
        self.hang_up()
        # What was sent counts no more among all that may be
        self.net.advance(600.0)
        return sent

    def test_it_worked_before(self) -> None:
        """The second link does not wait until UDP has had its time."""
        self.meet(NAT(ports=Ports.RANDOM))
        self.net.drop = only_to_the_rendezvous(ALICE)
        first, second = self.seconds_to_direct(), self.seconds_to_direct()
        self.assertGreater(first, 3.0)
        self.assertLess(second, 2.0)
        self.stop()

    def test_it_never_works(self) -> None:
        """After some links, no SYN is sent for the rest of the day and the next one."""
        self.meet()
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        for number in range(MAX_TRIES):
            self.assertGreaterEqual(min(self.let_fail()), ATTEMPTS)
            self.assertEqual(self.failures(), [("tcp", number + 1)])
        self.assertEqual(self.let_fail(), [0, 0])
        for peer in self.peers:
            peer.host.set_wall(2 * DAY)
        self.net.advance(60.0)
        self.assertGreater(min(self.let_fail()), 0)
        self.assertEqual(self.let_fail(), [0, 0])
        self.stop()

    def test_the_other_side_does_not_remember(self) -> None:
        """A side that remembers that TCP never works makes one attempt with the other one, and then none."""
        self.place(NAT(ports=Ports.RANDOM))
        introduce(self.alice, self.bob)
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        for _ in range(MAX_TRIES):
            self.assertGreaterEqual(min(self.let_fail()), ATTEMPTS)
        self.alice.known.forget(self.bob.id)
        self.call(1)
        self.net.advance(150.0)
        self.assertEqual(self.syns(self.bob), 0)
        self.assertLessEqual(self.syns(self.alice), ROUNDS)
        attempts = [peer.node.status.links[0].tcp_punching.attempts for peer in self.peers]
        # Alice, whose network passes no UDP, begins. When bob knows where she listens, he refuses at once
        self.assertGreater(attempts[0], 2)
        self.assertEqual(attempts[1], 1)
        self.stop()

    def test_it_works_after_all(self) -> None:
        """What failed before no longer counts."""
        self.meet()
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        self.let_fail()
        self.assertEqual(self.failures(), [("tcp", 1)])
        self.net.drop = None
        self.seconds_to_direct()
        self.assertEqual(self.failures(), [])
        self.stop()


class RelayTests(TCPTestCase):
    """The relay is away for a moment whenever an attempt over TCP ends."""

    def test_no_sooner(self) -> None:
        """The link has had no direct path, so what was tried still counts, and waits become longer."""
        self.place(NAT(ports=Ports.RANDOM))
        since: float | None = None

        def drop(packet: Packet) -> bool:
            ends = {packet.source[0], packet.destination[0]}
            # An attempt ends after some 5 s, and the relay is missed after more than one without an answer
            away = since is not None and 3.0 <= self.net.now - since < 5.9
            return ends == {ALICE, BOB} or (away and BOB in ends)

        self.net.drop = drop
        until = self.call() + 60.0
        while self.net.now < until:
            if not self.listening(self.bob):
                since = None
            elif since is None:
                since = self.net.now
            self.net.advance(0.05)
        attempts = [peer.node.status.links[0].tcp_punching.attempts for peer in self.peers]
        self.assertGreaterEqual(min(attempts), 3)
        # The waits are 1 s, 5 s, 10 s, 20 s and 40 s
        self.assertLessEqual(max(attempts), 6)
        self.stop()


class OneAtATimeTests(TCPTestCase):
    """Alice, whose network passes no UDP, has links with two others."""

    def protocol(self, other: Peer) -> str:
        """Over which protocol alice's link with another one goes."""
        status = self.alice.link_to(other).status
        assert status is not None
        return status.path.protocol if status.path.kind != "relay" else "relay"

    def test_two_links(self) -> None:
        """She looks for a path to one of them at a time, and both are direct soon."""
        self.place(NAT(ports=Ports.RANDOM))
        nat = NAT(CAROL, ports=Ports.RANDOM)
        carol = Peer(
            self.net,
            self.net.lan("carol", "192.168.3.0/24", nat=nat, link=LinkSpec(delay=0.025)).host("carol"),
            self.rendezvous.address,
            accept=Accept.ANYONE,
        ).register()
        others = {BOB, CAROL}
        until = self.net.now + 12.0

        def drop(packet: Packet) -> bool:
            ends = {packet.source[0], packet.destination[0]}
            return self.net.now < until and packet.protocol == "tcp" and ALICE in ends and bool(ends & others)

        self.net.advance(5.0)
        self.net.drop, self.net.trace = drop, []
        self.alice.call(self.bob.id)
        self.alice.call(carol.id)
        self.net.advance(7.0)
        sent = [
            each.destination[0]
            for each in self.net.trace
            if each.source[0] == ALICE and each.protocol == "tcp" and each.destination[0] in others
        ]
        self.assertGreater(len(sent), 4)
        self.assertEqual(len(list(groupby(sent))), 2, sent)
        for other in (self.bob, carol):
            self.net.run_until(lambda: self.protocol(other) == "tcp", 30.0, "a direct path")  # noqa: B023
        carol.stop()
        self.stop()
