"""Data in pieces that are small, or that never join: any library takes long over them."""

from __future__ import annotations

from punch.test.link.link_pair import AioquicMixin
from punch.test.link.test_limits import FloodCase


class SmallPieceTests(FloodCase):
    """`tests/link/test_link_memory.py` has all kinds of frames."""

    small_pieces: tuple[str, ...] = ("STREAM, pieces", "DATAGRAM", "DATAGRAM, empty")

    def test_data_that_never_joins(self) -> None:
        self.flood("STREAM, gaps", "pieces that do not join")
        self.flood("STREAM, runs", "pieces that do not join")

    def test_small_pieces(self) -> None:
        for name in self.small_pieces:
            self.flood(name, "too many small pieces")


class AioquicSmallPieceTests(AioquicMixin, SmallPieceTests):
    """The same with aioquic."""

    __test__ = True
    small_pieces = ("STREAM, pieces",)
