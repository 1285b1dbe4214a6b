"""What is known of mappings before a call, for how long, and how the network's return is noticed."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.node.network.reflexive_addresses import (
    ANSWERED_INTERVAL,
    KEEP,
    MAX_REQUESTS,
    SILENT_INTERVAL,
    ReflexiveAddressCache,
)
from punch.test.internet import Internet
from punch.wire.address import Address, Transmit
from punch.wire.stun import Attribute, encode, parse, success

BASE = Address("192.168.1.2", 5000)
REFLECTOR = Address("198.51.100.1", 3478)
MAPPED = Address("203.0.113.1", 41000)


class KeeperTests(SynchronousTestCase):
    """A reflector that answers or doesn't."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[Transmit] = []
        self.backs: list[float] = []
        self.answers = True
        self.cache = ReflexiveAddressCache(
            self.clock,
            self.clock.seconds,
            Internet(1).random_bytes("mappings"),
            0.02,
            self.sent.append,
            lambda: self.backs.append(self.clock.seconds()),
        )
        self.addCleanup(self.cache.stop)

    def run_for(self, seconds: float) -> int:
        """Let time pass; returns how many questions were asked."""
        asked = 0
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            questions, self.sent[:] = list(self.sent), []
            asked += len(questions)
            for data, remote, local in questions:
                answer = encode(success(parse(data), (Attribute.XOR_MAPPED_ADDRESS, MAPPED)))
                if self.answers:
                    self.assertTrue(self.cache.receive(answer, remote, local))
            self.clock.advance(0.1)
        return asked

    def test_kept_for_a_while(self) -> None:
        """A question every 15 s, and after two minutes none, until somebody wants to know again."""
        self.cache.keep([BASE], [REFLECTOR])
        self.assertEqual(self.cache.mappings(), [])
        self.run_for(1.0)
        self.assertEqual(self.cache.mappings(), [(BASE, MAPPED)])
        self.assertTrue(7 <= self.run_for(KEEP) <= 8)
        self.run_for(20.0)
        self.assertEqual(self.run_for(1000.0), 0)
        self.assertEqual(self.cache.mappings(), [])
        self.cache.keep([BASE], [REFLECTOR])
        self.run_for(1.0)
        self.assertEqual(self.cache.mappings(), [(BASE, MAPPED)])

    def test_asking_for_it_keeps_it(self) -> None:
        """When the addresses are wanted again, the mappings are kept, and no request is sent."""
        self.cache.keep([BASE], [REFLECTOR])
        self.run_for(100.0)
        self.cache.keep([BASE], [REFLECTOR])
        self.assertEqual(self.sent, [])
        self.run_for(100.0)
        self.assertEqual(self.cache.mappings(), [(BASE, MAPPED)])

    def test_anew(self) -> None:
        """With `anew`, mappings that may be wrong are forgotten."""
        self.cache.keep([BASE], [REFLECTOR])
        self.run_for(1.0)
        self.cache.keep([BASE], [REFLECTOR], anew=True)
        self.assertEqual(self.cache.mappings(), [])
        self.run_for(1.0)
        self.assertEqual(self.cache.mappings(), [(BASE, MAPPED)])

    def test_nobody_needs_to_know(self) -> None:
        """If no peer needs to know the mappings, the reflector is not asked."""
        self.cache.keep([BASE], [REFLECTOR], gather=False)
        self.cache.keep([], [REFLECTOR])
        self.cache.keep([BASE], [])
        self.assertEqual(self.run_for(5.0), 0)

    def test_the_network_is_back(self) -> None:
        """Told once, within a few seconds of the first answer after a silence."""
        self.cache.keep([BASE], [REFLECTOR], gather=False)
        self.cache.listen(True)
        self.cache.listen(True)
        self.assertLessEqual(self.run_for(60.0), 60 / ANSWERED_INTERVAL + 1)
        self.assertEqual(self.backs, [])
        self.answers = False
        self.run_for(600.0)
        self.assertEqual(self.backs, [])
        self.answers = True
        back = self.clock.seconds()
        self.run_for(60.0)
        self.assertEqual(len(self.backs), 1)
        self.assertLess(self.backs[0] - back, SILENT_INTERVAL + 0.2)

    def test_no_network_from_the_start(self) -> None:
        """The first question gets no answer."""
        self.answers = False
        self.cache.keep([BASE], [REFLECTOR], gather=False)
        self.cache.listen(True)
        self.run_for(10.0)
        self.answers = True
        self.run_for(5.0)
        self.assertEqual(len(self.backs), 1)
        self.cache.listen(False)
        self.assertEqual(self.run_for(60.0), 0)

    def test_answers_of_others(self) -> None:
        """An answer that does not come from the reflector that was asked is ignored."""
        self.cache.keep([BASE], [REFLECTOR], gather=False)
        self.cache.listen(True)
        (question,) = self.sent
        answer = encode(success(parse(question.data), (Attribute.XOR_MAPPED_ADDRESS, MAPPED)))
        self.assertFalse(self.cache.receive(answer, Address("198.51.100.66", 3478), BASE))
        self.assertTrue(self.cache.receive(answer, REFLECTOR, BASE))
        self.assertFalse(self.cache.receive(answer, REFLECTOR, BASE))

    def test_many_addresses(self) -> None:
        """A few questions are enough."""
        bases = [Address(f"192.168.1.{number}", 5000) for number in range(2, 30)]
        self.cache.keep([*bases, Address("2001:db8::1", 5000)], [REFLECTOR], gather=False)
        self.cache.listen(True)
        self.assertEqual(len(self.sent), MAX_REQUESTS)
