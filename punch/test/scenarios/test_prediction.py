"""When ports of NATs are predicted, and how long the next attempt waits."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.limits import WINDOW
from punch.ice.punching.prediction import TARGETS
from punch.ice.punching.spraying import wait_after as spraying_wait_after
from punch.ice.punching.techniques import Technique
from punch.node.policies import RelayPolicy
from punch.node.punching.attempt import wait_after
from punch.node.punching.attempt_makers import GAP
from punch.node.punching.choice import MAX_HOSTS, Tries
from punch.node.punching.coordinator import PunchingStatus, proof_wait
from punch.test.internet import NAT, Filtering, Mapping, Ports
from punch.test.scenarios.punching import HOMES, PunchingTestCase
from punch.test.system import Peer
from punch.wire.control import Accept


def nat(
    mapping: Mapping, ports: Ports, step: int = 1, others: float = 0.0, filtering: Filtering = Filtering.APDF
) -> NAT:
    """A NAT that filters by port."""
    return NAT(mapping=mapping, filtering=filtering, ports=ports, step=step, others=others)


def sequential(step: int = 1, others: float = 0.0, mapping: Mapping = Mapping.APDM) -> NAT:
    """A NAT that gives each destination the next port."""
    return nat(mapping, Ports.SEQUENTIAL, step, others)


class WaitTests(SynchronousTestCase):
    """How long the next attempt waits."""

    def test_waits(self) -> None:
        """As docs/nat.md says, and for a link that stays on the relay for days."""
        waits = [wait_after(tries) for tries in range(1, 10)]
        self.assertEqual(waits, [1.0, 1.0, 1.0, 15.0, 30.0, 60.0, 120.0, 240.0, 300.0])
        self.assertEqual({wait_after(tries) for tries in (20, 1028, 2000, 10**6)}, {300.0})

    def test_what_is_counted_together(self) -> None:
        """Each technique and each of the first addresses for itself, and all others together."""
        tries = Tries()

        def next_at(technique: Technique, number: int, part: float = 1.0) -> float:
            return tries.next_at(technique, f"203.0.113.{number}", lambda made: 10.0 * made, part)

        prediction, spraying = Technique.PREDICTION, Technique.SPRAYING
        self.assertEqual(next_at(spraying, 1), float("-inf"))
        for made in range(1, 4):
            self.assertEqual(tries.add(prediction, "203.0.113.1", 100.0), made)
        self.assertEqual((next_at(prediction, 1), next_at(prediction, 1, 0.5)), (130.0, 115.0))
        self.assertEqual((next_at(spraying, 1), next_at(prediction, 2)), (float("-inf"), float("-inf")))
        for number in range(1, 100):
            tries.add(spraying, f"203.0.113.{number}", 100.0)
        self.assertEqual(next_at(spraying, MAX_HOSTS), 110.0)
        self.assertEqual(next_at(spraying, MAX_HOSTS + 1), 100.0 + 10.0 * (99 - MAX_HOSTS))
        self.assertEqual(next_at(spraying, 200), next_at(spraying, MAX_HOSTS + 1))
        self.assertEqual(next_at(prediction, 1), 130.0)

    def test_what_counts_no_longer(self) -> None:
        """What was made long before a direct path, and all when we are in another network."""
        tries = Tries()
        tries.add(Technique.SPRAYING, "203.0.113.1", 0.0)
        tries.add(Technique.SPRAYING, "203.0.113.2", 1.0)
        tries.path_found(WINDOW)
        self.assertEqual(tries.add(Technique.SPRAYING, "203.0.113.1", WINDOW), 1)
        self.assertEqual(tries.add(Technique.SPRAYING, "203.0.113.2", WINDOW), 2)
        tries.clear()
        self.assertEqual(tries.add(Technique.SPRAYING, "203.0.113.2", WINDOW), 1)

    def test_spraying_that_finds_paths(self) -> None:
        """The longest wait comes after failures in a row only, however many attempts there were."""
        tries, host = Tries(), "203.0.113.1"

        def waits(attempts: int, *, found: bool) -> list[float]:
            seconds = []
            for _ in range(attempts):
                tries.add(Technique.SPRAYING, host, 0.0)
                if found:
                    tries.found(Technique.SPRAYING, host)
                seconds.append(tries.next_at(Technique.SPRAYING, host, spraying_wait_after))
            return seconds

        self.assertEqual(waits(6, found=True), [30.0, 300.0, 1800.0, 1800.0, 1800.0, 1800.0])
        self.assertEqual(waits(5, found=False), [1800.0, 1800.0, 1800.0, 21600.0, 21600.0])
        self.assertEqual(waits(1, found=True), [1800.0])
        tries.clear()
        self.assertEqual(waits(4, found=False), [30.0, 300.0, 1800.0, 21600.0])

    def test_paths_change_no_other_waits(self) -> None:
        """Those of techniques that take few packets are doubled also if paths that they find do not last."""
        tries, host = Tries(), "203.0.113.1"
        for made in range(1, 9):
            self.assertEqual(tries.add(Technique.PREDICTION, host, 0.0), made)
            tries.found(Technique.PREDICTION, host)
            tries.found(Technique.PREDICTION, "203.0.113.2")

    def test_proofs(self) -> None:
        """Seven short waits and a longer one, again and again."""
        waits = [proof_wait(proofs) for proofs in range(1, 49)]
        self.assertEqual(waits[7::8], [2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
        self.assertEqual({wait for number, wait in enumerate(waits, 1) if number % 8}, {0.5})
        self.assertEqual(proof_wait(8 * 10**6), 300.0)


class RelayTests(PunchingTestCase):
    """Where nothing is sent."""

    def test_random_ports(self) -> None:
        """The link stays on the relay, as the table says."""
        self.place(sequential(), nat(Mapping.APDM, Ports.RANDOM))
        self.assertIsNone(self.seconds_to_direct(4.0))
        for peer in self.peers:
            self.assertEqual(self.status(peer), PunchingStatus(Technique.RELAY, 0, 0, 0))
        self.stop()

    def test_relay_only(self) -> None:
        """A peer that hides its addresses neither observes its NAT nor says anything about it."""
        self.place(sequential(), sequential())
        hidden = Peer(
            self.net,
            self.net.lan("carol", "192.168.3.0/24", nat=NAT("203.0.113.3")).host("carol"),
            self.rendezvous.address,
            accept=Accept.ANYONE,
            relay=RelayPolicy.ONLY,
        ).register()
        self.peers = [self.alice, hidden]
        self.bob = hidden
        self.assertIsNone(self.seconds_to_direct(4.0))
        self.assertEqual(hidden.node.status.nats, ())
        self.assertEqual(self.status(self.alice), PunchingStatus(Technique.ICE, 0, 0, 0))

    def test_gaps(self) -> None:
        """The packets of an attempt leave one after the other, also the first after OPENED."""
        self.place(sequential(mapping=Mapping.ADM), sequential(others=3.0))
        self.lose_direct()
        self.call()
        self.net.advance(1.5)
        self.net.trace = []
        self.net.advance(4.0)
        ours = [each for each in self.net.trace if each.source[0] == HOMES[0]]
        times = [each.time for each in ours if each.destination[0] == HOMES[1]]
        self.assertGreater(len(times), TARGETS)
        for first, later in pairwise(times):
            self.assertGreater(later - first, GAP / 2)
