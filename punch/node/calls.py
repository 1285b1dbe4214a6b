"""All that a node has with other peers: the calls under way, and the links."""

from __future__ import annotations

from collections.abc import Iterator

from punch.identity import PeerID
from punch.node import limits
from punch.node.call import Call
from punch.node.call_context import CallOwner


class Calls:
    """
    The sessions of one node: with each peer one link at the most, and one call that may become the next.

    :ivar calls: who takes part in which introduction, by call ID; restarts of links among them.
    :ivar attempts: the call with each peer, while it is no link.
    :ivar links: the link with each peer.
    """

    def __init__(self) -> None:
        self.calls: dict[str, CallOwner] = {}
        self.attempts: dict[PeerID, Call] = {}
        self.links: dict[PeerID, Call] = {}

    def __iter__(self) -> Iterator[Call]:
        """All of them, as they are now, whatever happens to them meanwhile."""
        return iter((*self.attempts.values(), *self.links.values()))

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self.attempts) + len(self.links) >= limits.MAX_SESSIONS

    def begin(self, session: Call) -> None:
        """A call is under way."""
        self.attempts[session.peer] = session
        self.calls[session.call.call_id] = session

    def connect(self, session: Call) -> Call | None:
        """
        A call has become a link.

        :return: the older link with the same peer, whose place it takes.
        """
        if self.attempts.get(session.peer) is session:
            del self.attempts[session.peer]
        older = self.links.pop(session.peer, None)
        self.links[session.peer] = session
        return older

    def forget_call(self, session: Call) -> None:
        """What the rendezvous says about its introduction matters no more."""
        if self.calls.get(session.call.call_id) is session:
            del self.calls[session.call.call_id]

    def drop(self, session: Call) -> None:
        """Another call takes the place of this one, and nobody is told."""
        self.forget_call(session)
        if self.attempts.get(session.peer) is session:
            del self.attempts[session.peer]
        session.withdraw()
