"""Who the peer talks to: every way in which a rendezvous can be the wrong one, told apart."""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol

from punch.identity import Identity
from punch.node.causes import ControlProblem
from punch.node.control.client import ControlClient
from punch.test.internet import Internet, InternetTestCase, LinkSpec
from punch.test.node.control.scripted_service import Authority, Plain, ScriptedService, ServerTLS
from punch.test.rendezvous.control_client import keys_with_unreadable_certificates
from punch.ui.text.causes import problem_sentence
from punch.wire.control import Accept, Register, Reply, Welcome
from punch.wire.rendezvous_address import RendezvousAddress, pin_of

SERVICE = "198.51.100.1"
NAME = "meet.example"


class Watcher:
    """A handler that notes what it is told, and when."""

    def __init__(self, net: Internet) -> None:
        self.net = net
        self.welcomes: list[Welcome] = []
        self.replies: list[Reply] = []
        self.problems: list[tuple[float, ControlProblem, float | None]] = []
        self.on_reply: Callable[[], object] = lambda: None

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """Registered."""
        assert host == SERVICE
        self.welcomes.append(welcome)

    def control_reply(self, reply: Reply) -> None:
        """A message."""
        self.replies.append(reply)
        self.on_reply()

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """Not registered."""
        self.problems.append((self.net.now, problem, retry_in))

    @property
    def last(self) -> ControlProblem:
        """The newest problem."""
        return self.problems[-1][1]


class ControlTestCase(InternetTestCase):
    """One client and whatever stands at the other end."""

    def setUp(self) -> None:
        self.net: Internet = self.internet()
        self.net.dns[NAME] = [SERVICE]
        self.server = self.net.host("server", SERVICE)
        self.machine = self.net.host("client", link=LinkSpec(delay=0.05))
        self.identity = Identity.generate(self.net.random_bytes("client key"))
        self.watcher = Watcher(self.net)

    def client(
        self, host: str = SERVICE, pin: bytes | None = None, roots: list[x509.Certificate] | None = None
    ) -> ControlClient:
        """A client that is started."""
        client = ControlClient(
            reactor=self.machine.reactor,
            address=RendezvousAddress(host, 7001, pin),
            identity=self.identity,
            register=Register("alice", Accept.ASK),
            handler=self.watcher,
            random=self.net.random_bytes("client"),
            roots=roots,
        )
        client.start()
        self.running = client
        return client

    def tearDown(self) -> None:
        """A client that is stopped leaves nothing behind."""
        self.net.wait(self.running.stop(), 5.0)
        self.net.advance(30.0)
        self.assertEqual(self.machine.reactor.getDelayedCalls(), [])

    def assert_registered(self) -> None:
        """The client gets its welcome."""
        self.net.run_until(lambda: self.watcher.welcomes, 5.0, "a welcome")
        self.assertEqual(self.watcher.problems, [])

    def assert_refused(self, reason: str, *words: str, fatal: bool = True) -> None:
        """The client says why it stays away; if that is fatal, it does not come back."""
        self.net.run_until(lambda: self.watcher.problems, 20.0, "a problem")
        self.assertEqual(self.watcher.last.reason, reason, problem_sentence(self.watcher.last))
        for word in words:
            self.assertIn(word, problem_sentence(self.watcher.last))
        self.assertIn(":7001", problem_sentence(self.watcher.last))
        self.net.advance(200.0)
        self.assertEqual(self.watcher.welcomes, [])
        if fatal:
            self.assertEqual([retry for _, _, retry in self.watcher.problems], [None])
        else:
            self.assertGreater(len(self.watcher.problems), 4)


class PinTests(ControlTestCase):
    """An address with a pin: the key is everything."""

    def setUp(self) -> None:
        super().setUp()
        self.key = Identity.generate(self.net.random_bytes("server key"))
        self.pin = pin_of(self.key.private_key.public_key())

    def test_right_pin(self) -> None:
        """Registered, and the service has seen the identity's key in the certificate."""
        service = ScriptedService.with_key(self.server, self.key)
        self.client(pin=self.pin)
        self.assert_registered()
        self.assertEqual(service.last.peer, self.identity.peer_id)
        self.assertEqual(service.requests, [Register("alice", Accept.ASK)])

    def test_right_pin_any_name(self) -> None:
        """Names and dates say nothing more about a pinned key."""
        certificate, key = Authority().issue("elsewhere.example", start=-20, end=-10)
        ScriptedService(self.server, ServerTLS(certificate, key))
        self.client(host=NAME, pin=pin_of(key.public_key()))
        self.assert_registered()

    def test_wrong_pin(self) -> None:
        """If the pin is wrong, nothing is sent to the server, not even our certificate."""
        service = ScriptedService.with_key(self.server, self.key)
        self.client(pin=bytes(32))
        self.assert_refused("bad-pin", "wrong pin", "current address")
        self.assertEqual((service.requests, service.last.peer), ([], None))

    def test_pin_of_another_certificate_in_the_chain(self) -> None:
        """A server that only appends the pinned certificate to its chain is refused."""
        other = Identity.generate(self.net.random_bytes("attacker"))
        now = Authority().now
        shown = self.key.certificate(now)
        ScriptedService(self.server, ServerTLS(other.certificate(now), other.private_key, extra=shown))
        self.client(pin=self.pin)
        self.assert_refused("bad-pin")

    def test_certificates_that_cannot_be_read(self) -> None:
        """OpenSSL takes more than we can parse: it is nobody's pinned key, and no error of ours."""
        for key, certificate in keys_with_unreadable_certificates(self.key):
            service = ScriptedService(self.server, ServerTLS(certificate, key))
            client = self.client(pin=self.pin)
            self.assert_refused("bad-pin", "wrong pin")
            self.assertEqual((service.requests, service.last.peer), ([], None))
            self.net.wait(client.stop(), 5.0)
            service.stop(self.net)
            self.watcher.problems.clear()

    def test_no_alpn(self) -> None:
        """A TLS server that knows nothing of Punch."""
        tls = ServerTLS(self.key.certificate(Authority().now), self.key.private_key, alpn=None)
        service = ScriptedService(self.server, tls)
        self.client(pin=self.pin)
        self.assert_refused("protocol", "not a Punch rendezvous")
        self.assertEqual(service.requests, [])

    def test_tls_1_2(self) -> None:
        """A server that has only TLS 1.2 is refused."""
        tls = ServerTLS(
            self.key.certificate(Authority().now), self.key.private_key, highest=SSL.TLS1_2_VERSION
        )
        ScriptedService(self.server, tls)
        self.client(pin=self.pin)
        self.assert_refused("protocol", "not a Punch rendezvous")

    def test_no_tls(self) -> None:
        """A server of something else at that port."""
        self.server.reactor.listenTCP(7001, Factory.forProtocol(Plain))
        self.client(pin=self.pin)
        self.assert_refused("protocol", "not a Punch rendezvous")

    def test_silent_server(self) -> None:
        """A server that waits for us to speak another language: given up after a while, and tried again."""
        self.server.reactor.listenTCP(7001, Factory.forProtocol(Protocol))
        self.client(pin=self.pin)
        self.assert_refused("rendezvous-unreachable", "did not greet", fatal=False)

    def test_our_certificate_refused(self) -> None:
        """
        Under TLS 1.3 our handshake is done before the server refuses: that is no registration.
        """
        tls = ServerTLS(self.key.certificate(Authority().now), self.key.private_key, refuse_client=True)
        ScriptedService(self.server, tls)
        self.client(pin=self.pin)
        self.assert_refused("certificate", "refused this peer's certificate")


class AuthorityTests(ControlTestCase):
    """An address without a pin: an authority and the right name."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()

    def serve(self, issued: tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]) -> ScriptedService:
        """Show this certificate."""
        return ScriptedService(self.server, ServerTLS(*issued))

    def connect(self, host: str = NAME) -> None:
        """Trust the authority."""
        self.client(host=host, roots=[self.authority.certificate])

    def test_certificates_that_cannot_be_read(self) -> None:
        """A certificate that cannot be parsed is not trusted, and causes no exception."""
        for key, certificate in keys_with_unreadable_certificates(Identity.generate()):
            service = self.serve((certificate, key))
            self.connect()
            self.assert_refused("certificate", "nobody this machine trusts")
            self.net.wait(self.running.stop(), 5.0)
            service.stop(self.net)
            self.watcher.problems.clear()

    def test_name(self) -> None:
        """A DNS name that the certificate is for."""
        self.serve(self.authority.issue("other.example", NAME))
        self.connect()
        self.assert_registered()

    def test_wildcard(self) -> None:
        """Wildcards in certificates match as in service-identity."""
        self.net.dns["eu.meet.example"] = [SERVICE]
        self.serve(self.authority.issue("*.meet.example"))
        self.connect("eu.meet.example")
        self.assert_registered()

    def test_address(self) -> None:
        """An IP address that the certificate is for."""
        self.serve(self.authority.issue(SERVICE))
        self.connect(SERVICE)
        self.assert_registered()

    def test_expired(self) -> None:
        """Told as that, with its date."""
        service = self.serve(self.authority.issue(NAME, start=-20, end=-10))
        self.connect()
        self.assert_refused("certificate", "expired on 20", "renew")
        self.assertEqual(service.requests, [])

    def test_not_yet_valid(self) -> None:
        """Usually this machine's clock."""
        self.serve(self.authority.issue(NAME, start=10, end=20))
        self.connect()
        self.assert_refused("certificate", "valid only from", "clock")

    def test_another_name(self) -> None:
        """The names that it is for are told."""
        service = self.serve(self.authority.issue("other.example", "192.0.2.7"))
        self.connect()
        self.assert_refused("certificate", "another name", "other.example", "192.0.2.7")
        self.assertEqual(service.requests, [])

    def test_no_name(self) -> None:
        """A certificate that is for no name at all is refused, too."""
        self.serve(self.authority.issue())
        self.connect()
        self.assert_refused("certificate", "another name", "(it names none)")

    def test_a_name_for_an_address(self) -> None:
        """A certificate for a name is none for the address behind it."""
        self.serve(self.authority.issue(NAME))
        self.connect(SERVICE)
        self.assert_refused("certificate", "another name")

    def test_another_authority(self) -> None:
        """Anybody can issue certificates."""
        self.serve(Authority().issue(NAME))
        self.connect()
        self.assert_refused("certificate", "nobody this machine trusts", "pin")

    def test_self_signed(self) -> None:
        """A rendezvous with its own key, whose pin was left out of the address."""
        key = Identity.generate(self.net.random_bytes("server key"))
        self.serve((key.certificate(self.authority.now, hosts=[NAME]), key.private_key))
        self.connect()
        self.assert_refused("certificate", "nobody this machine trusts", "pin")

    def test_the_platforms_authorities(self) -> None:
        """Without roots of ours, the machine's are used, and the test's authority is not among them."""
        self.serve(self.authority.issue(NAME))
        self.client(host=NAME)
        self.assert_refused("certificate", "nobody this machine trusts")


class RenewalTests(ControlTestCase):
    """What was right once may be wrong later: a running peer stays, and tries again."""

    def test_bad_pin_after_registration(self) -> None:
        """Another key at the same place, for example behind a hotel's login page: no giving up."""
        key = Identity.generate(self.net.random_bytes("server key"))
        service = ScriptedService.with_key(self.server, key)
        self.client(pin=pin_of(key.private_key.public_key()))
        self.assert_registered()
        service.stop(self.net)
        other = ScriptedService.with_key(self.server, Identity.generate(self.net.random_bytes("other")))
        service.last.close()
        self.net.run_until(lambda: len(self.watcher.problems) >= 3, 60.0)
        self.assertEqual(self.watcher.last.reason, "bad-pin")
        self.assertIsNotNone(self.watcher.problems[-1][2])
        other.stop(self.net)
        ScriptedService.with_key(self.server, key)
        self.net.run_until(lambda: len(self.watcher.welcomes) == 2, 90.0)
