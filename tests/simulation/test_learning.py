"""What worked last time with a peer on a network is tried first, and what never works is not repeated."""

from __future__ import annotations

from punch.contact_entries import MAX_TRIES
from punch.ice.punching.techniques import Technique
from punch.node.paths.restart_schedule import IMPROVE
from punch.node.punching.choice import ATTEMPTS
from punch.node.punching.coordinator import PunchingStatus
from punch.node.punching.schedule import SETTLE
from punch.test.internet import NAT, Filtering, Mapping, Ports
from punch.test.scenarios.early import EarlyTestCase
from punch.test.system import SERVICE, hear_nothing, introduce


class LearningTests(EarlyTestCase):
    """Alice and Bob, whose NATs give each destination the next port."""

    def setUp(self) -> None:
        super().setUp()
        for nat, step in zip(self.nats, (1, 2), strict=True):
            nat.mapping, nat.ports, nat.step = Mapping.APDM, Ports.SEQUENTIAL, step

    @property
    def tried(self) -> list[PunchingStatus]:
        """What both tried on their link."""
        return [peer.node.status.links[0].punching for peer in (self.alice, self.bob)]

    def link(self) -> None:
        """Start both anew, and have them connected; they know each other."""
        self.start()
        introduce(self.alice, self.bob)
        introduce(self.bob, self.alice)
        self.connect()

    def seconds_to_direct(self) -> float:
        """How many seconds after the link came up its path is direct on both sides."""
        self.link()
        began = self.net.now
        links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        self.net.run_until(
            lambda: all(link.status and link.status.path.kind != "relay" for link in links),
            20.0,
            "a direct path",
        )
        seconds = self.net.now - began
        self.stop()
        return seconds

    def let_fail(self, links: int) -> None:
        """Have so many links on which everything direct is lost; attempts are made on each."""
        for number in range(links):
            self.link()
            self.net.advance(10.0)
            for tried in self.tried:
                self.assertIs(tried.technique, Technique.PREDICTION)
                self.assertGreaterEqual(tried.attempts, 3, number)
            self.stop_and_lose()

    def stop_and_lose(self) -> None:
        """End both; everything direct is lost still."""
        self.stop()
        self.lose()

    def lose(self) -> None:
        """Lose everything direct from now on."""
        self.net.drop = lambda packet: (
            packet.source[0].startswith("203.0.113.") and packet.destination[0].startswith("203.0.113.")
        )

    def attempts(self) -> int:
        """How many attempts both make on a link of ten seconds."""
        self.link()
        self.net.advance(10.0)
        attempts = sum(tried.attempts for tried in self.tried)
        self.stop_and_lose()
        return attempts

    def test_the_second_link_is_direct_sooner(self) -> None:
        """The technique begins at once, and no handshake leaves early for ports that are not known yet."""
        first = self.seconds_to_direct()
        second = self.seconds_to_direct()
        self.assertLess(second, first - SETTLE / 2)
        self.start()
        self.connect()
        self.assertEqual(self.early_packets(), [])
        self.stop()
        self.nats[0].renumber("203.0.113.31")
        self.assertGreater(self.seconds_to_direct(), first - SETTLE / 2, "nothing is known of that network")

    def test_a_technique_that_never_works(self) -> None:
        """It rests after so many links, for a day, unless the network changes."""
        self.lose()
        self.let_fail(MAX_TRIES)
        self.assertEqual(self.attempts(), 0)
        self.days += 2
        self.assertGreater(self.attempts(), 0)
        self.assertEqual(self.attempts(), 0)
        self.nats[1].step = 4
        self.assertEqual(self.attempts(), 0, "another step may be seen of the same NAT")
        self.nats[1].mapping = Mapping.ADM
        self.assertGreater(self.attempts(), 0, "its NAT behaves in another way")
        self.nats[1].mapping = Mapping.APDM
        self.nats[0].renumber("203.0.113.31")
        self.assertGreater(self.attempts(), 0, "the network is another one")
        self.net.drop = None

    def test_what_was_not_made_is_no_failure(self) -> None:
        """Attempts that the other side refuses, or never answers, say nothing about the technique."""
        for _ in range(MAX_TRIES):
            self.link()
            for peer in (self.alice, self.bob):
                peer.hears = hear_nothing
            self.net.advance(20.0)
            self.assertGreaterEqual(max(tried.attempts for tried in self.tried), ATTEMPTS)
            self.stop()
        self.lose()
        self.assertGreater(self.attempts(), 0)
        self.net.drop = None

    def failures(self) -> list[list[tuple[str, int]]]:
        """Which techniques over UDP have failed, on how many links, by what both know of each other."""
        return [
            [
                (each.technique, each.times)
                for path in book.entry(peer).paths
                for each in path.failures
                if each.technique != Technique.TCP.value
            ]
            for book in self.books
            for peer in book
        ]

    def direct(self) -> bool:
        """Whether both sides have a direct path now."""
        links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        return all(link.status and link.status.path.kind != "relay" for link in links)

    def test_a_path_that_checks_alone_found(self) -> None:
        """The technique that was tried before has failed all the same."""
        self.link()
        self.lose()
        self.net.advance(10.0)
        attempts = [tried.attempts for tried in self.tried]
        self.assertGreaterEqual(min(attempts), ATTEMPTS)
        for nat in self.nats:
            nat.mapping, nat.ports = Mapping.EIM, Ports.PRESERVING
        self.net.drop = None
        self.net.run_until(self.direct, IMPROVE[0], "a direct path")
        self.assertEqual([tried.attempts for tried in self.tried], attempts)
        self.net.advance(5.0)
        self.stop()
        self.assertEqual(self.failures(), [[("prediction", 1)]] * 2)

    def test_in_another_network(self) -> None:
        """That it worked in the one network is no success in the next one, on the same link."""
        self.link()
        self.net.run_until(self.direct, 10.0, "a direct path")
        attempts = [tried.attempts for tried in self.tried]
        for host, nat in zip(self.hosts, self.nats, strict=True):
            cafe = NAT(
                public=f"{nat.public}0",
                mapping=Mapping.APDM,
                filtering=Filtering.APDF,
                ports=Ports.SEQUENTIAL,
            )
            host.move(self.net.lan(f"cafe {nat.public}", "192.168.9.0/24", nat=cafe))
        self.lose()
        self.net.advance(60.0)
        for tried, before in zip(self.tried, attempts, strict=True):
            self.assertGreaterEqual(tried.attempts, before + ATTEMPTS)
        self.stop()
        self.assertEqual(self.failures(), [[("prediction", 1)]] * 2)

    def test_an_end_while_nats_are_observed_anew(self) -> None:
        """A path that an attempt has found is remembered as such when nothing is known of the own NAT."""
        self.link()
        self.net.run_until(self.direct, 10.0, "a direct path")
        self.net.advance(1.0)
        self.net.drop = lambda packet: (
            packet.protocol == "udp"
            and packet.destination[0] == SERVICE
            and bytes(packet.payload[:2]) == b"\x00\x01"  # A Binding request for the reflector
        )
        self.days += 1  # As after a sleep
        self.net.advance(2.0)
        self.assertTrue(self.direct())
        self.assertEqual([tried.technique for tried in self.tried], [Technique.ICE] * 2)
        self.stop()
        self.net.drop = None
        techniques = [
            path.technique for book in self.books for peer in book for path in book.entry(peer).paths
        ]
        self.assertEqual(techniques, ["prediction"] * 2)

    def test_it_works_after_all(self) -> None:
        """What failed on two links counts no more when it has worked."""
        self.lose()
        self.let_fail(MAX_TRIES - 1)
        self.net.drop = None
        self.seconds_to_direct()
        self.lose()
        self.let_fail(MAX_TRIES - 1)
        self.assertGreater(self.attempts(), 0)
        self.net.drop = None


class SprayingTests(EarlyTestCase):
    """Alice's NAT has random ports, and Bob's one port for all."""

    def setUp(self) -> None:
        super().setUp()
        for nat, mapping in zip(self.nats, (Mapping.APDM, Mapping.EIM), strict=True):
            nat.mapping, nat.filtering, nat.ports = mapping, Filtering.APDF, Ports.RANDOM

    def link(self, seconds: float) -> list[PunchingStatus]:
        """What both, who know each other, tried on a link of so many seconds; everything direct is lost."""
        self.start()
        introduce(self.alice, self.bob)
        introduce(self.bob, self.alice)
        self.connect()
        self.net.drop = lambda packet: (
            packet.source[0].startswith("203.0.113.") and packet.destination[0].startswith("203.0.113.")
        )
        self.net.advance(seconds)
        tried = [peer.node.status.links[0].punching for peer in (self.alice, self.bob)]
        self.stop()
        return tried

    def failures(self) -> set[tuple[str, int]]:
        """Which techniques over UDP have failed, and how often, by what both know of each other."""
        return {
            (each.technique, each.times)
            for book in self.books
            for peer in book
            for path in book.entry(peer).paths
            for each in path.failures
            if each.technique != Technique.TCP.value
        }

    def test_short_links(self) -> None:
        """Each attempt counts, also on a link of half a minute."""
        for number in range(MAX_TRIES):
            self.assertEqual([tried.attempts for tried in self.link(25.0)], [1, 1])
            self.assertEqual(self.failures(), {("spraying", number + 1)})
        self.assertEqual([tried.attempts for tried in self.link(25.0)], [0, 0])

    def test_a_link_that_ends_meanwhile(self) -> None:
        """An attempt that did not come to its end says nothing."""
        for _ in range(MAX_TRIES):
            self.assertEqual([tried.attempts for tried in self.link(5.0)], [1, 1])
        self.assertEqual(self.failures(), set())

    def test_a_long_link(self) -> None:
        """It does not go on with what never works, however long it lasts."""
        self.assertEqual([tried.attempts for tried in self.link(2400.0)], [MAX_TRIES] * 2)
        self.assertEqual(self.failures(), {("spraying", MAX_TRIES)})


class UncertainMappingTests(EarlyTestCase):
    """The ports of Alice's NAT depend on the address, which the service's one address can't tell."""

    def setUp(self) -> None:
        super().setUp()
        for nat, mapping in zip(self.nats, (Mapping.ADM, Mapping.EIM), strict=True):
            nat.mapping, nat.filtering, nat.ports = mapping, Filtering.APDF, Ports.RANDOM
        self.nats[1].ports = Ports.PRESERVING

    def seconds_to_direct(self) -> float:
        """How many seconds after the link came up its path is direct on both sides; then it ends."""
        self.start()
        introduce(self.alice, self.bob)
        introduce(self.bob, self.alice)
        self.connect()
        began = self.net.now
        links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        self.net.run_until(
            lambda: all(link.status and link.status.path.kind != "relay" for link in links),
            60.0,
            "a direct path",
        )
        seconds = self.net.now - began
        self.net.advance(12.0)
        self.stop()
        return seconds

    def test_link_after_link(self) -> None:
        """Each is direct, however many there are, and no technique that finds nothing first is the last."""
        for _ in range(MAX_TRIES + 2):
            self.seconds_to_direct()
        failures = [
            each
            for book in self.books
            for peer in book
            for path in book.entry(peer).paths
            for each in path.failures
        ]
        self.assertEqual(failures, [])
