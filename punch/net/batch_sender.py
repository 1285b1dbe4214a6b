"""Sending on a UDP socket, many datagrams at a time where the system can. What can't be sent now is lost."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from punch.net.segmentation import (
    SEGMENT_SIZE,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    WOULD_BLOCK,
    Segmentation,
    batch_end,
    segment_size,
    set_option,
)

ControlMessage = tuple[int, int, bytes]

MAX_UDP = 65_535
_BUFFER = bytearray(MAX_UDP)
_VIEW = memoryview(_BUFFER)
BUFFERS = [_BUFFER]
"""For `recvmsg_into`. One for all sockets: what was read is copied before anything else happens."""
ANCILLARY_SIZE = 128
"""Bytes that the control messages of one call have room in."""


class BatchSender:
    """Sends on a non-blocking socket."""

    __slots__ = ("_segmentation", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._segmentation = Segmentation(
            hasattr(sock, "sendmsg") and set_option(sock, SOL_UDP, UDP_SEGMENT, 0)
        )

    @property
    def segments(self) -> bool:
        """Whether several datagrams go in one call now."""
        return self._segmentation.together

    def send(
        self,
        datagrams: Sequence[bytes],
        remote: tuple[str, int],
        ancillary: Sequence[ControlMessage] = (),
    ) -> None:
        """Send them to one address. A relay that kept what the system has no room for would only be late."""
        if len(datagrams) == 1 or not self._segmentation.use():
            for data in datagrams:
                self._send_one(data, remote, ancillary)
            return
        sizes = list(map(len, datagrams))
        start = 0
        while start < len(datagrams):
            end = batch_end(sizes, start)
            if end - start == 1:
                self._send_one(datagrams[start], remote, ancillary)
            else:
                self._send_together(datagrams[start:end], remote, ancillary)
            start = end

    def _send_one(self, data: bytes, remote: tuple[str, int], ancillary: Sequence[ControlMessage]) -> bool:
        """Whether it is sent."""
        try:
            if ancillary:
                self._socket.sendmsg((data,), ancillary, 0, remote)
            else:
                self._socket.sendto(data, remote)
        except OSError:
            return False
        return True

    def _send_together(
        self, datagrams: Sequence[bytes], remote: tuple[str, int], ancillary: Sequence[ControlMessage]
    ) -> None:
        segment = (SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(len(datagrams[0])))
        try:
            self._socket.sendmsg(datagrams, (segment, *ancillary), 0, remote)
        except OSError as error:
            if error.errno not in WOULD_BLOCK:
                sent = [self._send_one(data, remote, ancillary) for data in datagrams]
                self._segmentation.refused(error.errno, any(sent))
        else:
            self._segmentation.accepted()


def coalesce(sock: socket.socket) -> None:
    """Let the kernel hand over several datagrams at once, if it can."""
    if hasattr(sock, "recvmsg_into"):
        set_option(sock, SOL_UDP, UDP_GRO, 1)


def take(into: list[bytes], size: int, ancillary: Sequence[ControlMessage]) -> None:
    """Copy what one `recvmsg_into` read, `size` bytes, to the end of a list of datagrams."""
    segment = segment_size(ancillary) if ancillary else 0
    if 0 < segment < size:
        data = bytes(_VIEW[:size])
        into += [data[at : at + segment] for at in range(0, size, segment)]
    else:
        into.append(bytes(_VIEW[:size]))
