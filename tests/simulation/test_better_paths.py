"""A link finds a better path that did not work when the link began, or not for a while."""

from __future__ import annotations

from punch.ice.budget import MAX_PACKETS
from punch.node.events import PathChanged
from punch.test.internet import Packet
from punch.test.scenarios.dual_stack import DualStackPeersTestCase
from punch.test.system import connect

LONG = 1800.0
"""Seconds for which packets are counted if the better path never works."""


class BetterPathTests(DualStackPeersTestCase):
    """Alice and Bob have both families. Over IPv6, nothing passes between the two for some time."""

    def start(self, *, strict: bool, seconds: float) -> None:
        """
        Connect the two.

        :param strict: their NATs allow no direct path over IPv4.
        :param seconds: for how long nothing passes over IPv6, from the call on.
        """
        self.alice = self.dual_stack(f"alice {self.homes}", strict=strict)
        self.bob = self.dual_stack(f"bob {self.homes}", strict=strict)
        self.net.advance(3.0)
        self.lose(seconds)
        connect(self.alice, self.bob)
        if seconds:
            self.assertEqual(self.paths, [("relay" if strict else "srflx", False)] * 2)

    def lose(self, seconds: float) -> None:
        """Let nothing pass over IPv6 for so long from now on; note when each side sends a packet there."""
        self.began = self.net.now
        self.sent: dict[str, list[float]] = {}

        def drop(packet: Packet) -> bool:
            source, destination = packet.source[0], packet.destination[0]
            if not (is_home(source) and is_home(destination)):
                return False
            self.sent.setdefault(source, []).append(self.net.now)
            return self.net.now < self.began + seconds

        self.net.drop = drop

    @property
    def paths(self) -> list[tuple[str, bool]]:
        """The kind of path that each side has, and whether it is over IPv6."""
        return [self.path_over(self.alice, self.bob), self.path_over(self.bob, self.alice)]

    def found_after(self, timeout: float) -> float:
        """Return how many seconds after the loss began both have a direct path over IPv6."""
        self.net.run_until(lambda: self.paths == [("host", True)] * 2, timeout, "a path over IPv6")
        return self.net.now - self.began

    def test_direct_over_ipv4(self) -> None:
        """Failed checks are repeated, at longer and longer intervals."""
        for seconds, most in ((20.0, 40.0), (60.0, 75.0), (120.0, 140.0)):
            self.start(strict=False, seconds=seconds)
            self.assertLess(self.found_after(most), most)
            self.check_changes()
            self.end()

    def test_relayed(self) -> None:
        """ICE restarts begin after 15 s, 30 s and so on. Both families get some of the remaining checks."""
        for seconds, most in ((15.0, 30.0), (45.0, 60.0), (120.0, 640.0)):
            self.start(strict=True, seconds=seconds)
            self.assertLess(self.found_after(most), most)
            self.check_changes()
            self.end()

    def test_lost_for_a_while(self) -> None:
        """A better path that had been used is gone for longer than consent lasts: an ICE restart finds it."""
        self.start(strict=False, seconds=0.0)
        self.found_after(10.0)
        self.net.advance(100.0)
        self.lose(120.0)
        self.net.advance(20.0)
        self.assertEqual(self.paths, [("srflx", False)] * 2)
        self.assertLess(self.found_after(130.0), 130.0)

    def test_never(self) -> None:
        """In half an hour without a better path, few packets are sent for one."""
        for strict, most in ((False, 24), (True, 40)):
            self.start(strict=strict, seconds=2 * LONG)
            self.net.advance(LONG)
            self.assertEqual(len(self.sent), 2)
            for times in self.sent.values():
                self.assertLess(len(times), most)
                self.assertGreater(times[-1], self.began + LONG - 700.0, "the last one is long ago")
                counts = [sum(time <= each < time + 600.0 for each in times) for time in times]
                self.assertLessEqual(max(counts), MAX_PACKETS)
            self.assertEqual(self.paths, [("relay" if strict else "srflx", False)] * 2)
            self.end()

    def check_changes(self) -> None:
        """The path changes once on each side, to the better one, and stays there."""
        self.net.advance(60.0)
        self.assertEqual(self.paths, [("host", True)] * 2)
        for peer in (self.alice, self.bob):
            self.assertLessEqual(len(peer.of(PathChanged)), 2, peer.name)

    def end(self) -> None:
        """Stop both."""
        self.net.drop = None
        for peer in (self.alice, self.bob):
            peer.stop()
            self.peers.remove(peer)


def is_home(host: str) -> bool:
    """Whether this is an IPv6 address of one of the two."""
    return host.startswith("2001:db8:") and not host.startswith("2001:db8:ffff:")
