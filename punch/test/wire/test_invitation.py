"""Vouchers of members."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.wire.invitation import BINDING_SIZE, VOUCHER_SIZE, Voucher

MEMBER, GUEST, OTHER = (Identity.generate(lambda size, i=i: bytes([i]) * size) for i in (1, 2, 3))  # type: ignore[misc]
BINDING = bytes(range(BINDING_SIZE))


class VoucherTests(SynchronousTestCase):
    def test_what_is_signed(self) -> None:
        """As docs/protocol.md says."""
        data = Voucher.by(MEMBER, GUEST.peer_id, BINDING).encode()
        self.assertEqual(len(data), VOUCHER_SIZE)
        self.assertEqual(data[:32], MEMBER.peer_id.key)
        signed = b"punch/1 voucher\0" + GUEST.peer_id.key + BINDING
        Ed25519PublicKey.from_public_bytes(data[:32]).verify(data[32:], signed)

    def test_for_one_key_on_one_connection(self) -> None:
        voucher = Voucher.decode(Voucher.by(MEMBER, GUEST.peer_id, BINDING).encode())
        self.assertEqual(voucher.member, MEMBER.peer_id)
        self.assertTrue(voucher.is_for(GUEST.peer_id, BINDING))
        self.assertFalse(voucher.is_for(OTHER.peer_id, BINDING))
        self.assertFalse(voucher.is_for(GUEST.peer_id, bytes(BINDING_SIZE)))
        self.assertFalse(Voucher.decode(bytes([2]) + bytes(95)).is_for(GUEST.peer_id, BINDING))
