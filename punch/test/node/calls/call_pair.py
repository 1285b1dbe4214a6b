"""The signaling of both ends of one call; the test carries the messages between them."""

from __future__ import annotations

from dataclasses import replace

from punch.identity import Identity
from punch.node.calls.description import Description
from punch.node.calls.signaling import Introduction, Signaling, SignalingEvent
from punch.test.strategies import IDENTITIES
from punch.wire.address import Address
from punch.wire.control import Answer, Establish, Trickle
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.peers.sealed import Envelope

ALICE, BOB, MALLORY = IDENTITIES[:3]
PASSWORD = "p" * 24
CERTIFICATE = b"c" * 32


def candidate(number: int) -> Candidate:
    """Return one of several host candidates."""
    return Candidate(CandidateType.HOST, Address(f"192.0.2.{number + 1}", 1000 + number), 100 + number, "1")


def description(name: str, *candidates: Candidate, complete: bool = False) -> Description:
    """What a side tells the other about its ICE agent."""
    nats = (NatProfile(f"203.0.113.{len(name)}"),)
    return Description(name, f"{name}Ufrag", PASSWORD, 20, candidates, complete, nats=nats)


class CallPair:
    """The signaling of both ends of one call; the test carries the messages between them."""

    def __init__(self, caller: Identity = ALICE, callee: Identity = BOB, prekey: bytes = b"") -> None:
        self.now = 100.0
        self._drawn = 0
        self.caller = Signaling.outgoing(
            caller,
            callee.peer_id,
            description("alice", candidate(0)),
            prekey=prekey,
            random=self._random,
            now=self.now,
        )
        (establish,) = self.caller.messages_to_send()
        assert isinstance(establish, Establish)
        self.establish = establish
        self.callee = Signaling.incoming(
            callee,
            caller.peer_id,
            establish.call,
            establish.offer,
            now=self.now,
        )

    def _random(self, size: int) -> bytes:
        self._drawn += 1
        return bytes([self._drawn]) * size

    def accept(self, *candidates: Candidate) -> Envelope:
        """Let the callee accept the call; returns its answer, which is not delivered."""
        self.callee.accept(description("bob", *candidates), CERTIFICATE, self.now)
        (answer,) = self.callee.messages_to_send()
        assert isinstance(answer, Answer)
        return answer.answer

    def introduce(self) -> tuple[Introduction, Introduction]:
        """Accept the call and deliver the answer; returns the introductions of caller and callee."""
        self.caller.receive_answer(self.accept(candidate(1)), self.now)
        here, there = self.caller.next_event(), self.callee.next_event()
        assert isinstance(here, Introduction)
        assert isinstance(there, Introduction)
        return here, there

    def trickle(self, sender: Signaling, *candidates: Candidate, complete: bool = False) -> Envelope:
        """Add candidates on one side; returns the message that trickles them, which is not delivered."""
        sender.add_candidates(candidates, complete)
        (message,) = (each for each in sender.messages_to_send() if isinstance(each, Trickle))
        return message.envelope


def events(call: Signaling) -> list[SignalingEvent]:
    """All events of a call that were not taken yet."""
    told = []
    while (event := call.next_event()) is not None:
        told.append(event)
    return told


def changed(envelope: Envelope, position: int = 20) -> Envelope:
    """The envelope with one bit of its body inverted."""
    body = bytearray(envelope.body)
    body[position] ^= 1
    return replace(envelope, body=bytes(body))
