"""
Vouchers: a member of a rendezvous vouches for a key that is no member, so that this key can register where
only members may. Vouchers are for the keys of codes (`punch.apps.codes`), which are used once.

A voucher holds on one connection: what the member signs has the channel binding of its TLS session
(RFC 9266), which differs on every other connection, also to another service. So it needs no clock, and nobody
can use a copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from punch.identity import Identity, PeerID

VOUCHER_LABEL = b"punch/1 voucher"
BINDING_LABEL = b"EXPORTER-Channel-Binding"
"""The label with which TLS exports the channel binding, without a context."""
BINDING_SIZE = 32
"""The size of a channel binding, in bytes."""
VOUCHER_SIZE = 32 + 64
"""The size of a voucher, in bytes: the key of the member, and its signature."""


@dataclass(frozen=True)
class Voucher:
    """What a member says about the key that shows it."""

    member: PeerID
    signature: bytes

    @classmethod
    def by(cls, member: Identity, guest: PeerID, binding: bytes) -> Voucher:
        """
        Vouch for a key.

        :param guest: the key that is registered on a connection.
        :param binding: the channel binding of that connection, `BINDING_SIZE` bytes.
        """
        return cls(member.peer_id, member.sign(VOUCHER_LABEL, guest.key + binding))

    @classmethod
    def decode(cls, data: bytes) -> Voucher:
        """Read `VOUCHER_SIZE` bytes. Whether they have a valid key, only `is_for` finds out."""
        return cls(PeerID(data[:32]), data[32:])

    def encode(self) -> bytes:
        """The bytes of the voucher."""
        return self.member.key + self.signature

    def is_for(self, guest: PeerID, binding: bytes) -> bool:
        """Whether the member has signed this for a key on a connection."""
        return self.member.verify(VOUCHER_LABEL, guest.key + binding, self.signature)
