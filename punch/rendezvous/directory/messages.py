"""
What the processes of one service tell each other, as bytes. Pure; docs/protocol.md describes it.

A message is encrypted and authenticated with a key that derives from the service's own, since others may read
and write the Redis that carries it. Each sender has a key of its own, and counts its messages: the number is
the nonce, and a receiver accepts each number only once. The receiver's name is authenticated, too.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from punch.identity import PeerID, PeerIDError, RandomBytes
from punch.net.sources import Source
from punch.rendezvous.registry.registry import Introducing
from punch.wire import strict_json
from punch.wire.address import canonical
from punch.wire.control import Answer, Answered, Cancel, Candidates, Ended, Error, Establish, Reject, Trickle
from punch.wire.control_lines import MAX_LINE, ControlError, decode_passed_on, decode_request, encode
from punch.wire.fields import name as read_name

VERSION = 1
NAME_SIZE = 16
"""Bytes of the name of a process, which it chooses at random when it starts."""
MAX_MESSAGE = 3 * MAX_LINE
"""The most bytes of a message."""
MAX_SENDERS = 1024
"""Processes whose last number is remembered."""
_HEADER = 1 + NAME_SIZE + 8
SIGN_SIZE = 8
"""Bytes of the sign that a process sends to itself (`TwinDetector`); every message is longer."""
TWIN_TIME = 10.0
"""Seconds for which the operator is told of another process of the same name after each sign of it."""
_MAX_SIGNS = 16
"""How many of the newest signs of others are remembered."""

CallReply = Answered | Candidates | Ended | Error
"""What the process of a callee has for the caller."""


class ProcessMessageError(ValueError):
    """A message is malformed, was not made by a process of this service, or has been received before."""


@dataclass(frozen=True)
class PeerRequest:
    """What a peer at the sending process asks for, about an introduction that belongs to the receiver."""

    peer: PeerID
    name: str
    address: str
    request: Introducing


@dataclass(frozen=True)
class PeerReply:
    """
    What an introduction of the sending process has for a peer at the receiver.

    :ivar address: where the called peer is; empty if it is not registered any more.
    """

    peer: PeerID
    reply: CallReply
    address: str = ""


@dataclass(frozen=True)
class PeerLost:
    """A peer is no longer registered at the sending process."""

    peer: PeerID


@dataclass(frozen=True)
class PeerClaimed:
    """A peer has registered at the sending process; `since` orders registrations, in microseconds."""

    peer: PeerID
    since: int


@dataclass(frozen=True)
class ReturnMessage:
    """A peer that the receiver waits for is registered at the sending process."""

    peer: PeerID


@dataclass(frozen=True)
class PeerAwaited:
    """The sending process waits for a peer, which may be at the receiver by now."""

    peer: PeerID


Message = PeerRequest | PeerReply | PeerLost | PeerClaimed | ReturnMessage | PeerAwaited

_ABOUT_A_PEER: dict[str, type[PeerLost | ReturnMessage | PeerAwaited]] = {
    "lost": PeerLost,
    "returned": ReturnMessage,
    "awaited": PeerAwaited,
}
"""The messages that have nothing but a peer."""


def derive(secret: bytes, label: str) -> bytes:
    """Derive a key (32 bytes) for one purpose from the service's private key."""
    return hmac.digest(secret, b"punch/1 directory " + label.encode(), "sha256")


class Sealer:
    """Makes the messages of one process, and reads those for it."""

    def __init__(self, secret: bytes, random: RandomBytes) -> None:
        """:param secret: the service's private key, as bytes."""
        self._secret = derive(secret, "messages")
        self._own = random(NAME_SIZE)
        self.name = self._own.hex()
        """The name of this process."""
        self._key = self._key_of(self._own)
        self._sent = 0
        self._received: OrderedDict[bytes, tuple[int, ChaCha20Poly1305]] = OrderedDict()
        """The last number of each sender, and its key."""

    def seal(self, to: str, message: Message) -> bytes:
        """Return the bytes of a message for the process of this name."""
        self._sent += 1
        number = self._sent.to_bytes(8, "big")
        header = bytes([VERSION]) + self._own + number
        text = strict_json.dumps(_to_json(message))
        return header + self._key.encrypt(bytes(4) + number, text, header + bytes.fromhex(to))

    def open(self, data: bytes) -> tuple[str, Message]:
        """
        Return the name of the sender and its message.

        :raise ProcessMessageError: it is not from a process of this service, or not for this process now.
        """
        if not _HEADER < len(data) <= MAX_MESSAGE:
            raise ProcessMessageError("its size is wrong")
        header, sealed = data[:_HEADER], data[_HEADER:]
        if header[0] != VERSION:
            raise ProcessMessageError(
                f"its version is {header[0]}, not {VERSION}: all processes run one version"
            )
        sender, number = header[1 : 1 + NAME_SIZE], header[1 + NAME_SIZE :]
        last, key = self._received.get(sender) or (0, self._key_of(sender))
        try:
            text = key.decrypt(bytes(4) + number, sealed, header + self._own)
        except InvalidTag as error:
            raise ProcessMessageError("it was made with another key, or for another process") from error
        count = int.from_bytes(number, "big")
        if count <= last:
            raise ProcessMessageError("it was received before")
        self._received[sender] = count, key
        self._received.move_to_end(sender)
        if len(self._received) > MAX_SENDERS:
            self._received.popitem(last=False)
        return sender.hex(), _from_json(text)

    def _key_of(self, sender: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(hmac.digest(self._secret, sender, "sha256"))


class TwinDetector:
    """
    Finds another process with the name of this one, as a copy of a running machine has.

    A process sends `sign` to itself at each beat, to see that its subscription works. A copy of it has the
    same name, and so sends its own sign to both. If a sign that is not this process's own comes more than
    once, it is that of a copy.

    :param beat: seconds between two signs of a process.
    :ivar sign: random bytes; new ones are set for each connection to Redis.
    """

    def __init__(self, beat: float) -> None:
        self.sign = b""
        self._beat = beat
        self._others: dict[bytes, float] = {}
        """Signs of others, and when each came first."""
        self._until = -math.inf

    def received(self, sign: bytes, now: float) -> None:
        """A sign has come, at a time in monotonic seconds."""
        if sign == self.sign:
            return
        if sign in self._others:
            if now >= self._others[sign] + self._beat / 2:
                self._until = now + TWIN_TIME
            return
        # This process may have sent it before it connected again; then it does not come again
        self._others[sign] = now
        if len(self._others) > _MAX_SIGNS:
            del self._others[next(iter(self._others))]

    def found(self, now: float) -> bool:
        """Whether there is another process of this name."""
        return now < self._until


def _to_json(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = {"peer": str(message.peer)}
    if isinstance(message, PeerRequest):
        value |= {"type": "request", "name": message.name, "address": message.address}
        value["line"] = encode(message.request).decode()
    elif isinstance(message, PeerReply):
        value |= {"type": "reply", "line": encode(message.reply).decode()}
        if message.address:
            value["address"] = message.address
    elif isinstance(message, PeerClaimed):
        value |= {"type": "claimed", "since": message.since}
    else:
        value["type"] = next(kind for kind, each in _ABOUT_A_PEER.items() if isinstance(message, each))
    return value


def _from_json(text: bytes) -> Message:
    try:
        value = strict_json.loads(text)
        peer, kind = PeerID.parse_unchecked(value["peer"]), value["type"]
        if kind in _ABOUT_A_PEER:
            return _ABOUT_A_PEER[kind](peer)
        if kind == "claimed":
            return PeerClaimed(peer, int(value["since"]))
        line = value["line"].encode()
        if kind == "reply":
            reply = decode_passed_on(line)
            if isinstance(reply, (Answered, Candidates, Ended, Error)):
                address = value.get("address", "")
                return PeerReply(peer, reply, address and canonical(address, 0).host)
        elif kind == "request":
            request = decode_request(line)
            if isinstance(request, (Establish, Answer, Trickle, Reject, Cancel)):
                address = canonical(value["address"], 0).host
                return PeerRequest(peer, read_name(value["name"]), address, request)
    except (ControlError, PeerIDError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProcessMessageError(f"it can't be read ({error}): all processes run one version") from error
    raise ProcessMessageError(f"its kind is not known ({str(kind)[:20]}): all processes run one version")


UNKNOWN: Source = ("",)
"""The source of what is not known to be for a peer at some address."""
