"""Who may relay: credentials, nonces, and what strangers get."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from hmac import digest

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.test.turn.server.turn_server import ALICE, BOB, HERE, SECRET, UDP, TurnServer, code_of
from punch.turn.server.authentication import (
    NONCE_SIZE,
    REMEMBERED,
    Nonces,
    issue,
    password_of,
    read_username,
    user_of,
)
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)


def bare(method: int, *attributes: tuple[int, object], transaction: bytes = b"transaction.") -> bytes:
    """A request without credentials."""
    return encode(StunMessage(method, MessageClass.REQUEST, transaction, attributes), fingerprint=False)


class CredentialTests(SynchronousTestCase):
    """coturn's `use-auth-secret`."""

    def test_form(self) -> None:
        """Credentials have the form that coturn's documentation describes."""
        credentials = issue(b"north", "alice", 1_700_000_000.9)
        self.assertEqual(credentials.username, "1700000000:alice")
        expected = b64encode(digest(b"north", b"1700000000:alice", sha1)).decode()
        self.assertEqual(credentials.password, expected)
        self.assertEqual(password_of(b"north", "1700000000:alice"), expected)

    def test_usernames(self) -> None:
        self.assertEqual(read_username("17:alice:b"), (17, "alice:b"))
        self.assertEqual(read_username("17"), (17, ""))
        for text in ("", "alice", "alice:17", "-5:a", "1e9:a", "0x10:a", " 17:a", "9" * 13 + ":a", "١٧:a"):
            self.assertIsNone(read_username(text), text)

    def test_users(self) -> None:
        """The user name of a peer is always the same, and does not show the peer ID."""
        peers = [Identity.generate(seed.__mul__).peer_id for seed in (b"1", b"2")]
        users = [user_of(SECRET, peer) for peer in peers]
        self.assertEqual(users, [user_of(SECRET, peer) for peer in peers])
        self.assertNotEqual(*users)
        self.assertNotEqual(users[0], user_of(b"other", peers[0]))
        self.assertNotIn(users[0], str(peers[0]))


class NonceTests(SynchronousTestCase):
    """Nonces are checked without remembering any."""

    def setUp(self) -> None:
        self.nonces = Nonces(SECRET, 3600.0)

    def test_bound_to_an_address(self) -> None:
        nonce = self.nonces.for_address(ALICE, 1e9)
        self.assertEqual(len(nonce), NONCE_SIZE)
        self.assertTrue(self.nonces.is_for_address(nonce, ALICE, 1e9 + 3599))
        for remote, unix in ((BOB, 1e9), (Address(ALICE.host, 1), 1e9), (ALICE, 1e9 + 3600)):
            self.assertFalse(self.nonces.is_for_address(nonce, remote, unix))

    def test_bound_to_a_user(self) -> None:
        nonce = self.nonces.for_user("alice", 1e9)
        self.assertTrue(self.nonces.is_for_user(nonce, "alice", 1e9))
        self.assertFalse(self.nonces.is_for_user(nonce, "bob", 1e9))

    def test_forged(self) -> None:
        good = self.nonces.for_user("alice", 1e9)
        other = Nonces(b"other", 3600.0).for_user("alice", 1e9)
        for nonce in ("", good[:-1], good + "A", other, "=" * 16, "é" * 16, good[:6] + other[6:], "\0" * 16):
            self.assertFalse(self.nonces.is_for_user(nonce, "alice", 1e9), nonce)


class RefusalTests(SynchronousTestCase):
    """Requests without the right credentials."""

    def setUp(self) -> None:
        self.server = TurnServer()
        self.alice = self.server.client()

    def test_without(self) -> None:
        """401 says realm and nonce; with these a request is served."""
        (answer,) = self.alice.send(bare(Method.ALLOCATE, UDP))
        message = parse(answer)
        self.assertEqual(code_of(message), 401)
        self.assertEqual(message.get(Attribute.REALM), self.server.settings.realm)
        self.assertFalse(message.has_integrity())
        self.alice.nonce = str(message.get(Attribute.NONCE))
        self.alice.allocate()

    def test_the_nonce_of_another_address(self) -> None:
        """438, with the right nonce."""
        (answer,) = self.server.client(BOB, "bob").send(bare(Method.ALLOCATE, UDP))
        self.alice.nonce = str(parse(answer).get(Attribute.NONCE))
        refusal = self.alice.ask(Method.ALLOCATE, UDP)
        self.assertEqual(code_of(refusal), 438)
        self.alice.nonce = str(refusal.get(Attribute.NONCE))
        self.alice.allocate()

    def test_expired_nonce(self) -> None:
        """438, whether the nonce came with the credentials or in an answer."""
        self.server.advance(3601)
        self.assertEqual(code_of(self.alice.ask(Method.ALLOCATE, UDP)), 438)
        (answer,) = self.alice.send(bare(Method.ALLOCATE, UDP))
        self.alice.nonce = str(parse(answer).get(Attribute.NONCE))
        self.server.advance(3601)
        refusal = self.alice.ask(Method.ALLOCATE, UDP)
        self.assertEqual(code_of(refusal), 438)
        self.alice.nonce = str(refusal.get(Attribute.NONCE))
        self.alice.allocate()

    def test_invented_nonce(self) -> None:
        for nonce in ("", "invented", "A" * 16, "\N{SNOWMAN}" * 16):
            self.alice.nonce = nonce
            self.assertEqual(code_of(self.alice.ask(Method.ALLOCATE, UDP)), 438)

    def test_wrong_password(self) -> None:
        self.alice.password = issue(b"other secret", "alice", self.server.unix + 86400).password
        (answer,) = self.alice.send(self.alice.request(Method.ALLOCATE, UDP))
        self.assertEqual(code_of(parse(answer)), 401)
        self.assertEqual(self.server.ports.open_ports, {})

    def test_expired_credentials(self) -> None:
        """The password is right, but expired: for new allocations and for old ones."""
        self.alice.allocate()
        self.server.advance(590)
        for end in (self.server.unix - 1, 0):
            self.alice.username, self.alice.password = issue(SECRET, "alice", end)
            for method in (Method.ALLOCATE, Method.REFRESH, Method.CHANNEL_BIND):
                (answer,) = self.alice.send(self.alice.request(method, UDP))
                self.assertEqual(code_of(parse(answer)), 401)

    def test_stretched_credentials(self) -> None:
        """The expiry in the user name was changed afterwards."""
        self.alice.username = f"{int(self.server.unix) + 10**6}:alice"
        (answer,) = self.alice.send(self.alice.request(Method.ALLOCATE, UDP))
        self.assertEqual(code_of(parse(answer)), 401)

    def test_another_secret_beside(self) -> None:
        """The secret of --turn-secret-file is accepted as well."""
        self.server = TurnServer(secrets=(SECRET, b"shared"))
        client = self.server.client()
        client.username, client.password = issue(b"shared", "somebody", self.server.unix + 100)
        client.nonce = self.server.core.authenticator.nonces.for_user("somebody", self.server.unix)
        client.allocate()

    def test_incomplete(self) -> None:
        """A request without some of the attributes is refused with 400."""
        whole = parse(self.alice.request(Method.ALLOCATE, UDP))
        for missing in (Attribute.USERNAME, Attribute.REALM, Attribute.NONCE):
            attributes = tuple(each for each in whole.attributes if each[0] != missing)
            less = StunMessage(whole.method, whole.message_class, whole.transaction_id, attributes)
            (answer,) = self.alice.send(encode(less, self.alice.key))
            self.assertEqual(code_of(parse(answer)), 400)

    def test_every_method_needs_credentials(self) -> None:
        for method in (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
            (answer,) = self.alice.send(bare(method))
            self.assertEqual(code_of(parse(answer)), 401)
        for other in (Method.SEND, Method.DATA, 0x0A, 0xFFF):
            self.assertEqual(self.alice.send(bare(other)), [])


class ReplayTests(SynchronousTestCase):
    """Somebody has read a request on its way, and sends it again."""

    def setUp(self) -> None:
        self.server = TurnServer()
        self.alice = self.server.client()
        self.thief = self.server.client(BOB)

    def test_from_elsewhere(self) -> None:
        """A copy of an Allocate request makes no second allocation."""
        request = self.alice.request(Method.ALLOCATE, UDP)
        self.alice.send(request)
        (answer,) = self.thief.send(request)
        self.assertEqual(code_of(parse(answer)), 438)
        self.assertEqual(len(self.server.core.allocations), 1)

    def test_after_the_end(self) -> None:
        request = self.alice.request(Method.ALLOCATE, UDP)
        self.alice.send(request)
        self.alice.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        (answer,) = self.alice.send(request)
        self.assertEqual(code_of(parse(answer)), 438)
        self.assertEqual(len(self.server.core.allocations), 0)

    def test_deleting_again(self) -> None:
        """A copy of the request that deleted an allocation does not delete the next one."""
        self.alice.allocate()
        delete = self.alice.request(Method.REFRESH, (Attribute.LIFETIME, 0))
        self.alice.send(delete)
        self.alice.allocate()
        (answer,) = self.alice.send(delete)
        self.assertEqual(code_of(parse(answer)), 438)
        self.assertEqual(len(self.server.core.allocations), 1)

    def test_a_nonce_that_was_told(self) -> None:
        """A nonce from an answer is accepted from one address only."""
        (answer,) = self.alice.send(bare(Method.ALLOCATE, UDP))
        self.alice.nonce = str(parse(answer).get(Attribute.NONCE))
        request = self.alice.request(Method.ALLOCATE, UDP)
        (answer,) = self.thief.send(request)
        self.assertEqual(code_of(parse(answer)), 438)
        (answer,) = self.alice.send(request)
        self.assertEqual(code_of(parse(answer)), 0)

    def test_what_is_remembered_is_bounded(self) -> None:
        authenticator = self.server.core.authenticator
        for number in range(REMEMBERED + 10):
            request = StunMessage(Method.ALLOCATE, MessageClass.REQUEST, number.to_bytes(12, "big"))
            authenticator.done(request, "alice")
        self.assertEqual(authenticator.remembered, REMEMBERED)


class StrangerTests(SynchronousTestCase):
    """Requests of clients that have proved nothing."""

    def test_two_thousand_spoofed_requests(self) -> None:
        """No state, and no answer beyond three times its question."""
        server = TurnServer()
        questions = [
            bare(Method.ALLOCATE),
            bare(Method.ALLOCATE, UDP),
            server.client(user="nobody").request(Method.ALLOCATE, UDP)[:-4] + b"\0\0\0\0",
        ]
        answered = 0
        for number in range(2_000):
            question = questions[number % 3]
            spoofed = Address(f"192.{number >> 8}.{number & 255}.1", 5000)
            server.core.receive([question], spoofed, HERE, server.now)
            to_clients, to_peers = server.core.outputs(server.now)
            self.assertEqual(to_peers, [])
            for client, messages in to_clients:
                self.assertEqual(client.remote, spoofed)
                for message in messages:
                    answered += 1
                    self.assertLessEqual(len(message), 3 * len(question))
                    self.assertIn(code_of(parse(message)), (401, 438))
        self.assertEqual(answered, 2_000)
        table = server.core.allocations
        self.assertEqual((len(table), table.users, server.ports.open_ports), (0, {}, {}))
        self.assertEqual(server.core.authenticator.remembered, 0)
        self.assertIsNone(server.core.get_timer())
        server.client().allocate()

    def test_one_victim(self) -> None:
        """Ten thousand in the name of one network get a few hundred answers; its own are served."""
        server = TurnServer()
        question = bare(Method.ALLOCATE, UDP)
        answers = 0
        for number in range(10_000):
            server.core.receive([question], Address(f"192.0.2.{number & 255}", 5000), HERE, server.now)
            to_clients, _ = server.core.outputs(server.now)
            answers += len(to_clients)
        self.assertEqual(answers, 500)
        server.client(Address("192.0.2.9", 5000)).allocate()

    def test_in_the_name_of_a_client(self) -> None:
        """A client's own address gets no more answers than others."""
        server = TurnServer()
        alice = server.client()
        alice.allocate()
        answers = [len(alice.send(bare(Method.REFRESH))) for _ in range(1000)]
        self.assertLess(sum(answers), 501)
        self.assertEqual(code_of(alice.ask(Method.REFRESH)), 0)
