"""
Invitations to a rendezvous, the reasons for which it does not admit a peer, and vouchers of members.

The text of an invitation is a token, 48 characters of lower-case base32:

    version (1)  service (4)  number (6)  secret (16)  checksum (3)

`service` is the start of the SHA-256 of the pin of the rendezvous, so that a token for another one is told
apart from an unknown one. The checksum finds typos and missing characters. Only the secret is secret.

With a voucher, a member of a rendezvous vouches for a key that is no member, so that this key can register
where only members may. Vouchers are for the keys of codes (`punch.apps.codes`), which are used once. A
voucher is valid on one connection: what the member signs contains the channel binding of its TLS session (RFC
9266), which differs on every other connection, also to another service. So it needs no clock, and nobody can
use a copy of it.
"""

from __future__ import annotations

import unicodedata
from base64 import b32decode, b32encode
from dataclasses import dataclass
from enum import Enum
from hashlib import sha3_256, sha256

from punch.identity import Identity, PeerID, RandomBytes

_VERSION = 1
NUMBER_SIZE = 6
SECRET_SIZE = 16
TOKEN_LENGTH = 48
_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")


class AdmissionRefusal(str, Enum):
    """Why a rendezvous does not admit a peer. No further try of the same kind can succeed."""

    NOT_INVITED = "not-invited"
    """It admits invited peers only, and this one has sent no invitation."""
    INVITATION_USED = "invitation-used"
    """As many other peers have used the invitation as it is for."""
    INVITATION_EXPIRED = "invitation-expired"
    INVITATION_UNKNOWN = "invitation-unknown"
    """There is no such invitation, or it has a typo."""
    INVITATION_ELSEWHERE = "invitation-elsewhere"
    """It is an invitation to another rendezvous."""
    NOT_LISTED = "not-listed"
    """It admits the peers of a list only, and this one is not on it."""
    REVOKED = "revoked"
    """The operator has revoked this peer's admission."""
    ID_REVOKED = "id-revoked"
    """The owner of this peer ID has revoked it, for ever."""
    ID_DENIED = "id-denied"
    """The operator refuses this peer ID by the deny list."""


class InvitationError(ValueError):
    """A text is no invitation; `str()` is a sentence for the user."""


def service_tag(pin: bytes) -> bytes:
    """Return how invitations name a rendezvous: 4 bytes, from the pin of its key."""
    return sha256(pin).digest()[:4]


@dataclass(frozen=True)
class Invitation:
    """
    One invitation.

    :ivar service: see `service_tag`.
    :ivar number: tells the invitations of a service apart; not secret.
    """

    service: bytes
    number: bytes
    secret: bytes

    @classmethod
    def new(cls, service: bytes, random: RandomBytes) -> Invitation:
        """Make a new invitation."""
        return cls(service, random(NUMBER_SIZE), random(SECRET_SIZE))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret, which is all that the service keeps of it."""
        return sha256(self.secret).digest()

    def __str__(self) -> str:
        """Return the token."""
        body = bytes([_VERSION]) + self.service + self.number + self.secret
        return b32encode(body + _checksum(body)).decode("ascii").lower()

    def __repr__(self) -> str:
        return f"<Invitation {self.number.hex()}>"

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """
        Read a token in upper or lower case. Spaces, dashes and invisible characters are ignored.

        :raise InvitationError: it is no token, or has a typo.
        """
        kept = (c for c in text[:200] if not c.isspace() and unicodedata.category(c) not in ("Pd", "Cf"))
        compact = "".join(kept).lower()
        if not _ALPHABET.issuperset(compact):
            raise InvitationError(
                "There is a typo in the invitation: it has the letters a to z and the digits 2 to 7 only. "
                "Copy it again."
            )
        if len(compact) != TOKEN_LENGTH:
            some = "characters are missing" if len(compact) < TOKEN_LENGTH else "there is too much"
            raise InvitationError(
                f"There is a typo in the invitation: {some}, it has {TOKEN_LENGTH} characters and this has "
                f"{len(compact)}. Copy it again."
            )
        raw = b32decode(compact.upper())
        body = raw[:-3]
        if raw[-3:] != _checksum(body):
            raise InvitationError(
                "There is a typo in the invitation: its checksum does not match. Copy it again."
            )
        if body[0] != _VERSION:
            raise InvitationError(
                f"The invitation has version {body[0]} and this Punch knows version {_VERSION}: install a "
                "newer Punch."
            )
        return cls(body[1:5], body[5:11], body[11:])


def _checksum(body: bytes) -> bytes:
    return sha3_256(b".punch invitation" + body).digest()[:3]


VOUCHER_LABEL = b"punch/1 voucher"
BINDING_LABEL = b"EXPORTER-Channel-Binding"
"""The label with which TLS exports the channel binding, without a context."""
BINDING_SIZE = 32
"""The size of a channel binding, in bytes."""
VOUCHER_SIZE = 32 + 64
"""The size of a voucher, in bytes: the key of the member, and its signature."""


@dataclass(frozen=True)
class Voucher:
    """A member's signed statement that the key which shows it may register."""

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
