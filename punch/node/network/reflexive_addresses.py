"""
The server-reflexive addresses of the node's sockets, and the reflectors that are asked for them.

NATs forget a UDP mapping after as little as 30 s. To keep one, the reflector has to be asked every 15 s:
5,760 requests and responses a day for each socket, 620 kB with their headers, a radio that never sleeps, and
6,700 datagrams a second at a service with 100,000 idle peers. To gather the address again when a call comes
costs one request and response for each socket. It delays nothing but the reflexive candidate, which follows
the host candidates a round trip later. A peer is called a few times a day, so that costs less. Only when a
call is likely, for `KEEP` seconds after a peer registered, called, was called or changed its network, it
keeps its mappings, and its offers and answers contain reflexive candidates at once. Links need nothing:
consent is checked every 4 to 6 s (RFC 7675), which keeps mappings of 15 s.

While a link has no path, the reflector also tells when the network is back (`ReflexiveAddressCache.listen`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address

from twisted.internet.interfaces import IReactorPluggableNameResolver, IReactorTime

from punch.ice.agent import Agent
from punch.ice.checks import IceCredentials
from punch.identity import RandomBytes
from punch.net.driver import Driver, Timed, Timer
from punch.net.reactor import look_up
from punch.wire.address import Address, Transmit, canonical
from punch.wire.peers.candidate import CandidateType
from punch.wire.stun import binding_request

KEEP = 120.0
"""Seconds for which mappings are kept after they were requested."""
SILENT_INTERVAL = 2.5
"""Seconds between two requests that check whether the network is back…"""
ANSWERED_INTERVAL = 10.0
"""…and after a response, whether it still works."""
MAX_REQUESTS = 8
"""Requests of that kind at once."""


class ReflexiveAddressCache:
    """
    Asks the reflectors for the reflexive address of each socket, and keeps the mappings for a while.

    :param pacing: seconds between two requests (Ta of RFC 8445).
    :param send: sends one datagram.
    :param back: called, while `listen` is on, when a reflector answers after all requests before were not
        answered.
    """

    def __init__(
        self,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        random: RandomBytes,
        pacing: float,
        send: Callable[[Transmit], None],
        back: Callable[[], None],
    ) -> None:
        self._monotonic = monotonic
        self._random = random
        self._pacing = pacing
        self._send = send
        self._back = back
        self._bases: Sequence[Address] = ()
        self._reflectors: Sequence[Address] = ()
        self._agent: Agent | None = None
        self._asked: tuple[frozenset[Address], frozenset[Address]] | None = None
        self._until = 0.0
        self._driver = Driver(clock, monotonic, self._step, self._cores)
        # Runs while `listen` is on
        self._next_request = Timer(clock)
        self._requests: dict[bytes, Address] = {}
        self._silent = False

    def keep(
        self,
        bases: Sequence[Address],
        reflectors: Sequence[Address],
        *,
        gather: bool = True,
        anew: bool = False,
    ) -> None:
        """
        Learn the reflexive addresses of the sockets `bases` and keep their mappings for `KEEP` seconds.

        :param gather: False: only remember the sockets and reflectors, for `listen`.
        :param anew: ask again, since the known addresses may be wrong.
        """
        self._bases, self._reflectors = bases, reflectors
        asked = frozenset(bases), frozenset(reflectors)
        self._until = self._monotonic() + KEEP
        if asked == self._asked and not anew:
            return
        self._stop_agent()
        if not gather or not bases or not reflectors:
            return
        self._asked = asked
        # An ICE agent that has no peer. It only gathers reflexive candidates and refreshes them.
        self._agent = Agent(
            controlling=True,
            credentials=IceCredentials.generate(self._random),
            random=self._random,
            pacing=self._pacing,
        )
        for base in bases:
            self._agent.add_local_address(base)
        self._agent.gather(reflectors, self._monotonic())
        self._driver.run()

    def stop(self) -> None:
        """Send no more requests, and forget the addresses."""
        self._stop_agent()
        self.listen(False)

    def mappings(self) -> list[tuple[Address, Address]]:
        """Return pairs of local and mapped address: the newest mapping of each local address."""
        if self._agent is None:
            return []
        newest = {
            candidate.related: candidate.address
            for candidate in self._agent.local_candidates
            if candidate.type is CandidateType.SRFLX
        }
        return [(base, mapped) for base, mapped in newest.items() if base is not None]

    def listen(self, wanted: bool) -> None:
        """Start or stop asking the reflectors whether the network is back."""
        if wanted and not self._next_request.running:
            self._silent = False
            self._ask()
        elif not wanted:
            self._next_request.cancel()
            self._requests.clear()

    def receive(self, data: bytes, remote: Address, local: Address) -> bool:
        """Take a STUN response. Returns False if it answers no request of this object."""
        if self._requests.get(bytes(data[8:20])) == remote:
            self._requests.clear()
            self._next_request.start(ANSWERED_INTERVAL, self._ask)
            if self._silent:
                self._silent = False
                self._back()
            return True
        agent = self._agent
        if agent is None or not agent.wants(data):
            return False
        agent.receive_datagram(data, remote, local, self._monotonic())
        self._driver.run()
        return True

    def _ask(self) -> None:
        self._silent = self._silent or bool(self._requests)
        self._requests.clear()
        flows = [
            (base, reflector)
            for reflector in self._reflectors
            for base in self._bases
            if base.is_ipv6 == reflector.is_ipv6
        ]
        for base, reflector in flows[:MAX_REQUESTS]:
            transaction_id = self._random(12)
            self._requests[transaction_id] = reflector
            self._send(Transmit(binding_request(transaction_id), reflector, base))
        self._next_request.start(SILENT_INTERVAL, self._ask)

    def _stop_agent(self) -> None:
        if self._agent is not None:
            self._agent.close(self._monotonic())
        self._agent = self._asked = None
        self._driver.run()

    def _cores(self) -> Sequence[Timed]:
        return () if self._agent is None else (self._agent,)

    def _step(self, now: float) -> None:
        agent = self._agent
        if agent is None:
            return
        if now >= self._until:
            agent.close(now)
            self._agent = self._asked = None
            return
        for transmit in agent.datagrams_to_send(now):
            self._send(transmit)
        while agent.next_event() is not None:
            pass


class ReflectorFinder:
    """
    Finds the reflectors of one rendezvous, at most one for each address family.

    The address that the control connection goes to is the first one, and known at once. That of the other
    family is looked up by the name of the rendezvous, and again when the network has changed.

    :param allows: returns whether an IP address of that name may be used.
    :param found: called with all reflectors that are known, each time that changes.
    """

    def __init__(
        self,
        reactor: IReactorPluggableNameResolver,
        host: str,
        allows: Callable[[str], bool],
        found: Callable[[list[Address]], None],
    ) -> None:
        self._reactor = reactor
        self._host = host
        self._allows = allows
        self._found = found
        self._round = 0
        self._first: Address | None = None

    def find(self, connected: str, port: int) -> None:
        """
        :param connected: the IP address of the control connection.
        :param port: the reflector's UDP port; 0: there is none.
        """
        self._first = canonical(connected, port) if port else None
        self._found([] if self._first is None else [self._first])
        self.again()

    def again(self) -> None:
        """Look the name up again, because the network has changed."""
        self._round += 1
        if self._first is None:
            return
        try:
            ip_address(self._host)
        except ValueError:
            look_up(self._reactor, self._host, partial(self._resolved, self._round, self._first))

    def stop(self) -> None:
        """Do not call `found` any more."""
        self._round += 1
        self._first = None

    def _resolved(self, turn: int, first: Address, hosts: Sequence[str]) -> None:
        if turn != self._round:
            return
        for host in hosts:
            other = canonical(host, first.port)
            if other.is_ipv6 != first.is_ipv6 and self._allows(other.host):
                self._found([first, other])
                return
