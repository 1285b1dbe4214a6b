"""What the processes of one service tell each other, and what a stranger in Redis can do to it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.directory.messages import (
    MAX_MESSAGE,
    Message,
    PeerAwaited,
    PeerClaimed,
    PeerLost,
    PeerReply,
    PeerRequest,
    ProcessMessageError,
    ReturnMessage,
    Sealer,
)
from punch.test.costs import calls_of
from punch.test.strategies import IDENTITIES, SETTINGS, identity
from punch.wire.control import Answered, Cancel, Ended, ErrorCode
from punch.wire.peers.sealed import Envelope

PEER, OTHER = IDENTITIES[0].peer_id, IDENTITIES[1].peer_id
CALL = "00" * 16
MESSAGES: list[Message] = [
    PeerRequest(PEER, "alice", "192.0.2.1", Cancel(CALL, OTHER)),
    PeerReply(PEER, Ended(CALL, ErrorCode.GONE, "It is gone.", sender=OTHER)),
    PeerLost(PEER),
    PeerClaimed(PEER, 1_700_000_000_000_000),
    ReturnMessage(PEER),
    PeerAwaited(PEER),
]


def random(seed: int) -> Callable[[int], bytes]:
    return Random(seed).randbytes


class SealerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.one = Sealer(b"key", random(1))
        self.two = Sealer(b"key", random(2))

    def refused(self, receiver: Sealer, data: bytes, because: str) -> None:
        self.assertIn(because, str(self.assertRaises(ProcessMessageError, receiver.open, data)))

    def test_all_kinds(self) -> None:
        for message in MESSAGES:
            self.assertEqual(self.two.open(self.one.seal(self.two.name, message)), (self.one.name, message))

    def test_unknown_peers_cost_no_more(self) -> None:
        """The keys of peers are not checked in what a process of the service says: its reader checks them."""

        def cost(peer: PeerID) -> int:
            answered = Answered(CALL, peer, Envelope(PEER, bytes(304), bytes(64)))
            data = self.one.seal(self.two.name, PeerReply(PEER, answered))
            return calls_of(lambda: self.two.open(data))

        first, second = (identity(seed).peer_id for seed in (7003, 7004))
        cost(OTHER)
        self.assertEqual([cost(first), cost(second)], [cost(first), cost(first)])

    def test_nothing_is_readable(self) -> None:
        data = self.one.seal(self.two.name, MESSAGES[0])
        for secret in (b"alice", b"192.0.2.1", str(PEER).encode(), str(OTHER).encode()):
            self.assertNotIn(secret, data)

    def test_once_and_in_order(self) -> None:
        first, second = (self.one.seal(self.two.name, message) for message in MESSAGES[:2])
        self.two.open(second)
        for data in (first, second):
            self.refused(self.two, data, "received before")

    def test_only_for_its_receiver(self) -> None:
        third = Sealer(b"key", random(3))
        data = self.one.seal(self.two.name, MESSAGES[0])
        self.refused(third, data, "another process")
        self.refused(Sealer(b"key", random(4)), data, "another process")

    def test_other_key(self) -> None:
        stranger = Sealer(b"another key", random(1))
        self.refused(self.two, stranger.seal(self.two.name, MESSAGES[0]), "another key")

    def test_altered(self) -> None:
        data = self.one.seal(self.two.name, MESSAGES[0])
        for place in range(len(data)):
            altered = bytearray(data)
            altered[place] ^= 1
            self.assertRaises(ProcessMessageError, self.two.open, bytes(altered))
        self.two.open(data)

    def test_a_name_that_no_peer_has(self) -> None:
        """It would go on to the called peer, which takes no such line from its rendezvous."""
        for name in (5, "", "\x1b[31mred"):
            message = PeerRequest(PEER, name, "192.0.2.1", Cancel(CALL, OTHER))  # type: ignore[arg-type]
            self.refused(self.two, self.one.seal(self.two.name, message), "can't be read")

    def test_newer_version(self) -> None:
        data = self.one.seal(self.two.name, MESSAGES[0])
        self.refused(self.two, b"\x02" + data[1:], "all processes run one version")

    @SETTINGS
    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        self.assertRaises(ProcessMessageError, self.two.open, data)
        self.assertRaises(ProcessMessageError, self.two.open, bytes(MAX_MESSAGE + 1))
