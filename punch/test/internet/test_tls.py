"""The simulated internet: Twisted's TLS on it, without the global reactor; equal seeds give equal runs."""

from __future__ import annotations

import datetime
import os
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.endpoints import HostnameEndpoint, serverFromString, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from punch.test.internet import NAT, InternetTestCase, LinkSpec, Seen

SERVER = "198.51.100.1"


def certificate() -> PrivateCertificate:
    """A key and self-signed certificate for `rv.example`."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rv.example")])
    start = datetime.datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("rv.example")]), critical=False)
        .sign(key, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(private + made.public_bytes(Encoding.PEM))
    return loaded


class EchoLines(LineReceiver):
    def lineReceived(self, line: bytes) -> None:
        self.sendLine(line)


class Lines(LineReceiver):
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: Failure | None = None

    def lineReceived(self, line: bytes) -> None:
        self.received.append(line)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason


class TLSTests(InternetTestCase):
    def session(self, seed: int, link: LinkSpec) -> tuple[Lines, list[Seen], str]:
        """A client behind a NAT sends a server fifty lines; gives the client, the trace, the TLS version."""
        net = self.internet(seed)
        seen: list[Seen] = []
        net.trace = seen
        net.dns["rv.example"] = [SERVER]
        server = net.host("server", SERVER)
        client = net.lan("home", "192.168.1.0/24", nat=NAT(), link=link).host("client")
        own = certificate()
        factory = TLSMemoryBIOFactory(
            own.options(), False, Factory.forProtocol(EchoLines), clock=server.reactor
        )
        net.wait(serverFromString(server.reactor, "tcp:7001").listen(factory), 1)
        endpoint = wrapClientTLS(
            optionsForClientTLS("rv.example", trustRoot=Certificate(own.original)),
            HostnameEndpoint(client.reactor, "rv.example", 7001),
            clock=client.reactor,
        )
        lines = Lines()
        net.wait(endpoint.connect(Factory.forProtocol(lambda: lines)), 60)
        for number in range(50):
            lines.sendLine(b"secret line %d" % number)
            net.advance(0.05)
        net.run_until(lambda: len(lines.received) == 50, 600)
        transport: Any = lines.transport
        version = transport.getHandle().get_protocol_version_name()
        transport.loseConnection()
        net.run_until(lambda: lines.lost, 60)
        return lines, seen, version

    def test_echo(self) -> None:
        """Unmodified Twisted TLS 1.3, without the global reactor; nothing of it is in clear on any link."""
        lines, seen, version = self.session(0, LinkSpec(delay=0.05))
        self.assertEqual(lines.received, [b"secret line %d" % number for number in range(50)])
        self.assertEqual(version, "TLSv1.3")
        assert lines.lost is not None
        self.assertIsInstance(lines.lost.value, (ConnectionDone, SSL.Error))
        self.assertFalse(any(b"secret" in each.payload for each in seen))
        self.assertTrue(any(b"rv.example" in each.payload for each in seen), "the capture is blind")

    def test_one_seed_gives_one_run(self) -> None:
        """Time, size and fate of every packet are the same from run to run, loss included."""
        environment = {name: value for name, value in os.environ.items() if name != "PUNCH_SEED"}
        self.patch(os, "environ", environment)
        link = LinkSpec(delay=0.02, jitter=0.01, loss=0.1, reorder=0.05, duplicate=0.05, rate=10e6)

        def run(seed: int) -> list[tuple[float, int, str, str]]:
            seen = self.session(seed, link)[1]
            return [(each.time, each.size, each.link, each.fate) for each in seen]

        first = run(1)
        self.assertIn("lost", {fate for *_, fate in first})
        self.assertGreater(len(first), 200)
        # Not `assertEqual`, which would print all of it.
        self.assertTrue(run(1) == first, "two runs with one seed differ")
        self.assertFalse(run(2) == first, "the seed makes no difference")
