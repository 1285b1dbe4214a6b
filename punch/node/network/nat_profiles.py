"""
The NAT profiles of a node, kept fresh: they are observed when the node registers, when a call begins and
when the network changes, beside whatever goes on. No call waits for that.

Requests leave from sockets of their own, which are closed when the answers are there: only a new mapping
shows which port the NAT allocates next, and the node's own sockets have their mappings already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.error import CannotListenError

from punch.identity import RandomBytes
from punch.natcheck.profile import NatProfiles, Observation, observe
from punch.natcheck.transactions import Future, ReflectorAddresses, Transactions
from punch.net.driver import Driver
from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import DatagramSocket
from punch.wire.address import Address, Transmit
from punch.wire.peers.nat_profile import MAX_PROFILES, NatProfile

if TYPE_CHECKING:
    from punch.ice.punching.spraying import PortRange

FRESH = 120.0
"""Seconds for which a profile is not observed again while the network stays the same."""


class TransactionSockets:
    """
    The sockets of a few STUN transactions (`Transactions`), open until `close`.

    :param open_socket: opens a socket at an IP address and a port (0: any).
    :param received: called after each datagram.
    :param send_elsewhere: sends a datagram of the transactions that has another local address.
    :ivar transactions: the transactions.
    """

    def __init__(
        self,
        reactor: Any,
        open_socket: OpenSocket,
        random: RandomBytes,
        now: Callable[[], float],
        received: Callable[[], None],
        send_elsewhere: Callable[[Transmit], None],
    ) -> None:
        self.transactions = Transactions(None, random, self._bind, now())
        self._reactor = reactor
        self._open_socket = open_socket
        self._now = now
        self._received = received
        self._send_elsewhere = send_elsewhere
        self._sockets: dict[Address, DatagramSocket] = {}

    def send(self) -> None:
        """Send what the transactions have to send."""
        for transmit in self.transactions.datagrams_to_send():
            socket = self._sockets.get(transmit.local)
            if socket is None:
                self._send_elsewhere(transmit)
            else:
                socket.send([transmit.data], transmit.remote)

    def close(self) -> None:
        """Close the sockets."""
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()

    def _bind(self, host: str) -> Address | None:
        try:
            socket = self._open_socket(self._reactor, host, 0, self._take)
        except (OSError, CannotListenError):
            return None
        self._sockets[socket.local] = socket
        return socket.local

    def _take(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        for data in datagrams:
            self.transactions.receive_datagram(data, remote, socket.local, self._now())
        self._received()


@dataclass(frozen=True)
class _Run:
    sockets: TransactionSockets
    seen: Future[Observation | None]


class NatObserver:
    """
    Observes the NATs in front of this machine's IPv4 addresses.

    :param open_socket: opens a socket at an IP address and a port (0: any).
    :param changed: called when there is a new observation, and when no more is under way.
    :ivar profiles: what was observed.
    """

    def __init__(
        self,
        reactor: Any,
        monotonic: Callable[[], float],
        random: RandomBytes,
        open_socket: OpenSocket,
        changed: Callable[[], None],
    ) -> None:
        self.profiles = NatProfiles()
        self._reactor = reactor
        self._random = random
        self._open_socket = open_socket
        self._changed = changed
        self._reflectors: ReflectorAddresses | None = None
        self._invalidated_at = float("-inf")
        self._hosts: list[str] = []
        self._running: dict[str, _Run] = {}
        self._driver = Driver(reactor, monotonic, self._step, self._cores)

    @property
    def current(self) -> list[NatProfile]:
        """The profiles as they are now, that of the most preferred address first."""
        return self.profiles.current(self._driver.now())

    def profile_of(self, local: str) -> NatProfile | None:
        """Return the profile of the NAT in front of a local IP address as it is now; None: there is none."""
        return self.profiles.of(local, self._driver.now())

    @property
    def observing(self) -> bool:
        """Whether more may be known soon: an observation is under way."""
        return bool(self._running)

    def use(self, reflectors: ReflectorAddresses | None) -> None:
        """Ask these reflectors, of one rendezvous, from now on."""
        if reflectors != self._reflectors:
            self._reflectors = reflectors
            self._stop()

    def invalidate(self) -> None:
        """Observe again at the next `keep`: the node registers, perhaps from another network."""
        self._invalidated_at = self._driver.now()

    def keep(self, bases: Sequence[Address], *, anew: bool = False) -> None:
        """
        Keep profiles of these local addresses, and of no others.

        :param anew: forget what is known, since the network may be another one.
        """
        hosts = self._hosts = list(dict.fromkeys(base.host for base in bases if not base.is_ipv6))
        del hosts[MAX_PROFILES:]
        if anew:
            self._stop()
            self.profiles.forget()
        self.profiles.keep(hosts)
        now = self._driver.now()
        if self._reflectors is None:
            return
        for host in hosts:
            age = self.profiles.age(host, now)
            stale = age is None or age >= FRESH or now - age < self._invalidated_at
            if host not in self._running and stale:
                self._running[host] = self._start(host, self._reflectors)
        self._driver.run()

    def base_and_reflector(self, public: str) -> tuple[str, Address] | None:
        """Return the local IP address whose NAT has this public one, and a reflector; None if none has."""
        now = self._driver.now()
        profiles = ((host, self.profiles.of(host, now)) for host in self._hosts)
        known = next((host for host, each in profiles if each is not None and each.host == public), None)
        return None if known is None or self._reflectors is None else (known, self._reflectors.first)

    def add_ports(self, local: str, ports: Sequence[int]) -> None:
        """Take the external ports of mappings that were made one after the other for another purpose."""
        self.profiles.add_ports(local, ports, self._driver.now())

    def port_range(self, local: str) -> PortRange | None:
        """Return between which external ports a local IP address was seen; None if too few are known."""
        return self.profiles.port_range(local)

    def open_sockets(
        self, received: Callable[[], None], send_elsewhere: Callable[[Transmit], None]
    ) -> TransactionSockets:
        """Return sockets for other observations; for the parameters see `TransactionSockets`."""
        return TransactionSockets(
            self._reactor, self._open_socket, self._random, self._driver.now, received, send_elsewhere
        )

    def close(self) -> None:
        """Observe nothing any more."""
        self._reflectors = None
        self._stop()
        self._driver.stop()

    def _start(self, host: str, reflectors: ReflectorAddresses) -> _Run:
        sockets = self.open_sockets(lambda: self._driver.run(), lambda transmit: None)
        transactions = sockets.transactions
        return _Run(sockets, transactions.spawn(observe(transactions, host, reflectors)))

    def _stop(self) -> None:
        for run in self._running.values():
            run.sockets.close()
        self._running.clear()

    def _cores(self) -> Sequence[Transactions]:
        return [run.sockets.transactions for run in self._running.values()]

    def _step(self, now: float) -> None:
        for host, run in list(self._running.items()):
            run.sockets.send()
            if run.seen.done:
                del self._running[host]
                run.sockets.close()
                if run.seen.value is not None:
                    self.profiles.add(host, run.seen.value, now)
                    self.profiles.keep(self._hosts)
                if run.seen.value is not None or not self._running:
                    self._changed()
