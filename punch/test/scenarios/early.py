"""Two peers, each at home, and what leaves there for the other before a path is known."""

from __future__ import annotations

from collections.abc import Callable

from punch.contacts import AddressBook
from punch.node.policies import RelayPolicy
from punch.test.internet import NAT, Filtering, InternetTestCase, LinkSpec, Mapping, Ports, Seen
from punch.test.internet.packet import Packet
from punch.test.system import (
    EPOCH,
    SERVICE,
    Connected,
    Peer,
    Rendezvous,
    introduce,
)
from punch.wire.control import Accept
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
