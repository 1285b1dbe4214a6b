"""What is said on the stream of a pipe."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.pipe.messages import (
    MAX_PIECE,
    End,
    PipeError,
    PipeReader,
    PipeStatus,
    encode_end,
    encode_piece,
    encode_status,
)


class MessageTests(SynchronousTestCase):
    def test_any_cut(self) -> None:
        data = bytes(range(256)) * 300
        said = b"".join([*encode_piece(data), encode_end(), encode_status(7)])
        for size in (1, 2, 3, 5, 1000, len(said)):
            reader = PipeReader()
            got = [part for at in range(0, len(said), size) for part in reader.receive(said[at : at + size])]
            self.assertEqual(b"".join(part for part in got if isinstance(part, bytes)), data)
            self.assertEqual([part for part in got if not isinstance(part, bytes)], [End(), PipeStatus(7)])

    def test_what_ends_a_pipe(self) -> None:
        for said, words in (
            ((MAX_PIECE + 1).to_bytes(4, "big"), "65,537 bytes"),
            (encode_end() + encode_end(), "after its end"),
            (encode_end() + b"".join(encode_piece(b"a")), "after its end"),
            (encode_status(0) + b"\0", "after its status"),
        ):
            reader = PipeReader()
            with self.assertRaisesRegex(PipeError, words):
                list(reader.receive(said))
