"""Limits that count over all processes of a service: two whole services, with Redis simulated."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from twisted.internet.protocol import DatagramProtocol

from punch.identity import Identity
from punch.rendezvous.config import RendezvousConfig, RendezvousLimits
from punch.rendezvous.directory.redis import RedisDirectory
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.membership import INVITATION_BURST, REVOCATION_BURST, AdmitPolicy, Membership
from punch.rendezvous.service import RendezvousService
from punch.test.internet import InternetTestCase
from punch.test.rendezvous.control_client import RecordingControlClient, connect_control, key_of
from punch.test.rendezvous.directory.directory_processes import REDIS
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.system import EPOCH
from punch.wire.address import Address
from punch.wire.control import Accept, Error, ErrorCode, Probe, Register, Revoke, Vantage, commitment
from punch.wire.invitation import AdmissionRefusal, Invitation, service_tag
from punch.wire.stun import Attribute, MessageClass, Method, StunMessage, encode, parse

SERVICES = "198.51.100.1", "198.51.100.2"
HOME, OTHER = "203.0.113.1", "192.0.2.1"
SERVICE = service_tag(bytes(32))
TOLD = 3.0
"""Seconds after which each process knows what the other has counted."""
NONCE = bytes(16)
PROBES = 8
LIMITS = replace(RendezvousLimits(), probe_prefix_rate=0.01, probe_prefix_burst=float(PROBES))


class _Asker(DatagramProtocol):
    """Asks a reflector for its proof."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        self.answers.append(datagram)


class SharedLimitsTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.home = self.net.host("home", HOME)
        self.identity = Identity.generate(self.net.random_bytes("key"))
        self.memberships: list[Membership] = []
        self.services = [self.start(host) for host in SERVICES]
        self.net.advance(TOLD)

    def start(self, address: str) -> RendezvousService:
        host = self.net.host(address, address)
        random = self.net.random_bytes(f"service at {address}")
        store = MemberDatabase(None)
        self.addCleanup(store.close)
        membership = Membership(AdmitPolicy.INVITED, store, service=SERVICE)
        self.memberships.append(membership)
        membership.listed = frozenset(self.peer(number).peer_id for number in range(4))
        service = RendezvousService(
            RendezvousConfig(identity=self.identity, control="tcp:7001", host=address, limits=LIMITS),
            reactor=host.reactor,
            monotonic=self.net.monotonic,
            random=random,
            report=lambda event, **fields: None,
            wall=lambda: EPOCH + self.net.now,
            membership=membership,
            directory=RedisDirectory(
                RedisAddress.parse(f"redis://{REDIS}"),
                secret=self.identity.private_key.private_bytes_raw(),
                reactor=host.reactor,
                monotonic=self.net.monotonic,
                wall=lambda: EPOCH + self.net.now,
                random=random,
            ),
        )
        service.startService()
        self.addCleanup(lambda: self.net.wait(service.stopService(), 10.0))
        return service

    def peer(self, number: int) -> Identity:
        return Identity.generate(Random(number).randbytes)

    # Wrong invitations

    def guess(self, process: int, number: int, host: str = HOME) -> Error | None:
        """A peer at one process shows an invitation that nobody has made."""
        invitation = Invitation.new(SERVICE, Random(f"{process} {number}").randbytes)
        return self.memberships[process].admit(
            self.peer(100).peer_id, "x", str(invitation), host, self.net.now, EPOCH
        )

    def guesses_told(self, process: int, host: str = HOME) -> int:
        """To how many guesses it is said what is wrong, before there are too many."""
        for number in range(10 * INVITATION_BURST):
            error = self.guess(process, number, host)
            assert error is not None
            if error.code is ErrorCode.RATE:
                return number
            self.assertIs(error.refusal, AdmissionRefusal.INVITATION_UNKNOWN)
        return 10 * INVITATION_BURST

    def test_wrong_invitations(self) -> None:
        self.assertEqual(self.guesses_told(0), INVITATION_BURST)
        self.net.advance(TOLD)
        # What both have gained since
        self.assertLessEqual(self.guesses_told(1), 3)
        self.assertEqual(self.guesses_told(1, OTHER), INVITATION_BURST)

    # Revocations

    def revocations(self, process: int, first: int, host: str = HOME) -> int:
        """How many owners of IDs can revoke them at one process."""
        for number in range(2 * REVOCATION_BURST):
            key = self.peer(first + number)
            request = Revoke.by(key)
            error = self.memberships[process].revoke(key.peer_id, request, host, self.net.now, EPOCH)
            if error.code is ErrorCode.RATE:
                return number
            self.assertIs(error.refusal, AdmissionRefusal.ID_REVOKED)
        return 2 * REVOCATION_BURST

    def test_revocations(self) -> None:
        """All processes keep them all, so one address may not fill the table through each."""
        self.assertEqual(self.revocations(0, 1000), REVOCATION_BURST)
        self.net.advance(TOLD)
        self.assertEqual(self.revocations(1, 2000), 0)
        self.assertEqual(self.revocations(1, 3000, OTHER), REVOCATION_BURST)

    # Probes

    def register(self, process: int, number: int) -> RecordingControlClient:
        client = connect_control(self.home.reactor, SERVICES[process], 7001, key_of(self.peer(number)))
        self.net.advance(0.5)
        client.send(Register("x", Accept.ASK))
        self.net.advance(0.5)
        self.assertEqual(client.last["type"], "welcome")
        return client

    def probes(self, process: int, number: int) -> list[str]:
        """What becomes of many probes of one peer."""
        client, asker = self.register(process, number), _Asker()
        port = self.home.reactor.listenUDP(0, asker)
        committed = commitment(self.peer(number).peer_id, NONCE)
        question = StunMessage(
            Method.BINDING, MessageClass.REQUEST, b"transaction!", ((Attribute.PROBE, committed),)
        )
        assert asker.transport is not None
        asker.transport.write(encode(question, fingerprint=False), (SERVICES[process], 3478))
        self.net.advance(0.2)
        answer = parse(asker.answers[0])
        mapped, proof = answer.get(Attribute.XOR_MAPPED_ADDRESS), answer.get(Attribute.PROBE)
        assert isinstance(proof, bytes)
        assert isinstance(mapped, Address)
        before = len(client.lines)
        for _ in range(PROBES + 2):
            client.send(Probe(mapped.host, mapped.port, Vantage.SAME, b"probe number", NONCE, proof))
        self.net.advance(0.5)
        client.abort()
        port.stopListening()
        return [line["outcome"] for line in client.lines[before:] if line["type"] == "probed"]

    def test_probes(self) -> None:
        """They protect the network that they go to, whichever processes send them."""
        self.assertEqual(self.probes(0, 0), ["sent"] * PROBES + ["rate"] * 2)
        self.net.advance(TOLD)
        self.assertEqual(self.probes(1, 1), ["rate"] * (PROBES + 2))
