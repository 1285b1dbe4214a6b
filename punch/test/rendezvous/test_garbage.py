"""
What connections and introductions leave for the garbage collector when they are over: nothing. With thousands
of peers it has so much to look at that nobody is served meanwhile.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from punch.test.rendezvous.control_client import RecordingControlClient, connect_control, connect_raw, key_of
from punch.test.rendezvous.registry.test_registry import CALL, envelope
from punch.test.rendezvous.relay_service_case import Datagrams, RelayServiceCase, TURNClient
from punch.test.rendezvous.test_service import SERVICE
from punch.test.turn.server.turn_server import UDP, code_of
from punch.wire.control import Answer, Cancel, Establish
from punch.wire.stun import Attribute, MessageClass, Method, StunMessage, encode
from punch.wire.turn import RelayServer, TurnTransport

PARTS = ("punch.rendezvous", "punch.turn.server", "punch.net.udp")
"""The packages that the service consists of."""
RESERVE = (Attribute.EVEN_PORT, True)


class GarbageTests(RelayServiceCase):
    """The collector is switched off, and yet nothing stays in memory."""

    def setUp(self) -> None:
        super().setUp()
        gc.collect()
        self.addCleanup(gc.enable)
        gc.disable()

    def parts(self) -> Counter[str]:
        """What the service consists of now, after a while."""
        self.net.advance(20.0)
        kinds = (type(each) for each in gc.get_objects())
        return Counter(kind.__qualname__ for kind in kinds if kind.__module__.startswith(PARTS))

    def assert_nothing_left(self, work: Callable[[], object]) -> None:
        """All of what this makes is gone afterwards. What it makes only once does not count."""
        work()
        before = self.parts()
        for _ in range(2):
            work()
        self.assertEqual(self.parts() - before, Counter())

    def pair(self) -> tuple[RecordingControlClient, RecordingControlClient]:
        return self.register(self.alice), self.register(self.bob, self.office)

    def introduce(self, caller: RecordingControlClient, callee: RecordingControlClient) -> None:
        """An introduction, from beginning to end."""
        alice, bob = self.alice.peer_id, self.bob.peer_id
        caller.send(Establish(CALL, bob, envelope(bob)))
        self.net.advance(0.5)
        callee.send(Answer(CALL, alice, envelope(alice)))
        self.net.advance(0.5)
        caller.send(Cancel(CALL, bob))
        self.net.advance(0.5)
        self.assertEqual(callee.last["type"], "ended")

    def test_introductions(self) -> None:
        pair = self.pair()
        self.assert_nothing_left(lambda: self.introduce(*pair))

    def test_registrations(self) -> None:
        """Of peers that leave, and of peers that vanish while they are introduced."""

        def leave() -> None:
            pair = self.pair()
            self.introduce(*pair)
            for client in pair:
                assert client.transport is not None
                client.transport.loseConnection()

        def vanish() -> None:
            caller, callee = self.pair()
            caller.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
            self.net.advance(0.5)
            caller.abort()
            callee.abort()

        self.assert_nothing_left(leave)
        self.assert_nothing_left(vanish)

    def test_refused(self) -> None:
        """Of clients that are sent away after the handshake, or send what is no TLS."""

        def replaced() -> None:
            self.register(self.alice)
            self.register(self.alice, self.office).abort()

        def malformed() -> None:
            self.register(self.alice).send(b"?")

        def not_tls() -> None:
            transport: Any = self.register(self.alice).transport
            transport.transport.write(b"\x17\x03\x03\x00\x20" + bytes(32))

        self.assert_nothing_left(not_tls)
        self.assert_nothing_left(replaced)
        self.assert_nothing_left(malformed)
        self.assert_nothing_left(lambda: self.connect(None))

    def test_handshakes(self) -> None:
        """Of handshakes that fail, or that the client gives up."""

        def give_up() -> None:
            client = connect_control(self.home.reactor, SERVICE, 7001, key_of(self.alice))
            while client.transport is None:
                self.net.advance(0.001)
            client.abort()

        def raw(data: bytes) -> None:
            client = connect_raw(self.home.reactor, SERVICE, 7001)
            self.net.advance(0.5)
            assert client.transport is not None
            client.transport.write(data)
            self.net.advance(0.5)
            client.abort()

        self.assert_nothing_left(give_up)
        self.assert_nothing_left(lambda: self.connect(self.alice, alpn=[b"h2"]))
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"):
            self.assert_nothing_left(partial(raw, data))

    def test_relay(self) -> None:
        """Of connections to the relay that make no allocation."""
        binding = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12)))

        def plain() -> None:
            client = connect_raw(self.home.reactor, SERVICE, 7001)
            self.net.advance(0.5)
            client.send(binding)
            self.net.advance(0.5)
            client.abort()

        def beneath_tls() -> None:
            client = self.connect(None, alpn=[b"stun.turn"])
            client.send(binding)
            self.net.advance(0.5)
            client.abort()

        self.assert_nothing_left(plain)
        self.assert_nothing_left(beneath_tls)

    def test_allocations(self) -> None:
        """Of allocations that their clients end, over UDP, TCP and TLS; they have relayed in both ways."""
        peer = Datagrams(self.office, self.office.addresses[0])

        def relay(transport: TurnTransport) -> None:
            client = self.client(transport)
            relayed = client.allocate()
            client.bind(peer.address)
            client.relay(b"there")
            self.net.advance(0.2)
            peer.send(b"back", relayed)
            self.net.advance(0.2)
            self.assertEqual((peer.received[-1], client.relayed[-1]), ((b"there", relayed), b"back"))
            self.assertEqual(code_of(client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))), 0)

        for transport in TurnTransport:
            self.assert_nothing_left(partial(relay, transport))

    def test_allocations_that_expire(self) -> None:
        """Of allocations whose clients vanish, and of ports that were reserved and never used."""
        client = self.client(TurnTransport.UDP)

        def expire() -> None:
            client.ask(Method.REFRESH)  # For a new nonce
            self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP, RESERVE)), 0)
            self.assertEqual(len(self.relay.core.allocations), 2)
            self.net.advance(700.0)
            self.assertEqual(len(self.relay.core.allocations), 0)

        self.assert_nothing_left(expire)
        self.assertEqual(self.service.ended_allocations, 3)

    def test_allocations_of_a_denied_user(self) -> None:
        """Of allocations that the operator ends."""
        client = self.client(TurnTransport.UDP)

        def deny() -> None:
            client.allocate()
            user = client.server.username.partition(":")[2]
            self.relay.deny(frozenset({user}), lambda host: False)
            self.assertEqual(len(self.relay.core.allocations), 0)
            self.relay.deny(frozenset(), lambda host: False)

        deny()  # This first client had not proved its address, so nothing was counted for it
        self.assert_nothing_left(deny)

    def test_lost_connections_with_allocations(self) -> None:
        """Of TCP connections that are lost while they have an allocation."""
        (server,) = [each for each in self.servers() if each.url.transport is TurnTransport.TCP]
        self.assert_nothing_left(partial(self._lose, server))

    def _lose(self, server: RelayServer) -> None:
        stream = self.stream(TurnTransport.TCP, server.url.port)
        TURNClient(self, server, self.writer(stream), lambda: stream.messages, True).allocate()
        transport: Any = stream.transport
        transport.abortConnection()
        self.net.advance(0.5)
        self.assertEqual(len(self.relay.core.allocations), 0)
