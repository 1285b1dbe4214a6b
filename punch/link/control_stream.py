"""The control stream of a proved link: frames that wait to be sent, and those that are received."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from punch.link.events import CloseCode, LinkRole
from punch.link.frames import (
    OPTIONAL,
    ControlFrameReader,
    ControlFrameType,
    FrameError,
    encode_close,
    encode_frame,
)
from punch.link.quic.interface import QuicConnection
from punch.link.stream import SendAllowance

CONTROL_STREAM: Final = 0
CONTROL_QUEUE: Final = 256 * 1024
"""Bytes of control frames that may wait to be sent, because the other side acknowledges nothing."""
ABOVE: Final = (ControlFrameType.CANDIDATES, ControlFrameType.RESTART)
"""The types of frames that a receiver must know and that are for a layer above."""


class ControlStream:
    """
    The frames in both directions. The callee's first one says that the proof is good.

    :ivar allowance: how many frames the other side may send for what was sent to it.
    """

    def __init__(self, quic: QuicConnection, role: LinkRole, now: float) -> None:
        self.allowance = SendAllowance(now)
        self._quic = quic
        self._reader = ControlFrameReader()
        self._out = bytearray()
        self._closing = False
        if role is LinkRole.CALLEE:
            self.put(encode_frame(ControlFrameType.ACCEPTED))

    def put(self, frame: bytes) -> None:
        """Queue a frame."""
        self._out += frame

    def put_above(self, frame_type: int, payload: bytes) -> None:
        """
        Queue a frame of a layer above.

        :raise ValueError: the type is one of the link's own, or out of range; or the payload is longer than
            16,384 bytes.
        """
        if frame_type not in ABOVE and not frame_type & OPTIONAL:
            raise ValueError("this type of control frame is not for a layer above")
        self.put(encode_frame(frame_type, payload))

    def put_close(self, code: CloseCode, reason: str) -> None:
        """Queue the last frame, once: the link ends."""
        if not self._closing:
            self._closing = True
            self.put(encode_close(code, reason))

    def flush(self) -> bool:
        """
        Give the QUIC library all that is queued.

        :return: False if that was dropped, because the other side has acknowledged nothing for long.
        """
        if self._out:
            out, self._out = bytes(self._out), bytearray()
            if not self._closing and self._quic.unsent(CONTROL_STREAM) > CONTROL_QUEUE:
                return False
            self._quic.send(CONTROL_STREAM, out, False)
        return True

    def receive(self, data: bytes, now: float) -> Iterator[tuple[int, bytes]]:
        """
        Return the frames that are complete now: type and payload.

        :raise FrameError: one is too long, or there are too many.
        """
        for frame in self._reader.feed(data):
            if not self.allowance.spend(now):
                raise FrameError("there are too many of them")
            yield frame
