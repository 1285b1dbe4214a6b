"""Offers and copies of offers: what a callee takes, before and after a restart, whatever the clocks say."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.node.calls.offer_freshness import (
    CHALLENGE_TIME,
    MAX_CALLERS,
    MAX_UNTIMED,
    MAX_UNTIMED_CALLERS,
    WINDOW,
    KeptOffers,
    OfferMemory,
    OfferTimes,
    OfferVerdict,
    read_offers,
)
from punch.node.calls.signaling import CallEnded, Challenged, Signaling
from punch.node.events import Connected, IncomingCall, Introduced
from punch.test.internet.packet import Seen
from punch.test.node.calls.call_pair import CallPair, description, events
from punch.test.node.middleman import MiddlemanTestCase
from punch.test.strategies import IDENTITIES
from punch.test.system import Peer, introduce
from punch.wire.control import Answer, Candidates, ErrorCode, Establish, Incoming, Reject, Reply, Trickle
from punch.wire.peers.sealed import MAX_TIME, Offer, open_offer, seal_offer

WALL = 1_700_000_000.0
OFFER = Offer("alice", "ufrag", "p" * 24, (), bytes([9]) + bytes(31))
ALICE, BOB = (identity.peer_id for identity in IDENTITIES[:2])


def peer(number: int) -> PeerID:
    """Some caller."""
    return PeerID(number.to_bytes(32, "big"))


class Callee:
    """A callee's memory, with a disk that outlives it."""

    def __init__(self, content: bytes | None = None, *, new: bool = True, wall: float = WALL) -> None:
        self.wall = wall
        self.now = 0.0
        self.content = content
        self.writable = True
        self.writes = 0
        self._drawn = 0
        self.memory = OfferMemory(read_offers(content, wall, new=new), self._random, self._save)

    def restarted(self, wall: float | None = None) -> Callee:
        """Another process with what is on the disk."""
        return Callee(self.content, new=False, wall=self.wall if wall is None else wall)

    def _random(self, size: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(size, "big")

    def _save(self, content: bytes) -> bool:
        self.writes += 1
        if self.writable:
            self.content = content
        return self.writable

    def takes(
        self,
        time: float | None,
        caller: PeerID = ALICE,
        *,
        challenge: bytes = b"",
        digest: bytes = bytes(32),
        known: bool = True,
    ) -> OfferVerdict:
        """Judge an offer that was made at a time in seconds."""
        offer = replace(OFFER, time=None if time is None else int(time * 1000), challenge=challenge)
        return self.memory.judge(caller, offer, digest, known=known, wall=self.wall, now=self.now)


class MemoryTests(SynchronousTestCase):
    """The core: which offers are taken."""

    def test_once(self) -> None:
        """An offer is fresh once, and an older one of the same caller never after it, over restarts too."""
        callee = Callee()
        self.assertIs(callee.takes(WALL), OfferVerdict.FRESH)
        for each in (callee, callee.restarted(), callee.restarted().restarted(WALL + 60.0)):
            self.assertIs(each.takes(WALL), OfferVerdict.STALE)
            self.assertIs(each.takes(WALL - 1.0), OfferVerdict.STALE)
            self.assertIs(each.takes(WALL - 1.0, BOB), OfferVerdict.FRESH)
        self.assertIs(callee.takes(WALL + 0.001), OfferVerdict.FRESH)

    def test_window(self) -> None:
        """An offer whose time is far from our clock is challenged, as it may have been held back."""
        for away in (WINDOW + 1.0, 3600.0, 365 * 86400.0):
            for sign in (1, -1):
                self.assertIs(Callee().takes(WALL + sign * away), OfferVerdict.STALE)
        self.assertIs(Callee().takes(WALL + WINDOW - 1.0), OfferVerdict.FRESH)
        self.assertIs(Callee().takes(WALL - WINDOW + 1.0), OfferVerdict.FRESH)

    def test_challenge(self) -> None:
        """The answer to a challenge is taken whatever the clocks say: once, in time, from the peer asked."""
        callee = Callee()
        for time in (0.0, WALL - 1e6, WALL + 1e9, None, MAX_TIME / 1000):
            challenge = callee.memory.challenge(ALICE, callee.now, known=True)
            self.assertEqual(callee.memory.challenge(ALICE, callee.now, known=True), challenge)
            self.assertIs(callee.takes(time, BOB, challenge=challenge), OfferVerdict.STALE)
            self.assertIs(callee.takes(time, challenge=bytes(16)), OfferVerdict.STALE)
            self.assertIs(callee.takes(time, challenge=challenge), OfferVerdict.FRESH)
            self.assertIs(callee.takes(time, challenge=challenge), OfferVerdict.STALE)
            self.assertIs(callee.restarted().takes(time, challenge=challenge), OfferVerdict.STALE)
        challenge = callee.memory.challenge(ALICE, callee.now, known=True)
        callee.now += CHALLENGE_TIME
        self.assertIs(callee.takes(WALL, challenge=challenge), OfferVerdict.STALE)
        self.assertNotEqual(callee.memory.challenge(ALICE, callee.now, known=True), challenge)

    def test_a_challenge_of_a_wrong_clock_does_not_lower_what_is_kept(self) -> None:
        """The caller's clock was an hour ahead and is mended: offers of that hour stay used up."""
        callee = Callee()
        callee.wall += 3600.0
        self.assertIs(callee.takes(WALL + 3600.0), OfferVerdict.FRESH)
        callee.wall -= 3600.0
        self.assertIs(callee.takes(WALL), OfferVerdict.STALE)
        self.assertIs(
            callee.takes(WALL, challenge=callee.memory.challenge(ALICE, 0.0, known=True)), OfferVerdict.FRESH
        )
        self.assertIs(callee.restarted(WALL + 3600.0).takes(WALL + 3600.0), OfferVerdict.STALE)

    def test_a_clock_that_is_ahead(self) -> None:
        """What went before the answer to a challenge stays used up when our clock has come so far."""
        callee = Callee()
        self.assertIs(callee.takes(WALL + 3600.0), OfferVerdict.STALE)
        challenge = callee.memory.challenge(ALICE, 0.0, known=True)
        self.assertIs(callee.takes(WALL + 3600.5, challenge=challenge), OfferVerdict.FRESH)
        later = callee.restarted(WALL + 3600.0)
        callee.wall += 3600.0
        for each in (callee, later):
            self.assertIs(each.takes(WALL + 3600.0), OfferVerdict.STALE)
            self.assertIs(each.takes(WALL + 3601.0), OfferVerdict.FRESH)

    def test_a_clock_that_is_ahead_concerns_nobody_else(self) -> None:
        callee = Callee()
        challenge = callee.memory.challenge(ALICE, 0.0, known=True)
        self.assertIs(callee.takes(WALL + 1e9, challenge=challenge), OfferVerdict.FRESH)
        for number in range(MAX_CALLERS):
            callee.takes(WALL, peer(number))
        callee.wall += WINDOW + 1.0
        self.assertIs(callee.takes(callee.wall, BOB), OfferVerdict.FRESH)

    def test_lost_state(self) -> None:
        """No file, a damaged one, one of a newer release: everybody is asked, for as long as it matters."""
        damaged = (None, b"", b"{", b"[]", b'{"format":2}', b"\xff", b'{"format":1,"floor":-1}', b"0" * 65536)
        for content in damaged:
            callee = Callee(content, new=False)
            for time in (WALL - 1.0, WALL, WALL + WINDOW - 1.0):
                self.assertIs(callee.takes(time), OfferVerdict.STALE, content)
            callee.wall += WINDOW + 1.0
            self.assertIs(callee.takes(callee.wall), OfferVerdict.FRESH, content)
        self.assertIs(Callee(None, new=True).takes(WALL - 1.0), OfferVerdict.FRESH)

    def test_read_only(self) -> None:
        """With a state that can't be written, offers are taken only with a challenge of this process."""
        callee = Callee()
        callee.writable = False
        self.assertIs(callee.takes(WALL), OfferVerdict.STALE)
        challenge = callee.memory.challenge(ALICE, 0.0, known=True)
        self.assertIs(callee.takes(WALL + 1.0, challenge=challenge), OfferVerdict.FRESH)
        self.assertIs(callee.restarted().takes(WALL + 1.0, challenge=challenge), OfferVerdict.STALE)

    def test_old_releases(self) -> None:
        """Their offers have no time; copies of the last ones that a known peer sent are refused."""
        callee = Callee()
        digests = [bytes([number]) * 32 for number in range(MAX_UNTIMED)]
        for digest in digests:
            self.assertIs(callee.takes(None, digest=digest), OfferVerdict.FRESH)
        for digest in digests:
            self.assertIs(callee.restarted().takes(None, digest=digest), OfferVerdict.REPEATED)
        self.assertIs(callee.takes(None, digest=b"x" * 32), OfferVerdict.FRESH)
        self.assertIs(callee.takes(WALL), OfferVerdict.FRESH)
        self.assertIs(callee.takes(None, digest=b"y" * 32), OfferVerdict.REPEATED)
        self.assertIs(callee.restarted().takes(None, digest=b"y" * 32), OfferVerdict.REPEATED)

    def test_strangers_write_little(self) -> None:
        """Hundreds of strangers a minute, for four minutes: the file is written once a minute at most."""
        callee = Callee()
        for second in range(240):
            callee.wall, callee.now = WALL + second, float(second)
            for number in range(6):
                ahead = WINDOW - 1.0 if number % 2 else -0.5
                stranger = peer(6 * second + number)
                taken = callee.takes(callee.wall + ahead, stranger, known=False)
                # Who is forgotten may have used any time: others are asked
                self.assertIs(taken, OfferVerdict.FRESH if ahead > 0 or second < 20 else taken)
                self.assertIs(callee.takes(callee.wall + ahead, stranger, known=False), OfferVerdict.STALE)
        self.assertLessEqual(callee.writes, 4)
        self.assertGreater(callee.writes, 1)
        for later in (0.0, 200.0, 400.0):
            restarted = callee.restarted(callee.wall + later)
            for number in range(6 * 240):
                second, ahead = number // 6, WINDOW - 1.0 if number % 2 else -0.5
                taken = restarted.takes(WALL + second + ahead, peer(number), known=bool(number % 3))
                self.assertIs(taken, OfferVerdict.STALE)

    def test_strangers_take_no_place_of_known_callers(self) -> None:
        """Neither their times are forgotten, nor the challenges to them."""
        callee = Callee()
        self.assertIs(callee.takes(WALL), OfferVerdict.FRESH)
        challenge = callee.memory.challenge(BOB, 0.0, known=True)
        for number in range(2 * MAX_CALLERS):
            callee.takes(WALL + number / 1000, peer(number), known=False)
            callee.memory.challenge(peer(number), 0.0, known=False)
        self.assertIs(callee.takes(WALL + 0.001), OfferVerdict.FRESH)
        self.assertIs(callee.takes(WALL + 10.0, BOB, challenge=challenge), OfferVerdict.FRESH)
        assert callee.content is not None
        self.assertEqual(set(KeptOffers.decode(callee.content).newest), {ALICE, BOB})

    def test_a_stranger_that_becomes_known(self) -> None:
        """What it said before counts, in this process and the next; and when it is forgotten again."""
        callee = Callee()
        self.assertIs(callee.takes(WALL, known=False), OfferVerdict.FRESH)
        for each in (callee, callee.restarted()):
            self.assertIs(each.takes(WALL, known=True), OfferVerdict.STALE)
        self.assertIs(callee.takes(None, known=True), OfferVerdict.REPEATED)
        self.assertIs(callee.takes(WALL + 1.0, known=True), OfferVerdict.FRESH)
        self.assertIs(callee.takes(WALL + 2.0, known=False), OfferVerdict.FRESH)
        for each in (callee, callee.restarted()):
            self.assertIs(each.takes(WALL + 2.0, known=True), OfferVerdict.STALE)

    def test_strangers_of_a_read_only_state(self) -> None:
        """Nothing can be reserved: they are asked, too."""
        callee = Callee()
        callee.writable = False
        self.assertIs(callee.takes(WALL, known=False), OfferVerdict.STALE)
        self.assertIs(callee.takes(WALL + 1.0, BOB, known=False), OfferVerdict.STALE)

    def test_the_largest_file_can_be_read(self) -> None:
        """Times of 16 digits, all digests there."""
        kept = KeptOffers(MAX_TIME)
        for number in range(MAX_CALLERS):
            kept.take(peer(number), MAX_TIME)
        for number in range(MAX_UNTIMED_CALLERS):
            for digest in range(MAX_UNTIMED):
                kept.take_untimed(peer(100_000 + number), bytes([digest]) * 32)
        content = kept.encode()
        self.assertLess(len(content), 65536)
        self.assertEqual(KeptOffers.decode(content).encode(), content)

    def test_times_of_our_own(self) -> None:
        """They grow, also where the clock doesn't, and stay numbers that JSON can carry."""
        clock = [WALL]
        times = OfferTimes(lambda: clock[0])
        first = times.next()
        self.assertEqual(first, int(WALL * 1000))
        clock[0] -= 3600.0
        self.assertEqual([times.next(), times.next()], [first + 1, first + 2])
        clock[0] = 1e300
        self.assertEqual([times.next(), times.next()], [MAX_TIME, MAX_TIME])
        self.assertEqual(OfferTimes(lambda: -5.0).next(), 0)


class ChallengeTests(SynchronousTestCase):
    """What the two ends of a call say to each other about it."""

    def test_a_caller_is_asked_once(self) -> None:
        """It learns the challenge; a callee that asks again is one that refuses."""
        wire = CallPair()
        wire.callee.challenge(b"c" * 16)
        trickle, reject = wire.callee.messages_to_send()
        assert isinstance(trickle, Trickle)
        self.assertEqual(reject, Reject(wire.caller.call_id, ALICE, ErrorCode.REFUSED))
        wire.caller.receive_candidates(trickle.envelope)
        wire.caller.receive_end(ErrorCode.REFUSED)
        self.assertEqual(events(wire.caller), [Challenged(b"c" * 16)])
        self.assertEqual(wire.caller.messages_to_send(), [])
        self.assertIsNone(wire.caller.get_timer())
        self.assertEqual(events(wire.callee), [])

    def test_a_second_challenge(self) -> None:
        """Nobody is called for ever."""
        again = replace(description("alice"), challenge=b"c" * 16)
        random = Random(1).randbytes
        caller = Signaling.outgoing(IDENTITIES[0], BOB, again, random=random, now=0.0)
        (establish,) = caller.messages_to_send()
        assert isinstance(establish, Establish)
        callee = Signaling.incoming(IDENTITIES[1], ALICE, establish.call, establish.offer, now=0.0)
        self.assertEqual(callee.offer.challenge, b"c" * 16)
        callee.challenge(b"d" * 16)
        trickle = callee.messages_to_send()[0]
        assert isinstance(trickle, Trickle)
        caller.receive_candidates(trickle.envelope)
        caller.receive_end(ErrorCode.REFUSED)
        (end,) = events(caller)
        assert isinstance(end, CallEnded)
        self.assertEqual(end.cause.reason, "refused")

    def test_a_challenge_is_bound_to_its_offer(self) -> None:
        """Somebody else's, or one of an earlier call, is broken."""
        first, second = CallPair(), CallPair()
        first.callee.challenge(b"c" * 16)
        trickle = first.callee.messages_to_send()[0]
        assert isinstance(trickle, Trickle)
        self.assertNotEqual(first.establish.offer, second.establish.offer)
        second.caller.receive_candidates(trickle.envelope)
        (end,) = events(second.caller)
        assert isinstance(end, CallEnded)
        self.assertEqual(end.cause.reason, "protocol")


class ReplayTests(MiddlemanTestCase):
    """Mallory, who runs the rendezvous, has recorded what Alice sent."""

    def record(self, caller: Peer, callee: Peer) -> list[tuple[PeerID, Reply]]:
        """A call, and all that was delivered to the callee in it."""
        before = len(self.middle.passed)
        caller.call(callee.id)
        callee.wait_for(Connected, 10.0)
        recorded = [(to, reply) for to, reply in self.middle.passed[before:] if to == callee.id]
        self.assertIsInstance(recorded[0][1], Incoming)
        return [*recorded]

    def again(self, peer: Peer, away: float = 0.0, offers: OfferMemory | None = None) -> Peer:
        """The peer, in another process, `away` seconds later."""
        peer.stop()
        self.net.advance(away)
        return self.another(peer, offers).register()

    def another(self, peer: Peer, offers: OfferMemory | None = None, ahead: float = 0.0) -> Peer:
        """The same identity on the same machine, with another clock perhaps."""
        again = Peer(
            self.net,
            peer.host,
            self.address,
            identity=peer.identity,
            known=peer.known,
            pacing=0.02,
            salt=f"again {len(self.peers)}",
            wall=lambda: self.net.now + ahead,
            offers=offers,
        )
        self.peers.append(again)
        return again

    def assert_nothing_comes_of(self, recorded: list[tuple[PeerID, Reply]], callee: Peer) -> None:
        """Nothing rings, nothing is answered, no candidate is told, no datagram leaves for the caller."""
        requests = len(self.middle.service.requests)
        seen: list[Seen] = []
        self.net.trace = seen
        for to, reply in recorded:
            self.assertEqual(to, callee.id)
            if isinstance(reply, (Incoming, Candidates)):
                self.middle.deliver(to, reply)
        self.net.advance(20.0)
        self.net.trace = None
        to_alice = [
            packet
            for packet in seen
            if packet.destination[0] == self.alice.host.address and packet.source[0] == callee.host.address
        ]
        self.assertEqual([packet for packet in to_alice if packet.protocol == "udp"], [])
        self.assertEqual(callee.of(IncomingCall) + callee.of(Introduced), [])
        said = self.middle.service.requests[requests:]
        self.assertEqual([each for each in said if isinstance(each, Answer)], [])
        self.assertNotEqual([each for each in said if isinstance(each, Reject)], [])

    def test_after_a_restart(self) -> None:
        """The callee's process is another one, at once or later."""
        for away in (0.0, 4000.0):
            recorded = self.record(self.alice, self.bob)
            self.alice.node.hangup(self.bob.id)
            self.net.advance(1.0)
            self.bob = self.again(self.bob, away)
            self.assert_nothing_comes_of(recorded, self.bob)
            self.alice.events.clear()

    def test_honest_calls_whatever_the_clocks_say(self) -> None:
        """Hours or years apart, set back between two calls, after a restart: one more round trip."""
        for ahead in (3600.0, -365 * 86400.0):
            carol = self.another(self.peer(f"carol {ahead}"), ahead=ahead)
            introduce(carol, self.bob)
            introduce(self.bob, carol)
            carol.register()
            began = self.net.now
            carol.call(self.bob.id)
            carol.wait_for(Connected, 2.0)
            self.assertLess(self.net.now - began, 1.6)
            self.bob.wait_for(Connected, 1.0)
            carol.node.hangup(self.bob.id)
            self.net.advance(1.0)
            calls = len(carol.of(Connected))
            self.bob.call(carol.id)
            carol.wait_for(Connected, 2.0, calls + 1)
            self.bob.node.hangup(carol.id)
            self.net.advance(1.0)

    def test_candidates_go_along_with_the_second_offer(self) -> None:
        """Candidates that were trickled after the first offer are in the second one."""
        carol = self.another(self.peer("carol"), ahead=7200.0)
        introduce(carol, self.bob)
        carol.register()
        carol.call(self.bob.id)
        carol.wait_for(Connected, 2.0)
        first, second = [
            open_offer(self.bob.identity, carol.id, each.offer)
            for each in self.middle.requests(Establish)
            if isinstance(each, Establish)
        ]
        self.assertEqual((first.challenge, len(second.challenge)), (b"", 16))
        self.assertLessEqual(set(first.candidates), set(second.candidates))
        self.assertGreater(second.time or 0, first.time or 0)
        self.assertNotEqual(first.reply_key, second.reply_key)

    def test_offers_of_todays_peers(self) -> None:
        """No time in it: taken, and a copy of it is not, not even after a restart."""
        offer = replace(OFFER, reply_key=self.alice.identity.x25519().public_key().public_bytes_raw())
        incoming = Incoming(
            "12" * 16, self.alice.id, "x", seal_offer(self.alice.identity, self.bob.id, offer)
        )
        kept: list[bytes] = []

        def save(content: bytes) -> bool:
            kept[:] = [content]
            return True

        self.bob = self.again(self.bob, offers=OfferMemory(KeptOffers(0), self.net.random_bytes("m"), save))
        self.middle.deliver(self.bob.id, incoming)
        self.bob.wait_for(Introduced, 1.0)
        offers = OfferMemory(KeptOffers.decode(kept[0]), self.net.random_bytes("m"), save)
        self.bob = self.again(self.bob, offers=offers)
        self.assert_nothing_comes_of([(self.bob.id, incoming)], self.bob)
