"""Sending many datagrams at a time, on a socket that can and on sockets that can't."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from struct import pack
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from punch.net.udp.segmentation import (
    BUFFERS,
    SEGMENT_SIZE,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    BatchSender,
    Segmentation,
    take,
)

REMOTE = ("192.0.2.1", 5)
ORIGIN = (0, 8, b"from here")


class FakeSocket:
    """
    A socket that notes the calls of the system.

    :param segments: whether it knows UDP_SEGMENT.
    :param problem: what calls with more than one datagram fail with.
    :param full: whether there is no room for anything.
    """

    def __init__(self, segments: bool = True, problem: int = 0, full: bool = False) -> None:
        self.calls: list[tuple[list[bytes], list[tuple[int, int, bytes]]]] = []
        self._segments = segments
        self._problem = problem
        self._full = full

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if not self._segments:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    def sendto(self, data: bytes, remote: tuple[str, int]) -> None:
        self.sendmsg([data], [], 0, remote)

    def sendmsg(
        self,
        datagrams: Sequence[bytes],
        ancillary: Sequence[tuple[int, int, bytes]],
        flags: int,
        remote: tuple[str, int],
    ) -> None:
        assert remote == REMOTE
        if self._full:
            raise BlockingIOError(errno.EAGAIN, "full")
        if len(datagrams) > 1 and self._problem:
            raise OSError(self._problem, os.strerror(self._problem))
        self.calls.append((list(datagrams), list(ancillary)))

    @property
    def sent(self) -> list[bytes]:
        """All datagrams, in order."""
        return [data for datagrams, _ in self.calls for data in datagrams]


class SendTests(SynchronousTestCase):
    """`BatchSender`."""

    data = [bytes([number]) * size for number, size in enumerate([100, 100, 100, 40, 100, 200, 200, 0, 7])]

    def send(self, sock: FakeSocket, times: int = 1) -> BatchSender:
        sender = BatchSender(cast(Any, sock))
        for _ in range(times):
            sender.send(self.data, REMOTE, [ORIGIN])
        return sender

    def test_together(self) -> None:
        """Runs of one size in one call, the last of a run may be shorter; with the origin each time."""
        sock = FakeSocket()
        self.send(sock)
        self.assertEqual(sock.sent, self.data)
        self.assertEqual([len(datagrams) for datagrams, _ in sock.calls], [4, 1, 2, 1, 1])
        segment = (SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(100))
        self.assertEqual(sock.calls[0][1], [segment, ORIGIN])
        self.assertEqual(sock.calls[1][1], [ORIGIN])

    def test_without_segmentation(self) -> None:
        sock = FakeSocket(segments=False)
        self.send(sock)
        self.assertEqual([datagrams for datagrams, _ in sock.calls], [[data] for data in self.data])

    def test_a_device_that_can_not(self) -> None:
        """It is tried once, and nothing is lost."""
        problems = {errno.EIO: False, errno.EMSGSIZE: True, errno.EINVAL: True, errno.EPERM: False}
        problems |= dict.fromkeys((errno.ENOMEM, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS), False)
        for problem, goes_on in problems.items():
            sock = FakeSocket(problem=problem)
            sender = self.send(sock, times=2)
            self.assertEqual(sock.sent, self.data * 2)
            self.assertEqual(sender.segments, goes_on)

    def test_full(self) -> None:
        """Datagrams that find no room in the kernel are lost, as on any path."""
        sock = FakeSocket(full=True)
        self.send(sock)
        self.assertEqual(sock.sent, [])


class SegmentationTests(SynchronousTestCase):
    """`Segmentation`."""

    def test_tried_again_later_and_later(self) -> None:
        segmentation = Segmentation(True)
        pauses = []
        for _ in range(12):
            self.assertTrue(segmentation.use())
            segmentation.refused(errno.EPERM, True)
            pauses.append(1)
            while not segmentation.use():
                pauses[-1] += 1
            segmentation.refused(errno.EMSGSIZE, True)
            self.assertTrue(segmentation.together)
        self.assertEqual(pauses[:3], [257, 513, 1025])
        self.assertEqual(pauses[-1], Segmentation.LONGEST_PAUSE + 1)
        segmentation.accepted()
        segmentation.refused(errno.ENOMEM, True)
        self.assertEqual(sum(not segmentation.use() for _ in range(1000)), Segmentation.FIRST_PAUSE)

    def test_a_destination_that_is_forbidden(self) -> None:
        """If datagrams can't be sent singly to a destination either, segmentation is not switched off."""
        segmentation = Segmentation(True)
        segmentation.refused(errno.EPERM, False)
        self.assertTrue(segmentation.use())
        self.assertFalse(Segmentation(False).use())


class TakeTests(SynchronousTestCase):
    """What one call has read."""

    def test_one_and_several(self) -> None:
        BUFFERS[0][:10] = b"aaabbbcccd"
        taken: list[bytes] = []
        take(taken, 10, [])
        take(taken, 10, [ORIGIN])
        take(taken, 10, [(SOL_UDP, UDP_GRO, pack("=i", 3)), ORIGIN])
        take(taken, 0, [])
        self.assertEqual(taken, [b"aaabbbcccd"] * 2 + [b"aaa", b"bbb", b"ccc", b"d", b""])
