"""
The reflector's second port and further addresses, and the probes that are sent from there.

Peers learn by them what their NATs do (RFC 5780): whether a mapping depends on where a datagram goes, and who
is let in. Nothing else needs them, so a second port that can't be had by itself is done without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from punch.identity import PeerID, RandomBytes
from punch.net.server_udp import Server, UDPPort, open_ports
from punch.rendezvous.config import RendezvousConfig
from punch.rendezvous.probing import Prober, ProbeSend, Vantages
from punch.wire.address import Address
from punch.wire.control import Probe, Probed

_WILDCARDS = ("0.0.0.0", "::")


class SecondReflector:
    """
    Listens on the second port, and sends probes.

    :ivar port: the second port; 0 if there is none.
    :ivar addresses: what peers are told of our further addresses.
    """

    _log = Logger()

    def __init__(self, config: RendezvousConfig, *, reactor: Any, random: RandomBytes) -> None:
        self.prober = Prober(config.limits, random)
        self.port = 0
        self.addresses: tuple[str, ...] = ()
        self._config = config
        self._reactor = reactor
        self._first: list[UDPPort] = []
        self._second: list[UDPPort] = []
        self._own: list[UDPPort] = []

    def listen(self, first: Sequence[UDPPort], server: Server) -> None:
        """
        Listen on what the configuration asks for.

        :param first: the reflector's own ports.
        :param server: what serves all of them.
        :raise OSError: a port or an address that was asked for can't be had.
        :raise CannotListenError: the same.
        """
        config = self._config
        self._first = list(first)
        alternates = config.alternate_addresses
        if config.reflector_host is not None:
            for each in alternates:
                self._first += self._open(each.own, first[0].port, server)
        else:
            for each in alternates:
                self._check_own(each.own, server)
        second: list[UDPPort] = []
        if config.second_reflector:
            second = self._open_second(first[0].port, server)
            if second and config.reflector_host is not None:
                for each in alternates:
                    second += self._open(each.own, second[0].port, server)
        self._second = second
        self.port = second[0].port if second else 0
        self.addresses = tuple(each.shown for each in alternates)
        self.prober.vantages = Vantages(bool(second), tuple(each.own for each in alternates))

    def probe(self, peer: PeerID, request: Probe, now: float) -> Probed:
        """Do what a registered peer asks for, if it is granted."""
        outcome, send = self.prober.probe(peer, request, now)
        if send is not None:
            self._send(send)
        return Probed(request.transaction, outcome)

    def close(self) -> list[Deferred[None]]:
        """Stop listening."""
        own, self._own, self._first, self._second = self._own, [], [], []
        self.port, self.addresses = 0, ()
        self.prober.vantages = Vantages()
        return [port.close() for port in own]

    def _open(self, host: str | None, port: int, server: Server) -> list[UDPPort]:
        opened = open_ports(self._reactor, host, port, server)
        self._own += opened
        return opened

    def _check_own(self, host: str, server: Server) -> None:
        """The wildcard port of the reflector has this address already, if it is one of this machine's."""
        for port in open_ports(self._reactor, host, 0, server):
            port.close()

    def _open_second(self, first: int, server: Server) -> list[UDPPort]:
        host, wanted = self._config.reflector_host, self._config.second_reflector_port
        if wanted is not None:
            return self._open(host, wanted, server)
        by_itself = 0 if self._config.reflector_port == 0 or first == 65535 else first + 1
        try:
            return self._open(host, by_itself, server)
        except (OSError, CannotListenError) as problem:
            self._log.info(
                "There is no second reflector, which netcheck would use: {problem}", problem=str(problem)
            )
            return []

    def _send(self, send: ProbeSend) -> None:
        ports = self._second if send.second else self._first
        exact = [port for port in ports if port.host == send.local]
        family = [port for port in ports if port.host == ("::" if send.remote.is_ipv6 else "0.0.0.0")]
        both = [port for port in ports if port.host in _WILDCARDS]
        remote = send.remote
        for port in (exact or family or both)[:1]:
            if ":" in port.host and not remote.is_ipv6:
                # As a socket for both families knows it.
                remote = Address(f"::ffff:{remote.host}", remote.port)
            port.send([send.data], remote, Address(send.local, port.port))
