"""Peer IDs, what they refuse, what they sign, and the key file."""

from __future__ import annotations

import os
import stat
from base64 import b32decode
from datetime import datetime, timedelta, timezone
from hashlib import sha3_256
from ipaddress import ip_address
from pathlib import Path

import nacl.bindings
import nacl.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import (
    Identity,
    IdentityError,
    P,
    PeerID,
    PeerIDError,
    key_from_text,
    key_to_text,
    load_identity,
    montgomery_u,
)
from punch.sentences import sentence_of
from punch.test.strategies import IDENTITIES, SETTINGS, identity

VECTOR_SEED = bytes(range(32))
VECTOR_ID = "aoqqpp7tzyil4hlq3umoos6atft6jvrqtosq2xy53sdgiesvgg4ozgqb"
NOT_BEFORE = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)

# Every point whose order divides 8, in canonical form.
ORDER_8_Y = [
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]
SMALL_ORDER = [
    (1).to_bytes(32, "little"),
    (P - 1).to_bytes(32, "little"),
    (0).to_bytes(32, "little"),
    (2**255).to_bytes(32, "little"),
    *(bytes.fromhex(y) for y in ORDER_8_Y),
    *(bytes.fromhex(y)[:31] + bytes([bytes.fromhex(y)[31] | 0x80]) for y in ORDER_8_Y),
]


class PeerIDTests(SynchronousTestCase):
    """The text form."""

    def test_vector(self) -> None:
        """The text form is the one that docs/protocol.md shows."""
        peer = Identity.generate(lambda size: VECTOR_SEED[:size]).peer_id
        self.assertEqual(str(peer), VECTOR_ID)
        self.assertEqual(PeerID.parse(VECTOR_ID), peer)
        self.assertEqual(peer.short, VECTOR_ID[:8])

    def test_layout(self) -> None:
        """Key, checksum, version: read here without any code of ours."""
        raw = b32decode(VECTOR_ID.upper())
        key, checksum, version = raw[:32], raw[32:34], raw[34:]
        self.assertEqual(version, b"\x01")
        self.assertEqual(checksum, sha3_256(b".punch checksum" + key + version).digest()[:2])

    @SETTINGS
    @given(st.binary(min_size=32, max_size=32), st.integers(0, 255))
    def test_round_trip(self, payload: bytes, version: int) -> None:
        """Any 32 bytes come back, with their version."""
        self.assertEqual(key_from_text(key_to_text(payload, version), "key"), (payload, version))

    @SETTINGS
    @given(st.sampled_from(IDENTITIES), st.randoms(use_true_random=False))
    def test_as_people_type_it(self, who: Identity, random: object) -> None:
        """Case, spaces, line breaks and dashes of all kinds don't matter."""
        assert hasattr(random, "choice")
        text = "".join(
            random.choice([c, c.upper()]) + random.choice(["", "", " ", "-", "\n", "\u2013", "\u00a0", "\t"])
            for c in str(who.peer_id)
        )
        self.assertEqual(PeerID.parse(text), who.peer_id)

    def test_every_single_typo_is_named(self) -> None:
        """Whichever character is wrong, and however: the message says that it is a typo."""
        for index in range(len(VECTOR_ID)):
            for wrong in "abcdefghijklmnopqrstuvwxyz234567":
                if wrong != VECTOR_ID[index]:
                    self.refused(VECTOR_ID[:index] + wrong + VECTOR_ID[index + 1 :], "typo")

    def test_every_swap_is_named(self) -> None:
        """Two neighbours swapped are a typo."""
        for index in range(len(VECTOR_ID) - 1):
            first, second = VECTOR_ID[index], VECTOR_ID[index + 1]
            if first != second:
                self.refused(VECTOR_ID[:index] + second + first + VECTOR_ID[index + 2 :], "typo")

    def test_bad_texts(self) -> None:
        """Each kind of wrong text has a sentence of its own."""
        self.refused("", "empty")
        self.refused(" - ", "empty")
        self.refused(VECTOR_ID[:-1], "characters are missing, it has 56 characters and this has 55")
        self.refused(VECTOR_ID + "a", "there is too much, it has 56 characters and this has 57")
        self.refused("0" + VECTOR_ID[1:], "not '0'")
        self.refused("\u0430" + VECTOR_ID[1:], "not '\\u0430'")  # a Cyrillic letter that looks like an a
        self.refused("\x1b[2J" + VECTOR_ID[4:], "not '\\x1b'")
        self.refused("punch://host:7001", "an address, not a peer ID")
        self.refused(key_to_text(bytes(32), 2), "pin of a rendezvous")
        self.refused(key_to_text(bytes(32), 3), "install a newer Punch")

    def test_errors_are_sentences(self) -> None:
        """A capital letter at the beginning, a stop at the end, no control character between them."""
        for text in ("", "x", "\x1b]0;pwned\x07", VECTOR_ID[:-1] + "\u202e", "é" * 56, "a" * 9999):
            message = str(self.assertRaises(PeerIDError, PeerID.parse, text))
            self.assertTrue(message[0].isupper() and message.endswith(".") and message.isprintable(), message)
            self.assertLess(len(message), 300)

    def refused(self, text: str, because: str) -> None:
        """`text` is no peer ID, and the sentence says `because`."""
        message = str(self.assertRaises(PeerIDError, PeerID.parse, text))
        self.assertIn(because, message, text)

    def test_order_is_that_of_the_bytes(self) -> None:
        """IDs are ordered as their bytes; this decides who is the caller when both call at once."""
        peers = [known.peer_id for known in IDENTITIES]
        self.assertEqual([peer.key for peer in sorted(peers)], sorted(peer.key for peer in peers))

    def test_wrong_size(self) -> None:
        """A peer ID has 32 bytes."""
        self.assertRaises(PeerIDError, PeerID, bytes(31))


class PointTests(SynchronousTestCase):
    """Ed25519 keys as X25519 keys, and keys that are none."""

    def test_same_as_libsodium(self) -> None:
        """Both halves of the mapping agree with libsodium."""
        for seed in range(40):
            who = identity(seed)
            secret = who.private_key.private_bytes_raw() + who.peer_id.key
            self.assertEqual(
                who.peer_id.x25519().public_bytes_raw(),
                nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(who.peer_id.key),
            )
            self.assertEqual(
                who.x25519().private_bytes_raw(),
                nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(secret),
            )

    def test_halves_belong_together(self) -> None:
        """The private half opens what is sealed to the public one."""
        for who in IDENTITIES:
            self.assertEqual(
                who.x25519().public_key().public_bytes_raw(), who.peer_id.x25519().public_bytes_raw()
            )

    def test_small_order(self) -> None:
        """All eight points of small order are refused, as text and as a recipient."""
        self.assertEqual(len(set(SMALL_ORDER)), 8)
        for key in SMALL_ORDER:
            self.assert_refused(key)

    def test_with_a_part_of_small_order(self) -> None:
        """A point outside the prime-order group is refused, whatever is added: no key has two IDs."""
        for who in IDENTITIES[:2]:
            for torsion in SMALL_ORDER[1:]:
                self.assert_refused(nacl.bindings.crypto_core_ed25519_add(who.peer_id.key, torsion))

    def test_not_canonical(self) -> None:
        """Encodings above the prime, and a sign where there is none."""
        for y in range(P, 2**255):
            self.assert_refused(y.to_bytes(32, "little"))
            self.assert_refused((y | 1 << 255).to_bytes(32, "little"))
        self.assert_refused((1 | 1 << 255).to_bytes(32, "little"))

    def test_not_on_the_curve(self) -> None:
        """About half of all strings are no point: none of them passes, and libsodium agrees on each."""
        refused = 0
        for number in range(2, 200):
            key = number.to_bytes(32, "little")
            try:
                expected = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(key)
            except nacl.exceptions.RuntimeError:
                refused += 1
                self.assert_refused(key)
            else:
                self.assertEqual(montgomery_u(key), expected)
        self.assertGreater(refused, 100)

    def assert_refused(self, key: bytes) -> None:
        """Nothing takes this key."""
        self.assertRaises(PeerIDError, PeerID(key).x25519)
        self.assertRaises(PeerIDError, PeerID.parse, key_to_text(key, 1))

    def test_size(self) -> None:
        """A key has exactly 32 bytes."""
        self.assertRaises(ValueError, montgomery_u, bytes(33))


class SignatureTests(SynchronousTestCase):
    """Every signature is for one purpose."""

    def test_signed(self) -> None:
        """A signature verifies for its signer, label and message, and for no other."""
        alice, bob = IDENTITIES[:2]
        signature = alice.sign(b"punch/1 test", b"message")
        self.assertTrue(alice.peer_id.verify(b"punch/1 test", b"message", signature))
        self.assertFalse(alice.peer_id.verify(b"punch/1 other", b"message", signature))
        self.assertFalse(alice.peer_id.verify(b"punch/1 test", b"massage", signature))
        self.assertFalse(bob.peer_id.verify(b"punch/1 test", b"message", signature))
        self.assertFalse(alice.peer_id.verify(b"punch/1 test", b"message", signature[:-1]))
        self.assertFalse(alice.peer_id.verify(b"punch/1 test", b"message", b""))

    def test_label_and_message_are_apart(self) -> None:
        """Moving bytes from label to message changes what is signed."""
        alice = IDENTITIES[0]
        signature = alice.sign(b"punch/1 test", b"er")
        self.assertFalse(alice.peer_id.verify(b"punch/1 tester", b"", signature))

    def test_bytes(self) -> None:
        """What is signed is the label, a zero byte and the message."""
        alice = IDENTITIES[0]
        Ed25519PublicKey.from_public_bytes(alice.peer_id.key).verify(
            alice.sign(b"punch/1 test", b"message"), b"punch/1 test\0message"
        )

    def test_bad_labels(self) -> None:
        """A label that isn't ours, or isn't one, signs nothing."""
        for label in (b"", b"test", b"punch/2 test", b"punch/1 a\0b"):
            self.assertRaises(ValueError, IDENTITIES[0].sign, label, b"")


class CertificateTests(SynchronousTestCase):
    """Certificates carry the key and nothing about the user."""

    def test_contents(self) -> None:
        """Key, dates, one constant name; it verifies with its own key."""
        alice = IDENTITIES[0]
        certificate = alice.certificate(NOT_BEFORE, days=10)
        certificate.verify_directly_issued_by(certificate)
        self.assertEqual(PeerID.from_certificate(certificate), alice.peer_id)
        self.assertEqual([a.value for a in certificate.subject], ["punch"])
        self.assertEqual(certificate.not_valid_before_utc, NOT_BEFORE.replace(microsecond=0))
        self.assertEqual(
            certificate.not_valid_after_utc - certificate.not_valid_before_utc, timedelta(days=10)
        )
        self.assertEqual([e.oid for e in certificate.extensions], [x509.BasicConstraints.oid])

    def test_deterministic(self) -> None:
        """The same arguments give the same bytes, other ones another serial number."""
        alice = IDENTITIES[0]
        first = alice.certificate(NOT_BEFORE)
        self.assertEqual(first, alice.certificate(NOT_BEFORE))
        self.assertNotEqual(
            first.serial_number, alice.certificate(NOT_BEFORE + timedelta(days=1)).serial_number
        )

    def test_hosts(self) -> None:
        """A service's certificate has the names and addresses that it is reached at."""
        certificate = IDENTITIES[0].certificate(NOT_BEFORE, hosts=["example.org", "192.0.2.1", "2001:db8::1"])
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["example.org"])
        self.assertEqual(
            names.get_values_for_type(x509.IPAddress), [ip_address("192.0.2.1"), ip_address("2001:db8::1")]
        )

    def test_another_kind_of_key(self) -> None:
        """A certificate of an elliptic-curve key of another kind is nobody's."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.builder().public_key(key.public_key()).sign(key, hashes.SHA256())
        error = self.assertRaises(PeerIDError, PeerID.from_certificate, certificate)
        self.assertIn("not an Ed25519 key", str(error))

    def test_small_order_key(self) -> None:
        """A certificate of a key that anyone can sign for is nobody's."""
        weak = Ed25519PublicKey.from_public_bytes(SMALL_ORDER[0])
        certificate = self.builder().public_key(weak).sign(IDENTITIES[0].private_key, None)
        self.assertRaises(PeerIDError, PeerID.from_certificate, certificate)

    def builder(self) -> x509.CertificateBuilder:
        """All but the key."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "punch")])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .serial_number(1)
            .not_valid_before(NOT_BEFORE)
            .not_valid_after(NOT_BEFORE + timedelta(days=1))
        )


class KeyFileTests(SynchronousTestCase):
    """Where the key is kept."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "identity.key"

    def refused(self, *because: str, path: Path | None = None) -> None:
        """The file is refused in one sentence that names it; it is left as it was."""
        path = path or self.path
        message = sentence_of(self.assertRaises(IdentityError, load_identity, path))
        for text in (str(path), *because):
            self.assertIn(text, message)
        self.assertNotIn("\n", message)

    def test_made_on_first_use_and_kept(self) -> None:
        """The first use makes it, the second finds it; nothing else is left in the directory."""
        first = load_identity(self.path)
        self.assertEqual(load_identity(self.path).peer_id, first.peer_id)
        self.assertEqual(os.listdir(self.directory), ["identity.key"])

    def test_from_the_random_source(self) -> None:
        """The key comes from the source that was given."""
        made = load_identity(self.path, lambda size: VECTOR_SEED[:size])
        self.assertEqual(str(made.peer_id), VECTOR_ID)

    def test_mode(self) -> None:
        """0600, and directories 0700, whatever the umask lets through."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        path = self.directory / "a" / "b" / "identity.key"
        load_identity(path)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(path.parent.parent.stat().st_mode), 0o700)

    def test_readable_by_others(self) -> None:
        """Any right of group or others is refused with the command that mends it, and following it helps."""
        peer = load_identity(self.path).peer_id
        for mode in (0o640, 0o604, 0o644, 0o660, 0o602, 0o677):
            self.path.chmod(mode)
            self.refused(f"mode {mode:04o}", f"chmod 600 {self.path}")
        self.path.chmod(0o600)
        self.assertEqual(load_identity(self.path).peer_id, peer)
        self.path.chmod(0o400)
        self.assertEqual(load_identity(self.path).peer_id, peer)

    def test_command_is_quoted(self) -> None:
        """A path with a space can be pasted into a shell."""
        path = self.directory / "my key"
        load_identity(path)
        path.chmod(0o644)
        self.refused(f"chmod 600 '{path}'", path=path)

    def test_directory(self) -> None:
        """A directory of that name."""
        self.path.mkdir()
        self.refused("is a directory", "--state-dir")

    def test_named_pipe(self) -> None:
        """A named pipe is refused at once: nobody waits for a writer."""
        os.mkfifo(self.path, 0o600)
        self.refused("not a file")

    def test_not_a_key(self) -> None:
        """Files that hold no private key are refused and stay."""
        public = IDENTITIES[0].private_key.public_key()
        for content in (
            b"",
            b"hello",
            b"\xff\xfe" * 100,
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            IDENTITIES[0].to_pem()[:60],
        ):
            self.write(content)
            self.refused("no private key", "Move it away")
            self.assertEqual(self.path.read_bytes(), content)

    def test_not_ed25519(self) -> None:
        """A private key of another kind."""
        key = ec.generate_private_key(ec.SECP256R1())
        self.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.refused("not an Ed25519 key")

    def test_encrypted(self) -> None:
        """A private key under a passphrase."""
        key = IDENTITIES[0].private_key
        self.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
        self.refused("passphrase")

    def test_cannot_be_written(self) -> None:
        """A place below a file: the sentence names it and says what to do."""
        (self.directory / "file").write_bytes(b"")
        self.refused("Not a directory", "--state-dir", path=self.directory / "file" / "x" / "identity.key")

    def test_dangling_link(self) -> None:
        """A link to nowhere is nothing to write through."""
        self.path.symlink_to(self.directory / "nowhere")
        self.refused()
        self.assertFalse((self.directory / "nowhere").exists())

    def test_without_hard_links(self) -> None:
        """On a file system without hard links, the key is still made."""

        def no_links(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "link", no_links)
        first = load_identity(self.path)
        self.assertEqual(load_identity(self.path).peer_id, first.peer_id)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.directory), ["identity.key"])

    def test_somebody_else_was_first(self) -> None:
        """If another process makes the key while we make ours, theirs is taken."""

        def random(size: int) -> bytes:
            self.write(IDENTITIES[1].to_pem())
            return bytes(size)

        self.assertEqual(load_identity(self.path, random).peer_id, IDENTITIES[1].peer_id)
        self.assertEqual(os.listdir(self.directory), ["identity.key"])

    def test_pem_round_trip(self) -> None:
        """The file is plain PKCS #8."""
        for who in IDENTITIES:
            self.assertTrue(who.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----\n"))
            self.assertEqual(Identity.from_pem(who.to_pem()).peer_id, who.peer_id)

    def write(self, content: bytes) -> None:
        """Put `content` in the key file, with the right mode."""
        self.path.write_bytes(content)
        self.path.chmod(0o600)
