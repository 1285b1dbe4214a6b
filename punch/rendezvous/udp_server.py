"""
What is served on the UDP port: the reflector, and whatever isn't a Binding request goes to the relay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from traceback import extract_tb
from typing import Protocol

from twisted.logger import Logger

from punch.net.server_udp import UDPPort
from punch.rendezvous.reflector import Reflector
from punch.wire.address import Address

_BINDING_REQUEST = b"\x00\x01"


class DatagramRelay(Protocol):
    """The relay's side of the port."""

    def datagrams_received(
        self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort
    ) -> None:
        """Datagrams of one sender, in order."""

    def flush(self) -> None:
        """Send what has gathered."""


class UDPServer:
    """
    Serves a UDP port: `open_ports(reactor, None, 3478, UDPServer())`.

    :param monotonic: the time, in seconds.
    :param relay: takes what the reflector does not; None drops it.
    :param refuses: whether nothing from this host is served.
    """

    _log = Logger()

    def __init__(
        self,
        reflector: Reflector | None = None,
        *,
        relay: DatagramRelay | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        refuses: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self._reflector = Reflector() if reflector is None else reflector
        self._relay = relay
        self._monotonic = monotonic
        self._refuses = refuses
        self._failures = 0

    def received(self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort) -> None:
        """Serve the datagrams of one sender. Never raises: a stranger's datagram must not end anything."""
        if self._refuses(remote.host):
            return
        questions = [data for data in datagrams if data.startswith(_BINDING_REQUEST)]
        try:
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

    def turn_over(self) -> None:
        """Send what the relay has gathered."""
        if self._relay is not None:
            try:
                self._relay.flush()
            except Exception as failure:
                self._failed(failure)

    def _failed(self, failure: Exception) -> None:
        """
        Log a mistake of ours by its type and place: its text might hold the sender's address.

        Only the first, second, fourth, eighth… are logged, so that nobody can fill the log by repeating it.
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
