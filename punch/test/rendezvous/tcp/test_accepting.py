"""Which connections are dropped as soon as they are accepted."""

from __future__ import annotations

import errno
from collections import deque
from typing import Any, cast

from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import TestCase

from punch.net.rate_limits import source_of
from punch.rendezvous.tcp.accepting import AcceptsInTurn, WaitingConnections


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
    def test_served(self) -> None:
        """What begins with a byte that is served, or has sent nothing yet, is accepted."""
        for take in (False, True):
            for sent in (b"\x16\x03", b"\x00\x01", BlockingIOError()):
                one = Accepted(sent)
                accepts = AcceptsInTurn(Listening(one), {0, 0x16})
                if take:
                    accepts.take()
                self.assertEqual(accepts.accept(), (one, ("192.0.2.1", 0)))
                self.assertFalse(one.closed)

    def test_dropped(self) -> None:
        """Garbage, and connections that are over, are dropped, and the next one is accepted."""
        for take in (False, True):
            dropped = [Accepted(b"GET / HTTP/1.1"), Accepted(b""), Accepted(ConnectionResetError())]
            good = Accepted(b"\x16")
            accepts = AcceptsInTurn(Listening(*dropped, good), {0x16})
            if take:
                accepts.take()
            self.assertEqual(accepts.accept()[0], good)
            self.assertTrue(all(each.closed for each in dropped))
            self.assertRaises(BlockingIOError, accepts.accept)

    def test_over_while_it_waited(self) -> None:
        """Such a connection is dropped as well."""
        one, other = Accepted(b"\x16"), Accepted(b"\x16")
        accepts = AcceptsInTurn(Listening(one, other), {0x16})
        accepts.take()
        other.sent = b""
        self.assertEqual(accepts.accept()[0], one)
        self.assertRaises(BlockingIOError, accepts.accept)
        self.assertTrue(other.closed)

    def test_flood(self) -> None:
        """After many in succession others get their turn."""
        for take in (False, True):
            listening = Listening(*(Accepted(b"x") for _ in range(10_000)))
            accepts = AcceptsInTurn(listening, {0x16})
            if take:
                accepts.take()
            else:
                self.assertRaises(BlockingIOError, accepts.accept)
            self.assertGreater(len(listening.waiting), 5000)

    def test_flood_at_a_port(self) -> None:
        """A port of Twisted accepts nothing then, and logs no error."""
        listening = Listening(*(Accepted(b"x") for _ in range(10_000)))
        port = cast(Any, Port(0, Factory(), 50, "127.0.0.1", MemoryReactorClock()))
        port.socket, port.numberAccepts = AcceptsInTurn(listening, {0x16}), 64
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
        accepts = AcceptsInTurn(listening, {0x16})
        accepts.take()
        self.assertIn(honest, [accepts.accept()[0] for _ in range(2)])
        closed = [each for each in flood if each.closed]
        self.assertEqual(closed, flood[: len(closed)])
        self.assertGreater(len(closed), 100)

    def test_end(self) -> None:
        """What waits is closed with the socket."""
        one = Accepted(b"\x16")
        listening = Listening(one)
        accepts = AcceptsInTurn(listening, {0x16})
        accepts.take()
        accepts.close()
        self.assertTrue(one.closed and listening.closed)
        self.assertEqual(len(accepts), 0)

    def test_other_methods(self) -> None:
        """Everything else is that of the socket."""
        self.assertEqual(AcceptsInTurn(Listening(), {0x16}).getsockname(), "here")


class WaitingConnectionsTests(TestCase):
    def test_networks_take_turns(self) -> None:
        """Within a network addresses do, and of an address the newest is the first."""
        waiting = WaitingConnections[int]()
        for number, host in enumerate(["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.1.0.1", "10.2.0.1"]):
            self.assertIsNone(waiting.add(source_of(host), number))
        self.assertEqual([waiting.pop() for _ in range(5)], [1, 3, 4, 2, 0])
        self.assertEqual(len(waiting), 0)

    def test_more_networks_than_places(self) -> None:
        """When each place is taken by another network, one that comes now is closed."""
        waiting = WaitingConnections[int]()
        left = [waiting.add(source_of(f"10.{number >> 8}.{number & 255}.1"), number) for number in range(300)]
        self.assertEqual(left, [None] * 256 + list(range(256, 300)))
