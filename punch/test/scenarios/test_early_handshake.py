"""
The first packets of a handshake together with the first checks: how much sooner the link is there, what it
costs when they are lost, and that nobody can start or aim them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from punch.contacts import AddressBook
from punch.ice.budget import MAX_EARLY, MAX_EARLY_BYTES
from punch.identity import Identity, PeerID
from punch.learned_paths import MAX_AGE
from punch.node.early_handshake import GRACE
from punch.node.ice_restart import IMPROVE
from punch.node.path import RelayPolicy
from punch.node.path_reports import LASTED
from punch.node.signaling import INTRODUCED_TIME
from punch.test.internet import NAT, Filtering, InternetTestCase, LinkSpec, Mapping, Ports, Seen
from punch.test.internet.packet import Packet
from punch.test.middleman import MiddlemanTestCase
from punch.test.system import (
    EPOCH,
    SERVICE,
    CallFailed,
    Connected,
    Disconnected,
    IncomingCall,
    Peer,
    Rendezvous,
    introduce,
)
from punch.wire.control import Accept, Answered, Incoming, Reply
from punch.wire.stun import Attribute, MessageClass, parse

D = 0.1
"""Seconds from peer to peer, and through the service."""
SLACK = 1e-6
SECOND = 12_000
"""Bytes that a second handshake may take on both sides, until it is given up."""
HOMES = "203.0.113.1", "203.0.113.2"
DAY = 86400.0


def is_handshake(packet: Packet | Seen) -> bool:
    """Whether a packet is one of QUIC's handshake."""
    return packet.protocol == "udp" and bytes(packet.payload[:1]) >= b"\xc0"


def answers(packet: Packet) -> bool:
    """Whether a packet tells that a check has arrived: as its answer, or in a check of the other side."""
    if packet.protocol != "udp" or packet.payload[:1] not in (b"\x00", b"\x01"):
        return False
    message = parse(packet.payload)
    return message.message_class is MessageClass.SUCCESS or Attribute.RECEIVED_CHECK in message


class EarlyTestCase(InternetTestCase):
    """Alice and Bob, each at home, who start anew for each link."""

    def setUp(self) -> None:
        self.place(LinkSpec(delay=D / 2))

    def place(self, link: LinkSpec) -> None:
        """Both homes, with these access links."""
        self.net = self.internet()
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.books = [AddressBook(None), AddressBook(None)]
        self.nats = [NAT(public=public, filtering=Filtering.APDF) for public in HOMES]
        self.hosts = [
            self.net.lan(
                f"home-{name}",
                f"192.168.{number}.0/24",
                nat=self.nats[number - 1],
                link=link,
            ).host(name)
            for number, name in enumerate(("alice", "bob"), 1)
        ]
        self.days = 0.0
        self.starts = 0
        self.relay = RelayPolicy.AUTO
        self.accept = Accept.ANYONE
        self.seen: list[Seen] = []
        self.net.trace = self.seen.append

    def start(self) -> tuple[Peer, Peer]:
        """Register both anew; they know their address books, and nothing else of before."""
        self.starts += 1
        self.alice, self.bob = (
            Peer(
                self.net,
                host,
                self.rendezvous.address,
                known=book,
                accept=self.accept,
                pacing=0.02,
                salt=str(self.starts),
                relay=self.relay,
                wall=lambda: EPOCH + self.days * DAY + self.net.now,
            )
            for host, book in zip(self.hosts, self.books, strict=True)
        )
        for peer in (self.bob, self.alice):
            peer.register()
        self.net.advance(5.0)
        self.seen.clear()
        return self.alice, self.bob

    def stop(self) -> None:
        """End both, and let all that they may send be new again."""
        for peer in (self.alice, self.bob):
            peer.stop()
        self.net.drop = None
        self.net.advance(700.0)

    def meet(self) -> None:
        """Know each other by a link."""
        alice, bob = self.start()
        introduce(alice, bob)
        introduce(bob, alice)
        self.connect()
        self.net.advance(12.0)
        self.stop()

    def connect(self, timeout: float = 30.0) -> tuple[float, float]:
        """Alice calls; how many seconds it takes until she, and Bob, are connected."""
        began = self.net.now
        self.alice.call(self.bob.id)
        self.net.run_until(lambda: self.alice.of(Connected) and self.bob.of(Connected), timeout, "a link")
        here, there = (
            next(time for time, event in peer.events if isinstance(event, Connected)) - began
            for peer in (self.alice, self.bob)
        )
        return here, there

    def forgetful(self) -> None:
        """Let both forget the paths, so that nothing is sent early."""
        for book in self.books:
            for peer in book:
                entry = book.entry(peer)
                book.forget(peer)
                book.add(peer, entry.claimed)

    def strict(self) -> None:
        """Both NATs are now such that each destination gets another port, at random."""
        for nat in self.nats:
            nat.mapping, nat.ports = Mapping.APDM, Ports.RANDOM

    def compare(self, impair: Callable[[], None], at_most: float, *, first: bool = False) -> None:
        """
        With these impairments, a link comes up as soon with early packets as without, or nearly so.

        :param first: impair the network before both register.
        """
        self.meet()
        if first:
            impair()
        self.start()
        if not first:
            impair()
        early = self.connect()
        self.assertTrue(self.early_packets(), "something was sent early")
        self.stop()
        self.forgetful()
        self.start()
        impair()
        plain = self.connect()
        self.assertEqual(self.early_packets(), [])
        self.stop()
        for with_early, without in zip(early, plain, strict=True):
            self.assertLessEqual(with_early, without + at_most + SLACK)

    def early_packets(self) -> list[Seen]:
        """The handshake's packets that left a host for an address from which no check had been answered."""
        early, answered = [], set()
        for seen in self.seen:
            name, _, direction = seen.link.partition(" ")
            if direction == "down" and seen.payload[:2] == b"\x01\x01":
                answered.add((name, seen.source))
            elif direction == "up" and is_handshake(seen) and (name, seen.destination) not in answered:
                early.append(seen)
        return early


class TimeTests(EarlyTestCase):
    """How soon the link is there."""

    def test_the_second_link(self) -> None:
        """
        Two delays sooner on both sides than the first one. The caller sends two datagrams early, the callee
        answers with fewer bytes than three times as many, and each to one address.
        """
        alice, bob = self.start()
        introduce(alice, bob)
        introduce(bob, alice)
        first = self.connect()
        self.assertEqual(self.early_packets(), [])
        self.net.advance(5.0)
        self.stop()
        self.start()
        second = self.connect()
        self.assertAlmostEqual(first[0] - second[0], 2 * D, 6)
        self.assertAlmostEqual(first[1] - second[1], 2 * D, 6)
        self.assertAlmostEqual(second[1], 5 * D, 6)
        sizes = {
            link: [seen.size for seen in self.early_packets() if seen.link == link]
            for link in ("alice up", "bob up")
        }
        self.assertEqual(sizes["alice up"], [1228, 1228])
        self.assertTrue(0 < sum(sizes["bob up"]) <= 3 * 2400, sizes)
        self.assertEqual({seen.destination[0] for seen in self.early_packets()}, set(HOMES))
        self.stop()

    def test_when_a_path_is_remembered(self) -> None:
        """When it has lasted, or at the end of a shorter link."""
        for seconds, remembered in ((LASTED - 1.0, 0), (LASTED, 1)):
            for book in self.books:
                for peer in book:
                    book.forget(peer)
            alice, bob = self.start()
            introduce(alice, bob)
            introduce(bob, alice)
            self.connect()
            self.net.advance(seconds)
            books = list(zip(self.books, (bob, alice), strict=True))
            self.assertEqual([len(book.entry(peer.id).paths) for book, peer in books], [remembered] * 2)
            self.stop()
            self.assertEqual([len(book.entry(peer.id).paths) for book, peer in books], [1, 1])

    def test_another_network(self) -> None:
        """Where it is another network on either side, nothing is sent early until that is known, too."""
        self.meet()
        for number, nat in enumerate(self.nats):
            nat.renumber(f"203.0.113.{31 + number}")
            self.start()
            self.connect()
            self.assertEqual(self.early_packets(), [], number)
            self.net.advance(12.0)
            self.stop()
        self.start()
        self.connect()
        self.assertNotEqual(self.early_packets(), [])
        self.stop()


class LossTests(EarlyTestCase):
    """What it costs when it is of no use: nothing, or the little that an answer is waited for."""

    def drop_handshake(self, source: str, count: int) -> Callable[[], None]:
        """Lose so many of the handshake's first packets that leave a home."""

        def impair() -> None:
            left = count

            def drop(packet: Packet) -> bool:
                nonlocal left
                if is_handshake(packet) and packet.source[0] == source and left:
                    left -= 1
                    return True
                return False

            self.net.drop = drop

        return impair

    def drop_early(self) -> None:
        """Lose all packets of a handshake until 3.5 D after now."""
        end = self.net.now + 3.5 * D
        self.net.drop = lambda packet: is_handshake(packet) and self.net.now < end

    def test_the_initial_is_lost(self) -> None:
        self.compare(self.drop_early, GRACE)

    def test_half_of_it_is_lost(self) -> None:
        self.compare(self.drop_handshake(HOMES[0], 1), GRACE)

    def test_the_answer_is_lost(self) -> None:
        self.compare(self.drop_handshake(HOMES[1], 3), GRACE)

    def test_only_the_relay_works(self) -> None:
        self.compare(self.strict, 0.0, first=True)

    def test_everything_direct_is_lost(self) -> None:
        def impair() -> None:
            self.net.drop = lambda packet: (
                packet.protocol == "udp" and packet.source[0] in HOMES and packet.destination[0] in HOMES
            )

        self.compare(impair, 0.0)

    def test_checks_arrive_later_than_the_initial(self) -> None:
        """The first checks of both are lost: what came before them is not taken."""

        def impair() -> None:
            end = self.net.now + 3.2 * D
            self.net.drop = lambda packet: (
                packet.protocol == "udp"
                and packet.payload[:2] == b"\x00\x01"
                and packet.source[0] in HOMES
                and packet.destination[0] in HOMES
                and self.net.now < end
            )

        self.compare(impair, GRACE)


class SlowTests(EarlyTestCase):
    """Lines on which the packets of a handshake take long, one after the other."""

    def test_rates(self) -> None:
        """
        The link is there sooner than without. A second handshake is begun, since the answer takes longer than
        that to a check; it is given up when the first one is answered.
        """
        for rate in (128e3, 512e3, 1e6):
            self.place(LinkSpec(delay=0.02, rate=rate))
            self.meet()
            self.start()
            early = self.connect()
            self.assertTrue(self.early_packets())
            size = self.handshake_bytes()
            self.stop()
            self.forgetful()
            self.start()
            plain = self.connect()
            self.assertLess(size, self.handshake_bytes() + SECOND, rate)
            self.stop()
            for with_early, without in zip(early, plain, strict=True):
                self.assertLess(with_early, without, rate)

    def handshake_bytes(self) -> int:
        """How many bytes of handshakes leave the two hosts, with those that come a little later."""
        self.net.advance(5.0)
        ups = [seen for seen in self.seen if seen.link in ("alice up", "bob up")]
        return sum(seen.size for seen in ups if is_handshake(seen))


class NoPathTests(EarlyTestCase):
    """The handshake is answered, which proves the link, and checks are not, so that there is no path."""

    def prove(self, *unanswered: str) -> None:
        """Alice calls. What would tell these homes that their checks have arrived is lost."""
        self.net.drop = lambda packet: (
            packet.source[0] in HOMES and packet.destination[0] in unanswered and answers(packet)
        )
        self.alice.call(self.bob.id)
        self.net.advance(1.0)
        self.assertTrue(self.early_packets())

    def fails(self, *unanswered: str) -> None:
        """Both calls end; if Alice has a path, she has a link meanwhile."""
        self.relay = RelayPolicy.NEVER
        self.meet()
        self.start()
        self.prove(*unanswered)
        self.assertEqual(len(self.alice.of(Connected)), HOMES[0] not in unanswered)
        self.net.advance(INTRODUCED_TIME)
        self.assertEqual(len(self.bob.of(CallFailed)), 1)
        self.net.advance(30.0)
        for peer in (self.alice, self.bob):
            linked = peer is self.alice and HOMES[0] not in unanswered
            self.assertEqual((len(peer.of(CallFailed)), len(peer.of(Disconnected))), (not linked, linked))
            self.assertEqual(peer.node.status.links, ())
        self.stop()

    def test_neither_has_a_path(self) -> None:
        self.fails(*HOMES)

    def test_the_caller_has_none(self) -> None:
        self.fails(HOMES[0])

    def test_the_callee_has_none(self) -> None:
        self.fails(HOMES[1])

    def gone(self, *, caller: bool) -> None:
        """One side has answered the handshake, and can't be reached by the rendezvous either after that."""
        self.relay = RelayPolicy.NEVER
        self.meet()
        left, gone = self.start()[:: -1 if caller else 1]
        self.prove(HOMES[1] if caller else HOMES[0])
        gone.host.kill()
        self.net.advance(INTRODUCED_TIME)
        self.assertEqual((len(left.of(CallFailed)), left.of(Connected)), (1, []))
        left.stop()

    def test_the_caller_is_gone(self) -> None:
        self.gone(caller=True)

    def test_the_callee_is_gone(self) -> None:
        self.gone(caller=False)

    def test_the_caller_gives_up(self) -> None:
        """Both calls end at once, as those of a link that is not proved."""
        self.relay = RelayPolicy.NEVER
        self.meet()
        self.start()
        self.prove(*HOMES)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(1.0)
        for peer in (self.alice, self.bob):
            self.assertEqual((len(peer.of(CallFailed)), peer.of(Connected)), (1, []))
        self.stop()

    def test_the_path_is_found_later(self) -> None:
        """First on one side, whose messages through the rendezvous do not end the call of the other one."""
        self.relay = RelayPolicy.NEVER
        for home in HOMES:
            self.meet()
            self.start()
            self.prove(home)
            self.net.drop = None
            for peer in (self.alice, self.bob):
                peer.wait_for(Connected, 5.0)
                self.net.advance(5.0)
                self.assertEqual((peer.of(CallFailed), peer.of(Disconnected)), ([], []))
            self.net.advance(INTRODUCED_TIME)
            self.assertEqual([len(each.node.status.links) for each in (self.alice, self.bob)], [1, 1])
            self.stop()

    def test_the_relay_is_found_later(self) -> None:
        """It is left as any other for a direct path, which a restart looks for after a while."""
        self.meet()
        self.start()
        self.prove(*HOMES)
        for peer in (self.alice, self.bob):
            self.assertEqual(peer.wait_for(Connected, 10.0).path.kind, "relay")
        self.net.drop = None
        links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        self.net.run_until(
            lambda: all(link.status and link.status.path.kind != "relay" for link in links),
            IMPROVE[0] + 5.0,
            "a direct path",
        )
        self.stop()


class HostileTests(EarlyTestCase):
    """Who can't have packets sent early, nor aim them."""

    def assert_nothing_early(self) -> None:
        self.connect()
        self.assertEqual(self.early_packets(), [])
        self.stop()

    def test_who_is_not_known(self) -> None:
        """A stranger that calls or is called, however often; nor one whom only one side knows."""
        self.start()
        self.assert_nothing_early()
        self.books[1] = AddressBook(None)
        self.start()
        self.connect()
        # Alice remembers Bob; he, who takes anyone's calls, does not know her
        self.assertEqual({seen.link for seen in self.early_packets()}, {"alice up"})
        self.stop()

    def test_known_without_an_earlier_link(self) -> None:
        self.start()
        introduce(self.alice, self.bob)
        introduce(self.bob, self.alice)
        self.assert_nothing_early()

    def test_forgotten_and_blocked(self) -> None:
        """What was learned goes with the contact, and does not count for one that is blocked."""
        self.meet()
        self.start()
        for book, other in zip(self.books, (self.bob, self.alice), strict=True):
            entry = book.entry(other.id)
            self.assertTrue(entry.paths)
            book.forget(other.id)
            book.add(other.id, entry.claimed)
            self.assertEqual(book.entry(other.id).paths, ())
        self.assert_nothing_early()
        self.meet()
        self.start()
        self.books[0].block(self.bob.id)
        self.connect()
        self.assertNotIn("alice up", {seen.link for seen in self.early_packets()})
        self.stop()

    def test_another_network_while_it_rings(self) -> None:
        """What was learned in one network does not count in another, for a call that began in the first."""
        self.meet()
        self.books[1], self.accept = AddressBook(None), Accept.ASK
        self.start()
        self.alice.call(self.bob.id)
        self.bob.wait_for(IncomingCall, 5.0)
        guests = self.net.lan(
            "guests", "192.168.9.0/24", nat=NAT(public="203.0.113.9"), link=LinkSpec(delay=D / 2)
        )
        self.alice.host.move(guests, "192.168.9.2")
        self.net.advance(3.0)
        self.bob.node.accept(self.alice.id)
        self.net.run_until(lambda: self.alice.of(Connected), 30.0, "a link")
        self.assertEqual(self.early_packets(), [])
        self.stop()

    def test_long_ago(self) -> None:
        """An address may be somebody else's after a month."""
        self.meet()
        self.days += MAX_AGE + 1
        self.start()
        self.assert_nothing_early()

    def test_a_clock_that_was_set_back(self) -> None:
        """A time in the future does not last longer."""
        self.days = 2 * MAX_AGE
        self.meet()
        self.days = 0
        self.start()
        self.assert_nothing_early()

    def test_a_relayed_link(self) -> None:
        """It proves no address of the peer."""
        self.strict()
        self.meet()
        for nat in self.nats:
            nat.mapping = Mapping.EIM
        self.start()
        self.assert_nothing_early()

    def test_hidden_addresses(self) -> None:
        """With `--relay only` nothing leaves our own sockets, early or late."""
        self.meet()
        self.relay = RelayPolicy.ONLY
        self.start()
        self.assert_nothing_early()

    def test_where_the_peer_is_not_now(self) -> None:
        """Nothing goes to an address that is remembered, which may be somebody else's, but was not named."""
        self.meet()
        victim = self.net.host("victim", "203.0.113.66")
        for book in self.books:
            for peer in book:
                for path in book.entry(peer).paths:
                    self.assertIn(path.host, HOMES)
                    book.forget(peer)
                    book.add(peer, "other")
                    book.learn(peer, replace(path, host=victim.address))
        self.start()
        self.assert_nothing_early()

    def test_call_after_call(self) -> None:
        """Nothing of what is sent early arrives, and a known peer calls again and again: it has a limit."""
        self.meet()
        self.start()
        self.net.drop = lambda packet: (
            packet.protocol == "udp" and packet.source[0] in HOMES and packet.destination[0] in HOMES
        )
        for _ in range(8):
            count = len(self.alice.of(Connected))
            self.alice.call(self.bob.id)
            self.alice.wait_for(Connected, 20.0, count + 1)
            self.alice.node.hangup(self.bob.id)
            self.net.advance(5.0)
        early = [seen for seen in self.early_packets() if seen.link == "alice up"]
        self.assertGreater(len(early), 0)
        self.assertLessEqual(len(early), MAX_EARLY)
        self.assertLessEqual(sum(seen.size for seen in early), MAX_EARLY_BYTES)
        self.stop()


class RendezvousTests(MiddlemanTestCase):
    """A rendezvous that records, repeats and lies."""

    def setUp(self) -> None:
        super().setUp()
        introduce(self.bob, self.alice)
        self.call(10.0)
        self.net.advance(2.0)
        self.alice.node.hangup(self.bob.id)
        # What was answered lately would be forgotten, and so would be the budget
        self.net.advance(700.0)
        self.seen: list[Seen] = []
        self.net.trace = self.seen.append

    def initials(self) -> list[Seen]:
        """The first packets of handshakes that leave Alice's host, unless a check was answered before."""
        early = []
        for seen in self.seen:
            if seen.link == "alice down" and seen.payload[:2] == b"\x01\x01" and seen.source[1] != 3478:
                break
            if seen.link == "alice up" and is_handshake(seen):
                early.append(seen)
        return early

    def call_again(self) -> None:
        self.alice.call(self.bob.id)
        self.net.advance(3.0)

    def test_honest(self) -> None:
        """So that the other tests show something."""
        self.call_again()
        self.assertEqual(len(self.initials()), 2)

    def test_a_recorded_answer(self) -> None:
        """It belongs to another offer: nothing is sent at all."""
        recorded = [reply for _, reply in self.middle.passed if isinstance(reply, Answered)]

        def repeat(to: PeerID, reply: Answered) -> list[tuple[PeerID, Reply]]:
            return [(to, replace(recorded[0], call=reply.call))]

        self.on(Answered, repeat)
        self.call_again()
        self.assertEqual(self.initials(), [])
        self.assertEqual([seen for seen in self.seen if is_handshake(seen)], [])

    def test_an_offer_that_is_delivered_again(self) -> None:
        """Bob answers no copy, so that nothing of his is sent to where Alice was."""
        (recorded, *_) = [reply for _, reply in self.middle.passed if isinstance(reply, Incoming)]
        for call in (recorded.call, "ab" * 16):
            self.middle.deliver(self.bob.id, replace(recorded, call=call))
            self.net.advance(2.0)
        self.assertEqual([seen for seen in self.seen if seen.link == "bob up" and is_handshake(seen)], [])

    def test_in_the_name_of_another(self) -> None:
        """An answer of Bob's as that of somebody else."""
        stranger = Identity.generate(self.net.random_bytes("stranger")).peer_id
        self.on(Answered, lambda to, reply: [(to, replace(reply, sender=stranger))])
        self.call_again()
        self.assertEqual([seen for seen in self.seen if is_handshake(seen)], [])
