"""
What reflectors see our sockets as, known before anybody calls.

While a peer is registered, each of its sockets asks the reflector now and then. So an offer, and the answer
to a known peer, carry server-reflexive candidates at once, which saves the round trip of gathering; and the
NAT's mapping stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from punch.identity import RandomBytes
from punch.traversal.agent import Agent, Credentials
from punch.wire.address import Address, Transmit
from punch.wire.candidate import CandidateType


class MappingKeeper:
    """
    Asks reflectors, and asks again before a mapping times out.

    :param send: sends one datagram.
    """

    def __init__(
        self,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        random: RandomBytes,
        pacing: float,
        send: Callable[[Transmit], None],
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._random = random
        self._pacing = pacing
        self._send = send
        self._agent: Agent | None = None
        self._asked: tuple[frozenset[Address], frozenset[Address]] | None = None
        self._timer: IDelayedCall | None = None

    def keep(self, bases: Sequence[Address], reflectors: Sequence[Address]) -> None:
        """Know how `reflectors` see `bases` from now on; nothing happens if they are the same as before."""
        asked = frozenset(bases), frozenset(reflectors)
        if asked == self._asked:
            return
        self.stop()
        if not bases or not reflectors:
            return
        self._asked = asked
        # An agent that never gets to know a peer: all it does is gather, and refresh what it gathered.
        self._agent = Agent(
            controlling=True,
            credentials=Credentials.generate(self._random),
            random=self._random,
            pacing=self._pacing,
        )
        for base in bases:
            self._agent.add_local_address(base)
        self._agent.gather(reflectors, self._monotonic())
        self._pump()

    def stop(self) -> None:
        """Ask no more, and forget what was learned."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._agent is not None:
            self._agent.close(self._monotonic())
        self._timer = self._agent = self._asked = None

    def mappings(self) -> list[tuple[Address, Address]]:
        """Local address and mapped address, the newest mapping of each local address."""
        if self._agent is None:
            return []
        newest = {
            candidate.related: candidate.address
            for candidate in self._agent.local_candidates
            if candidate.type is CandidateType.SRFLX
        }
        return [(base, mapped) for base, mapped in newest.items() if base is not None]

    def receive(self, data: bytes, remote: Address, local: Address) -> bool:
        """Take a STUN response; False if it answers no question of ours."""
        agent = self._agent
        if agent is None or not agent.wants(data, remote):
            return False
        agent.receive_datagram(data, remote, local, self._monotonic())
        self._pump()
        return True

    def _pump(self) -> None:
        agent = self._agent
        assert agent is not None
        for transmit in agent.datagrams_to_send(self._monotonic()):
            self._send(transmit)
        while agent.next_event() is not None:
            pass
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        due = agent.get_timer()
        self._timer = (
            None if due is None else self._clock.callLater(max(0.0, due - self._monotonic()), self._wake)
        )

    def _wake(self) -> None:
        if self._agent is not None:
            self._agent.handle_timer(self._monotonic())
            self._pump()
