"""Whom the operator refuses: the file, and what it does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID, PeerIDError
from punch.rendezvous.members.lists import DenyList, ListFileError
from punch.test.rendezvous.control_client import connect_control, key_of
from punch.test.rendezvous.registry.test_registry import (
    ALICE,
    BOB,
    CALL,
    envelope,
)
from punch.test.rendezvous.relay_service_case import RelayServiceCase
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.test.turn.server.turn_server import UDP, code_of
from punch.wire.address import Address
from punch.wire.control import Establish
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
)
from punch.wire.turn import TurnTransport


class FileTests(SynchronousTestCase):
    """What may stand in the file."""

    def test_entries(self) -> None:
        deny = DenyList.parse(
            f"\ufeff# comment\r\n\n  {ALICE}  # why\r\n192.0.2.7\n198.51.100.0/24\n\t2001:db8:7::/48 # x\n"
            "::ffff:203.0.113.0/120\n192.0.2.7"
        )
        self.assertEqual(len(deny), 5)
        pasted = DenyList.parse(f"192.0.2.7\u200b\n\u2060{str(ALICE)[:9]}\u200b{str(ALICE)[9:]}\n")
        self.assertTrue(pasted.has_peer(ALICE) and pasted.has_host("192.0.2.7"))
        self.assertTrue(deny.has_peer(ALICE))
        self.assertFalse(deny.has_peer(BOB))
        for host in ("192.0.2.7", "::ffff:192.0.2.7", "198.51.100.255", "2001:db8:7:ffff::1", "203.0.113.5"):
            self.assertTrue(deny.has_host(host), host)
        for host in ("192.0.2.8", "198.51.101.1", "2001:db8:8::1", "::1", "", "unix", "fe80::1%eth0"):
            self.assertFalse(deny.has_host(host), host)

    def test_upper_case(self) -> None:
        self.assertTrue(DenyList.parse(str(ALICE).upper()).has_peer(ALICE))

    def test_keys_are_not_checked(self) -> None:
        """
        Whether a listed key is usable is not looked at: that takes 0.4 ms, and a list has thousands. The
        checksum is.
        """
        unusable = PeerID(bytes(32))
        self.assertRaises(PeerIDError, PeerID.parse, str(unusable))
        self.assertTrue(DenyList.parse(str(unusable)).has_peer(unusable))

    def test_everybody(self) -> None:
        deny = DenyList.parse("0.0.0.0/0\n::/0")
        self.assertTrue(deny.has_host("192.0.2.1"))
        self.assertTrue(deny.has_host("2001:db8::1"))

    def test_nobody(self) -> None:
        for text in ("", "\n", "# x"):
            self.assertEqual(len(DenyList.parse(text)), 0)

    def test_mistakes_are_named_with_line_and_column(self) -> None:
        typo = "b" + str(ALICE)[1:] if str(ALICE)[0] != "b" else "c" + str(ALICE)[1:]
        for text, place in (
            (f"192.0.2.1\n  {typo}", "line 2, column 3"),
            ("192.0.2.300", "line 1, column 1"),
            ("\n\n192.0.2.0/33 # x", "line 3, column 1"),
            ("192.0.2.1 198.51.100.1", "line 1, column 11"),
            ("192.0.2.1 192.0.2.1", "line 1, column 11"),
            ("# 1\nexample.org", "line 2, column 1"),
            ("fe80::1%eth0", "line 1, column 1"),
        ):
            problem = self.assertRaises(ListFileError, DenyList.parse, text)
            self.assertIn(f"{place}:", str(problem))

    def test_address_within_a_network(self) -> None:
        problem = self.assertRaises(ListFileError, DenyList.parse, "192.0.2.9/24")
        self.assertIn("write 192.0.2.0/24", str(problem))


class ServiceTests(RendezvousCase):
    """What the service does with it."""

    def ask_reflector(self, host: Any) -> int:
        """How many answers a host gets."""
        answers: list[bytes] = []

        class Asker(DatagramProtocol):
            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                answers.append(datagram)

        asker = Asker()
        port = host.reactor.listenUDP(0, asker)
        assert asker.transport is not None
        request = StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12))
        asker.transport.write(encode(request, fingerprint=False), (SERVICE, 3478))
        self.net.advance(0.5)
        port.stopListening()
        return len(answers)

    def test_peer_from_the_start(self) -> None:
        self.restart(deny=DenyList.of([self.alice.peer_id], []))
        client = self.connect(self.alice)
        self.assertEqual((client.last["code"], client.last["refusal"]), ("denied", "id-denied"))
        self.assertIn("operator", client.last["text"])
        self.assertIsNotNone(client.ended)
        self.register(self.bob)
        self.assertEqual(self.service.deny(DenyList()), 0)
        self.register(self.alice)

    def test_peer_that_is_there(self) -> None:
        alice = self.register(self.alice)
        bob = self.register(self.bob, self.office)
        bob.send(Establish(CALL, self.alice.peer_id, envelope(self.alice.peer_id)))
        self.net.advance(0.5)
        self.assertEqual(self.service.deny(DenyList.of([self.alice.peer_id], [])), 1)
        self.net.advance(0.5)
        self.assertEqual((alice.last["code"], alice.last["refusal"]), ("denied", "id-denied"))
        self.assertIsNotNone(alice.ended)
        # The call is over, too, and the other peer stays.
        self.assertEqual([line["code"] for line in bob.of("ended")], ["gone"])
        self.assertIsNone(bob.ended)
        self.assertEqual(self.reports[-1][1]["reason"], "denied")
        self.assertEqual(self.connect(self.alice).last["code"], "denied")

    def test_network(self) -> None:
        alice = self.register(self.alice)
        bob = self.register(self.bob, self.office)
        self.assertEqual([self.ask_reflector(host) for host in (self.home, self.office)], [1, 1])
        self.service.deny(DenyList.parse("203.0.113.1\n2001:db8:1::/48"))
        self.net.advance(0.5)
        self.assertEqual(alice.last["code"], "denied")
        self.assertIn("203.0.113.1", alice.last["text"])
        self.assertIsNone(bob.ended)
        self.assertEqual([self.ask_reflector(host) for host in (self.home, self.office)], [0, 1])
        self.assertEqual(self.connect(self.alice).last["code"], "denied")
        # For TURN there is no line to say it in.
        for alpn in ([b"stun.turn"], []):
            client = self.connect(None, alpn=alpn)
            self.assertIsNotNone(client.ended)

    def test_network_behind_a_balancer(self) -> None:
        self.restart(control="haproxy:tcp:7001", deny=DenyList.parse("192.0.2.0/24"))
        for source, answer in (("192.0.2.1", "denied"), ("198.51.100.7", None)):
            header = b"PROXY TCP4 %b 198.51.100.1 4000 7001\r\n" % source.encode()
            key = key_of(self.alice)
            client = connect_control(self.home.reactor, SERVICE, 7001, key, header=header)
            self.net.advance(0.5)
            self.assertEqual(client.last["code"] if client.lines else None, answer)

    def test_denied_before_the_places_are_counted(self) -> None:
        self.restart(
            limits=replace(self.limits, connections_per_address=1), deny=DenyList.parse("203.0.113.1")
        )
        for _ in range(3):
            self.assertEqual(self.connect(self.alice).last["code"], "denied")


class RelayTests(RelayServiceCase):
    """Allocations of those who are denied."""

    def test_peer(self) -> None:
        for transport in (TurnTransport.UDP, TurnTransport.TCP):
            client = self.client(transport)
            client.allocate()
            self.assertEqual(len(self.relay.core.allocations), 1)
            self.service.deny(DenyList.of([self.alice.peer_id], []))
            self.assertEqual(len(self.relay.core.allocations), 0)
            if transport is TurnTransport.UDP:
                # Its credentials are good still.
                self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
            self.service.deny(DenyList())

    def test_network(self) -> None:
        client = self.client(TurnTransport.UDP)
        client.allocate()
        self.service.deny(DenyList.parse("203.0.113.2"))
        self.assertEqual(len(self.relay.core.allocations), 1)
        self.service.deny(DenyList.parse("203.0.113.0/24"))
        self.assertEqual(len(self.relay.core.allocations), 0)

    def test_connection_without_an_allocation(self) -> None:
        """It came before its network was denied."""
        early, other = self.client(TurnTransport.TCP), self.client(TurnTransport.TCP, host=self.office)
        for client in (early, other):
            self.assertEqual(code_of(client.ask(Method.REFRESH)), 438)
        self.service.deny(DenyList.parse("203.0.113.1"))
        self.assertRaises(self.failureException, early.ask, Method.ALLOCATE, UDP)
        self.assertEqual(len(self.relay.core.allocations), 0)
        other.allocate()

    def test_where_it_relays(self) -> None:
        """Nothing goes to a denied network, or comes from there, whoever has the allocation."""
        stranger = self.net.host("stranger", "198.51.100.77", "2001:db8:9::1")
        got: list[bytes] = []

        class Stranger(DatagramProtocol):
            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                got.append(datagram)

        socket = Stranger()
        stranger.reactor.listenUDP(5000, socket, "198.51.100.77")
        client = self.client(TurnTransport.UDP)
        relayed, peer = client.allocate(), Address("198.51.100.77", 5000)
        client.bind(peer)
        for network, count in (("198.51.100.78", 1), ("198.51.100.64/26", 0), ("::ffff:198.51.100.77", 0)):
            self.service.deny(DenyList.parse(network))
            before = len(client.messages)
            client.relay(network.encode())
            assert socket.transport is not None
            socket.transport.write(network.encode(), (relayed.host, relayed.port))
            self.net.advance(0.2)
            self.assertEqual((len(got), len(client.messages) - before), (count, count), network)
            got.clear()
            answer = client.ask(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, peer))
            self.assertEqual(code_of(answer), 0 if count else 403)
        self.service.deny(DenyList())
        client.bind(peer)
        client.relay(b"again")
        self.net.advance(0.2)
        self.assertEqual(got, [b"again"])

    def test_from_the_start(self) -> None:
        client = self.client(TurnTransport.UDP)
        self.restart(deny=DenyList.of([self.alice.peer_id], []))
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
