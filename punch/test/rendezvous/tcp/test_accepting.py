"""Which connections are dropped as soon as they are accepted."""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Set
from itertools import cycle, islice
from typing import Any, cast

from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import TestCase

from punch.net.rate_limits import NoRoom
from punch.net.sources import source_of
from punch.rendezvous.tcp.accepting import PASSED_ON, AcceptsInTurn, WaitingConnections


def networks(count: int) -> list[str]:
    """One address in each of so many /24s."""
    return [f"10.{number >> 8}.{number & 255}.1" for number in range(count)]


class Accepted:
    """A connection that has sent this, or that fails with this when it is read."""

    def __init__(self, sent: bytes | OSError) -> None:
        self.sent = sent
        self.closed = False

    def recv(self, size: int, flags: int) -> bytes:
        if isinstance(self.sent, OSError):
            raise self.sent
        return self.sent[:size]

    def close(self) -> None:
        self.closed = True


class Listening:
    """A listening socket with these connections, in order, from this address."""

    def __init__(self, *waiting: Accepted, host: str = "192.0.2.1") -> None:
        self.waiting = deque((each, (host, number)) for number, each in enumerate(waiting))
        self.closed = False

    def accept(self) -> tuple[Accepted, tuple[str, int]]:
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "no connection waits")
        return self.waiting.popleft()

    def close(self) -> None:
        self.closed = True

    def getsockname(self) -> str:
        return "here"


class AcceptsInTurnTests(TestCase):
    """With a clock that stands still unless a test moves it."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.closed: list[str] = []

    def accepting(self, listening: Listening, first_bytes: Set[int]) -> AcceptsInTurn:
        """What closed connections hit, and from which hosts, is in `closed`."""

        def limit_hit(host: str, limit: str) -> None:
            self.assertEqual(limit, "connections-waiting")
            self.closed.append(host)

        return AcceptsInTurn(listening, first_bytes, lambda: self.now, limit_hit)

    def come(self, listening: Listening, *hosts: str) -> list[Accepted]:
        """One connection from each of these hosts."""
        connections = [Accepted(b"\x16") for _ in hosts]
        listening.waiting += [(each, (host, 1)) for each, host in zip(connections, hosts, strict=True)]
        return connections

    def turn(self, accepts: AcceptsInTurn) -> set[Accepted]:
        """What is accepted in one turn of the reactor, which takes 50 ms."""
        self.now += 0.05
        accepts.take()
        accepted = set()
        with contextlib.suppress(BlockingIOError):
            for _ in range(PASSED_ON):
                accepted.add(accepts.accept()[0])
        return accepted

    def test_served(self) -> None:
        """What begins with a byte that is served, or has sent nothing yet, is accepted."""
        for take in (False, True):
            for sent in (b"\x16\x03", b"\x00\x01", BlockingIOError()):
                one = Accepted(sent)
                accepts = self.accepting(Listening(one), {0, 0x16})
                if take:
                    accepts.take()
                self.assertEqual(accepts.accept(), (one, ("192.0.2.1", 0)))
                self.assertFalse(one.closed)

    def test_dropped(self) -> None:
        """Garbage, and connections that are over, are dropped, and the next one is accepted."""
        for take in (False, True):
            dropped = [Accepted(b"GET / HTTP/1.1"), Accepted(b""), Accepted(ConnectionResetError())]
            good = Accepted(b"\x16")
            accepts = self.accepting(Listening(*dropped, good), {0x16})
            if take:
                accepts.take()
            self.assertEqual(accepts.accept()[0], good)
            self.assertTrue(all(each.closed for each in dropped))
            self.assertRaises(BlockingIOError, accepts.accept)

    def test_over_while_it_waited(self) -> None:
        """Such a connection is dropped as well."""
        one, other = Accepted(b"\x16"), Accepted(b"\x16")
        accepts = self.accepting(Listening(one, other), {0x16})
        accepts.take()
        other.sent = b""
        self.assertEqual(accepts.accept()[0], one)
        self.assertRaises(BlockingIOError, accepts.accept)
        self.assertTrue(other.closed)

    def test_flood(self) -> None:
        """After many in succession others get their turn."""
        for take in (False, True):
            listening = Listening(*(Accepted(b"x") for _ in range(10_000)))
            accepts = self.accepting(listening, {0x16})
            if take:
                accepts.take()
            else:
                self.assertRaises(BlockingIOError, accepts.accept)
            self.assertGreater(len(listening.waiting), 5000)

    def test_flood_at_a_port(self) -> None:
        """A port of Twisted accepts nothing then, and logs no error."""
        listening = Listening(*(Accepted(b"x") for _ in range(10_000)))
        port = cast(Any, Port(0, Factory(), 50, "127.0.0.1", MemoryReactorClock()))
        port.socket, port.numberAccepts = self.accepting(listening, {0x16}), 64
        for _ in range(3):
            port.socket.take()
            port.doRead()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(port.sessionno, 0)

    def test_flood_of_connections_that_live(self) -> None:
        """One from elsewhere is the first or the second, and of those of the flood the oldest are closed."""
        flood = [Accepted(b"\x16") for _ in range(400)]
        listening = Listening(*flood)
        honest = Accepted(b"\x16")
        listening.waiting.append((honest, ("198.51.100.1", 1)))
        accepts = self.accepting(listening, {0x16})
        accepts.take()
        self.assertIn(honest, [accepts.accept()[0] for _ in range(2)])
        closed = [each for each in flood if each.closed]
        self.assertEqual(closed, flood[: len(closed)])
        self.assertGreater(len(closed), 100)
        self.assertEqual(self.closed, ["192.0.2.1"] * len(closed))

    def test_flood_from_fewer_networks_than_places(self) -> None:
        """Who comes from elsewhere now and then does not wait for a connection of each network."""
        listening = Listening()
        accepts = self.accepting(listening, {0x16})
        for _ in range(20):
            self.come(listening, *networks(200), *networks(200))
            self.turn(accepts)
        for number in range(40):
            self.come(listening, *networks(200), *networks(200))
            [honest] = self.come(listening, f"198.51.{100 + number % 20}.1")
            self.come(listening, *networks(100))
            self.assertIn(honest, self.turn(accepts))
            self.assertEqual(listening.waiting, deque())

    def test_flood_of_one_address_and_its_neighbour(self) -> None:
        """When all places are taken, its oldest makes room for its newest, and for that of a neighbour."""
        listening = Listening()
        accepts = self.accepting(listening, {0x16})
        flood = self.come(listening, *["192.0.2.1"] * 100, *["192.0.3.1"] * 256)
        [neighbour] = self.come(listening, "192.0.2.2")
        accepts.take()
        self.assertIn(neighbour, [accepts.accept()[0] for _ in range(4)])
        self.assertEqual(set(self.closed), {"192.0.3.1"})
        self.assertEqual([each.closed for each in flood[:100]], [False] * 100)

    def test_two_behind_one_address_in_a_flood_of_one_network(self) -> None:
        """When all places are taken, the flood makes room for both, and neither for the other."""
        listening = Listening()
        accepts = self.accepting(listening, {0x16})
        flood = self.come(listening, *["192.0.2.1", "192.0.2.2"] * 128)
        honest = self.come(listening, *["198.51.100.1"] * 2)
        accepts.take()
        self.assertEqual([each.closed for each in honest], [False, False])
        self.assertEqual(sum(each.closed for each in flood), 2)
        self.assertEqual([each.closed for each in flood[4:]], [False] * 252)

    def test_flood_from_more_networks_than_places(self) -> None:
        """Who comes from elsewhere is accepted soon, also who comes again after a while."""
        listening = Listening()
        accepts = self.accepting(listening, {0x16})
        flood = cycle(networks(300))
        honest: list[Accepted] = []
        accepted: set[Accepted] = set()
        for number in range(60):
            self.come(listening, *islice(flood, 250))
            if number >= 10:
                honest += self.come(listening, f"198.51.{number % 30}.1")
            self.come(listening, *islice(flood, 250))
            accepted |= self.turn(accepts)
        for _ in range(5):
            accepted |= self.turn(accepts)
        self.assertEqual([each for each in honest if each not in accepted], [])
        self.assertGreater(len(accepted), 55 * PASSED_ON)
        self.assertEqual({host for host in self.closed if host.startswith("198")}, set())

    def test_many_networks_at_once(self) -> None:
        """As after a restart of the service: nobody is closed, and all wait their turn."""
        listening = Listening()
        accepts = self.accepting(listening, {0x16})
        for _ in range(2):
            peers = self.come(listening, *networks(1000))
            accepted: set[Accepted] = set()
            for _ in range(1000 // PASSED_ON + 1):
                accepted |= self.turn(accepts)
            self.assertEqual((accepted, len(accepts), self.closed), (set(peers), 0, []))
            self.now += 10.0
        [last] = self.come(listening, *networks(257))[256:]
        accepts.take()
        self.assertEqual(len(accepts), 257)
        accepts.close()
        self.assertTrue(last.closed)

    def test_end(self) -> None:
        """What waits is closed with the socket."""
        one = Accepted(b"\x16")
        listening = Listening(one)
        accepts = self.accepting(listening, {0x16})
        accepts.take()
        accepts.close()
        self.assertTrue(one.closed and listening.closed)
        self.assertEqual(len(accepts), 0)

    def test_other_methods(self) -> None:
        """Everything else is that of the socket."""
        self.assertEqual(self.accepting(Listening(), {0x16}).getsockname(), "here")


class WaitingConnectionsTests(TestCase):
    def test_more_networks_than_places(self) -> None:
        """When each place is taken by another network, one that had a turn lately makes room."""
        waiting = WaitingConnections[int]()
        for number, host in enumerate(networks(256)):
            self.assertIsNone(waiting.add(source_of(host), number, 0.0))
        new, newer = source_of("198.51.100.1"), source_of("198.51.101.1")
        self.assertRaises(NoRoom, waiting.add, new, 256, 0.0)
        self.assertEqual([waiting.pop(float(number)) for number in range(3)], [0, 1, 2])
        for number, host in enumerate(networks(3), 300):
            self.assertIsNone(waiting.add(source_of(host), number, 3.0))
        # The one whose turn was last goes first, or doesn't come in
        self.assertEqual(waiting.add(new, 400, 3.0), 302)
        self.assertEqual(waiting.add(source_of("10.0.2.1"), 401, 3.0), 401)
        self.assertEqual(waiting.add(newer, 402, 3.0), 301)
        # A turn counts for ten seconds
        self.assertRaises(NoRoom, waiting.add, source_of("198.51.102.1"), 403, 10.0)
        self.assertEqual(len(waiting), 256)
