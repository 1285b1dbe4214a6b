"""
One introduction: an offer rings at the called peer, is answered, and both trickle candidates for a while.

    ringing ──answered──> answered ──expired──> over
       └──ended, lost, expired,─────┴──ended, lost,──> over
          displaced                    displaced

Pure: what is to be delivered goes to `deliver`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from punch.identity import PeerID
from punch.wire.control import Answered, Candidates, Ended, ErrorCode, Incoming, Reply
from punch.wire.sealed import Envelope

Deliver = Callable[[PeerID, Reply], None]

IntroductionKey = tuple[str, PeerID, PeerID]
"""The call ID and both peers, the smaller first: either of them may name the call."""


def introduction_key(call: str, one: PeerID, other: PeerID) -> IntroductionKey:
    """Where the introduction of `one` and `other` under `call` is found."""
    return (call, min(one, other), max(one, other))


class IntroductionInputs(Protocol):
    """What can happen to an introduction."""

    def answered(self, answer: Envelope, deadline: float) -> None:
        """The called peer said yes: candidates are forwarded until `deadline`."""

    def trickled(self, sender: PeerID, envelope: Envelope) -> None:
        """Either peer has more candidates for the other."""

    def ended(self, by: PeerID, code: ErrorCode, text: str) -> None:
        """`by` needs it no longer, and the other one is told."""

    def lost(self, peer: PeerID) -> None:
        """The connection of `peer` is gone."""

    def returned(self, peer: PeerID) -> None:
        """`peer` registered again on another connection: what the old one may not have got is sent again."""

    def expired(self) -> None:
        """The time of its state is up."""

    def displaced(self) -> None:
        """It has to make room for another introduction."""


@dataclass
class IntroductionMachine:
    """What an introduction knows."""

    call: str
    caller: PeerID
    caller_name: str
    callee: PeerID
    offer: Envelope
    deadline: float
    """Monotonic seconds."""
    deliver: Deliver
    answer: Envelope | None = None
    over: bool = field(default=False)

    def other(self, peer: PeerID) -> PeerID:
        """The one that is not `peer`."""
        return self.callee if peer == self.caller else self.caller

    def tell_end(self, to: PeerID, code: ErrorCode, text: str) -> None:
        """Tell one side that it is over."""
        self.deliver(to, Ended(self.call, code, text, sender=self.other(to)))


_builder = TypeMachineBuilder(IntroductionInputs, IntroductionMachine)
_ringing = _builder.state("ringing")
_answered = _builder.state("answered")
_over = _builder.state("over")


@_ringing.upon(IntroductionInputs.answered).to(_answered)
def _answer(inputs: IntroductionInputs, core: IntroductionMachine, answer: Envelope, deadline: float) -> None:
    core.answer = answer
    core.deadline = deadline
    core.deliver(core.caller, Answered(core.call, core.callee, answer))


@_ringing.upon(IntroductionInputs.trickled).loop()
@_answered.upon(IntroductionInputs.trickled).loop()
def _trickle(
    inputs: IntroductionInputs, core: IntroductionMachine, sender: PeerID, envelope: Envelope
) -> None:
    core.deliver(core.other(sender), Candidates(core.call, sender, envelope))


@_ringing.upon(IntroductionInputs.ended).to(_over)
@_answered.upon(IntroductionInputs.ended).to(_over)
def _end(
    inputs: IntroductionInputs, core: IntroductionMachine, by: PeerID, code: ErrorCode, text: str
) -> None:
    core.over = True
    core.tell_end(core.other(by), code, text)


@_ringing.upon(IntroductionInputs.lost).to(_over)
@_answered.upon(IntroductionInputs.lost).to(_over)
def _lose(inputs: IntroductionInputs, core: IntroductionMachine, peer: PeerID) -> None:
    core.over = True
    core.tell_end(core.other(peer), ErrorCode.GONE, "The other peer lost its connection to the rendezvous.")


@_ringing.upon(IntroductionInputs.returned).loop()
def _ring_again(inputs: IntroductionInputs, core: IntroductionMachine, peer: PeerID) -> None:
    if peer == core.callee:
        core.deliver(core.callee, Incoming(core.call, core.caller, core.caller_name, core.offer))


@_answered.upon(IntroductionInputs.returned).loop()
def _answer_again(inputs: IntroductionInputs, core: IntroductionMachine, peer: PeerID) -> None:
    if peer == core.caller and core.answer is not None:
        core.deliver(core.caller, Answered(core.call, core.callee, core.answer))


@_ringing.upon(IntroductionInputs.expired).to(_over)
def _time_out(inputs: IntroductionInputs, core: IntroductionMachine) -> None:
    core.over = True
    core.tell_end(core.caller, ErrorCode.TIMEOUT, "Nobody answered the call.")
    core.tell_end(core.callee, ErrorCode.TIMEOUT, "The call was not answered in time.")


@_answered.upon(IntroductionInputs.expired).to(_over)
def _finish(inputs: IntroductionInputs, core: IntroductionMachine) -> None:
    core.over = True


@_ringing.upon(IntroductionInputs.displaced).to(_over)
def _stop_ringing(inputs: IntroductionInputs, core: IntroductionMachine) -> None:
    core.over = True
    text = "Your network has more calls waiting than others, who call now; try again later."
    core.tell_end(core.caller, ErrorCode.BUSY, text)
    core.tell_end(core.callee, ErrorCode.CANCELLED, "The rendezvous ended the call to make room for others.")


@_answered.upon(IntroductionInputs.displaced).to(_over)
def _end_answered(inputs: IntroductionInputs, core: IntroductionMachine) -> None:
    # Those who have their link ignore it. Nobody else would stop trying before the time is up.
    core.over = True
    for peer in (core.caller, core.callee):
        core.tell_end(peer, ErrorCode.CANCELLED, "The rendezvous ended the call to make room for others.")


# A second answer is the same answer, sent again over a new connection.
_answered.upon(IntroductionInputs.answered).loop().returns(None)

introduce: Callable[[IntroductionMachine], IntroductionInputs] = _builder.build()
"""Make the machine of one introduction, ringing; the offer is delivered by whoever makes it."""
