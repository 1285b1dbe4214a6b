"""Direct paths through routers that take unsolicited packets as their own, and who can't start attempts."""

from __future__ import annotations

from itertools import product

from punch.ice.limits import MAX_OPENING_BYTES, MAX_OPENINGS
from punch.ice.punching.simultaneous_open import MAX_PACKETS
from punch.ice.punching.techniques import Technique
from punch.link.control_stream import OptionalFrameType
from punch.link.events import CloseCode
from punch.test.internet import NAT, LinkSpec, Mapping, Ports, Unsolicited
from punch.test.scenarios.punching import HOMES, VICTIM, PunchingTestCase
from punch.test.system import SERVICE, Connected, Peer
from punch.wire.peers.link_frames import Begin, First, Opened, Targets
from tests.simulation.seeds import ALL

WITHIN = 5.0
"""Seconds after the call within which the path must be direct…"""
WITHIN_WITH_LOSS = 25.0
"""…and the same if packets are lost, also those of the relay."""
SEEDS = range(1, 21) if ALL else range(1, 2)
NEAR = LinkSpec()
FAR_LINK = LinkSpec(delay=0.025)
HOPS = 8
"""Routers between the two homes."""
TAKES, DROPS = Unsolicited.ACCEPT, Unsolicited.DROP


def linux(unsolicited: Unsolicited) -> NAT:
    """Masquerading as Linux does it: a mapping for each flow, at the port of the socket if that is free."""
    return NAT(mapping=Mapping.APDM, ports=Ports.PRESERVING, overload=True, unsolicited=unsolicited)


class DirectTests(PunchingTestCase):
    """A router that takes unsolicited packets, and another one that does so, or does not."""

    def check(self, left: Unsolicited, right: Unsolicited, link: LinkSpec, hops: int) -> None:
        """The path is direct in time, in 19 of 20 calls."""
        late = []
        for seed in SEEDS:
            self.place(linux(left), linux(right), seed, link, hops=hops)
            seconds = self.seconds_to_direct(WITHIN_WITH_LOSS if link.loss else WITHIN)
            if seconds is None:
                late.append(seed)
            for peer in self.peers:
                tried = self.status(peer)
                self.assertIs(tried.technique, Technique.SIMULTANEOUS_OPEN)
                # Checks and their answers follow
                self.assertLessEqual(tried.packets, tried.attempts * (MAX_PACKETS + 6))
            self.net.advance(2.0)
            self.stop()
        self.assertLessEqual(len(late), len(SEEDS) // 20, (left, right, link, hops, late))

    def test_one_of_them(self) -> None:
        """With and without delay, whoever calls, also if the other router is the next one."""
        for link, hops in product((NEAR, FAR_LINK), (0, HOPS)):
            self.check(TAKES, DROPS, link, hops)
            self.check(DROPS, TAKES, link, hops)

    def test_both(self) -> None:
        """The first packets do not arrive, or they cross."""
        self.check(TAKES, TAKES, NEAR, HOPS)
        self.check(TAKES, TAKES, FAR_LINK, HOPS)
        self.check(TAKES, TAKES, FAR_LINK, 0)

    def test_again_and_again(self) -> None:
        """
        Two peers that call each other many times in ten minutes: what was sent in vain does not add up to the
        limit.
        """
        self.place(linux(TAKES), linux(TAKES), 1, NEAR)
        for number in range(8):
            caller, callee = (self.alice, self.bob) if number % 2 else (self.bob, self.alice)
            caller.call(callee.id)
            for peer in self.peers:
                peer.wait_for(Connected, 15.0, number + 1)
            self.net.run_until(lambda: "relay" not in self.paths, 10.0, f"a direct path in call {number}")
            self.net.advance(1.0)
            caller.link_to(callee).close(CloseCode.OK, "")
            # Until the routers have forgotten their flows
            self.net.advance(40.0)
        self.stop()

    def test_both_next_to_each_other(self) -> None:
        """Without delay: not even the other router takes the first packet."""
        self.check(TAKES, TAKES, NEAR, 0)

    def test_loss(self) -> None:
        """With 10 % loss on each access link, each way."""
        lossy = LinkSpec(delay=0.025, loss=0.1)
        self.check(TAKES, TAKES, lossy, HOPS)
        if ALL:
            for left, right, hops in product((TAKES, DROPS), (TAKES, DROPS), (0, HOPS)):
                self.check(left, right, lossy, hops)
                self.check(left, right, LinkSpec(loss=0.1), hops)

    def test_where_it_does_not_work(self) -> None:
        """
        Nothing goes from one home to the other: the attempts go on, and the number of packets stays within
        the limit.
        """
        self.place(linux(TAKES), linux(TAKES), 1, NEAR)
        self.lose_direct()
        self.assertIsNone(self.seconds_to_direct(60.0))
        for peer in self.peers:
            tried = self.status(peer)
            self.assertGreaterEqual(tried.attempts, 5)
            self.assertLessEqual(tried.packets, min(MAX_OPENINGS, tried.attempts * MAX_PACKETS))
            self.assertLessEqual(tried.bytes, MAX_OPENING_BYTES)
        self.stop()


class HostileTests(PunchingTestCase):
    """A peer on a link says what it should not."""

    def setUp(self) -> None:
        """Two peers on a relay, of which bob opens; nothing goes directly between the two."""
        self.place(linux(DROPS), linux(DROPS))
        self.allow_no_tcp()
        self.lose_direct()
        self.call()
        self.net.advance(15.0)
        self.attempt = 1000

    def say(self, to: Peer, frame_type: OptionalFrameType, payload: bytes) -> None:
        """Have the node of the other peer send this one a frame that it would not send itself."""
        other = self.bob if to is self.alice else self.alice
        other.link_to(to).send_control(frame_type, payload)

    def ask(self, seconds: float = 4.0, host: str = HOMES[0], first: First | None = First.OPENS) -> int:
        """Ask bob; returns how many packets go to the port that was named."""
        self.attempt += 1
        targets = Targets(self.attempt, "simultaneous-open", host, (9500,), first)
        self.net.trace = []
        self.say(self.bob, OptionalFrameType.TARGETS, targets.encode())
        self.net.advance(seconds)
        assert isinstance(self.net.trace, list)
        return len({(each.time, each.link) for each in self.net.trace if each.destination[1] == 9500})

    def test_what_is_right(self) -> None:
        """The other tests send to nobody; this one shows that they would."""
        self.assertGreater(self.ask(), 0)

    def test_elsewhere(self) -> None:
        """Addresses at which alice has not proved to receive."""
        for host in (VICTIM, SERVICE, HOMES[1], "203.0.113.9", "192.168.1.2", "127.0.0.1", "2001:db8::1"):
            self.assertEqual(self.ask(0.5, host), 0, host)

    def test_who_is_first(self) -> None:
        """An attempt that does not say so is none; if alice is first, bob sends nothing before BEGIN."""
        self.assertEqual(self.ask(0.5, first=None), 0)
        for first in (First.AIMS, First.BOTH):
            self.net.advance(20.0)
            self.assertEqual(self.ask(1.0, first=first), 0, first)
            for number in (self.attempt - 1, self.attempt + 1):
                self.say(self.bob, OptionalFrameType.BEGIN, Begin(number).encode())
            before = self.status(self.bob).packets
            self.net.advance(0.5)
            self.assertEqual(self.status(self.bob).packets, before)
            self.say(self.bob, OptionalFrameType.BEGIN, Begin(self.attempt).encode())
            self.net.advance(0.5)
            self.assertGreater(self.status(self.bob).packets, before)

    def test_again_and_again(self) -> None:
        """However often a peer asks, the limit for ten minutes holds."""
        for _ in range(60):
            self.ask(0.3)
        self.assertLessEqual(self.status(self.bob).packets, MAX_OPENINGS)
        self.assertLessEqual(self.status(self.bob).bytes, MAX_OPENING_BYTES)

    def test_opened(self) -> None:
        """OPENED that answers no attempt, or names another address."""
        for host in (VICTIM, HOMES[1]):
            self.net.trace = []
            opened = Opened(1, host, ((9500,),))
            self.say(self.alice, OptionalFrameType.OPENED, opened.encode())
            self.net.advance(0.3)
            self.assertEqual([each for each in self.net.trace if each.destination[1] == 9500], [])
        attempts = self.status(self.alice).attempts
        self.net.run_until(lambda: self.status(self.alice).attempts > attempts, 300.0, "another attempt")
        self.net.trace = []
        self.say(self.alice, OptionalFrameType.OPENED, Opened(attempts + 1, VICTIM, ((9500,),)).encode())
        self.net.advance(0.3)
        self.assertEqual([each for each in self.net.trace if each.destination[0] == VICTIM], [])
