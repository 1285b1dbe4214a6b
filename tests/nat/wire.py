"""
Ethernet cables that take time, made of TAP devices: `python -m tests.nat.wire SECONDS NETNS/IF:NETNS/IF …`.

Kernels without netem can't delay packets. Here each end of a cable is a TAP device in some network
namespace; this program reads every frame that leaves one end, holds it for so many seconds, and writes it to
the other. Address resolution (ARP, neighbour discovery) is passed on at once: a real access link has none.

Prints `ready` when all cables carry frames, and ends with stdin.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000

ARP = b"\x08\x06"
IPV6 = b"\x86\xdd"
ICMPV6 = 58
NEIGHBOUR = range(133, 138)  # RFC 4861: solicitations, advertisements, redirect

_FRAME = 65536


def open_tap(namespace: str, interface: str) -> int:
    """A descriptor for an existing TAP device in a named network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"network namespace {namespace}")
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", interface.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def is_resolution(frame: bytes) -> bool:
    """Whether an Ethernet frame is ARP or neighbour discovery."""
    kind = frame[12:14]
    if kind == ARP:
        return True
    return kind == IPV6 and len(frame) > 54 and frame[20] == ICMPV6 and frame[54] in NEIGHBOUR


class Cables:
    """All cables, each frame on its way with the time at which it arrives."""

    def __init__(self, delay: float, ends: Sequence[tuple[int, int]]) -> None:
        self._delay = delay
        self._peer = {a: b for pair in ends for a, b in (pair, pair[::-1])}
        # All are held equally long, so the order of arrival is that of departure.
        self._under_way: deque[tuple[float, int, bytes]] = deque()

    def run(self) -> None:
        """Carry frames until stdin ends."""
        poll = select.poll()
        for end in (*self._peer, 0):
            poll.register(end, select.POLLIN)
        while True:
            for end, _ in poll.poll(self._wait()):
                if end == 0:
                    if not os.read(0, 1):
                        return
                else:
                    self._take(end)
            self._arrive()

    def _wait(self) -> float | None:
        """Milliseconds until a frame arrives."""
        if not self._under_way:
            return None
        return max(0.0, (self._under_way[0][0] - time.monotonic()) * 1000)

    def _take(self, end: int) -> None:
        for _ in range(64):  # the others' turn comes, too
            try:
                frame = os.read(end, _FRAME)
            except BlockingIOError:
                return
            if is_resolution(frame):
                _write(self._peer[end], frame)
            else:
                self._under_way.append((time.monotonic() + self._delay, self._peer[end], frame))

    def _arrive(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            _, end, frame = self._under_way.popleft()
            _write(end, frame)


def _write(end: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # the interface is down or its queue is full: a lost frame
        os.write(end, frame)


def main(arguments: Sequence[str]) -> None:
    """Carry frames over the cables that the command line names."""
    delay = float(arguments[0])
    ends = []
    for cable in arguments[1:]:
        here, there = (end.split("/") for end in cable.split(":"))
        ends.append((open_tap(*here), open_tap(*there)))
    print("ready", flush=True)
    Cables(delay, ends).run()


if __name__ == "__main__":
    main(sys.argv[1:])
