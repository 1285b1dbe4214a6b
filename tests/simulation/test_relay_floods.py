"""Floods at a relay: spoofed sources, random requests, allocations that come and go."""

from __future__ import annotations

from dataclasses import replace

from punch.rendezvous.config import RendezvousLimits
from punch.test.internet import Packet, Seen
from punch.test.rendezvous.relay_service_case import RelayServiceCase, TURNClient
from punch.test.rendezvous.test_service import SERVICE
from punch.test.turn.server.test_forged import CAROL, VICTIM, ForgerCase
from punch.test.turn.server.test_metering import BURST, RATE
from punch.test.turn.server.test_requests import RequestCase
from punch.test.turn.server.turn_server import UDP, TurnServer, code_of
from punch.wire.address import Address
from punch.wire.stun import Attribute, MessageClass, Method, StunMessage, encode
from punch.wire.turn import TurnTransport


class SpoofTests(RelayServiceCase):
    """Requests in the names of others, in packets, at the service's own UDP port."""

    def flood(self, sources: list[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Each is said to send one; bytes of its question and of the answers that left, by source."""
        (server,) = [each for each in self.servers() if each.url.transport is TurnTransport.UDP]
        login = [(Attribute.USERNAME, server.username), (Attribute.REALM, server.realm)]
        stale = [*login, (Attribute.NONCE, "A" * 16)]
        handed_out = [*login, (Attribute.NONCE, server.nonce)]
        questions = [
            encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, b"transaction.", attributes), key)
            for attributes, key in [
                ((UDP,), None),
                ((UDP, *stale), bytes(16)),
                ((UDP, *handed_out), bytes(16)),
                ((UDP, *login), bytes(16)),
            ]
        ]
        questions.append(
            encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, bytes(12)), fingerprint=False)
        )
        asked: dict[tuple[str, int], int] = {}
        trace: list[Seen] = []
        self.net.trace = trace
        (wire,) = self.net.host("spoofer").interfaces
        state = len(self.host.reactor.open_ports), len(self.host.reactor.getDelayedCalls())
        for number, source in enumerate(sources):
            question = questions[number % len(questions)]
            asked[source] = len(question)
            wire.send(Packet("udp", source, (SERVICE, 3478), question, 28 + len(question)))
            if number % 100 == 99:
                self.net.advance(0.001)
        self.net.advance(0.2)
        self.net.trace = None
        self.assertEqual(len(self.relay.core.allocations), 0)
        self.assertEqual(self.relay.core.allocations.users, {})
        self.assertEqual((len(self.host.reactor.open_ports), len(self.host.reactor.getDelayedCalls())), state)
        answered = dict.fromkeys(asked, 0)
        for seen in trace:
            if seen.source == (SERVICE, 3478) and seen.link == "rendezvous up":
                answered[seen.destination] += len(seen.payload)
        return {source: (size, answered[source]) for source, size in asked.items()}

    def test_two_thousand_sources(self) -> None:
        """Every one may be a client: no state, and to nobody more than three bytes for one."""
        sources = [(f"{20 + (number >> 8)}.{number & 255}.7.1", 1024 + number) for number in range(2_000)]
        told = self.flood(sources)
        for question, answer in told.values():
            self.assertTrue(0 < answer <= 3 * question, (question, answer))
        self.client(TurnTransport.UDP).allocate()

    def test_one_victim(self) -> None:
        """All of one /24: it hears a few hundred answers, and can still be a client."""
        network = self.home.addresses[0].rpartition(".")[0]
        sources = [(f"{network}.{number & 255}", 1024 + number) for number in range(2_000)]
        told = self.flood(sources)
        answers = sum(answer > 0 for _, answer in told.values())
        self.assertTrue(500 <= answers < 520, answers)
        self.client(TurnTransport.UDP).allocate()


class ChurnTests(RequestCase):
    """Allocations that come and go."""

    def test_churn_leaves_nothing(self) -> None:
        """Allocating and deleting, a thousand times."""
        for _ in range(1000):
            self.server.advance(0.02)
            self.alice.allocate()
            self.alice.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        table = self.server.core.allocations
        self.assertEqual((len(table), self.server.ports.open_ports), (0, {}))


class MeteredStreamTests(RelayServiceCase):
    """Connections to the service."""

    limits = replace(RendezvousLimits(), relay_requests_rate=RATE, relay_requests_burst=BURST)

    def test_slowed_down(self) -> None:
        """On a stream, requests beyond the limit are read later, and none is lost."""
        for transport in (TurnTransport.TCP, TurnTransport.TLS):
            client = self.client(transport)
            client.allocate()
            login = (
                (Attribute.USERNAME, client.server.username),
                (Attribute.REALM, client.server.realm),
                (Attribute.NONCE, client.nonce),
            )
            # More than a connection reads at once.
            request = encode(
                StunMessage(Method.REFRESH, MessageClass.REQUEST, b"transaction.", login), client.key
            )
            count = 3 * 65536 // len(request)
            client.send(request * count)
            self.net.advance(1.0)
            early = self.answers(client)
            self.assertTrue(0 < early < count, early)
            self.net.advance(200.0)
            self.assertEqual(self.answers(client), count)

    def answers(self, client: TURNClient) -> int:
        """How many have come to that client."""
        return sum(data[8:20] == b"transaction." for data in client.messages)


class ForgedRoomTests(ForgerCase):
    """Requests with forged sources take no room."""

    def test_they_count_for_no_address(self) -> None:
        """A thousand in the name of one network keep nobody there away."""
        self.server = TurnServer(allocations_per_address=2, allocations=1000)
        for number in range(1000):
            self.forged(Address(VICTIM.host, number + 1), f"mallory{number}").allocate()
        victim = self.victim()
        self.prove(victim)
        self.assertEqual(code_of(victim.permit(CAROL)), 0)
