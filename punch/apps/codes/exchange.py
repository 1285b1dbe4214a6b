"""
How the two sides of a code prove to each other that they know it, and learn who the other one is.

    redeemer                    rendezvous                         issuer
    establish (SPAKE2)          --------->   incoming
                 answered       <---------   answer (SPAKE2)
    candidate (proof, card)     --------->   candidates
                 candidates     <---------   candidate (proof, card), or that the code is wrong
    cancel                      --------->   ended

The *issuer* made the code and waits, registered under the key of its number. The *redeemer* typed the code,
and calls that key from a key of its own that it uses once. Both exchange envelopes as in a call, so any
rendezvous passes them on, but no link is made and no address is told. What is in the envelopes is protected
by the code alone: SPAKE2 gives both sides the same key if they have the same code, and what others see does
not let them test codes. So each guess must be made with the issuer, and the first wrong one ends the code.

Both sides are pure cores. They take messages of the rendezvous and the time, in monotonic seconds, and return
messages to send.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B

from punch.apps.codes.code import LIFE, Card, Code, CodeFailed, CodeFailure, CodePurpose
from punch.identity import Identity, PeerID, RandomBytes
from punch.wire import fields as read
from punch.wire import strict_json
from punch.wire.control import (
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Reject,
    Reply,
    Request,
    Trickle,
    new_call,
)
from punch.wire.fields import FieldError, field
from punch.wire.peers.sealed import Envelope

VERSION = 1
"""The version of this exchange."""
ANSWER_TIME = 30.0
"""Seconds that a redeemer waits for the other side."""
FAREWELL_TIME = 5.0
"""Seconds in which the redeemer should say that it got the last message."""
MAX_ATTEMPTS = 20
"""How many exchanges an issuer begins; each takes 20 ms, and tells a stranger nothing before it guesses."""
BODY_SIZE = 1536
"""All envelopes have bodies of so many bytes: the card of the longest name has room."""

_LABEL = b"punch/1 code"
_CARD_LABEL = b"punch/1 code card"
_read_version = read.integer(1, 2**31 - 1)
_read_pake = read.binary(33, 33)
_read_proof = read.binary(32, 32)
_read_card = read.binary(17, BODY_SIZE)
_read_signature = read.binary(64, 64)
Outcome = Card | CodeFailed


class _Keys:
    """What both sides derive from the key of SPAKE2. It differs if their codes, keys or calls differ."""

    def __init__(self, key: bytes, redeemer: PeerID, issuer: PeerID, call: str, pakes: bytes) -> None:
        self.transcript = sha256(
            _LABEL + b"\0" + redeemer.key + issuer.key + bytes.fromhex(call) + pakes
        ).digest()
        hkdf = HKDF(algorithm=SHA256(), length=128, salt=self.transcript, info=_LABEL)
        keys = hkdf.derive(key)
        self._proof_keys = {True: keys[:32], False: keys[32:64]}
        self._card_keys = {True: keys[64:96], False: keys[96:]}

    def proof(self, of_issuer: bool) -> bytes:
        """What proves that one side has the keys."""
        return hmac.digest(self._proof_keys[of_issuer], self.transcript, "sha256")

    def seal(self, identity: Identity, name: str, purpose: CodePurpose, of_issuer: bool) -> bytes:
        """The card of one side, encrypted. Each key encrypts one card."""
        card = {
            "id": str(identity.peer_id),
            "name": name,
            "purpose": purpose.value,
            "sig": read.to_base64(identity.sign(_CARD_LABEL, self._signed(of_issuer))),
        }
        return ChaCha20Poly1305(self._card_keys[of_issuer]).encrypt(bytes(12), strict_json.dumps(card), None)

    def open(self, sealed: bytes, of_issuer: bool) -> Card:
        """
        Decrypt the card of the other side.

        :raise FieldError: it is malformed, or not signed by the key that it names.
        """
        try:
            value = ChaCha20Poly1305(self._card_keys[of_issuer]).decrypt(bytes(12), sealed, None)
            fields = read.mapping(strict_json.loads(value))
        except (InvalidTag, strict_json.JSONError) as error:
            raise FieldError("is no card") from error
        peer = field(fields, "id", read.peer_id)
        signature = field(fields, "sig", _read_signature)
        if not peer.verify(_CARD_LABEL, self._signed(of_issuer), signature):
            raise FieldError("is not signed by its owner")
        return Card(
            peer, field(fields, "name", read.name), field(fields, "purpose", read.one_of(*CodePurpose))
        )

    def _signed(self, of_issuer: bool) -> bytes:
        return self.transcript + bytes([of_issuer])


def _envelope(to: PeerID, **fields: Any) -> Envelope:
    body = strict_json.dumps({"version": VERSION, **fields})
    # The signature of an envelope would prove nothing here: the issuer's key is no secret.
    return Envelope(to, body.ljust(BODY_SIZE), bytes(64))


def _fields(envelope: Envelope) -> dict[str, Any]:
    """
    What is in an envelope.

    :raise FieldError: it is no envelope of this exchange.
    """
    try:
        return dict(read.mapping(strict_json.loads(envelope.body)))
    except strict_json.JSONError as error:
        raise FieldError("is no JSON object") from error


def _finish(pake: Any, message: bytes) -> bytes | None:
    """The key of SPAKE2; None if the message is none."""
    try:
        key: bytes = pake.finish(message)
    except Exception:  # of many kinds, some of them only the library's; the message is a stranger's
        return None
    return key


@dataclass
class _Attempt:
    """An exchange that a redeemer has begun."""

    call: str
    redeemer: PeerID
    keys: _Keys


class Issuer:
    """
    The side that made the code: lets one redeemer prove that it knows the code. Pure.

    :param identity: who this side is, for the other side's card.
    :ivar outcome: the card of the other side, or why there is none; None while the code waits.
    :ivar over: whether nothing is left to do: the other side knows the outcome, or can't be told.
    """

    def __init__(
        self,
        code: Code,
        identity: Identity,
        name: str,
        purpose: CodePurpose,
        now: float,
        random: RandomBytes = os.urandom,
    ) -> None:
        self.outcome: Outcome | None = None
        self.over = False
        self._code = code
        self._us = code.identity.peer_id
        self._identity = identity
        self._name = name
        self._purpose = purpose
        self._random = random
        self._deadline = now + LIFE
        self._attempt: _Attempt | None = None
        self._attempts = 0
        self._messages: list[Request] = []

    def receive(self, reply: Reply, now: float) -> None:
        """Take a message of the rendezvous. One that belongs to nothing here is ignored."""
        attempt = self._attempt
        if isinstance(reply, Incoming):
            self._begin(reply, now)
        elif attempt is None or getattr(reply, "call", None) != attempt.call:
            return
        elif isinstance(reply, Candidates) and reply.sender == attempt.redeemer:
            if self.outcome is None:
                self._judge(attempt, reply.envelope, now)
        elif isinstance(reply, Ended) and reply.sender in (None, attempt.redeemer):
            self._attempt = None
            self.over = self.outcome is not None

    def lost(self, now: float) -> None:
        """The connection to the rendezvous is lost; it may be back soon."""
        self._attempt = None
        self.over = self.outcome is not None

    def replaced(self) -> None:
        """Somebody else has registered under the number."""
        if self.outcome is None:
            self.outcome = CodeFailed(CodeFailure.NUMBER_TAKEN)
        self.over = True

    def messages_to_send(self) -> list[Request]:
        """Messages for the rendezvous, in order."""
        messages, self._messages = self._messages, []
        return messages

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return None if self.over else self._deadline

    def handle_timer(self, now: float) -> None:
        """The code expires, or the other side does not say goodbye."""
        if now >= self._deadline:
            self.over = True
            if self.outcome is None:
                self.outcome = CodeFailed(CodeFailure.EXPIRED)

    def _begin(self, incoming: Incoming, now: float) -> None:
        """A redeemer begins. It takes the place of an earlier one, which may have lost its connection."""
        if self.outcome is not None:
            self._messages.append(Reject(incoming.call, incoming.sender, ErrorCode.REFUSED))
            return
        try:
            fields = _fields(incoming.offer)
            version = field(fields, "version", _read_version)
            message = field(fields, "pake", _read_pake) if version == VERSION else None
        except FieldError:
            self._messages.append(Reject(incoming.call, incoming.sender, ErrorCode.REFUSED))
            return
        if message is None:
            # The envelope says which version is known here.
            self._answer(incoming)
            return
        self._attempts += 1
        if self._attempts > MAX_ATTEMPTS:
            self._messages.append(Reject(incoming.call, incoming.sender, ErrorCode.REFUSED))
            self.outcome, self.over = CodeFailed(CodeFailure.TOO_MANY), True
            return
        pake: Any = SPAKE2_B(
            self._code.password, idA=incoming.sender.key, idB=self._us.key, entropy_f=self._random
        )
        ours: bytes = pake.start()
        key = _finish(pake, message)
        if key is None:
            self._messages.append(Reject(incoming.call, incoming.sender, ErrorCode.REFUSED))
            return
        keys = _Keys(key, incoming.sender, self._us, incoming.call, message + ours)
        before = self._attempt
        if before is not None and before.call != incoming.call:
            self._messages.append(Cancel(before.call, before.redeemer))
        self._attempt = _Attempt(incoming.call, incoming.sender, keys)
        self._answer(incoming, pake=read.to_base64(ours))

    def _answer(self, incoming: Incoming, **fields: str) -> None:
        self._messages.append(Answer(incoming.call, incoming.sender, _envelope(incoming.sender, **fields)))

    def _judge(self, attempt: _Attempt, envelope: Envelope, now: float) -> None:
        """The redeemer has guessed."""
        keys, purpose = attempt.keys, self._purpose
        self._deadline = now + FAREWELL_TIME
        try:
            fields = _fields(envelope)
            proof, sealed = field(fields, "proof", _read_proof), field(fields, "card", _read_card)
        except FieldError:
            proof, sealed = b"", b""
        if not hmac.compare_digest(proof, keys.proof(False)):
            self.outcome = CodeFailed(CodeFailure.WRONG)
            self._say(attempt, wrong=True)
            return
        try:
            card = keys.open(sealed, False)
        except FieldError:
            self.outcome = CodeFailed(CodeFailure.MALFORMED)
        else:
            same = card.purpose is purpose
            self.outcome = card if same else CodeFailed(CodeFailure.OTHER_PURPOSE, card)
        own = keys.seal(self._identity, self._name, purpose, True)
        self._say(attempt, proof=read.to_base64(keys.proof(True)), card=read.to_base64(own))

    def _say(self, attempt: _Attempt, **fields: Any) -> None:
        envelope = _envelope(attempt.redeemer, **fields)
        self._messages.append(Trickle(attempt.call, attempt.redeemer, envelope))


class Redeemer:
    """
    The side that typed the code: proves once that it knows it. Pure.

    :param caller: the key that calls, used for nothing else.
    :param identity: who this side is, for the other side's card.
    :ivar outcome: the card of the other side, or why there is none.
    """

    def __init__(
        self,
        code: Code,
        caller: PeerID,
        identity: Identity,
        name: str,
        purpose: CodePurpose,
        now: float,
        random: RandomBytes = os.urandom,
    ) -> None:
        self.outcome: Outcome | None = None
        self._them = code.identity.peer_id
        self._caller = caller
        self._identity = identity
        self._name = name
        self._purpose = purpose
        self._call = new_call(random)
        self._deadline = now + ANSWER_TIME
        self._keys: _Keys | None = None
        self._pake: Any = SPAKE2_A(code.password, idA=caller.key, idB=self._them.key, entropy_f=random)
        self._ours: bytes = self._pake.start()
        offer = _envelope(self._them, pake=read.to_base64(self._ours))
        self._messages: list[Request] = [Establish(self._call, self._them, offer)]

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do."""
        return self.outcome is not None

    def receive(self, reply: Reply, now: float) -> None:
        """Take a message of the rendezvous. One that belongs to nothing here is ignored."""
        if self.over or getattr(reply, "call", None) != self._call:
            return
        if isinstance(reply, Answered) and reply.sender == self._them and self._keys is None:
            self._guarded(self._prove, reply.answer)
        elif isinstance(reply, Candidates) and reply.sender == self._them and self._keys is not None:
            self._guarded(self._conclude, reply.envelope)
        elif isinstance(reply, (Ended, Error)):
            self.outcome = CodeFailed(_ENDS.get(reply.code, CodeFailure.LOST))

    def lost(self, now: float) -> None:
        """The connection to the rendezvous is lost."""
        self.outcome = self.outcome or CodeFailed(CodeFailure.LOST)

    def replaced(self) -> None:
        """Somebody else has registered with this side's key."""
        self.outcome = self.outcome or CodeFailed(CodeFailure.LOST)

    def messages_to_send(self) -> list[Request]:
        """Messages for the rendezvous, in order. The first are to be sent when this side is registered."""
        messages, self._messages = self._messages, []
        return messages

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return None if self.over else self._deadline

    def handle_timer(self, now: float) -> None:
        """The other side has had its time."""
        if now >= self._deadline:
            self._end(CodeFailed(CodeFailure.LOST))

    def _guarded(self, step: Callable[[dict[str, Any]], None], envelope: Envelope) -> None:
        try:
            step(_fields(envelope))
        except FieldError:
            self._end(CodeFailed(CodeFailure.MALFORMED))

    def _prove(self, fields: dict[str, Any]) -> None:
        if field(fields, "version", _read_version) != VERSION or "pake" not in fields:
            self._end(CodeFailed(CodeFailure.OTHER_VERSION))
            return
        message = field(fields, "pake", _read_pake)
        key = _finish(self._pake, message)
        if key is None:
            raise FieldError("is no message of SPAKE2")
        keys = self._keys = _Keys(key, self._caller, self._them, self._call, self._ours + message)
        card = keys.seal(self._identity, self._name, self._purpose, False)
        envelope = _envelope(self._them, proof=read.to_base64(keys.proof(False)), card=read.to_base64(card))
        self._messages.append(Trickle(self._call, self._them, envelope))

    def _conclude(self, fields: dict[str, Any]) -> None:
        keys = self._keys
        assert keys is not None
        if "wrong" in fields:
            self._end(CodeFailed(CodeFailure.WRONG))
            return
        proof = field(fields, "proof", _read_proof)
        if not hmac.compare_digest(proof, keys.proof(True)):
            self._end(CodeFailed(CodeFailure.WRONG))
            return
        card = keys.open(field(fields, "card", _read_card), True)
        same = card.purpose is self._purpose
        self._end(card if same else CodeFailed(CodeFailure.OTHER_PURPOSE, card))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._messages.append(Cancel(self._call, self._them))


_ENDS = {
    ErrorCode.NOT_REGISTERED: CodeFailure.NOBODY,
    ErrorCode.REFUSED: CodeFailure.NOBODY,
    ErrorCode.BUSY: CodeFailure.BUSY,
    ErrorCode.RATE: CodeFailure.BUSY,
    ErrorCode.TOO_MANY: CodeFailure.BUSY,
}
"""What the codes mean with which a call ends."""
