"""The end of a service while calls are introduced, and another certificate while peers are registered."""

from __future__ import annotations

from typing import Any, cast

from cryptography import x509
from twisted.internet.defer import Deferred

from punch.rendezvous.config import ServerCertificate
from punch.rendezvous.control_sessions import finish_introductions
from punch.test.rendezvous.control_client import RecordingControlClient, connect_raw, key_of_another_kind
from punch.test.rendezvous.registry.test_registry import CALL, envelope
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.wire.control import Accept, Answer, Cancel, Establish, Ping, Register, Trickle
from punch.wire.rendezvous_address import pin_of


class StoppingTests(RendezvousCase):
    """SIGTERM: `finish_introductions`."""

    def setUp(self) -> None:
        super().setUp()
        self.caller = self.register(self.alice)
        self.callee = self.register(self.bob, self.office)

    def call(self, *, answer: bool) -> None:
        self.caller.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
        self.net.advance(0.2)
        if answer:
            self.callee.send(Answer(CALL, self.alice.peer_id, envelope(self.alice.peer_id)))
            self.net.advance(0.2)

    def assert_told(self, *clients: RecordingControlClient) -> None:
        for client in clients:
            self.assertEqual(client.last["code"], "shutdown")
            self.assertIsNotNone(client.ended)

    def test_an_answered_call_is_finished(self) -> None:
        other_key = self.key("carol")
        other = self.register(other_key)
        self.call(answer=True)
        stopped = self.service.stopService()
        self.net.advance(0.5)
        self.assert_told(other)
        self.assertEqual(self.service.health.report().status.value, "stopping")
        # Candidates still pass in both directions, and nothing new begins.
        self.caller.send(Trickle(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
        self.callee.send(Trickle(CALL, self.alice.peer_id, envelope(self.alice.peer_id)))
        self.caller.send(Establish("f" * 32, self.bob.peer_id, envelope(self.bob.peer_id)))
        self.net.advance(0.5)
        self.assertEqual(len(self.callee.of("candidate")), 1)
        self.assertEqual(len(self.caller.of("candidate")), 1)
        (refused,) = self.caller.of("error")
        self.assertEqual((refused["code"], refused["call"]), ("shutdown", "f" * 32))
        self.assertIsNone(self.caller.ended)
        # The TCP port is closed meanwhile, so that peers go elsewhere.
        elsewhere = connect_raw(self.office.reactor, SERVICE, 7001)
        self.net.advance(0.3)
        self.assertIsNotNone(elsewhere.ended)
        self.net.wait(stopped, 3.5)
        self.net.advance(0.5)
        self.assert_told(self.caller, self.callee)
        self.assertEqual(self.host.reactor.getDelayedCalls(), [])

    def test_a_call_that_ends_is_not_waited_for(self) -> None:
        self.call(answer=True)
        stopped = self.service.stopService()
        self.net.advance(0.3)
        self.assertIsNone(self.callee.ended)
        self.caller.send(Cancel(CALL, self.bob.peer_id))
        self.net.wait(stopped, 1.5)
        self.net.advance(0.5)
        self.assert_told(self.caller, self.callee)

    def test_a_call_that_rings_can_be_answered_for_a_while(self) -> None:
        self.call(answer=False)
        stopped = self.service.stopService()
        self.net.advance(1.0)
        self.callee.send(Answer(CALL, self.alice.peer_id, envelope(self.alice.peer_id)))
        self.net.advance(0.3)
        self.assertEqual(self.caller.last["type"], "answered")
        self.net.wait(stopped, 5.0)

    def test_nobody_can_delay_it_further(self) -> None:
        """Ringing or answered calls delay the end by `stop_time` at most."""
        self.call(answer=False)
        stopped = self.service.stopService()
        self.net.advance(4.8)
        self.assertIsNone(self.caller.ended)
        self.callee.send(Answer(CALL, self.alice.peer_id, envelope(self.alice.peer_id)))
        self.net.wait(stopped, 1.5)
        self.net.advance(0.5)
        self.assert_told(self.caller, self.callee)

    def test_old_calls_are_not_waited_for(self) -> None:
        self.call(answer=True)
        self.net.advance(10.0)
        self.assertEqual(self.service.registry.introduction_count, 1)
        self.net.wait(self.service.stopService(), 1.5)

    def test_a_connection_that_registers_too_late(self) -> None:
        late = self.connect(self.key("late"))
        self.call(answer=True)
        stopped = self.service.stopService()
        late.send(Register("late", Accept.ASK))
        self.net.advance(0.5)
        self.assert_told(late)
        self.net.wait(stopped, 5.0)

    def test_registry_refuses(self) -> None:
        """`finish_introductions` without an introduction ends at once, and the registry takes nothing new."""
        kept: list[Any] = []
        registry = self.service.registry
        finishing = finish_introductions(
            registry, kept.append, clock=self.service.clock, monotonic=self.net.monotonic, time=5.0
        )
        self.net.wait(Deferred.fromCoroutine(finishing), 0.1)
        self.assertEqual(kept, [set()])
        again = self.connect(self.key("dave"))
        again.send(Register("dave", Accept.ASK))
        self.net.advance(0.5)
        self.assert_told(again)


class CertificateTests(RendezvousCase):
    """`RendezvousService.use_certificate`."""

    def pin_shown(self) -> bytes:
        client = self.connect(self.bob, self.office)
        certificate = cast(Any, client.transport).getPeerCertificate().to_cryptography()
        assert isinstance(certificate, x509.Certificate)
        client.abort()
        return pin_of(certificate.public_key())

    def test_another_certificate(self) -> None:
        old_key, old = key_of_another_kind()
        new_key, new = key_of_another_kind()
        self.restart(host="r.example", authority_certificate=ServerCertificate((old,), old_key))
        client = self.register(self.alice)
        self.assertEqual(self.pin_shown(), pin_of(old_key.public_key()))

        self.assertRaises(ValueError, self.service.use_certificate, ServerCertificate((new,), old_key))
        self.assertEqual(self.pin_shown(), pin_of(old_key.public_key()))

        self.service.use_certificate(ServerCertificate((new,), new_key))
        self.assertEqual(self.pin_shown(), pin_of(new_key.public_key()))
        assert self.service.local_address is not None
        self.assertEqual(self.service.local_address.pin, pin_of(new_key.public_key()))
        self.assertEqual(str(self.service.address), "punch://r.example:7001")
        client.send(Ping())
        self.net.advance(0.5)
        self.assertEqual(client.last["type"], "pong")
        self.assertIsNone(client.ended)
