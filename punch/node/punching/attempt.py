"""
One attempt at a direct path: what a technique may use to make it, on either side.

The coordinator (`Punching`) makes an `Attempt` when it is time for one, or when the other side asks for one,
and gives it to the technique of both NATs (`AttemptMaker`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from punch.ice.agent import Agent
from punch.ice.budget import OpeningBudget
from punch.natcheck.transactions import Later, Transactions
from punch.node.ice_transport import IceTransport
from punch.node.network import Network
from punch.node.punching.sockets import AttemptSockets
from punch.wire.address import Address
from punch.wire.nat_profile import NatProfile
from punch.wire.punching import Opened, Targets

GAP = 0.005
"""Seconds between two packets of an attempt. Other hosts take ports meanwhile, so it is short."""
ANSWER_TIME = 3.0
"""Seconds that the other side has to answer TARGETS."""
ARRIVAL_TIME = 1.0
"""Seconds that packets have to arrive, and the checks that follow them to be answered."""
REPEATS = 4
"""How often so much time is added if something has arrived, while the link does not take the new path yet."""


@dataclass(frozen=True)
class Attempt:
    """
    One attempt.

    :ivar number: its number; it is greater than that of any attempt before on this link.
    :ivar local: the local IP address whose NAT `ours` describes.
    :ivar reflector: a reflector that can be asked from there.
    :ivar ours: what is known about our NAT.
    :ivar theirs: what the other side knows about its NAT.
    :ivar transactions: asks reflectors, waits, and sends.
    :ivar budget: what may be sent to ports that the other side names.
    :ivar relayed: returns whether the link still takes a relayed path.
    :ivar propose: sends TARGETS; returns the answer, which may never come.
    :ivar answer: sends OPENED.
    :ivar release: lets this node make attempts with others, since this one only waits from now on.
    """

    number: int
    local: str
    reflector: Address
    ours: NatProfile
    theirs: NatProfile
    transactions: Transactions
    network: Network
    transport: IceTransport
    sockets: AttemptSockets
    budget: OpeningBudget
    relayed: Callable[[], bool]
    propose: Callable[[Targets], Later[Opened]]
    answer: Callable[[Opened], None]
    release: Callable[[], None]

    @property
    def agent(self) -> Agent:
        """The ICE agent in use."""
        return self.transport.generations.use

    def may_aim_at(self, host: str) -> bool:
        """Whether the other side has proved that it receives at this address."""
        return host in self.agent.proven_hosts

    def open_socket(self) -> Address | None:
        """Open a socket, and close those of earlier attempts that are not in use; None: impossible."""
        self.sockets.close_unused()
        return self.sockets.open(self.local)

    async def ask_other_side(self, technique: str, host: str, ports: Sequence[int]) -> Opened | None:
        """
        Ask the other side to open for these ports of ours; returns what it has opened, or None if it refuses,
        or names an address at which it has not proved to receive.
        """
        answered = self.propose(Targets(self.number, technique, host, tuple(ports)))
        if not await self.transactions.within(answered, ANSWER_TIME):
            return None
        opened = answered.value
        return opened if opened.ports and self.may_aim_at(opened.host) else None

    async def send_to(self, base: Address, host: str, ports: Sequence[int]) -> int:
        """Send a check to these ports in order, as far as the limit allows; returns to how many."""
        for number, port in enumerate(ports):
            opening = self.agent.opening(base, Address(host, port))
            if opening is None or not self.budget.allows(
                opening.remote, len(opening.data), self.transactions.now
            ):
                return number
            self.transactions.send(opening)
            await self.transactions.sleep(GAP)
        return len(ports)

    async def await_path(self, base: Address) -> None:
        """Wait until packets have arrived at a socket and the link has taken the new path, if it does."""
        await self.transactions.sleep(ARRIVAL_TIME)
        if self.agent.has_received_check(base):
            # The NATs are open: whatever was lost is sent again
            for _ in range(REPEATS):
                if self.relayed():
                    await self.transactions.sleep(ARRIVAL_TIME)


class AttemptMaker(Protocol):
    """How attempts by one technique are made, for one link."""

    def wait_after(self, tries: int) -> float:
        """Return the least seconds from the beginning of an attempt to that of the next, after so many."""

    def can_aim(self, now: float) -> bool:
        """Whether the budget is enough for an attempt on the side that aims."""

    def can_open(self, agent: Agent, local: str, targets: Targets, now: float) -> bool:
        """Whether we can send to all targets from a local IP address, and the budget is enough for that."""

    async def aim(self, attempt: Attempt) -> None:
        """Make an attempt, on the side that aims."""

    async def open(self, attempt: Attempt, targets: Targets) -> bool:
        """Make an attempt that the other side asks for; returns False if it is to be refused."""
