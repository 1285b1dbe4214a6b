"""One control connection: lines in, lines out, and when it is closed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.control_session import ControlSession
from punch.rendezvous.registry.outputs import Deliver, Disconnect
from punch.rendezvous.registry.registry import Registry
from punch.test.rendezvous.registry.test_registry import (
    ALICE,
    BOB,
    CALL,
    envelope,
)
from punch.wire.control import (
    Accept,
    Answer,
    Cancel,
    Error,
    ErrorCode,
    Establish,
    Message,
    Ping,
    Pong,
    Probe,
    Probed,
    ProbeOutcome,
    Register,
    Trickle,
    Vantage,
)
from punch.wire.control_lines import MAX_LINE, encode

REGISTER = Register("alice", Accept.ASK)


class Probes:
    """Sends nothing, and says that it was sent."""

    def __init__(self) -> None:
        self.port = 0
        self.addresses: tuple[str, ...] = ()
        self.asked: list[tuple[PeerID, Probe]] = []

    def probe(self, peer: PeerID, request: Probe, now: float) -> Probed:
        """One more."""
        self.asked.append((peer, request))
        return Probed(request.transaction, ProbeOutcome.SENT)


class SessionTests(SynchronousTestCase):
    """A session of Alice's."""

    def setUp(self) -> None:
        self.now = 500.0
        self.probes = Probes()
        self.registry = Registry(RendezvousLimits())
        self.session = self.open(ALICE, 1)

    def open(self, peer: Any, connection: int, limits: RendezvousLimits | None = None) -> ControlSession:
        return ControlSession(
            self.registry,
            connection,
            peer,
            "203.0.113.7",
            reflector_port=3478,
            limits=limits or RendezvousLimits(),
            now=self.now,
            probing=self.probes,
        )

    def send(self, *messages: Message | bytes, session: ControlSession | None = None) -> list[dict[str, Any]]:
        """Send lines, and read all that comes back."""
        session = session or self.session
        for message in messages:
            session.receive_line(message if isinstance(message, bytes) else encode(message), self.now)
        return self.read(session)

    def read(self, session: ControlSession) -> list[dict[str, Any]]:
        lines = session.lines_to_send()
        for line in lines:
            self.assertTrue(line.endswith(b"\n"))
        return [json.loads(line) for line in lines]

    def codes(self, session: ControlSession) -> list[str]:
        return [line["code"] for line in self.read(session)]

    def test_welcome_tells_where_reflectors_are(self) -> None:
        """A second port and further addresses, if there are any."""
        self.probes.port, self.probes.addresses = 3479, ("192.0.2.2", "2001:db8::2")
        [welcome] = self.send(REGISTER)
        self.assertEqual(welcome["second_reflector"], 3479)
        self.assertEqual(welcome["reflector_addresses"], ["192.0.2.2", "2001:db8::2"])

    def test_probes(self) -> None:
        """They are passed on for peers that have registered, with the key that was proved."""
        probe = Probe("203.0.113.7", 4000, Vantage.PORT, b"t" * 12, bytes(16), bytes(16))
        self.assertEqual([line["code"] for line in self.send(probe)], ["forbidden"])
        self.assertEqual(self.probes.asked, [])
        self.send(REGISTER)
        [probed] = self.send(probe)
        self.assertEqual((probed["type"], probed["outcome"]), ("probed", "sent"))
        self.assertEqual(self.probes.asked, [(ALICE, probe)])

    def test_register(self) -> None:
        [welcome] = self.send(REGISTER)
        self.assertEqual(
            welcome,
            {
                "type": "welcome",
                "version": 1,
                "id": str(ALICE),
                "address": "203.0.113.7",
                "reflector": 3478,
                "keepalive": 20.0,
            },
        )
        self.assertIn(ALICE, self.registry)

    def test_ping(self) -> None:
        self.assertEqual(self.send(Ping(), REGISTER, Ping())[2], {"type": "pong"})

    def test_many_peers_are_told_to_come_back_slowly(self) -> None:
        """All of them together come back as fast as the service can take them, if it goes away."""
        session = self.open(ALICE, 2, replace(RendezvousLimits(), return_rate=0.3))
        welcome, pong = self.send(REGISTER, Ping(), session=session)
        self.assertEqual((welcome["retry"], pong["retry"]), (3, 3))

    def test_registering_twice_on_one_connection(self) -> None:
        _, error = self.send(REGISTER, REGISTER)
        self.assertEqual(error["code"], "forbidden")
        self.assertFalse(self.session.closed)

    def test_nothing_about_calls_before_registering(self) -> None:
        [error] = self.send(Establish(CALL, BOB, envelope(BOB)))
        self.assertEqual((error["code"], error["call"]), ("forbidden", CALL))
        self.assertFalse(self.session.closed)

    def test_refusals_name_the_call(self) -> None:
        _, missing, own = self.send(
            REGISTER, Establish(CALL, BOB, envelope(BOB)), Establish(CALL, ALICE, envelope(ALICE))
        )
        self.assertEqual((missing["code"], missing["call"]), ("not-registered", CALL))
        self.assertEqual((own["code"], own["call"]), ("forbidden", CALL))
        self.assertFalse(self.session.closed)

    def test_weak_callee(self) -> None:
        """A key that is not usable is that of no peer, as any other that is not registered."""
        weak = PeerID(bytes(32))
        _, missing = self.send(REGISTER, Establish(CALL, weak, envelope(weak)))
        self.assertEqual((missing["code"], missing["call"]), ("not-registered", CALL))
        self.assertFalse(self.session.closed)

    def test_unknown_type_is_answered(self) -> None:
        _, error = self.send(REGISTER, b'{"type":"juggle","call":"' + CALL.encode() + b'"}')
        self.assertEqual((error["code"], error["call"]), ("unknown-type", CALL))
        self.assertFalse(self.session.closed)

    def test_unknown_fields_are_ignored(self) -> None:
        [welcome] = self.send(b'{"type":"register","version":1,"name":"a","accept":"ask","more":[1]}')
        self.assertEqual(welcome["type"], "welcome")

    def test_what_is_malformed_closes_with_a_reason(self) -> None:
        for line in (
            b"",
            b"hello",
            b"[]",
            b'"register"',
            b"\xff\xfe",
            b'{"type":"ping"',
            b'{"type":"ping","type":"ping"}',
            b'{"type":"ping","x":NaN}',
            b'{"type":"ping","x":1e999}',
            b'{"type":"ping","x":"\\ud800"}',
            b'{"type":1}',
            b'{"type":"establish"}',
            b'{"type":"ping","x":' + b"[" * 8_000 + b"]" * 8_000 + b"}",
            b"[" * 10_000,
            b'{"a":' * 3_000,
            b'{"type":"register","version":1,"name":"\\u001b[2J","accept":"ask"}',
            b'{"type":"register","version":1,"name":"a","accept":"everyone"}',
        ):
            session = self.open(ALICE, 9)
            [error] = self.send(line, REGISTER, session=session)
            self.assertEqual((error["type"], error["code"]), ("error", "malformed"), line[:40])
            self.assertTrue(error["text"])
            self.assertTrue(session.closed)
        self.assertNotIn(ALICE, self.registry)

    def test_malformed_ends_the_registration(self) -> None:
        self.send(REGISTER)
        self.send(b"?")
        self.assertNotIn(ALICE, self.registry)

    def test_other_version(self) -> None:
        [error] = self.send(b'{"type":"register","version":2,"hello":1}')
        self.assertEqual(error["code"], "version")
        self.assertTrue(self.session.closed)

    def test_long_lines(self) -> None:
        padding = MAX_LINE - len(b'{"type":"ping"}')
        self.assertEqual(self.send(b'{"type":"ping"}' + b" " * padding), [{"type": "pong"}])
        [error] = self.send(b'{"type":"ping"}' + b" " * (padding + 1))
        self.assertEqual(error["code"], "too-long")
        self.assertTrue(self.session.closed)

    def test_long_line_that_the_transport_found(self) -> None:
        self.session.receive_long_line(self.now)
        self.assertEqual(self.codes(self.session), ["too-long"])
        self.assertTrue(self.session.closed)

    def test_envelope_for_someone_else(self) -> None:
        self.send(REGISTER)
        wrong = encode(Establish(CALL, BOB, envelope(BOB))).replace(str(BOB).encode(), str(ALICE).encode(), 1)
        [error] = self.send(wrong)
        self.assertEqual(error["code"], "malformed")

    def test_too_many_messages(self) -> None:
        self.send(REGISTER)
        for _ in range(199):
            self.send(Ping())
        self.assertFalse(self.session.closed)
        [error] = self.send(Ping())
        self.assertEqual(error["code"], "rate")
        self.assertTrue(self.session.closed)

    def test_reconnecting_does_not_refill_the_bucket(self) -> None:
        for _ in range(200):
            self.send(Ping())
        self.session.connection_lost(self.now)
        [error] = self.send(Ping(), session=self.open(ALICE, 2))
        self.assertEqual(error["code"], "rate")

    def test_a_steady_peer_is_never_stopped(self) -> None:
        self.send(REGISTER)
        for _ in range(2_000):
            self.now += 0.06
            self.assertEqual(self.send(Ping()), [{"type": "pong"}])

    def test_silent_peer_is_given_up_within_sixty_seconds(self) -> None:
        self.send(REGISTER)
        self.now += 20
        self.send(Ping())
        deadline = self.session.get_timer()
        assert deadline is not None
        self.assertLess(deadline - self.now, 60.0)
        self.session.handle_timer(deadline - 0.1)
        self.assertFalse(self.session.closed)
        self.session.handle_timer(deadline)
        self.assertEqual(self.codes(self.session), ["timeout"])
        self.assertTrue(self.session.closed)
        self.assertIsNone(self.session.get_timer())
        self.assertNotIn(ALICE, self.registry)

    def test_who_never_registers_has_ten_seconds_whatever_it_sends(self) -> None:
        for _ in range(9):
            self.now += 1
            self.send(Ping())
        self.session.handle_timer(self.now)
        self.assertFalse(self.session.closed)
        self.session.handle_timer(self.now + 1)
        self.assertEqual(self.codes(self.session), ["timeout"])

    def test_full_registry(self) -> None:
        self.registry = Registry(replace(RendezvousLimits(), registrations=1))
        self.send(REGISTER, session=self.open(BOB, 2))
        session = self.open(ALICE, 1)
        [error] = self.send(REGISTER, session=session)
        self.assertEqual(error["code"], "too-many")
        self.assertTrue(session.closed)

    def test_newer_session_takes_over(self) -> None:
        self.send(REGISTER)
        newer = self.open(ALICE, 2)
        self.send(REGISTER, session=newer)
        self.assertIn(ALICE, self.registry)
        while (output := self.registry.next_output()) is not None:
            if isinstance(output, Disconnect):
                self.session.close(output.error, self.now)
        self.assertEqual(self.codes(self.session), ["replaced"])
        self.assertIn(ALICE, self.registry)
        self.session.connection_lost(self.now)
        self.assertIn(ALICE, self.registry)

    def test_welcome_comes_before_what_was_missed(self) -> None:
        bob = self.open(BOB, 2)
        self.send(REGISTER)
        self.send(Register("bob", Accept.ASK), session=bob)
        self.send(Establish(CALL, BOB, envelope(BOB)))
        again = self.open(BOB, 3)
        [welcome] = self.send(Register("bob", Accept.ASK), session=again)
        self.assertEqual(welcome["type"], "welcome")
        deliveries = []
        while (output := self.registry.next_output()) is not None:
            if isinstance(output, Deliver) and output.connection == 3:
                deliveries.append(output.reply)
        self.assertEqual(len(deliveries), 1)

    def test_after_the_end(self) -> None:
        self.send(REGISTER)
        self.session.close(Error(ErrorCode.SHUTDOWN, "Bye."), self.now)
        self.session.send(Pong())
        self.session.connection_lost(self.now)
        self.session.handle_timer(self.now + 1e6)
        self.assertEqual([line["code"] for line in self.send(Ping(), REGISTER)], ["shutdown"])
        self.assertNotIn(ALICE, self.registry)

    def test_nothing_sealed_is_kept_after_the_end_of_a_call(self) -> None:
        bob = self.open(BOB, 2)
        self.send(REGISTER)
        self.send(Register("bob", Accept.ASK), session=bob)
        self.send(Establish(CALL, BOB, envelope(BOB)))
        self.send(Answer(CALL, ALICE, envelope(ALICE)), session=bob)
        self.send(Trickle(CALL, BOB, envelope(BOB)), Cancel(CALL, BOB))
        self.assertEqual(self.registry.introduction_count, 0)

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(
        st.one_of(
            st.binary(max_size=200),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["type", "call", "to", "offer", "x"]), inner, max_size=4
                    )
                ),
                max_leaves=12,
            ).map(lambda value: json.dumps(value).encode()),
        )
    )
    def test_whatever_a_stranger_sends_is_answered_or_closes(self, line: bytes) -> None:
        session = self.open(BOB, 50)
        replies = self.send(line, session=session)
        self.assertTrue(session.closed or replies)
        session.connection_lost(self.now)
