"""The rendezvous service on the simulated internet, with real TLS and misbehaving clients."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from punch.identity import Identity
from punch.rendezvous.config import RendezvousConfig, RendezvousLimits, ServerCertificate
from punch.rendezvous.members.membership import Membership
from punch.rendezvous.service import RendezvousService
from punch.rendezvous.tcp.listen import EndpointError
from punch.test.internet import Host, InternetTestCase
from punch.test.rendezvous.control_client import (
    RecordingControlClient,
    connect_control,
    connect_raw,
    key_of,
    key_of_another_kind,
)
from punch.test.rendezvous.registry.test_registry import CALL, envelope
from punch.wire.control import (
    Accept,
    Answer,
    Cancel,
    ErrorCode,
    Establish,
    Ping,
    Register,
    Reject,
    Trickle,
)
from punch.wire.fields import to_base64
from punch.wire.peers.prekey import SIGNED_SIZE
from punch.wire.rendezvous_address import RendezvousAddress, pin_of
from punch.wire.stun import (
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)
from punch.wire.stun_attributes import Attribute

SERVICE = "198.51.100.1"


class RendezvousCase(InternetTestCase):
    """A service and hosts with a public address each."""

    limits = RendezvousLimits()
    membership: Membership | None = None

    def setUp(self) -> None:
        self.net = self.internet(7)
        self.host = self.net.host("rendezvous", SERVICE, "2001:db8::1")
        self.reports: list[tuple[str, dict[str, object]]] = []
        self.identity = self.key("rendezvous")
        self.service = self.make()
        self.service.startService()
        self.net.run_until(lambda: self.service.address is not None, 1.0)
        self.alice, self.bob = self.key("alice"), self.key("bob")
        self.home = self.net.host("home", "203.0.113.1", "2001:db8:1::1")
        self.office = self.net.host("office", "203.0.113.2")

    def key(self, name: str) -> Identity:
        return Identity.generate(self.net.random_bytes(f"key of {name}"))

    def make(self, **changes: Any) -> RendezvousService:
        config = RendezvousConfig(
            identity=self.identity, control="tcp:7001", host=SERVICE, limits=self.limits
        )
        return RendezvousService(
            replace(config, **changes),
            reactor=self.host.reactor,
            monotonic=self.net.monotonic,
            random=self.net.random_bytes("service"),
            report=lambda event, **fields: self.reports.append((event, fields)),
            membership=self.membership,
        )

    def restart(self, **changes: Any) -> RendezvousService:
        self.net.wait(self.service.stopService(), 2.0)
        self.service = self.make(**changes)
        self.service.startService()
        self.net.run_until(lambda: self.service.address is not None, 1.0)
        return self.service

    def connect(
        self, identity: Identity | None, host: Host | None = None, **more: Any
    ) -> RecordingControlClient:
        """Connect, and let the handshake finish."""
        key = None if identity is None else key_of(identity)
        client = connect_control((host or self.home).reactor, SERVICE, 7001, key, **more)
        self.net.advance(0.5)
        return client

    def register(
        self, identity: Identity, host: Host | None = None, name: str = "x", prekey: bytes = b""
    ) -> RecordingControlClient:
        """Connect and register."""
        client = self.connect(identity, host)
        client.send(Register(name, Accept.ASK, prekey=prekey))
        self.net.advance(0.5)
        self.assertEqual(client.lines[0]["type"], "welcome", client.lines)
        return client

    def events(self, *names: str) -> list[tuple[str, object]]:
        """The names and peers of reported events."""
        return [(event, fields.get("peer")) for event, fields in self.reports if event in names]


class RegistrationTests(RendezvousCase):
    """Registering, keepalives and leaving."""

    def test_register(self) -> None:
        client = self.register(self.alice, name="Alice")
        welcome = client.lines[0]
        self.assertEqual(welcome["id"], str(self.alice.peer_id))
        self.assertEqual(welcome["address"], "203.0.113.1")
        self.assertEqual(welcome["reflector"], 3478)
        self.assertEqual(
            self.reports[1:], [("registered", {"peer": str(self.alice.peer_id), "name": "Alice"})]
        )

    def test_listening_is_reported_with_the_address_to_paste(self) -> None:
        event, fields = self.reports[0]
        self.assertEqual(event, "listening")
        address = RendezvousAddress.parse(str(fields["address"]))
        self.assertEqual(
            address, RendezvousAddress(SERVICE, 7001, pin_of(self.identity.private_key.public_key()))
        )

    def test_ipv6(self) -> None:
        self.restart(control=None, port=7002)
        client = connect_control(self.home.reactor, "2001:db8::1", 7002, key_of(self.alice))
        other = connect_control(self.office.reactor, SERVICE, 7002, key_of(self.bob))
        self.net.advance(0.5)
        for each in (client, other):
            each.send(Register("x", Accept.ASK))
        self.net.advance(0.5)
        self.assertEqual(client.lines[0]["address"], "2001:db8:1::1")
        self.assertEqual(other.lines[0]["address"], "203.0.113.2")

    def test_pings_keep_it_and_silence_ends_it_within_sixty_seconds(self) -> None:
        client = self.register(self.alice)
        for _ in range(10):
            self.net.advance(20)
            client.send(Ping())
        self.net.advance(1)
        self.assertEqual(len(client.of("pong")), 10)
        self.assertIsNone(client.ended)
        self.net.advance(59)
        self.assertEqual(client.last["code"], "timeout")
        self.assertIsNotNone(client.ended)
        self.assertEqual(self.reports[-1][1]["reason"], "timeout")

    def test_power_failure_is_noticed_within_sixty_seconds(self) -> None:
        self.register(self.alice)
        self.home.crash()
        self.net.advance(60)
        self.assertEqual(self.events("gone"), [("gone", str(self.alice.peer_id))])
        self.assertEqual(len(self.service.registry), 0)

    def test_a_failure_at_the_end_of_one_session(self) -> None:
        """It is logged, and the other sessions that are due end at the same time."""

        class FailingOnce(list[tuple[str, dict[str, object]]]):
            def append(self, report: tuple[str, dict[str, object]]) -> None:
                super().append(report)
                if [event for event, _ in self] == ["gone"]:
                    raise BrokenPipeError

        clients = [connect_control(self.home.reactor, SERVICE, 7001, key_of(self.alice))]
        clients.append(connect_control(self.office.reactor, SERVICE, 7001, key_of(self.bob)))
        self.net.advance(0.5)
        for client in clients:
            client.send(Register("x", Accept.ASK))
        self.net.advance(0.5)
        self.assertEqual(len(self.service.registry), 2)
        self.reports = FailingOnce()
        self.home.crash()
        self.office.crash()
        self.net.advance(60.0)
        self.assertEqual(len(self.flushLoggedErrors(BrokenPipeError)), 1)
        self.assertEqual(len(self.events("gone")), 2)
        self.assertEqual(len(self.service.registry), 0)

    def test_close_is_noticed_at_once(self) -> None:
        client = self.register(self.alice)
        client.abort()
        self.net.advance(0.5)
        self.assertEqual(self.reports[-1], ("gone", {"peer": str(self.alice.peer_id), "reason": "closed"}))

    def test_newer_connection_replaces_the_older_without_a_gap(self) -> None:
        older = self.register(self.alice)
        newer = self.register(self.alice, self.office)
        self.assertEqual(older.last["code"], "replaced")
        self.assertIsNotNone(older.ended)
        self.assertEqual(self.events("gone"), [])
        bob = self.register(self.bob, self.office)
        bob.send(Establish(CALL, self.alice.peer_id, envelope(self.alice.peer_id)))
        self.net.advance(0.5)
        self.assertEqual(len(newer.of("incoming")), 1)

    def test_a_key_cannot_be_claimed_by_saying_so(self) -> None:
        mallory = self.key("mallory")
        alice = self.register(self.alice, name="alice")
        other = self.register(mallory, self.office, name="alice")
        other.send(b'{"type":"register","version":1,"name":"alice","accept":"ask","id":"%b"}' % b"x")
        self.net.advance(0.5)
        self.assertIsNone(alice.ended)
        self.assertEqual(other.lines[0]["id"], str(mallory.peer_id))

    def test_peers_share_one_timer(self) -> None:
        """A peer that is there costs no delayed call, of which the reactor would have thousands to order."""
        self.register(self.alice)
        before = len(self.host.reactor.getDelayedCalls())
        for number in range(3):
            self.register(self.key(f"another {number}"), self.office)
        self.assertEqual(len(self.host.reactor.getDelayedCalls()), before)

    def test_who_never_registers_is_sent_away(self) -> None:
        client = self.connect(self.alice)
        self.net.advance(12)
        self.assertEqual(client.last["code"], "timeout")
        self.assertIsNotNone(client.ended)


class IntroductionTests(RendezvousCase):
    """Calls over the control channel."""

    def test_offer_answer_and_candidates(self) -> None:
        alice = self.register(self.alice, name="Alice")
        bob = self.register(self.bob, self.office)
        a, b = self.alice.peer_id, self.bob.peer_id
        alice.send(Establish(CALL, b, envelope(b)), Trickle(CALL, b, envelope(b, 1)))
        self.net.advance(0.5)
        [incoming], [candidate] = bob.of("incoming"), bob.of("candidate")
        self.assertEqual((incoming["from"], incoming["name"], incoming["call"]), (str(a), "Alice", CALL))
        self.assertEqual(incoming["offer"], envelope(b).to_json())
        self.assertEqual(candidate["envelope"], envelope(b, 1).to_json())
        bob.send(Answer(CALL, a, envelope(a, 2)))
        self.net.advance(0.5)
        [answered] = alice.of("answered")
        self.assertEqual((answered["from"], answered["answer"]), (str(b), envelope(a, 2).to_json()))

    def test_prekey(self) -> None:
        """A caller who asked, and was not answered, is told what the callee has registered with."""
        alice = self.register(self.alice)
        bob = self.register(self.bob, self.office, prekey=b"p" * SIGNED_SIZE)
        b = self.bob.peer_id
        a = self.alice.peer_id
        for call, wanted in ((CALL, True), ("7" * 32, True), ("9" * 32, False)):
            alice.send(Establish(call, b, envelope(b), prekey=wanted))
        bob.send(Establish("8" * 32, a, envelope(a), prekey=True))
        self.net.advance(0.5)
        self.assertEqual(alice.of("prekey"), [])
        bob.send(Answer(CALL, a, envelope(a)), Cancel(CALL, a))
        self.net.advance(0.5)
        self.assertEqual((len(alice.of("ended")), alice.of("prekey")), (1, []))
        for call in ("7" * 32, "9" * 32):
            bob.send(Reject(call, a, ErrorCode.REFUSED))
        self.net.advance(0.5)
        [told] = alice.of("prekey")
        self.assertEqual((told["from"], told["prekey"]), (str(b), to_base64(b"p" * SIGNED_SIZE)))
        alice.send(Reject("8" * 32, b, ErrorCode.REFUSED))
        self.net.advance(0.5)
        self.assertEqual((len(bob.of("ended")), bob.of("prekey")), (1, []))

    def test_gone_during_the_introduction(self) -> None:
        alice = self.register(self.alice)
        bob = self.register(self.bob, self.office)
        alice.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
        self.net.advance(0.5)
        bob.abort()
        self.net.advance(0.5)
        [ended] = alice.of("ended")
        self.assertEqual((ended["code"], ended["from"]), ("gone", str(self.bob.peer_id)))

    def test_ringing_times_out_for_both(self) -> None:
        alice = self.register(self.alice)
        bob = self.register(self.bob, self.office)
        alice.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
        for _ in range(4):
            self.net.advance(15.5)
            alice.send(Ping())
            bob.send(Ping())
        self.net.advance(0.5)
        for each in (alice, bob):
            self.assertEqual([line["code"] for line in each.of("ended")], ["timeout"])

    def test_reconnected_callee_gets_the_call_again(self) -> None:
        alice = self.register(self.alice)
        self.register(self.bob, self.office)
        alice.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
        self.net.advance(0.5)
        again = self.register(self.bob, self.office)
        self.assertEqual([line["type"] for line in again.lines], ["welcome", "incoming"])
        self.assertEqual(alice.of("ended"), [])


class LifeTests(RendezvousCase):
    """Starting and stopping."""

    def test_stop_says_so(self) -> None:
        client = self.register(self.alice)
        half_open = connect_raw(self.office.reactor, SERVICE, 7001)
        self.net.advance(0.5)
        self.net.wait(self.service.stopService(), 1.5)
        self.net.advance(0.5)
        self.assertEqual(client.last["code"], "shutdown")
        self.assertIsNotNone(client.ended)
        self.assertIsNotNone(half_open.ended)
        self.assertEqual(self.reports[-1][1]["reason"], "shutdown")
        self.assertEqual(self.host.reactor.open_ports, [])
        self.assertEqual(self.host.reactor.getDelayedCalls(), [])

    def test_stop_waits_for_nobody(self) -> None:
        client = self.register(self.alice)
        client.stop_reading()
        self.net.wait(self.service.stopService(), 1.5)
        self.assertEqual(self.host.reactor.open_ports, [])

    def test_restart(self) -> None:
        self.register(self.alice)
        pin = self.service.address
        self.restart()
        self.assertEqual(self.service.address, pin)
        self.register(self.alice)

    def test_control_port_in_use(self) -> None:
        other = self.make(reflector_port=3500)
        other.startService()
        self.net.advance(0.1)
        event, fields = self.reports[-1]
        self.assertEqual((event, fields["reason"]), ("failed", "port-in-use"))
        self.assertIn("7001", str(fields["text"]))
        self.assertIn("--control", str(fields["text"]))
        self.net.wait(other.stopService(), 2.0)
        self.register(self.alice)

    def test_reflector_port_in_use(self) -> None:
        other = self.make(control="tcp:7002")
        other.startService()
        event, fields = self.reports[-1]
        self.assertEqual((event, fields["reason"]), ("failed", "port-in-use"))
        self.assertIn("3478", str(fields["text"]))
        self.net.wait(other.stopService(), 2.0)

    def test_free_ports(self) -> None:
        self.restart(control="tcp:0", reflector_port=0, host=None, primary_address="192.0.2.77")
        address = self.service.address
        assert address is not None
        assert self.service.local_address is not None
        self.assertNotEqual(address.port, 0)
        self.assertEqual(address.host, "192.0.2.77")
        self.assertEqual(self.service.local_address.host, "127.0.0.1")
        self.assertNotEqual(self.service.reflector_port, 0)

    def test_one_interface(self) -> None:
        self.restart(control=f"tcp:7009:interface={SERVICE}", host=None)
        assert self.service.address is not None
        assert self.service.local_address is not None
        self.assertEqual((self.service.address.host, self.service.address.port), (SERVICE, 7009))
        self.assertEqual(self.service.local_address.host, SERVICE)

    def test_port_of_both_families(self) -> None:
        """`tcp:PORT` without an interface listens on all addresses."""
        for control in ("tcp:7011", "tcp:port=7011:backlog=5", "haproxy:tcp:7011"):
            self.restart(control=control, host=None)
            header = b"PROXY UNKNOWN x\r\n" if control.startswith("haproxy") else b""
            for host, source in (("2001:db8::1", "2001:db8:1::1"), (SERVICE, "203.0.113.1")):
                key = key_of(self.alice)
                client = connect_control(self.home.reactor, host, 7011, key, header=header)
                self.net.advance(0.5)
                client.send(Register("x", Accept.ASK))
                self.net.advance(0.5)
                self.assertEqual(client.last["address"], source)
        assert self.service.local_address is not None
        self.assertEqual(self.service.local_address.host, "127.0.0.1")
        self.restart(control="tcp:7012:interface=0.0.0.0")
        client = connect_control(self.home.reactor, "2001:db8::1", 7012, key_of(self.alice))
        self.net.advance(0.5)
        self.assertIsNotNone(client.ended)

    def test_port_with_an_ipv6_interface(self) -> None:
        """An IPv6 address of the same port, named by itself, does not find the port in use."""
        self.restart(control=["tcp:7013", r"tcp:7013:interface=2001\:db8\:\:1"])
        for host in ("2001:db8::1", SERVICE):
            client = connect_control(self.home.reactor, host, 7013, key_of(self.alice))
            self.net.advance(0.5)
            client.send(Register("x", Accept.ASK))
            self.net.advance(0.5)
            self.assertEqual(client.last["type"], "welcome")

    def test_several_endpoints(self) -> None:
        self.restart(control=["tcp:7003", "tcp:7004"], public_port=443)
        assert self.service.address is not None
        self.assertEqual(self.service.address.port, 443)
        for port in (7003, 7004):
            client = connect_control(self.home.reactor, SERVICE, port, key_of(self.alice))
            self.net.advance(0.5)
            self.assertTrue(client.secured)

    def test_endpoints_that_are_none(self) -> None:
        for control, word in (
            ("ssl:7001", "TLS itself"),
            ("tls:7001", "TLS itself"),
            ("haproxy:ssl:7001", "TLS itself"),
            ("stdio:", "many peers"),
            ("nonsense", "endpoint"),
            ("tcp", "endpoint"),
            ("tcp:http-alt-nonsense", "endpoint"),
            ("", "endpoint"),
        ):
            error = self.assertRaises(EndpointError, self.make, control=control)
            self.assertIn(word, str(error))

    def test_certificate_of_an_authority_is_shown_without_a_pin(self) -> None:
        key, certificate = key_of_another_kind()
        self.restart(host="r.example", authority_certificate=ServerCertificate((certificate,), key))
        address, local = self.service.address, self.service.local_address
        assert address is not None
        assert local is not None
        self.assertEqual(str(address), "punch://r.example:7001")
        self.assertEqual(local.pin, pin_of(key.public_key()))
        self.register(self.alice)

    def test_key_of_another_certificate(self) -> None:
        key, _ = key_of_another_kind()
        _, certificate = key_of_another_kind()
        self.assertRaises(ValueError, self.make, authority_certificate=ServerCertificate((certificate,), key))

    def test_reflector_answers(self) -> None:
        answers: list[bytes] = []

        class Asker(DatagramProtocol):
            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                answers.append(datagram)

        asker = Asker()
        self.home.reactor.listenUDP(5000, asker)
        assert asker.transport is not None
        request = StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12))
        for data in (encode(request, fingerprint=False), b"", b"x" * 65_507, bytes(20)):
            asker.transport.write(data, (SERVICE, 3478))
        self.net.advance(0.5)
        [answer] = answers
        self.assertEqual(parse(answer).get(Attribute.XOR_MAPPED_ADDRESS), ("203.0.113.1", 5000))

    def test_log_and_reports_hold_nothing_that_is_sealed(self) -> None:
        alice = self.register(self.alice)
        self.register(self.bob, self.office)
        alice.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id, 200)))
        self.net.advance(0.5)
        told = json.dumps(self.reports)
        self.assertNotIn(envelope(self.bob.peer_id, 200).to_json()["body"][:40], told)
        self.assertNotIn("203.0.113", told)
