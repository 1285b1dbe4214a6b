"""Which connections are dropped as soon as they are accepted."""

from __future__ import annotations

from collections import deque

from twisted.trial.unittest import TestCase

from punch.rendezvous.tcp.listen import CheckedAccepts


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
    """A listening socket with these connections, in order."""

    def __init__(self, *waiting: Accepted) -> None:
        self.waiting = deque(waiting)

    def accept(self) -> tuple[Accepted, str]:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.popleft(), "somebody"

    def getsockname(self) -> str:
        return "here"


class CheckedAcceptsTests(TestCase):
    def test_served(self) -> None:
        """What begins with a byte that is served, or has sent nothing yet, is accepted."""
        for sent in (b"\x16\x03", b"\x00\x01", BlockingIOError()):
            one = Accepted(sent)
            self.assertEqual(CheckedAccepts(Listening(one), {0, 0x16}).accept(), (one, "somebody"))
            self.assertFalse(one.closed)

    def test_dropped(self) -> None:
        """Garbage, and connections that are over, are dropped, and the next one is accepted."""
        dropped = [Accepted(b"GET / HTTP/1.1"), Accepted(b""), Accepted(ConnectionResetError())]
        good = Accepted(b"\x16")
        checked = CheckedAccepts(Listening(*dropped, good), {0x16})
        self.assertEqual(checked.accept()[0], good)
        self.assertTrue(all(each.closed for each in dropped))
        self.assertRaises(BlockingIOError, checked.accept)

    def test_flood(self) -> None:
        """After many in succession others get their turn."""
        listening = Listening(*(Accepted(b"x") for _ in range(10_000)))
        self.assertRaises(BlockingIOError, CheckedAccepts(listening, {0x16}).accept)
        self.assertGreater(len(listening.waiting), 5000)

    def test_other_methods(self) -> None:
        """Everything else is that of the socket."""
        self.assertEqual(CheckedAccepts(Listening(), {0x16}).getsockname(), "here")
