"""Prekeys: who they belong to, and that they come from the seed of the identity key and from nothing else."""

from __future__ import annotations

import hmac

from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import IDENTITIES
from punch.wire.peers.prekey import (
    KEY_SIZE,
    PREKEY_LABEL,
    SIGNED_SIZE,
    PrekeyError,
    check_prekey,
    private_prekey,
    public_kem_key,
    signed_prekey,
    supported,
)

ALICE, BOB = IDENTITIES[:2]


class PrekeyTests(SynchronousTestCase):
    """A prekey and its signature."""

    def test_same_each_time(self) -> None:
        """The same identity always has the same prekey, and another identity another one."""
        self.assertTrue(supported())
        first, second = signed_prekey(ALICE), signed_prekey(ALICE)
        self.assertEqual((first, len(first)), (second, SIGNED_SIZE))
        self.assertNotEqual(first[:KEY_SIZE], signed_prekey(BOB)[:KEY_SIZE])
        key = check_prekey(ALICE.peer_id, first)
        self.assertEqual(key, private_prekey(ALICE).public_key().public_bytes_raw())

    def test_of_another_peer(self) -> None:
        """The signature says whose it is."""
        self.assertRaises(PrekeyError, check_prekey, BOB.peer_id, signed_prekey(ALICE))
        swapped = signed_prekey(BOB)[:KEY_SIZE] + signed_prekey(ALICE)[KEY_SIZE:]
        self.assertRaises(PrekeyError, check_prekey, ALICE.peer_id, swapped)

    def test_other_label(self) -> None:
        """What was signed for another purpose is no prekey."""
        key = signed_prekey(ALICE)[:KEY_SIZE]
        signature = ALICE.sign(b"punch/1 offer", key)
        self.assertRaises(PrekeyError, check_prekey, ALICE.peer_id, key + signature)
        check_prekey(ALICE.peer_id, key + ALICE.sign(PREKEY_LABEL, key))

    def test_malformed(self) -> None:
        """Too short, too long, and signed bytes that are no key (FIPS 203, section 7.2)."""
        signed = signed_prekey(ALICE)
        for wrong in (b"", signed[:-1], signed + b"\0"):
            self.assertRaises(PrekeyError, check_prekey, ALICE.peer_id, wrong)
        no_key = b"\xff" * KEY_SIZE  # coefficients of 4,095 are no numbers modulo 3,329
        self.assertRaises(PrekeyError, check_prekey, ALICE.peer_id, no_key + ALICE.sign(PREKEY_LABEL, no_key))
        self.assertRaises(PrekeyError, public_kem_key, b"short")

    def test_vector(self) -> None:
        """The derivation is the one that docs/protocol.md describes."""
        seed = _hkdf(ALICE.private_key.private_bytes_raw())
        self.assertEqual(private_prekey(ALICE).private_bytes_raw(), seed)


def _hkdf(seed: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) by its letter, without salt, 64 bytes."""
    pseudo_random_key = hmac.digest(bytes(32), seed, "sha256")
    first = hmac.digest(pseudo_random_key, PREKEY_LABEL + b"\x01", "sha256")
    return first + hmac.digest(pseudo_random_key, first + PREKEY_LABEL + b"\x02", "sha256")
