"""How the end of a link is told."""

from __future__ import annotations

from punch.identity import PeerID
from punch.link.events import CloseCode
from punch.link.link import LinkClosed
from punch.node import sentences
from punch.node.events import Reason
from punch.wire.control import ErrorCode


def link_ended(closed: LinkClosed, peer: PeerID, name: str | None, proved: bool) -> tuple[str, str]:
    """Why a link ended: the reason's code, and the sentence."""
    code = closed.code
    if code is CloseCode.PROOF:
        return Reason.PROOF.value, sentences.not_proved(peer, name)
    if code is CloseCode.REPLACED:
        return ErrorCode.REPLACED.value, sentences.replaced(peer, name)
    if code in (CloseCode.OK, CloseCode.SHUTDOWN):
        return Reason.BYE.value, sentences.goodbye(peer, name, closed.by_peer)
    if code in (CloseCode.LOST, CloseCode.TIMEOUT):
        if proved:
            return Reason.LOST.value, sentences.lost(peer, name)
        return Reason.UNREACHABLE.value, sentences.no_link(peer, name)
    return Reason.PROTOCOL.value, sentences.link_broken(peer, name)
