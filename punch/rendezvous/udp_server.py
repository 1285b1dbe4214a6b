"""
The service's UDP ports on a reactor: datagrams go to the reflector or to the relay.

The second port of the reflector, and its further addresses, are for RFC 5780: by them peers learn whether
their NAT's mapping depends on the destination, and whose datagrams it lets in. Nothing else needs them, so
the service runs without a second port if the default one is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from socket import inet_ntoa
from traceback import extract_tb
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from punch.identity import PeerID, RandomBytes
from punch.net.udp.server import DatagramServer, UDPPort, open_ports
from punch.rendezvous.config import RendezvousConfig
from punch.rendezvous.reflector import PLAIN_REQUEST, Prober, ProbeSend, Reflector, Vantages
from punch.wire.address import Address
from punch.wire.control import Probe, Probed
from punch.wire.stun import HEADER_SIZE

_BINDING_REQUEST = b"\x00\x01"


class DatagramRelay(Protocol):
    """What a UDP port needs of the relay."""

    def datagrams_received(
        self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort
    ) -> None:
        """Handle datagrams of one sender, in order."""

    def flush(self) -> None:
        """Send what is queued."""


class UDPServer:
    """
    Serves a UDP port: `open_ports(reactor, None, 3478, UDPServer())`.

    :param monotonic: monotonic seconds.
    :param relay: handles what is not for the reflector; None drops it.
    :param refuses: whether datagrams of a host are dropped.
    :param answered: called with numbers of Binding requests that were answered.
    """

    _log = Logger()
    short_request = PLAIN_REQUEST
    short_size = HEADER_SIZE

    def __init__(
        self,
        reflector: Reflector | None = None,
        *,
        relay: DatagramRelay | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        refuses: Callable[[str], bool] = lambda host: False,
        answered: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._reflector = Reflector() if reflector is None else reflector
        self._relay = relay
        self._monotonic = monotonic
        self._refuses = refuses
        self._answered = answered
        self._failures = 0

    def answer(self, request: bytes, host: bytes, port: int) -> bytes | None:
        """Answer a plain Binding request, which nearly all are. Raises nothing, as `received`."""
        try:
            if self._refuses(inet_ntoa(host)):
                return None
            number = int.from_bytes(host, "big")
            answer = self._reflector.handle_plain(request, number, port, self._monotonic())
            if answer is not None:
                self._answered(1)
        except Exception as failure:
            self._failed(failure)
            return None
        return answer

    def received(self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort) -> None:
        """Serve the datagrams of one sender. Raises nothing, whatever a stranger sends."""
        try:
            if self._refuses(remote.host):
                return
            questions = [data for data in datagrams if data.startswith(_BINDING_REQUEST)]
            if questions:
                self._reflect(questions, remote, local, port)
            if self._relay is not None and len(questions) < len(datagrams):
                if questions:
                    datagrams = [data for data in datagrams if not data.startswith(_BINDING_REQUEST)]
                self._relay.datagrams_received(datagrams, remote, local, port)
        except Exception as failure:
            self._failed(failure)

    def _reflect(self, questions: Sequence[bytes], remote: Address, local: Address, port: UDPPort) -> None:
        now = self._monotonic()
        handle = self._reflector.handle
        answers = [
            answer for each in questions if (answer := handle(each, remote, now, local.host)) is not None
        ]
        if answers:
            port.send(answers, remote, local)
            self._answered(len(answers))

    def turn_ended(self) -> None:
        """Send what the relay has queued. Called at the end of each turn of the reactor."""
        if self._relay is not None:
            try:
                self._relay.flush()
            except Exception as failure:
                self._failed(failure)

    def _failed(self, failure: Exception) -> None:
        """
        Log a mistake of ours, and go on: no datagram may close the port, which all peers need.

        The exception is logged by its type and place; its text may contain the sender's address. Only the
        first, second, fourth, eighth… are logged, so that repetition does not fill the log.
        """
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            frames = extract_tb(failure.__traceback__)
            self._log.error(
                "A datagram could not be served, and the service goes on: {kind} in {place}, {count} so far",
                kind=type(failure).__name__,
                place=f"{frames[-1].name}, line {frames[-1].lineno}" if frames else "an unknown place",
                count=self._failures,
            )


_WILDCARDS = ("0.0.0.0", "::")


class SecondReflector:
    """
    Listens on the second port, and sends probes.

    :ivar port: the second port; 0 if there is none.
    :ivar addresses: the further addresses of the service, as peers see them.
    """

    _log = Logger()

    def __init__(
        self,
        config: RendezvousConfig,
        *,
        reactor: Any,
        random: RandomBytes,
        wall: Callable[[], float] | None,
    ) -> None:
        secret = config.identity.private_key.private_bytes_raw()
        self.prober = Prober(config.limits, random, secret=secret, wall=wall)
        self.port = 0
        self.addresses: tuple[str, ...] = ()
        self._config = config
        self._reactor = reactor
        self._first: list[UDPPort] = []
        self._second: list[UDPPort] = []
        self._own: list[UDPPort] = []

    def listen(self, first: Sequence[UDPPort], server: DatagramServer) -> None:
        """
        Listen on the ports and addresses of the configuration.

        :param first: the ports of the first reflector.
        :param server: serves the datagrams of all ports.
        :raise OSError: a port or an address of the configuration cannot be used.
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
        """Send the probe that a registered peer asks for, if it may be sent, and return the outcome."""
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

    def _open(self, host: str | None, port: int, server: DatagramServer) -> list[UDPPort]:
        opened = open_ports(self._reactor, host, port, server)
        self._own += opened
        return opened

    def _check_own(self, host: str, server: DatagramServer) -> None:
        """Check that an address is one of this machine's; the wildcard port serves it already."""
        for port in open_ports(self._reactor, host, 0, server):
            port.close()

    def _open_second(self, first: int, server: DatagramServer) -> list[UDPPort]:
        host, wanted = self._config.reflector_host, self._config.second_reflector_port
        if wanted is not None:
            return self._open(host, wanted, server)
        default = 0 if self._config.reflector_port == 0 or first == 65535 else first + 1
        try:
            return self._open(host, default, server)
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
                # The form that a socket for both families uses.
                remote = Address(f"::ffff:{remote.host}", remote.port)
            port.send([send.data], remote, Address(send.local, port.port))
