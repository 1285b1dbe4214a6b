"""Complete nodes on impaired networks: loss, long delays, full queues; and a long chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol

from punch.link.core import LinkCore
from punch.link.link import Link
from punch.link.services import anyone
from punch.node.events import (
    CallFailed,
    Disconnected,
    PathChanged,
    PathLost,
    Registered,
    Unregistered,
)
from punch.node.policies import RelayPolicy
from punch.test.internet import NAT, Lan, LinkSpec
from punch.test.system import SERVICE, Peer, SystemTestCase, connect

LOSSY = LinkSpec(delay=0.02, jitter=0.01, loss=0.1, reorder=0.02, duplicate=0.02)


class LossTests(SystemTestCase):
    """Every link loses one packet in ten in each direction, and reorders and duplicates some."""

    link = LOSSY

    def test_connect_and_chat(self) -> None:
        """Peers connect, and 100 messages each way arrive once and in order."""
        for attempt in range(3):
            alice, bob = self.peer(f"alice-{attempt}"), self.peer(f"bob-{attempt}")
            for peer in (alice, bob):
                peer.start()
                peer.wait_for(Registered, 60.0)
            connect(alice, bob, 60.0)
            for number in range(100):
                alice.chat.send(bob.id, f"a{number}")
                bob.chat.send(alice.id, f"b{number}")
            self.net.run_until(lambda: len(alice.delivered) == len(bob.delivered) == 100, 120.0)  # noqa: B023
            self.assertEqual(bob.texts(), [f"a{number}" for number in range(100)])
            self.assertEqual(alice.texts(), [f"b{number}" for number in range(100)])

    def test_many_calls(self) -> None:
        """Each of many calls in a row connects."""
        alice, bob = self.peer("alice"), self.peer("bob")
        for peer in (alice, bob):
            peer.start()
            peer.wait_for(Registered, 60.0)
        for _ in range(5):
            connect(alice, bob, 60.0)
            count = len(bob.of(Disconnected)) + 1
            alice.node.hangup(bob.id)
            bob.wait_for(Disconnected, 60.0, count)
            alice.wait_for(Disconnected, 60.0, count)


class LongDelayTests(SystemTestCase):
    """With round trips of many seconds, a call ends the same way on both sides."""

    def connect_in(self, round_trip: float) -> None:
        self.link = LinkSpec(delay=round_trip / 4)
        alice, bob = self.peer("alice"), self.peer("bob")
        for peer in (alice, bob):
            peer.start()
        self.net.advance(10 * round_trip)
        connect(alice, bob, 12 * round_trip)
        self.net.advance(2 * round_trip)
        for peer in (alice, bob):
            self.assertEqual(peer.of(CallFailed), [])
            self.assertEqual(peer.of(Disconnected), [])

    def test_three_seconds(self) -> None:
        self.connect_in(3.0)

    def test_five_seconds(self) -> None:
        self.connect_in(5.0)

    def test_eight_seconds(self) -> None:
        self.connect_in(8.0)


class Received(Protocol):
    """
    One end of a stream.

    :ivar size: how many bytes came.
    """

    size = 0

    def dataReceived(self, data: bytes) -> None:
        self.size += len(data)


class QueueTests(SystemTestCase):
    """A slow line whose queue is filled by the peer's own bulk transfer: 12 messages of 2 s each."""

    def register(self, *names: str, relay: RelayPolicy = RelayPolicy.AUTO) -> list[Peer]:
        """Register alice, whose line is slow, and others."""
        host = self.host("alice", LinkSpec(delay=0.03, rate=64_000.0))
        alice = Peer(self.net, host, self.rendezvous.address, pacing=0.02, relay=relay)
        self.peers.append(alice)
        peers = [alice, *(self.peer(name) for name in names)]
        for peer in peers:
            peer.start()
            peer.wait_for(Registered, 60.0)
        return peers

    def test_what_is_urgent(self) -> None:
        """
        A peer that sends a message meanwhile is told that it was delivered, and an ICE restart is agreed on,
        within seconds and not after the bulk; the registration, whose answers wait in the same queue, stays.
        """
        alice, bob = self.register("bob")
        connect(alice, bob)
        link = alice.link_to(bob)
        begin = self.net.now
        for number in range(12):
            alice.chat.send(bob.id, f"{number} ".ljust(16_000, "x"))
        for number, pause in enumerate((0.0, 3.0, 3.0), 1):
            self.net.advance(pause)
            said = self.net.now
            bob.chat.send(alice.id, "hello")
            self.net.run_until(lambda: len(bob.delivered) == number, 60.0)  # noqa: B023
            self.assertLess(bob.delivered[-1][0] - said, 6.0)
        # The provider reconnects bob: an ICE restart in the middle of it.
        lan = bob.host.interfaces[0].network
        assert isinstance(lan, Lan)
        assert lan.nat is not None
        self.assertEqual(bob.of(Unregistered), [])
        lan.nat.renumber("203.0.113.77")
        changed = self.net.now
        self.net.run_until(lambda: alice.of(PathChanged), 30.0)
        self.assertLess(self.net.now - changed, 10.0)
        self.assertLess(len(alice.delivered), 11)
        self.net.run_until(lambda: len(alice.delivered) == 12, 90.0)
        self.assertLess(self.net.now - begin, 40.0)
        self.assertEqual([text.split()[0] for text in bob.texts()], [str(number) for number in range(12)])
        self.assertIs(alice.link_to(bob), link)
        self.assertEqual(alice.of(Unregistered), [])

    def assert_short_first(self, alice: Peer, to: Peer) -> None:
        """Messages that alice sends in the middle of her bulk are shown within two seconds."""
        for number in range(2):
            self.net.advance(3.0)
            said = self.net.now
            alice.chat.send(to.id, f"short {number}")
            self.net.run_until(lambda: len(to.messages) > number, 30.0, "the message")  # noqa: B023
            # Four full datagrams of the bulk may be ahead of it, which take 0.6 s.
            self.assertLess(self.net.now - said, 2.0)

    def test_a_message_to_somebody_else(self) -> None:
        """A short message on another link waits for little of the bulk, and neither link changes its path."""
        alice, bob, carol = self.register("bob", "carol", relay=RelayPolicy.NEVER)
        for peer in (bob, carol):
            connect(alice, peer)
        changes = len(alice.of(PathChanged))
        for number in range(12):
            alice.chat.send(bob.id, f"{number} ".ljust(16_000, "x"))
        self.assert_short_first(alice, carol)
        self.assertLess(len(bob.messages), 6)
        self.assertEqual(len(alice.of(PathChanged)), changes)
        self.assertEqual(alice.of(Unregistered), [])

    def test_a_message_behind_a_transfer_on_its_link(self) -> None:
        """Streams of one link take turns: a chat message does not wait for the end of a long stream."""
        alice, bob = self.register("bob")
        received = Received()
        bob.node.serve("bulk/1", Factory.forProtocol(lambda: received), anyone)
        connect(alice, bob)
        opened: list[IProtocol] = []
        sending = Protocol()
        alice.link_to(bob).connect("bulk/1", Factory.forProtocol(lambda: sending)).addCallback(opened.append)
        self.net.run_until(lambda: opened, 5.0, "the stream")
        assert sending.transport is not None
        sending.transport.write(bytes(192_000))
        self.assert_short_first(alice, bob)
        self.assertLess(received.size, 120_000)
        self.assertEqual(alice.of(Unregistered), [])

    def test_over_a_relay(self) -> None:
        """The registration and the relay share the line, whose queue takes 30 s of traffic."""
        line = LinkSpec(delay=0.03, rate=64_000.0, queue=240_000)
        hosts = self.host("alice", line), self.host("bob")
        alice, bob = (
            Peer(self.net, host, self.rendezvous.address, pacing=0.02, relay=RelayPolicy.ONLY)
            for host in hosts
        )
        self.peers += [alice, bob]
        for peer in (alice, bob):
            peer.start()
            peer.wait_for(Registered, 60.0)
        connect(alice, bob)
        for number in range(5):
            alice.chat.send(bob.id, f"{number} ".ljust(16_000, "x"))
        self.net.advance(3.0)
        said = self.net.now
        bob.chat.send(alice.id, "hello")
        self.net.run_until(lambda: bob.delivered, 60.0)
        self.assertLess(bob.delivered[-1][0] - said, 6.0)
        self.net.run_until(lambda: len(alice.delivered) == 5, 60.0)
        for peer in (alice, bob):
            self.assertEqual(peer.of(Unregistered), [])
            self.assertEqual(peer.of(Disconnected), [])

    def over_tcp(self, *names: str, make_link: Callable[..., Link] = Link) -> tuple[Peer, list[Peer]]:
        """
        Connect alice, whose network lets only TCP to the rendezvous through, with others.

        :param make_link: as in `Peer`.
        """
        host = self.host("alice", LinkSpec(delay=0.03, rate=64_000.0, queue=240_000))
        self.net.drop = lambda packet: (
            "203.0.113.1" in (packet.source[0], packet.destination[0])
            and (packet.protocol != "tcp" or SERVICE not in (packet.source[0], packet.destination[0]))
        )
        alice = Peer(self.net, host, self.rendezvous.address, pacing=0.02)
        alice.make_link = make_link
        self.peers.append(alice)
        others = [self.peer(name) for name in names]
        for peer in (alice, *others):
            peer.start()
            peer.wait_for(Registered, 60.0)
        for peer in others:
            here, _ = connect(alice, peer)
            self.assertEqual(here.path.kind, "relay")
        return alice, others

    def test_links_over_one_tcp_connection(self) -> None:
        """
        Where no UDP gets out, all links share a TCP connection to the relay, and with it the line's queue, of
        which no link sees the others' part. With bulk on two of them, a short message on a third one and its
        mark wait for little of it, also while ICE restarts look for better paths; the line stays busy, and
        nobody loses a path or the registration.
        """
        alice, others = self.over_tcp("bob", "carol", "dave")
        bob, carol, dave = others
        self.net.advance(3.0)
        begin = self.net.now
        for number in range(6):
            for peer in (bob, carol):
                alice.chat.send(peer.id, f"{number} ".ljust(16_000, "x"))
        for number in range(1, 7):
            self.net.advance(2.0)
            said = self.net.now
            alice.chat.send(dave.id, f"short {number}")
            self.net.run_until(lambda: len(dave.messages) == number, 30.0, "the message")  # noqa: B023
            self.assertLess(self.net.now - said, 2.0)
            said = self.net.now
            dave.chat.send(alice.id, "hello")
            self.net.run_until(lambda: len(dave.delivered) == number, 30.0, "the mark")  # noqa: B023
            self.assertLess(self.net.now - said, 2.0)
        self.net.run_until(lambda: len(alice.delivered) == 18, 120.0)
        # Of 12 messages of 2 s each, three ICE restarts, and the headers of all
        self.assertLess(self.net.now - begin, 46.0)
        for peer in (bob, carol):
            self.assertEqual([text.split()[0] for text in peer.texts()], [str(number) for number in range(6)])
        for peer in (alice, *others):
            self.assertEqual(peer.of(Unregistered), [])
            self.assertEqual(peer.of(PathLost), [])

    def test_a_link_that_moves_or_ends_on_one_tcp_connection(self) -> None:
        """
        A link with bulk that gets another path over the same TCP connection, because the other side has
        another network, takes turns there from the first datagram on. When it ends, it has no more turns.
        """
        rooms: list[int | None] = []
        turns: list[bool] = []
        ended: list[Link] = []

        class Watched(Link):
            """Notes how much its path takes when it asks, and at each `room_made` whether it is open."""

            def __init__(self, core: LinkCore, *, room: Callable[[], int | None], **parts: Any) -> None:
                def asked() -> int | None:
                    rooms.append(room())
                    return rooms[-1]

                super().__init__(core, room=asked, **parts)

            def room_made(self) -> None:
                turns.append(self not in ended)
                super().room_made()

        alice, (bob, carol) = self.over_tcp("bob", "carol", make_link=Watched)
        for number in range(8):
            alice.chat.send(bob.id, f"{number} ".ljust(16_000, "x"))
        self.net.advance(4.0)
        rooms.clear()
        bob.host.move(self.net.lan("office", "10.9.0.0/24", nat=NAT(public="203.0.113.99")))
        self.net.run_until(lambda: alice.of(PathChanged), 30.0, "the path")
        self.assertLess(len(alice.delivered), 7)
        self.assertTrue(rooms)
        self.assertNotIn(None, rooms)
        link = alice.link_to(bob)
        link.when_closed().addCallback(lambda closed: ended.append(link))
        link.close()
        self.net.advance(2.0)
        self.assertNotIn(False, turns)
        self.assertIn(True, turns)
        alice.chat.send(carol.id, "short")
        self.net.run_until(lambda: carol.messages, 2.0, "the message")


class ChatTests(SystemTestCase):
    """A long chat."""

    def test_hundreds_of_messages_each_way(self) -> None:
        """All messages arrive once and in order, and each is acknowledged."""
        alice, bob = self.linked()
        for number in range(300):
            alice.chat.send(bob.id, f"from alice {number}")
            bob.chat.send(alice.id, f"from bob {number}")
            if number % 50 == 0:
                self.net.advance(0.05)
        self.net.run_until(lambda: len(alice.delivered) == len(bob.delivered) == 300, 120.0)
        self.assertEqual(bob.texts(), [f"from alice {number}" for number in range(300)])
        self.assertEqual(alice.texts(), [f"from bob {number}" for number in range(300)])
        self.assertEqual(len({number for _, _, number in alice.delivered}), 300)
