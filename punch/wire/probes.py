"""
Probes: requests to a service to send a datagram to an address, which only a peer that receives there can
make.

RFC 5780 tests the filtering of a NAT by asking a server to answer from another address. A server that does
this for strangers sends to any address that they forge. So the request is made over the control channel, and
only for an address at which the peer has just received: its Binding request carries a commitment to its key,
and the reflector's answer, which goes to the source of that request, carries a proof for the commitment and
the address. The probe request contains the proof and what the commitment was made from. A proof that was
overheard is useless to others, since it was made for another key, and the reflector stores nothing.
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
    """The source of a probe, relative to the address to which the Binding request was sent."""

    SAME = "same"
    """The same address and port."""
    PORT = "port"
    """The same address, the other port."""
    ADDRESS = "address"
    """Another address, the other port."""


class ProbeOutcome(str, Enum):
    """The outcome of a probe request."""

    SENT = "sent"
    REFUSED = "refused"
    """The proof is wrong, or too old: ask the reflector again."""
    UNAVAILABLE = "unavailable"
    """The service has no such other port or address."""
    RATE = "rate"
    """Too many in too short a time."""


def commitment(peer: PeerID, nonce: bytes) -> bytes:
    """The commitment in the Binding request, which does not reveal the key and fits no other key."""
    return sha256(_LABEL + peer.key + nonce).digest()[:COMMITMENT_SIZE]
