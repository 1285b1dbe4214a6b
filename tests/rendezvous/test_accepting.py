"""Accepting connections on a real port, which is read by hand."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from punch.rendezvous.tcp.accepting import PASSED_ON, accept_in_turn


class Refusing(Factory):
    """Counts connections."""

    noisy = False
    count = 0

    def buildProtocol(self, addr: IAddress | None) -> None:
        """Close it."""
        self.count += 1


def no_limit(host: str, limit: str) -> None:
    """No connection is closed."""
    raise AssertionError(host, limit)


def test_some_at_a_time() -> None:
    """
    What has come on others is read between. All are accepted, also when the system has no more to say, and
    nothing is left to do then.
    """
    clock, factory = MemoryReactorClock(), Refusing()
    port = Port(0, factory, 200, "127.0.0.1", clock)
    port.startListening()
    accept_in_turn(port, {0x16}, clock.seconds, no_limit)
    with ExitStack() as stack:
        stack.callback(port.connectionLost, Failure(ConnectionDone()))
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port.getHost().port), 5.0))
        for _ in range(2):
            port.doRead()
            assert factory.count == PASSED_ON
        clock.advance(0)
        assert factory.count == 100
        clock.advance(0)
        assert clock.getDelayedCalls() == []


def test_the_end() -> None:
    """What waits is closed with the port."""
    clock, factory = MemoryReactorClock(), Refusing()
    port = Port(0, factory, 200, "127.0.0.1", clock)
    port.startListening()
    accept_in_turn(port, {0x16}, clock.seconds, no_limit)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port.getHost().port), 5.0))
            for _ in range(100)
        ]
        port.doRead()
        port.connectionLost(Failure(ConnectionDone()))
        for client in clients:
            client.settimeout(5.0)
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
        clock.advance(0)
        assert (factory.count, clock.getDelayedCalls()) == (PASSED_ON, [])


def test_more_than_may_wait() -> None:
    """Those of an address that are closed are told to the one who keeps the log."""
    clock, factory = MemoryReactorClock(), Refusing()
    limits_hit: list[tuple[str, str]] = []
    port = Port(0, factory, 200, "127.0.0.1", clock)
    port.startListening()
    accept_in_turn(port, {0x16}, clock.seconds, lambda host, limit: limits_hit.append((host, limit)))
    with ExitStack() as stack:
        stack.callback(port.connectionLost, Failure(ConnectionDone()))
        for _ in range(150):
            stack.enter_context(socket.create_connection(("127.0.0.1", port.getHost().port), 5.0))
        port.doRead()
        clock.advance(0)
        assert factory.count == 128
        assert limits_hit == [("127.0.0.1", "connections-waiting")] * 22
