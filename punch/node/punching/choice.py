"""
The choice of a technique for one link: by what both sides know about their NATs, from and to which addresses,
and whether it is still worth trying (`TechniqueChoice`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from punch.ice.punching.spraying import sockets_for
from punch.ice.punching.techniques import (
    LAST_OPENS,
    AssumedMapping,
    Technique,
    best_pair,
    dependent,
    is_uncertain,
    opens,
    technique_for,
)
from punch.identity import PeerID
from punch.node.calls.call_context import CallContext
from punch.node.paths.ice_transport import IceTransport
from punch.node.policies import SprayPolicy
from punch.node.punching.attempt import AttemptBasis
from punch.wire.peers.nat_profile import NatProfile

ATTEMPTS = 3
"""
How many attempts by a technique, in which packets were sent and that ran to their end, must have found no
path between the same networks, so that it is taken to have failed on this link.
"""


class FailedAttempts:
    """
    Which techniques have failed on one link between the same two networks.

    An attempt by spraying finds a path in nearly every case in which it can, so each one is a failure of its
    own. The others take few packets, and whether they find one is up to chance, or to what the network loses
    at that time. So all of their attempts on a link are one failure, and the link goes on with them.
    """

    def __init__(self) -> None:
        self._counts: Counter[Technique] = Counter()
        self._failed: set[Technique] = set()

    def add(self, technique: Technique, ours: NatProfile | None, theirs: NatProfile | None) -> bool:
        """
        An attempt between these NATs has failed; returns whether a failure of its technique is to be
        remembered.
        """
        if technique is Technique.SPRAYING:
            return True
        self._counts[technique] += 1
        uncertain = _any_uncertain(ours, theirs)
        # The first ones that fail may only show that such a NAT is another one than it is taken for
        enough = LAST_OPENS if uncertain and technique is Technique.SIMULTANEOUS_OPEN else ATTEMPTS
        if self._counts[technique] < enough or technique in self._failed:
            return False
        self._failed.add(technique)
        return True

    def __contains__(self, technique: object) -> bool:
        """
        Whether the technique has failed on this link. The failure is remembered for later links, but this
        link goes on with the technique.
        """
        return technique in self._failed


class TechniqueChoice:
    """
    What is known about the NATs of both sides, and which technique follows from it.

    :param theirs: what the other side's offer or answer said about its NATs.
    :ivar theirs: what the other side said last.
    :ivar pairs: whether the other side chooses among all pairs of profiles. Older releases use the first
        profile of each side only. With them, only their first one counts, and the one from which we make
        attempts is told first.
    """

    def __init__(
        self, peer: PeerID, context: CallContext, transport: IceTransport, theirs: Sequence[NatProfile]
    ) -> None:
        self.theirs = tuple(theirs)
        self.pairs = False
        self._peer = peer
        self._context = context
        self._network = context.network
        self._transport = transport
        self._told: tuple[NatProfile, ...] = ()
        self._assumed = AssumedMapping()
        # Whether something was sent in an attempt between these networks, and the last such attempt
        self._made = False
        self._newest: AttemptBasis | None = None
        # In which network we were at that time
        self._made_in: str | None = None
        self._failed = FailedAttempts()
        self._found = False

    # What both sides have

    @property
    def ours(self) -> tuple[NatProfile, ...]:
        """The profiles of our NATs, as the other side is told: first the one that attempts are made from."""
        chosen, known = self.profiles[0], self._known
        return tuple(sorted(known, key=lambda each: chosen is not None and each.host != chosen.host))

    @property
    def _known(self) -> tuple[NatProfile, ...]:
        return self._assumed.applied(self._network.nat_observer.current)

    @property
    def incomplete(self) -> bool:
        """
        Whether NATs are still being observed anew, and all that are known so far are those that the other
        side was told of.
        """
        return self._network.nat_observer.observing and hosts(self.ours) <= hosts(self._told)

    @property
    def moved(self) -> bool:
        """Whether the other side was told of other NATs than those we are behind now."""
        ours = self.ours
        return bool(ours) and not self.incomplete and hosts(self._told) != hosts(ours)

    @property
    def profiles(self) -> tuple[NatProfile | None, NatProfile | None]:
        """The profiles of the addresses between which attempts are made, ours and the other side's."""
        theirs = self.theirs if self.pairs else self.theirs[:1]
        return best_pair(self._known, theirs, controlling=self._transport.generations.current.controlling)

    def news(self) -> tuple[NatProfile, ...] | None:
        """
        Return what to tell the other side about our NATs, None if there is nothing new. While they are
        observed anew, nothing is known, or less than before. That is not told, as they are probably the same.
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
        return opens(*self.profiles, controlling=self._transport.generations.current.controlling)

    @property
    def uncertain(self) -> bool:
        """Whether either NAT may be another one than it is taken for, so that the technique may change."""
        return _any_uncertain(*self.profiles)

    @property
    def is_worth_trying(self) -> bool:
        """Whether the technique has not failed again and again between these NATs, on the links before."""
        technique = self.technique
        return technique in self._failed or self._is_worth_trying(technique, *self.profiles)

    @property
    def found_last_path(self) -> bool:
        """Whether the technique found the last direct path to the network that the other side is in."""
        return self._context.paths.found_last_path(self._peer, self.technique, self.profiles[1])

    # What happens

    def networks_changed(self) -> None:
        """
        This side or the other one is in another network, about which what was tried and found before says
        nothing.
        """
        self._made = self._found = False
        self._failed = FailedAttempts()
        self._assumed = AssumedMapping()

    def sent(self, basis: AttemptBasis) -> None:
        """A packet of the attempt with this basis was sent. Each attempt has a basis object of its own."""
        if basis is not self._newest:
            self._newest, self._made_in, self._made = basis, self._network.key, True
            if basis.technique is Technique.SPRAYING:
                self._assumed.sprayed(self._context.monotonic())

    def attempt_over(self, basis: AttemptBasis) -> None:
        """
        The attempt with this basis has run to its end. If the link is still on the relay, and packets were
        sent, it has failed.
        """
        if basis is not self._newest or not self._transport.relayed:
            return
        self._assumed.failed(basis.technique, basis.ours)
        counts = not self._found and self._made_in == self._network.key
        if counts and self._failed.add(basis.technique, basis.ours, basis.theirs):
            self._remember(basis, found=False)
        self.review()

    def path_found(self, basis: AttemptBasis | None) -> None:
        """
        A direct path from a socket of an attempt is in use.

        :param basis: the basis of the attempt that has opened its socket.
        """
        if basis is not None and basis.technique is Technique.SPRAYING:
            self._assumed.found()
        if self._made and not self._found:
            self._found = True
            self._remember(basis, found=True)

    def review(self) -> None:
        """Decide anew what our NAT is taken for."""
        ours, theirs = self.profiles
        host = self._assumed.host or (None if ours is None else ours.host)
        current = self._network.nat_observer.current
        observed = next((each for each in current if each.host == host), None)
        if self._sprays and observed is not None and theirs is not None:
            self._assumed.review(
                observed,
                theirs,
                self._context.monotonic(),
                controlling=self._transport.generations.current.controlling,
                possible=self._may_spray(observed, theirs),
                remembered=self._context.paths.found_last_path(self._peer, Technique.SPRAYING, theirs),
            )

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self._assumed.until if self._transport.relayed else None

    def handle_timer(self, now: float) -> bool:
        """End an assumption about our NAT if it is time; returns whether one has ended."""
        return self._transport.relayed and self._assumed.handle_timer(now)

    def _may_spray(self, observed: NatProfile, theirs: NatProfile) -> bool:
        """Whether we could open for spraying if our ports depended on the destination."""
        if not self._is_worth_trying(Technique.SPRAYING, dependent(observed), theirs):
            return False
        # While an attempt is made, its sockets leave no room for another one
        held = self._network.sockets.extra
        return self._assumed.dependent or bool(sockets_for(self._context.descriptors(), held))

    def _is_worth_trying(
        self, technique: Technique, ours: NatProfile | None, theirs: NatProfile | None
    ) -> bool:
        return self._context.paths.is_worth_trying(self._peer, technique, ours, theirs)

    @property
    def _sprays(self) -> bool:
        return self._context.spray_policy is not SprayPolicy.NEVER

    def _remember(self, basis: AttemptBasis | None, *, found: bool) -> None:
        if basis is not None:
            self._context.paths.tried(self._peer, basis.technique, basis.ours, basis.theirs, found=found)


def hosts(profiles: Sequence[NatProfile]) -> frozenset[str]:
    """Return the public IP addresses of some profiles."""
    return frozenset(each.host for each in profiles)


def _any_uncertain(*profiles: NatProfile | None) -> bool:
    return any(each is not None and is_uncertain(each) for each in profiles)


def _without_age(profile: NatProfile) -> tuple[object, ...]:
    return profile.host, profile.mapping, profile.ports, profile.step
