"""A single source cannot make a called peer unreachable."""

from __future__ import annotations

from collections.abc import Sequence

from punch.identity import PeerID
from punch.rendezvous.registry.admission import TURN
from punch.test.rendezvous.registry.test_fairness import SIXTY, SIXTY_APART, Asking, FairnessCase, peer
from punch.wire.control import (
    Cancel,
    ErrorCode,
    Incoming,
)


class CalleeCase(FairnessCase):
    """A peer that many strangers call."""

    def setUp(self) -> None:
        super().setUp()
        self.bob = peer("bob")
        self.join(self.bob, "192.0.2.200")
        self.known = [peer("known", number) for number in range(12)]
        self.asking = Asking(self.known, lambda: len(self.ends(self.bob)))
        self.decisions[self.bob] = self.asking
        for number, each in enumerate(self.known):
            self.join(each, f"192.0.{number}.1")

    def flood(self, hosts: Sequence[str], rounds: int = 1, mark: object = 0) -> list[PeerID]:
        """Call from one identity at each address; return the calls that rang."""
        bad = [(peer(mark, number, host), host) for number, host in enumerate(hosts)]
        for each, host in bad:
            if each not in self.connections:
                self.join(each, host)
        rang = [each for _ in range(rounds) for each, _ in bad if self.call(each, self.bob) is not None]
        return list(dict.fromkeys(rang))

    def assert_rings(self, caller: PeerID, host: str) -> None:
        """A stranger's call reaches the called peer's user."""
        self.join(caller, host)
        self.assertIsNotNone(self.call(caller, self.bob))
        self.assertIn(caller, self.asking.heard)

    def flood_for(self, seconds: float) -> None:
        """Sixty networks call once a second."""
        for _ in range(int(seconds)):
            self.flood(SIXTY_APART)
            self.wait(1.0)


class CalleeTests(CalleeCase):
    """A single source cannot make a called peer unreachable."""

    def test_one_address(self) -> None:
        """Eight identities, or a hundred: two of them ring, and the next stranger rings."""
        self.assertEqual(len(self.flood(["203.0.113.1"] * 100)), 2)
        self.assert_rings(peer("stranger"), "198.51.100.1")

    def test_most_that_one_source_has(self) -> None:
        """
        An address or a /64 rings twice at once, a /56 four times. A /48 or a /24 may have all eight places;
        then one of its calls makes room for a caller from elsewhere.
        """
        for most, hosts in (
            (2, ["203.0.113.1"] * 60),
            (2, [f"2001:db8::{number:x}" for number in range(60)]),
            (4, [f"2001:db8:1:{number:x}::1" for number in range(60)]),
            (8, [f"2001:db8:2:{number << 8:x}::1" for number in range(60)]),
            (8, SIXTY),
        ):
            self.bob = peer("bob", *hosts)
            self.join(self.bob, "192.0.2.200")
            asking = self.decisions[self.bob] = Asking([], lambda: len(self.ends(self.bob)))
            self.flood(hosts, 1, hosts[-1])
            self.assertEqual(len(asking.heard), most)
            self.assertEqual(self.ends(self.bob), {})
            stranger = peer("stranger", *hosts)
            self.join(stranger, "198.51.100.1")
            self.assertIsNotNone(self.call(stranger, self.bob))
            self.assertIn(stranger, asking.heard)
            self.assertEqual(len(self.ends(self.bob)), most == self.limits.calls_per_callee)
            self.wait(61.0)

    def test_one_network(self) -> None:
        """A /64, a /56, a /48 or a /24 has its share at most, and makes room for others."""
        for hosts in (
            [f"2001:db8::{number:x}" for number in range(60)],
            [f"2001:db8:1:{number:x}::1" for number in range(60)],
            [f"2001:db8:2:{number << 8:x}::1" for number in range(60)],
            SIXTY,
        ):
            self.flood(hosts, 2)
            self.assert_rings(peer("stranger", *hosts), f"198.51.{len(self.asking.heard)}.1")
            self.wait(61.0)

    def test_many_networks_share(self) -> None:
        """Four sources with two calls each: the fifth takes the newest place of one of them."""
        self.flood([f"10.{number}.0.1" for number in range(4)] * 2)
        self.assert_rings(peer("stranger"), "198.51.100.1")
        self.assertEqual(list(self.ends(self.bob).values()), [ErrorCode.CANCELLED])
        # Those that are left have one each: nobody takes their places.
        self.flood([f"10.{number}.0.1" for number in range(100, 120)], mark=1)
        self.assertNotIn(ErrorCode.BUSY, self.ends(peer("stranger")).values())

    def test_a_turn_begins_when_a_place_is_free(self) -> None:
        """A call that was passed on without a place gets the next free one, and its turn begins then."""
        self.decisions[self.bob] = lambda incoming: None
        places = self.limits.calls_per_callee
        first = [(peer("first", number), f"10.{number}.0.1") for number in range(places + 1)]
        for caller, host in first:
            self.join(caller, host)
        calls = [self.call(caller, self.bob) for caller, _ in first]
        self.assertNotIn(None, calls)
        late, _ = first[-1]
        given_up, _ = first[0]
        self.wait(1.0)
        self.ask(given_up, Cancel(str(calls[0]), self.bob))
        self.wait(TURN + 5.0)
        for number in range(places):
            # Each takes the place of one that has had its turn
            caller = peer("second", number)
            self.join(caller, f"10.{100 + number}.0.1")
            self.assertIsNotNone(self.call(caller, self.bob))
        self.assertEqual(self.ends(late), {calls[-1]: ErrorCode.BUSY})

    def test_networks_that_call_again_and_again(self) -> None:
        """
        Eight networks with a new caller every few seconds, who gives up, so that no call has rung for long:
        a stranger's call rings, and none of theirs ends it, however long it rings.
        """
        networks = [[f"10.{network}.0.{number}" for number in range(1, 200)] for network in range(8)]
        going: list[tuple[PeerID, str]] = []
        for turn in range(6):
            for caller, call in going:
                self.ask(caller, Cancel(call, self.bob))
            going.clear()
            for hosts in networks:
                caller = peer("again", hosts[turn])
                self.join(caller, hosts[turn])
                rings = self.call(caller, self.bob)
                if rings is not None:
                    going.append((caller, rings))
            self.wait(4.0)
        stranger = peer("stranger")
        self.assert_rings(stranger, "198.51.100.1")
        for turn in range(6, 50):
            caller = peer("again", turn)
            self.join(caller, networks[turn % 8][turn])
            self.call(caller, self.bob)
            self.wait(1.0)
            self.assertEqual(self.ends(stranger), {})

    def test_callers_that_replace_their_calls(self) -> None:
        """
        Eight callers call again before their calls end, and the called peer then ends the older ones. The new
        calls, which have been passed on, have no longer turns than others.
        """
        self.decisions[self.bob] = lambda incoming: None
        callers = [peer("again", number) for number in range(8)]
        calls = {}
        for number, caller in enumerate(callers):
            self.join(caller, f"10.{number}.0.1")
            calls[caller] = self.call(caller, self.bob)
        for _ in range(4):
            for caller in callers:
                newer, older = self.call(caller, self.bob), calls[caller]
                assert newer is not None, self.refusal
                assert older is not None
                self.ask(self.bob, Cancel(older, caller))
                calls[caller] = newer
            self.wait(6.0)
        stranger = peer("stranger")
        self.join(stranger, "198.51.100.1")
        self.assertIsNotNone(self.call(stranger, self.bob))
        self.wait(1.0)
        self.assertEqual(list(self.ends(self.bob).values()), [ErrorCode.CANCELLED])
        self.wait(TURN)
        self.assertEqual(self.ends(stranger), {})

    def test_calls_that_were_passed_on(self) -> None:
        """Calls that were passed on and still ring get places as soon as there are some."""
        self.decisions[self.bob] = lambda incoming: None
        ringing = [(peer("first", number), f"10.{number}.0.1") for number in range(8)]
        for each, host in ringing:
            self.join(each, host)
            self.assertIsNotNone(self.call(each, self.bob))
        late = peer("late")
        self.join(late, "10.100.0.1")
        for number in range(2):
            self.assertIsNotNone(self.call(late, self.bob))
            self.leave(ringing[number][0])
        self.assertIsNone(self.call(late, self.bob))
        self.assertIs(self.refusal, ErrorCode.BUSY)

    def test_calls_that_got_places_take_turns(self) -> None:
        """Calls that were passed on, and have places now, make room like those that had one at once."""
        self.decisions[self.bob] = lambda incoming: None
        first, later = (
            [(peer(mark, number), f"10.{mark}{number}.0.1") for number in range(8)] for mark in (1, 2)
        )
        for each, host in (*first, *later):
            self.join(each, host)
            self.assertIsNotNone(self.call(each, self.bob))
        for each, _ in first:
            self.leave(each)
        for number in range(2):
            stranger = peer("stranger", number)
            self.join(stranger, f"10.3{number}.0.1")
            self.assertIsNotNone(self.call(stranger, self.bob))
            ended = [each for each, _ in later if self.ends(each)]
            self.assertEqual(len(ended), number)
            self.wait(TURN + 3.0)

    def test_room_is_for_whom_it_was_made(self) -> None:
        """A call that was passed on does not take the place of one that left for another source."""
        self.decisions[self.bob] = lambda incoming: None
        callers = [peer("caller", number) for number in range(10)]
        for number, each in enumerate(callers):
            self.join(each, f"10.{number}.0.1")
        for each in (*callers[:8], callers[0], callers[8]):
            self.assertIsNotNone(self.call(each, self.bob))
        self.leave(callers[1])
        self.assertIsNotNone(self.call(callers[9], self.bob))
        self.assertEqual(list(self.ends(callers[0]).values()), [ErrorCode.BUSY])

    def test_known_callers(self) -> None:
        """60 addresses of one network or of many call all the time: all calls of known peers come through."""
        for hosts in (SIXTY, SIXTY_APART):
            for caller in self.known:
                self.flood(hosts, 1, hosts[0])
                call = self.call(caller, self.bob)
                assert call is not None, self.refusal
                self.ask(self.bob, Cancel(call, caller))
                self.wait(1.0)

    def test_one_known_caller_again_and_again(self) -> None:
        """
        After one answered call, strangers cannot block calls between the two peers, in either direction.
        """
        for step in range(12):
            self.flood(SIXTY_APART, 1)
            self.flood(["203.0.113.9"] * 10, 2)
            pair = (self.known[0], self.bob) if step % 2 == 0 else (self.bob, self.known[0])
            self.decisions[self.known[0]] = lambda incoming: True
            call = self.call(*pair)
            assert call is not None, (step, self.refusal)
            self.ask(self.bob, Cancel(call, self.known[0]))
            self.wait(0.7)

    def test_known_caller_at_the_address_of_a_flood(self) -> None:
        """Callers that were answered before have reserved places there as well."""
        call = self.call(self.known[0], self.bob)
        assert call is not None
        self.ask(self.bob, Cancel(call, self.known[0]))
        self.flood(["192.0.0.1"] * 20, 3)
        self.assertIsNotNone(self.call(self.known[0], self.bob))
        self.assertIsNone(self.call(peer(0, 19, "192.0.0.1"), self.bob))
        self.assertIs(self.refusal, ErrorCode.BUSY)

    def test_calls_that_are_answered_do_not_ring(self) -> None:
        """Twenty calls in a minute that are answered, and whose end the rendezvous is not told."""
        for _ in range(20):
            self.assertIsNotNone(self.call(self.known[0], self.bob))
            self.wait(2.9)

    def test_a_peer_that_takes_every_call(self) -> None:
        """
        Strangers from one address have few of the calls that it has answered and that came to nothing yet, so
        it is never full of them. Those that end are cancelled on both sides.
        """
        self.decisions[self.bob] = lambda incoming: True
        self.flood(["203.0.113.1"] * 20)
        ended = self.ends(self.bob)
        self.assertEqual(len(ended), 20 - self.limits.answered_per_source)
        self.assertEqual(set(ended.values()), {ErrorCode.CANCELLED})
        self.assertEqual(self.ends(peer(0, 0, "203.0.113.1")), {min(ended): ErrorCode.CANCELLED})
        for hosts in (SIXTY, SIXTY_APART):
            for _ in range(8):
                self.flood(hosts, 1)
                self.wait(1.0)
                going = sum(isinstance(reply, Incoming) for reply in self.told[self.bob])
                self.assertLessEqual(going - len(self.ends(self.bob)), self.limits.answered_per_callee)
                stranger = peer("stranger", self.now)
                self.join(stranger, f"198.51.{int(self.now) % 250}.1")
                self.assertIsNotNone(self.call(stranger, self.bob))
                self.assertEqual(self.ends(stranger), {})
