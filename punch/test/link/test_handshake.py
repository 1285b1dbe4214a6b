"""How keys are agreed, and links whose other side vanishes, or comes back with a ticket."""

from __future__ import annotations

from typing import Any

from punch.link.events import CloseCode, LinkLimits, StreamData, encode_name
from punch.link.proof import LinkCertificate
from punch.link.quic.interface import QuicBackend
from punch.test.link.link_pair import (
    LinkTestCase,
    Pipe,
    RogueCallee,
    RogueCaller,
    aioquic_backend,
)


class KeyExchangeTests(LinkTestCase):
    """Both sides know whether the keys were agreed with X25519MLKEM768."""

    def check(self, caller: QuicBackend, callee: QuicBackend, expected: bool) -> None:
        sides = self.make_caller(backend=caller), self.make_callee(backend=callee)
        pipe = Pipe(*sides)
        for side in sides:
            self.assertFalse(side.core.post_quantum)
            side.core.start(0.0)
        self.assertTrue(pipe.run(5.0, lambda: all(side.proved for side in sides)))
        self.assertEqual([side.core.post_quantum for side in sides], [expected, expected])

    def test_two_of_today(self) -> None:
        self.check(self.backend, self.backend, True)

    def test_one_that_has_no_such_group(self) -> None:
        other = aioquic_backend()
        if other is None:
            self.skipTest("aioquic (the extra `aioquic`) is not installed")
        self.check(other, self.backend, False)
        self.check(self.backend, other, False)


class VanishTests(LinkTestCase):
    """The other side is silent, or goes silent in the middle of the handshake."""

    def test_nobody_there(self) -> None:
        caller = self.make_caller(limits=LinkLimits(prove_seconds=20))
        pipe = Pipe(caller, self.make_callee())
        pipe.lose = lambda data, target: True
        caller.core.start(0.0)
        pipe.run(30.0, lambda: caller.closed is not None)
        assert caller.closed is not None
        self.assertEqual(caller.closed.code, CloseCode.TIMEOUT)
        self.assertApproximates(pipe.now, 20.0, 0.1)

    def test_callee_hears_nobody(self) -> None:
        callee = self.make_callee()
        callee.core.start(0.0)
        pipe = Pipe(self.make_caller(), callee)
        pipe.run(30.0, lambda: callee.closed is not None)
        assert callee.closed is not None
        self.assertEqual(callee.closed.code, CloseCode.TIMEOUT)

    def test_callee_that_is_proved_to_before_it_starts(self) -> None:
        """The caller's path may work, and carry the whole handshake, before the callee has chosen one."""
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        self.assertTrue(pipe.run(5.0, lambda: callee.proved))
        callee.core.start(pipe.now)
        pipe.run(60.0)
        self.assertIsNone(callee.closed)
        self.assertIsNone(caller.closed)

    def test_both_sides_end_alike_whatever_the_delay(self) -> None:
        for round_trip in (0.1, 1.0, 3.0, 4.9, 5.0, 5.1, 7.0, 10.0, 13.0, 16.0, 19.0, 19.9, 20.1, 24.0, 40.0):
            caller, callee = self.make_caller(), self.make_callee()
            pipe = Pipe(caller, callee)
            pipe.delay = round_trip / 2
            caller.core.start(0.0)
            callee.core.start(0.0)
            pipe.run(60.0)
            works = round_trip < 20
            self.assertEqual((caller.proved, callee.proved), (works, works), round_trip)
            self.assertEqual((caller.closed is None, callee.closed is None), (works, works), round_trip)

    def vanish(self, survivor: int, packets: int) -> None:
        """All datagrams after the first `packets` are lost."""
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        callee.core.start(0.0)
        node = (caller, callee)[survivor]
        pipe.lose = lambda data, target: len(pipe.sent) > packets
        pipe.run(26.0, lambda: node.closed is not None)
        if node.proved:
            # As far as it knows the other side is there; whether it lives is for the layer above.
            return
        assert node.closed is not None, (survivor, packets)
        self.assertEqual(node.closed.code, CloseCode.TIMEOUT)
        self.assertEqual(node.of(StreamData), [])

    def test_vanishes_at_every_step_of_the_handshake(self) -> None:
        for survivor in (0, 1):
            for packets in range(7):
                self.vanish(survivor, packets)

    def lossy_handshake(self, seed: int) -> None:
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        self.random.seed(seed)
        pipe.lose = lambda data, target: self.random.random() < 0.3
        caller.core.start(0.0)
        self.assertTrue(pipe.run(15.0, lambda: caller.proved and callee.proved), seed)

    def test_a_lossy_handshake_succeeds(self) -> None:
        for seed in range(5):
            self.lossy_handshake(seed)


class ResumptionTests(LinkTestCase):
    """Sessions are never resumed, and data never comes early."""

    def test_callee_gives_no_tickets_and_takes_none(self) -> None:
        """A client with a ticket, from a server that does resume, has to do a full handshake."""
        tickets = Tickets()
        self.obtain_ticket(tickets)
        self.assertEqual(len(tickets.of_client), 1)
        callee = self.make_callee()
        client = tickets.client(0.0, resume=True)
        rogue = RogueCaller(client)
        # As early as can be: before the handshake, with the ticket's keys.
        rogue.quic.send(rogue.quic.open_stream(), encode_name("early"), False)
        pipe = Pipe(rogue, callee)
        pipe.run(2.0, lambda: rogue.refused is not None or rogue.handshake)
        self.assertFalse(rogue.resumed)
        pipe.run(6.0)
        self.assertEqual(callee.events, [])
        self.assertIsNotNone(rogue.refused)

    def test_resumed_connection_is_closed(self) -> None:
        """A resumed connection is closed even if the library resumes it and the proof on it is good."""
        tickets = Tickets()
        self.obtain_ticket(tickets)
        callee = self.make_callee(backend=tickets)
        rogue = RogueCaller(tickets.client(0.0, resume=True))
        rogue.on_handshake_done = rogue.prove
        pipe = Pipe(rogue, callee)
        pipe.run(2.0, lambda: rogue.refused is not None)
        self.assertTrue(rogue.resumed)
        self.assertEqual(rogue.refused, (CloseCode.PROOF, "A link is never resumed."))
        self.assertEqual(callee.events, [])

    def test_early_data_is_never_heard(self) -> None:
        tickets = Tickets()
        self.obtain_ticket(tickets)
        callee = self.make_callee(backend=tickets)
        rogue = RogueCaller(tickets.client(0.0, resume=True))
        rogue.quic.send(rogue.quic.open_stream(), b"\x01" + bytes(64), False)
        rogue.quic.send(rogue.quic.open_stream(), encode_name("chat/1") + b"early", True)
        pipe = Pipe(rogue, callee)
        pipe.run(2.0, lambda: rogue.refused is not None)
        self.assertIsNotNone(rogue.refused)
        self.assertEqual(callee.events, [])

    def test_caller_refuses_a_resumed_connection(self) -> None:
        tickets = Tickets()
        self.obtain_ticket(tickets)
        tickets.resume = True
        caller, callee = self.make_caller(backend=tickets), self.make_callee(backend=tickets)
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        pipe.run(2.0, lambda: caller.closed is not None)
        assert caller.closed is not None
        self.assertEqual(caller.closed.code, CloseCode.PROOF)
        self.assertFalse(caller.proved)

    def obtain_ticket(self, tickets: Tickets) -> None:
        client = RogueCaller(tickets.client(0.0))
        pipe = Pipe(client, RogueCallee(tickets, self.certificate))
        pipe.run(1.0, lambda: bool(tickets.of_client))


class Tickets(QuicBackend):
    """
    qh3 with session tickets, which our own backend can't be talked into: for attackers, and to show the
    check.
    """

    name = "qh3 with tickets"

    def __init__(self) -> None:
        from punch.link.quic.qh3 import Qh3Backend

        self.plain = Qh3Backend()
        self.of_client: list[Any] = []
        self.of_server: dict[bytes, Any] = {}
        self.resume = False

    def client(self, now: float, resume: bool = False) -> Any:
        from qh3.quic.connection import QuicConnection as Library

        from punch.link.quic.interface import LOGICAL_ADDRESS
        from punch.link.quic.qh3 import Qh3Connection

        configuration = self.plain.configuration(True)
        if resume or self.resume:
            configuration.session_ticket = self.of_client[0]
        quic = Library(configuration=configuration, session_ticket_handler=self.of_client.append)
        quic.connect(LOGICAL_ADDRESS, now)
        return Qh3Connection(quic)

    def server(self, certificate: LinkCertificate, original_destination_connection_id: bytes) -> Any:
        from qh3.quic.connection import QuicConnection as Library

        from punch.link.quic.qh3 import Qh3Connection

        def keep(ticket: Any) -> None:
            self.of_server[ticket.ticket] = ticket

        configuration = self.plain.configuration(False)
        configuration.load_cert_chain(certificate.certificate_pem(), certificate.private_key_pem())
        quic = Library(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            session_ticket_handler=keep,
            session_ticket_fetcher=lambda label: self.of_server.pop(label, None),
        )
        return Qh3Connection(quic)
