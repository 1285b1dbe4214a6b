"""
How a service is asked to send a datagram to an address, and can only be asked by who receives there.

RFC 5780 tests a NAT's filtering by asking a server to answer from elsewhere. A server that does this for
strangers sends to any address that they write as their own. So the request is made over the control channel,
and only for an address that the asking peer was seen to receive at, just before: its Binding request carries
a commitment to its own key, and the reflector's answer, which goes to where the request came from, carries a
proof for that commitment and address. The proof, and what the commitment was made of, come with the request.
Nobody else can use a proof that was overheard, since it was made for another key; and the reflector keeps
nothing.
"""

from __future__ import annotations

from enum import Enum
from hashlib import sha256

from punch.identity import PeerID

NONCE_SIZE = 16
COMMITMENT_SIZE = 16
PROOF_SIZE = 16
TRANSACTION_SIZE = 12

_LABEL = b"punch/1 probe\0"


class Vantage(str, Enum):
    """From where a probe is sent, seen from where the Binding request was sent to."""

    SAME = "same"
    """The same address and port."""
    PORT = "port"
    """The same address, the other port."""
    ADDRESS = "address"
    """Another address, the other port."""


class ProbeOutcome(str, Enum):
    """What became of the request."""

    SENT = "sent"
    REFUSED = "refused"
    """The proof is wrong, or too old: ask the reflector again."""
    UNAVAILABLE = "unavailable"
    """The service has no such other port or address."""
    RATE = "rate"
    """Too many in too short a time."""


def commitment(peer: PeerID, nonce: bytes) -> bytes:
    """What stands in the Binding request: nobody can tell the key from it, or make another key fit it."""
    return sha256(_LABEL + peer.key + nonce).digest()[:COMMITMENT_SIZE]
