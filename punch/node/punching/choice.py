"""
The choice of a technique for one link: by what both sides know about their NATs, from and to which addresses,
and whether it is still worth trying.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from punch.ice.punching.assumed_mapping import AssumedMapping
from punch.ice.punching.techniques import Technique, best_pair, opens, technique_for
from punch.identity import PeerID
from punch.node.calls.call_context import CallContext
from punch.node.paths.ice_transport import IceTransport
from punch.node.policies import SprayPolicy
from punch.node.punching.sockets import AttemptBasis
from punch.wire.peers.nat_profile import NatProfile

ATTEMPTS = 3
"""
How many attempts in a row, in which packets were sent, must have found no path between the same networks, so
that the technique is taken to have failed there once…
"""
SPRAYS = 1
"""…and how many by spraying, which finds a path in nearly every attempt if it can find one."""


class TechniqueChoice:
    """
    What is known of both sides, and what follows from it.

    :param theirs: what the other side's offer or answer said about its NATs.
    :ivar theirs: what the other side said last.
    """

    def __init__(
        self, peer: PeerID, context: CallContext, transport: IceTransport, theirs: Sequence[NatProfile]
    ) -> None:
        self.theirs = tuple(theirs)
        self._peer = peer
        self._context = context
        self._network = context.network
        self._transport = transport
        self._told: tuple[NatProfile, ...] = ()
        self._assumed = AssumedMapping()
        # In how many attempts something was sent between these networks, and the number of the newest one
        self._made = self._newest_made = 0
        # In which network we were then, and why it was made
        self._made_in: str | None = None
        self._basis: AttemptBasis | None = None
        self._vain: Counter[Technique] = Counter()
        self._found = False

    # What both sides have

    @property
    def ours(self) -> tuple[NatProfile, ...]:
        """The profiles of our NATs, as the other side is told."""
        return self._assumed.applied(self._network.nat_observer.current)

    @property
    def incomplete(self) -> bool:
        """Whether NATs are observed anew, of which those that are known again are the same as before."""
        before = hosts(self._told)
        return self._network.nat_observer.observing and all(host in before for host in hosts(self.ours))

    @property
    def moved(self) -> bool:
        """Whether the other side was told of other NATs than those we are behind now."""
        ours = self.ours
        return bool(ours) and not self.incomplete and hosts(self._told) != hosts(ours)

    @property
    def profiles(self) -> tuple[NatProfile | None, NatProfile | None]:
        """The profiles of the addresses between which attempts are made, ours and the other side's."""
        return best_pair(self.ours, self.theirs, controlling=self._transport.generations.use.controlling)

    def news(self) -> tuple[NatProfile, ...] | None:
        """
        Return what to tell the other side about our NATs, None if there is nothing new. While they are
        observed anew, nothing is known, or less than before: that is no news, as they are probably the same.
        """
        ours = self.ours
        same = [_without_age(each) for each in ours] == [_without_age(each) for each in self._told]
        if not ours or same or not self._transport.relayed or self.incomplete:
            return None
        self._told = ours
        return ours

    # What follows

    @property
    def technique(self) -> Technique:
        """By which technique a path is looked for."""
        ours, theirs = self.profiles
        if ours is not None and theirs is not None and ours.host == theirs.host:
            # Behind one NAT, each side's packets shift the ports of the other
            return Technique.ICE
        technique = technique_for(ours, theirs)
        return Technique.RELAY if not self._sprays and technique is Technique.SPRAYING else technique

    @property
    def opens(self) -> bool:
        """Whether our side opens, and the other one aims."""
        return opens(*self.profiles, controlling=self._transport.generations.use.controlling)

    @property
    def is_worth_trying(self) -> bool:
        """Whether the technique has not failed again and again between these NATs."""
        return self._context.paths.is_worth_trying(self._peer, self.technique, *self.profiles)

    @property
    def found_last_path(self) -> bool:
        """Whether the technique found the last direct path to the network that the other side is in."""
        return self._context.paths.found_last_path(self._peer, self.technique, self.profiles[1])

    # What happens

    def networks_changed(self) -> None:
        """One of the two is in another network: what was tried and found before says nothing about it."""
        self._made = 0
        self._found = False
        self._vain.clear()
        self._assumed = AssumedMapping()

    def sent(self, number: int, basis: AttemptBasis | None) -> None:
        """A packet of the attempt with this number was sent, which was made for this reason."""
        if number != self._newest_made:
            self._newest_made, self._made_in, self._basis = number, self._network.key, basis
            self._made += 1

    def attempt_over(self, number: int) -> None:
        """An attempt has ended. If the link is still on the relay, and packets were sent, it has failed."""
        basis, self._basis = self._basis, None
        if number != self._newest_made or basis is None or not self._transport.relayed:
            return
        self._assumed.failed(basis.technique)
        self.review()
        if self._found or self._made_in != self._network.key:
            return
        self._vain[basis.technique] += 1
        if self._vain[basis.technique] >= (SPRAYS if basis.technique is Technique.SPRAYING else ATTEMPTS):
            del self._vain[basis.technique]
            self._remember(basis, found=False)

    def path_found(self, basis: AttemptBasis | None) -> None:
        """A direct path from a socket of an attempt that was made for this reason is in use."""
        if self._made and not self._found:
            self._found = True
            self._remember(basis, found=True)

    def review(self) -> None:
        """Decide anew what our NAT is taken for."""
        ours, theirs = self.profiles
        current = self._network.nat_observer.current
        observed = next((each for each in current if ours is not None and each.host == ours.host), None)
        if self._sprays and observed is not None and theirs is not None:
            controlling = self._transport.generations.use.controlling
            self._assumed.review(observed, theirs, controlling=controlling)

    @property
    def _sprays(self) -> bool:
        return self._context.spray_policy is not SprayPolicy.NEVER

    def _remember(self, basis: AttemptBasis | None, *, found: bool) -> None:
        if basis is not None:
            self._context.paths.tried(self._peer, basis.technique, basis.ours, basis.theirs, found=found)


def hosts(profiles: Sequence[NatProfile]) -> list[str]:
    """Return the public IP addresses of some profiles."""
    return [each.host for each in profiles]


def _without_age(profile: NatProfile) -> tuple[object, ...]:
    return profile.host, profile.mapping, profile.ports, profile.step
