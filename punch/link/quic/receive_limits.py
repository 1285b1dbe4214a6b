"""
Limits on what the other side can make a QUIC library do: the number of frames of each kind, and of packets
and events (RFC 9000, sections 5.1.2, 8.2 and 21; RFC 9221, section 5).

The libraries answer or store everything that arrives. qh3 keeps each PATH_CHALLENGE until its response is
acknowledged, never drops a retired connection ID, and compares each new one with all of them. Both libraries
keep what they have sent until it is acknowledged, and any number of pieces of a stream behind a gap. So each
kind has a `ReceiveAllowance`: a burst, a rate, and more for the data that the applications of both sides
exchange. An honest peer stays far below all of them: it sends a dozen connection IDs and no PATH_CHALLENGE on
a link, and at most one acknowledgement for each of our packets. Repetitions after a disconnection are allowed
for: qh3 then sends the same small frames a thousand times.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from punch.identity import RandomBytes
from punch.link.quic.packet import Frame, QuicFrameType


class LimitExceeded(Exception):
    """The other side sent more than it may; `str()` is a sentence."""


class ReceiveAllowance:
    """
    How many times something may happen: `burst` times at once, and `per_second` in the long run.

    It differs from `punch.net.token_bucket.TokenBucket`: its time begins at its first use, data of the
    applications allows more (`earn`), and its deficit is at most the burst.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self.burst = burst
        self._per_second = per_second
        self._left = burst
        self._at: float | None = None

    def earn(self, amount: float) -> None:
        """Allow `amount` more times, up to the burst."""
        left = self._left + amount
        self._left = left if left < self.burst else self.burst

    def spend(self, now: float, amount: float = 1.0) -> bool:
        """Count `amount` times; returns False if fewer were left. The deficit is at most the burst."""
        left = self.left(now) - amount
        self._left = left if left > -self.burst else -self.burst
        return left >= 0

    def left(self, now: float) -> float:
        """How many times are left."""
        if self._at is None:
            self._at = now
        elif now > self._at:
            self._left = min(self.burst, self._left + (now - self._at) * self._per_second)
            self._at = now
        return self._left


class Sampler:
    """
    Chooses the packets whose frames are read: all while there are few, and otherwise one of 256 at random,
    since reading a packet takes longer than the library takes to process one of a bulk transfer.
    """

    ONE_OF: Final = 256

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._all = ReceiveAllowance(512, 200)
        self._skip = 0
        self._read_each = 0

    def read_each_next(self) -> None:
        """Read each of the next packets, because the last ones caused many events."""
        self._read_each = self.ONE_OF

    def choose(self, count: int, now: float) -> Iterable[tuple[int, int]]:
        """The packets to read of the next `count`: (index, the number of packets that it stands for)."""
        few = self._all.spend(now, count)
        if few or self._read_each:
            self._read_each = max(0, self._read_each - count)
            return [(index, 1) for index in range(count)]
        chosen = []
        while self._skip < count:
            chosen.append((self._skip, self.ONE_OF))
            # 1 to 511 further on, with equal probability, so that nobody can tell which packet is next
            self._skip += 1 + int.from_bytes(self._random(8), "big") % (2 * self.ONE_OF - 1)
        self._skip -= count
        return chosen


MOST_GAPS: Final = 65_536
"""
How many pieces of streams may wait behind gaps. An honest sender has at most the 32 MiB of its windows on the
way, in packets of 1,150 bytes, and they are counted over up to two windows.
"""
MOST_STREAMS: Final = 4096
"""
For how many open streams the progress is kept, and for how many ended ones. A peer may have 1,024 open
streams, or 128 with aioquic, and so may this side.
"""
UNANSWERED_PACKETS: Final = 65_536
"""How many packets may arrive while none of our pings is acknowledged."""
PING_EVERY: Final = 4096
"""After how many received packets we send a ping."""

_RARE: Final = {
    QuicFrameType.PATH_CHALLENGE: "PATH_CHALLENGE",
    QuicFrameType.PATH_RESPONSE: "PATH_RESPONSE",
    QuicFrameType.NEW_TOKEN: "NEW_TOKEN",
    QuicFrameType.CRYPTO: "CRYPTO",
}
"""The frames that a proved link does not use."""
_RARE_BURST: Final = 2048.0
_RARE_PER_SECOND: Final = 1 / 60
_SMALL_PIECE: Final = 64
"""
A repeated piece of a stream is not limited if it has at least this many bytes: a whole window may be
repeated.
"""
_ACK_RANGES: Final = 64
"""How many ranges an acknowledgement of the libraries has at most."""


class _Gaps:
    """
    The pieces of one stream that wait behind a gap. They are counted in two spans. The first span is dropped
    when the stream was delivered up to the end that it had when it became the first.
    """

    def __init__(self, joins: bool) -> None:
        self.delivered = 0
        self._joins = joins
        self._end = 0
        self._first = (0, 0)
        self._second = (0, 0)

    @property
    def waiting(self) -> int:
        return self._first[0] + self._second[0]

    def deliver(self, size: int) -> None:
        self.delivered += size
        while self._first[0] and self.delivered >= self._first[1]:
            self._first, self._second = self._second, (0, 0)

    def add(self, offset: int, end: int, weight: int) -> None:
        """A piece has arrived that can't be delivered yet."""
        joined = self._joins and offset == self._end and end - offset >= _SMALL_PIECE
        self._end = max(self._end, end)
        if joined:
            return
        if self._first[0]:
            self._second = (self._second[0] + weight, self._end)
        else:
            self._first = (weight, self._end)


class ReceiveLimits:
    """
    The limits of one connection.

    All packets and events are counted. Of frames, those that `frames` is given are counted, each of them
    `weight` times. `packets`, `events`, `unreadable` and `frames` raise `LimitExceeded`.

    :param most_gaps: pieces of streams that may wait behind gaps.
    :param joins: the library makes one piece of two that follow each other.
    """

    def __init__(self, most_gaps: int = MOST_GAPS, joins: bool = False) -> None:
        self._most_gaps = most_gaps
        self._joins = joins
        self._packets = ReceiveAllowance(32_768, 1000)
        self._events = ReceiveAllowance(65_536, 4000)
        self._control = ReceiveAllowance(16_384, 1000)
        self._acks = ReceiveAllowance(8192, 1000)
        self._rare = {frame_type: ReceiveAllowance(_RARE_BURST, _RARE_PER_SECOND) for frame_type in _RARE}
        self._peer_ids = ReceiveAllowance(_RARE_BURST, _RARE_PER_SECOND)
        self._our_ids = ReceiveAllowance(_RARE_BURST, _RARE_PER_SECOND)
        self._highest_id = 0
        self._highest_retired = 0
        self._handshake_done = ReceiveAllowance(65_536, 10)
        self._unreadable = ReceiveAllowance(4, 1 / 60)
        self._streams: dict[int, _Gaps] = {}
        self._over: dict[int, None] = {}
        self._waiting = 0
        self._unanswered = 0
        self._since_ping = 0

    def packets(self, count: int, now: float) -> None:
        """Count authentic and new packets."""
        if not self._packets.spend(now, count):
            raise LimitExceeded("The other side sent many packets that brought nothing.")
        self._since_ping += count
        self._unanswered += count
        if self._unanswered > UNANSWERED_PACKETS:
            raise LimitExceeded("The other side acknowledges nothing.")

    def events(self, count: int, now: float) -> None:
        """Count events of the library."""
        if not self._events.spend(now, count):
            raise LimitExceeded("The other side sent data in too many small pieces.")

    def unreadable(self, now: float) -> None:
        """
        Count a packet that the library accepted, but that could not be read, because the keys changed twice
        since the last one that was read.
        """
        if not self._unreadable.spend(now):
            raise LimitExceeded("The other side changes its keys too often.")

    def frames(self, frames: Iterable[Frame], now: float, weight: int = 1) -> None:
        """Count the frames of a packet."""
        control = 0
        for frame in frames:
            frame_type = frame.frame_type
            if QuicFrameType.STREAM <= frame_type <= QuicFrameType.STREAM_LAST:
                brings = self._piece(frame, weight) if frame.size else frame.fin
                control += not brings and frame.size < _SMALL_PIECE
            elif frame_type in (QuicFrameType.ACK, QuicFrameType.ACK_ECN):
                if not self._acks.spend(now, weight * (1 + (frame.size / _ACK_RANGES) ** 2)):
                    raise LimitExceeded("The other side sent too many acknowledgements.")
            elif frame_type in _RARE:
                if not self._rare[frame_type].spend(now, weight * (1 + frame.size // 64)):
                    raise LimitExceeded(f"The other side sent too many {_RARE[frame_type]} frames.")
            elif frame_type == QuicFrameType.NEW_CONNECTION_ID and frame.offset > self._highest_id:
                # Counted by their sequence numbers, since qh3 repeats them many times after a disconnection
                new, self._highest_id = frame.offset - self._highest_id, frame.offset
                if not self._peer_ids.spend(now, new):
                    raise LimitExceeded("The other side gave too many connection IDs.")
            elif frame_type == QuicFrameType.RETIRE_CONNECTION_ID and frame.offset > self._highest_retired:
                new, self._highest_retired = frame.offset - self._highest_retired, frame.offset
                if not self._our_ids.spend(now, new):
                    raise LimitExceeded("The other side retired too many connection IDs.")
            elif frame_type == QuicFrameType.HANDSHAKE_DONE:
                if not self._handshake_done.spend(now, weight):
                    raise LimitExceeded("The other side sent too many HANDSHAKE_DONE frames.")
            elif frame_type not in (QuicFrameType.DATAGRAM, QuicFrameType.DATAGRAM_WITH_LENGTH):
                control += 1
        if control and not self._control.spend(now, weight * control):
            raise LimitExceeded("The other side sent too many control frames of QUIC.")

    def _piece(self, frame: Frame, weight: int) -> bool:
        """Count a piece of a stream; returns False if it has nothing new."""
        stream_id, offset = frame.stream_id, frame.offset
        gaps = self._streams.get(stream_id)
        if stream_id in self._over or offset + frame.size <= (0 if gaps is None else gaps.delivered):
            return False
        if offset > (0 if gaps is None else gaps.delivered):
            gaps = self._stream(stream_id)
            self._waiting -= gaps.waiting
            gaps.add(offset, offset + frame.size, weight)
            self._waiting += gaps.waiting
            if self._waiting > self._most_gaps:
                raise LimitExceeded("The other side sent streams in too many pieces that do not join.")
        return True

    def _stream(self, stream_id: int) -> _Gaps:
        gaps = self._streams.get(stream_id)
        if gaps is None:
            if len(self._streams) >= MOST_STREAMS:
                # Repeated pieces of streams that ended long ago: those have the fewest. Many at once, since
                # to find them takes long.
                streams = self._streams
                for fewest in heapq.nsmallest(
                    MOST_STREAMS // 4, streams, key=lambda each: streams[each].waiting
                ):
                    self.forget(fewest)
            gaps = self._streams[stream_id] = _Gaps(self._joins)
        return gaps

    def delivered(self, stream_id: int, size: int, last: bool, pieces: int = 1) -> None:
        """
        The library delivered the next bytes of a stream, in so many pieces. `last` says whether the stream
        ends with them.
        """
        self._exchanged(size, pieces)
        gaps = self._stream(stream_id)
        self._waiting -= gaps.waiting
        gaps.deliver(size)
        self._waiting += gaps.waiting
        if last:
            self.forget(stream_id)

    def datagram(self, size: int) -> None:
        """A datagram (RFC 9221) was delivered."""
        self._exchanged(size, 1)

    def _exchanged(self, size: int, pieces: int) -> None:
        # A packet with a small message brings something as well; `_events` bounds how many there may be.
        self._packets.earn(max(pieces, size / 500))
        self._events.earn(size / 64)
        self._control.earn(size / 4096)

    def sent(self, size: int) -> None:
        """We gave the library so many bytes to send, which the other side will acknowledge."""
        self._packets.earn(max(1, size / 500))
        self._acks.earn(max(1, size / 500))
        self._control.earn(size / 2048)

    def wants_ping(self) -> bool:
        """
        Return whether a ping is due, and say so only once. `answered` is to be called when it is
        acknowledged.
        """
        due = self._since_ping >= PING_EVERY
        if due:
            self._since_ping = 0
        return due

    def answered(self) -> None:
        """One of our pings was acknowledged."""
        self._unanswered = 0

    def forget(self, stream_id: int) -> None:
        """The receiving direction of a stream has ended."""
        gaps = self._streams.pop(stream_id, None)
        if gaps is not None:
            self._waiting -= gaps.waiting
        self._over[stream_id] = None
        if len(self._over) > MOST_STREAMS:
            del self._over[next(iter(self._over))]
