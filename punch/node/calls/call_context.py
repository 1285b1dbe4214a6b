"""What the calls of one node share: identity, network, and the channel for their signaling."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from punch.ice.budget import Budgets
from punch.identity import Identity, PeerID, RandomBytes
from punch.link.services import Services
from punch.net.udp.sockets import free_descriptors
from punch.node.calls.offer_freshness import OfferTimes
from punch.node.calls.prekeys import Prekeys
from punch.node.network.network import Network
from punch.node.paths.path_memory import PathMemory
from punch.node.policies import RelayPolicy, SprayPolicy
from punch.wire.control import Answered, Candidates, Ended, Error, Establish, Request

if TYPE_CHECKING:
    from punch.link.link import Link
    from punch.node.calls.calls import Calls
    from punch.node.calls.description import Description
    from punch.node.calls.signaling import Signaling

MAX_UNSENT = 64
"""Messages of calls under way that are kept while there is no connection to the rendezvous."""


class SignalingChannel:
    """
    Carries the messages of all calls over the control connection.

    :param send: sends a message to the rendezvous; returns False if there is no connection.
    :param registered: returns whether the rendezvous is connected and has welcomed us.
    :param monotonic: returns the time in seconds.
    """

    def __init__(
        self,
        send: Callable[[Request], bool],
        registered: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._send = send
        self._registered = registered
        self._monotonic = monotonic
        self._calls: dict[str, tuple[Signaling, Callable[[], None]]] = {}
        self._unsent: deque[Request] = deque(maxlen=MAX_UNSENT)

    def __len__(self) -> int:
        """Return how many calls and ICE restarts receive messages."""
        return len(self._calls)

    @property
    def registered(self) -> bool:
        """Whether the rendezvous can be reached now."""
        return self._registered()

    def add(self, signaling: Signaling, changed: Callable[[], None]) -> None:
        """
        Send the messages of a call, and receive those for it until `remove`.

        :param changed: called after each message that was received.
        """
        self._calls[signaling.call_id] = signaling, changed
        self.flush(signaling)

    def remove(self, signaling: Signaling) -> None:
        """Send what the call still has to send, and receive nothing for it any more."""
        self.flush(signaling)
        if self._calls.get(signaling.call_id, (None,))[0] is signaling:
            del self._calls[signaling.call_id]

    def flush(self, signaling: Signaling) -> None:
        """Send what the call has to send."""
        for message in signaling.messages_to_send():
            self.send(message)

    def send(self, message: Request) -> None:
        """Send one message. Without a connection it is kept, unless it is an offer: those are made anew."""
        if not self._send(message) and not isinstance(message, Establish):
            self._unsent.append(message)

    def connected(self) -> None:
        """There is a connection again: send what was kept."""
        unsent, self._unsent = self._unsent, deque(maxlen=MAX_UNSENT)
        for message in unsent:
            self._send(message)

    def receive(self, reply: Answered | Candidates | Ended | Error) -> None:
        """Hand a message to its call. One that belongs to no call, or has another sender, is dropped."""
        signaling, changed = self._calls.get(reply.call or "", (None, None))
        if signaling is None or changed is None:
            return
        if getattr(reply, "sender", None) not in (None, signaling.peer):
            return
        if isinstance(reply, Answered):
            signaling.receive_answer(reply.answer, self._monotonic())
        elif isinstance(reply, Candidates):
            signaling.receive_candidates(reply.envelope)
        else:
            signaling.receive_end(reply.code)
        self.flush(signaling)
        changed()

    def repeat_answer(self, call_id: str, sender: PeerID) -> bool:
        """
        An offer came. Return whether it belongs to a call that is under way; if so, our answer is sent again.
        """
        signaling, _ = self._calls.get(call_id, (None, None))
        if signaling is None:
            return False
        if signaling.peer == sender:
            signaling.repeat_answer()
            self.flush(signaling)
        return True


class PunchingSlot:
    """Held by the link that makes an attempt at a direct path, since a node makes one at a time."""

    def __init__(self) -> None:
        self._owner: object | None = None

    def take(self, owner: object) -> bool:
        """Take the slot, unless somebody else has it."""
        if self._owner is None:
            self._owner = owner
        return self._owner is owner

    def release(self, owner: object) -> None:
        """Give the slot back, if this owner has it."""
        if self._owner is owner:
            self._owner = None


@dataclass(frozen=True)
class CallContext:
    """What the calls of one node share, and the offers that they make with it. No call replaces any of it."""

    calls: Calls
    """Where a call reports its stages and its end."""
    identity: Identity
    name: Callable[[], str]
    """Returns the name that we sign in offers and answers."""
    clock: IReactorTime
    monotonic: Callable[[], float]
    wall: Callable[[], float]
    """Returns seconds since 1970."""
    random: RandomBytes
    pacing: float
    """ICE's Ta, in seconds."""
    network: Network
    relay_policy: RelayPolicy
    channel: SignalingChannel
    offer_times: OfferTimes
    """The times that our offers carry."""
    paths: PathMemory
    """What is remembered of the paths to known peers."""
    prekeys: Prekeys
    """Our prekey, and those of other peers."""
    budgets: Budgets = field(default_factory=Budgets)
    """How much each peer may make us send to addresses that have not answered."""
    punching_slot: PunchingSlot = field(default_factory=PunchingSlot)
    """Which link makes an attempt at a direct path now: a node makes one at a time."""
    spray_policy: SprayPolicy = SprayPolicy.AUTO
    """Whether many packets may be sent to guessed ports."""
    descriptors: Callable[[], int] = free_descriptors
    """Returns how many more sockets this process may open."""
    services: Services = field(default_factory=Services)
    """What answers the streams of links."""
    make_link: Callable[..., Link] | None = None
    """Makes a link from what `Link` is made from; None: `Link`."""

    def offer(self, peer: PeerID, description: Description, now: float) -> Signaling:
        """
        Make an offer to a peer with the present time, and the signaling that begins with it.

        :raise SealError: the peer's key cannot be sealed to.
        """
        from punch.node.calls.signaling import Signaling

        return Signaling.outgoing(
            self.identity,
            peer,
            replace(description, time=self.offer_times.next()),
            prekey=self.prekeys.of(peer),
            random=self.random,
            now=now,
        )
