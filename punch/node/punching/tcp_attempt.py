"""
One attempt at a direct path over TCP (RFC 6544; Ford 2005, section 4): listens at a new port of each local
address, learns how that port is seen, and connects from there to the candidates of the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.error import TimeoutError as UserTimeout
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from punch.ice.budget import Budget
from punch.ice.sent_packets import IP_HEADERS, SYN_SIZE
from punch.node.calls.call_context import CallContext
from punch.node.network.tcp_connections import TCPConnection, TCPReflection
from punch.node.paths.ice_transport import IceTransport
from punch.node.punching.tcp_candidates import TCPTarget, local_candidates, targets
from punch.node.punching.tcp_paths import TCPPaths
from punch.wire.address import Address
from punch.wire.nat64 import is_clat
from punch.wire.peers.candidate import Candidate

REFLECTION_TIME = 2.0
"""Seconds that the rendezvous has to say how a port is seen, and the router to map it."""
ANSWER_TIME = 5.0
"""Seconds that the other side has to answer."""
ROUNDS = 3
"""How often each candidate of the other side is connected to in one attempt…"""
ROUND = 1.0
"""…and the seconds between two times…"""
REFUSED_WAIT = 0.15
"""…but only so many after a refusal, since the SYN of the other side may have opened the NAT just then…"""
REFUSED_ROUND = 0.4
"""
…and so many until the attempt ends. If a SYN was refused by ICMP and that of the other side arrived then,
Linux lets nothing pass any more between the two ports. The next attempt has others.
"""
CONNECT_TIME = 0.9
"""Seconds until a connection is given up: the system would send its SYN again after one second (RFC 6298)."""
CANCELLED = CancelledError, ConnectingCancelledError
"""With what its connections and waits fail when an attempt is ended."""


class TCPAttempt:
    """
    What is open for the attempt, and what was sent.

    :param number: its number; both sides give it the same.
    :param paths: takes the connections.
    :param budget: that of the peer, in which SYNs count.
    :ivar refusals: how many connections to other networks failed at once.
    :ivar packets: how many SYNs were sent.
    :ivar bytes: how many bytes they had, with headers.
    """

    def __init__(
        self, number: int, transport: IceTransport, context: CallContext, paths: TCPPaths, budget: Budget
    ) -> None:
        self.number = number
        self.refusals = self.packets = self.bytes = 0
        self._transport = transport
        self._context = context
        self._network = context.network
        self._paths = paths
        self._budget = budget
        self._theirs: Deferred[tuple[Candidate, ...]] = Deferred()
        self._reflections: dict[Address, TCPReflection] = {}
        # How the rendezvous sees each port at which we listen, and where the router says it has mapped it
        self._seen: dict[Address, Address] = {}
        self._external: dict[Address, Address] = {}
        self._listening: list[Address] = []
        self._connecting: list[Deferred[Any]] = []
        self._over = False

    def answered(self, theirs: tuple[Candidate, ...]) -> None:
        """The other side has said where it listens; only the first time counts."""
        if not self._theirs.called:
            self._theirs.callback(theirs)

    async def gather(self) -> tuple[Candidate, ...]:
        """
        Listen, ask the rendezvous how each port is seen, ask the router to map it, and return the candidates.
        """
        asked: list[tuple[dict[Address, Address], Address, Deferred[Address | None]]] = []
        # The most preferred address of each family: others hardly ever lead to another network
        bases = [base for base in self._network.sockets.bases if not is_clat(base.host)]
        hosts = {base.is_ipv6: base.host for base in reversed(bases)}
        tcp = self._network.tcp
        for host in hosts.values():
            local = self._paths.listen(host, lambda: self._connection(accepted=True))
            if local is None:
                continue
            self._listening.append(local)
            reflection = tcp.ask(local, REFLECTION_TIME, self._context.random)
            if reflection is not None:
                self._reflections[local] = reflection
                asked.append((self._seen, local, reflection.mapped))
            asked.append((self._external, local, self._paths.map(local)))
        for _, _, answer in asked:
            answer.addTimeout(
                REFLECTION_TIME, self._context.clock, onTimeoutCancel=lambda result, seconds: None
            )
        for found, local, answer in asked:
            address = await answer
            if address is not None:
                found[local] = address
        return local_candidates(self._listening, self._seen, self._external)

    async def answer(self) -> tuple[Candidate, ...]:
        """
        Return the candidates of the other side; none if it refuses.

        :raise TimeoutError: it does not answer, or is of an older release.
        """
        self._theirs.addTimeout(ANSWER_TIME, self._context.clock)
        return await self._theirs

    async def connect(self, theirs: Sequence[Candidate]) -> None:
        """Connect to the other side again and again, until there is a connection that works."""
        clat = self._network.clat
        named = [each for each in theirs if not clat.translates(each.address.host)]
        found = targets(self._listening, self._seen, named, self._network.own_hosts)
        for _ in range(ROUNDS):
            refusals = self.refusals
            for target in found:
                self._connect(target)
            end = self._context.monotonic() + (REFUSED_ROUND if refusals else ROUND)
            while self._context.monotonic() < end and self.refusals == refusals:
                await self.sleep(REFUSED_WAIT)
            if refusals or self._paths.proved or not self._transport.relayed:
                return

    def sleep(self, seconds: float) -> Deferred[None]:
        """Wait."""
        return deferLater(self._context.clock, seconds)

    def close(self) -> None:
        """Listen no more, and give up what is not connected yet."""
        self._over = True
        for reflection in self._reflections.values():
            reflection.close()
        for connecting in list(self._connecting):
            connecting.cancel()
        self._theirs.addErrback(lambda failure: None)
        self._theirs.cancel()
        self._paths.stop_listening()

    def _connection(self, *, accepted: bool = False) -> TCPConnection:
        return TCPConnection(self._network.tcp, self._made, self._paths.lost, accepted=accepted)

    def _made(self, connection: TCPConnection) -> None:
        if self._over:
            connection.close()
        else:
            self._paths.add(connection, self._seen.get(connection.local))

    def _connect(self, target: TCPTarget) -> None:
        local, remote = target.local, target.remote
        if not self._budget.allows_connect(remote, self._context.monotonic()):
            return
        if self._paths.has(local, remote):
            return  # It counts all the same, for what is left tells the other side who accepts connections
        self.packets += 1
        self.bytes += SYN_SIZE + IP_HEADERS[remote.is_ipv6]
        self._budget.sent.add_syn(remote)
        connecting = self._network.tcp.connect(local, remote, self._connection(), CONNECT_TIME)
        self._connecting.append(connecting)

        def ended(result: object) -> None:
            self._connecting.remove(connecting)
            if isinstance(result, Failure):
                # Twisted has no single error for refusals by ICMP. Those in our own network have no effect:
                # the other side could see by it who is there
                refused = not isinstance(result.value, (UserTimeout, *CANCELLED))
                if refused and not target.near:
                    self.refusals += 1
                # Nobody listens there, the SYN was dropped, or the attempt was ended
                result.trap(ConnectError, *CANCELLED)  # type: ignore[no-untyped-call]

        connecting.addBoth(ended)
