"""One connection to Redis and the queue of commands before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from punch.identity import PeerID
from punch.rendezvous.directory.interface import DirectoryUnavailable
from punch.test.rendezvous.directory.test_redis import RedisTestCase
from punch.test.strategies import IDENTITIES

PEERS: Sequence[PeerID] = [identity.peer_id for identity in IDENTITIES[:4]]


class AnswerTests(RedisTestCase):
    def test_one_answer_too_many(self) -> None:
        """
        It is taken for that of the next command, and refused there. What follows would be shifted by one: no
        command gets any of it.
        """
        one, two, three = self.start(3)
        owners = [two, three, two, three] * 3
        for peer, owner in zip(PEERS, owners, strict=False):
            owner.register(peer)
        self.net.advance(1.0)
        seen = 0

        def spoil(name: bytes, answer: bytes) -> bytes:
            nonlocal seen
            seen += name == b"GET"
            return b":7\r\n" + answer if name == b"GET" and seen == 3 else answer

        self.redis.spoil = spoil
        asked: list[Deferred[str | None]] = [one.directory.locate(PEERS[n % 4]) for n in range(10)]
        found: list[object] = []
        for each in asked:
            each.addBoth(found.append)
        self.net.advance(0.5)
        self.assertEqual(len(found), 10)
        self.assertEqual(found[:2], [two.name, three.name])
        for result in found[2:]:
            self.assertTrue(cast(Failure, result).check(DirectoryUnavailable), result)
        self.redis.spoil = lambda name, answer: answer
