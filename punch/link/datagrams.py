"""The unreliable messages of a link (RFC 9221) that wait to be sent."""

from __future__ import annotations

from collections import deque
from typing import Final

from punch.link.events import MAX_DATAGRAM
from punch.link.quic.interface import QuicConnection
from punch.link.quic.receive_limits import ReceiveAllowance

DATAGRAM_QUEUE: Final = 128
"""How many messages may wait for the congestion controller; of more, the oldest is dropped."""


class DatagramQueue:
    """Messages in order. If there are too many, the newest are kept."""

    def __init__(self, quic: QuicConnection) -> None:
        self._quic = quic
        self._waiting: deque[bytes] = deque()
        # Less than the receiver allows, since what was sent in time may arrive at once
        self._allowance = ReceiveAllowance(4096, 2000)

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._waiting)

    def put(self, data: bytes) -> None:
        """
        Queue a message; of too many, the oldest is dropped.

        :raise ValueError: it is longer than `MAX_DATAGRAM`.
        """
        if len(data) > MAX_DATAGRAM:
            raise ValueError(f"a datagram of a link has at most {MAX_DATAGRAM} bytes, this one {len(data)}")
        if len(self._waiting) >= DATAGRAM_QUEUE:
            self._waiting.popleft()
        self._waiting.append(data)

    def collect_datagrams(self, now: float, out: list[bytes], most: int | None) -> int:
        """
        Append what may be sent now, as QUIC's datagrams. Messages are handed over one packet's worth at a
        time, until no datagram comes out: the library would queue them without bound, and an unreliable
        message that waits is worth less than the next one.

        :param most: how many bytes of messages may be sent; None for any number. The first message that is
            too large, and all behind it, are dropped.
        :return: how many bytes were handed over.
        :raise QuicError: the QUIC library failed.
        """
        sent = 0
        while self._waiting:
            size = 0
            while self._waiting and size + len(self._waiting[0]) <= MAX_DATAGRAM:
                if most is not None and sent + len(self._waiting[0]) > most:
                    self._waiting.clear()
                    break
                data = self._waiting.popleft()
                if self._allowance.left(now) < 1:
                    # More small ones than the other side takes: lost, as unreliable messages may be
                    continue
                self._allowance.spend(now)
                self._allowance.earn(len(data) / 128)
                size += len(data) + 3
                sent += len(data)
                self._quic.send_datagram(data)
            datagrams = self._quic.datagrams_to_send(now)
            out += datagrams
            if not datagrams:
                break
        return sent
