"""Where operators read the figures: the endpoint of `--metrics`, and a UNIX socket in the state directory."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import UNIXServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure

from punch.rendezvous.tcp.listen import listening_failed, tcp_values
from punch.wire.address import PortError, parse_port

OPTION = "--metrics"
LOOPBACK = "127.0.0.1"
SOCKET = "status.sock"
"""The name of the UNIX socket in the state directory."""
_KINDS = {"tcp", "tcp6", "unix", "systemd"}


class MonitoringEndpointError(ValueError):
    """The endpoint can't be used; `str()` is a sentence for the user."""


@dataclass(frozen=True)
class MonitoringEndpoint:
    """
    A Twisted endpoint string for the operator's listener.

    :ivar local: whether only this machine reaches it.
    """

    description: str
    local: bool

    @classmethod
    def parse(cls, text: str) -> MonitoringEndpoint:
        """
        Read the value of `--metrics`: an endpoint string, or a TCP port. A TCP port is on loopback if no
        interface is named.

        :raise MonitoringEndpointError: it is neither.
        """
        description = f"tcp:{text}" if re.fullmatch(r"[0-9]{1,5}", text) else text
        kind = description.partition(":")[0].lower()
        values = tcp_values(description)
        if kind not in _KINDS or (values and not _is_port(values.get("port", ""))):
            raise MonitoringEndpointError(
                f"{OPTION} {text[:100]!r} is neither a TCP port nor a Twisted server endpoint; write "
                "something like 9464, which is tcp:9464:interface=127.0.0.1."
            )
        if kind != "tcp":
            return cls(description, kind == "unix")
        interface = values.get("interface", "").replace("\\:", ":")
        if not interface:
            return cls(f"{description}:interface={LOOPBACK}", True)
        try:
            return cls(description, ip_address(interface).is_loopback)
        except ValueError:
            raise MonitoringEndpointError(
                f"{OPTION}: {interface[:100]!r} is no IP address; write something like "
                "tcp:9464:interface=127.0.0.1."
            ) from None

    def server(self, reactor: object) -> IStreamServerEndpoint:
        """
        The endpoint on a reactor.

        :raise MonitoringEndpointError: Twisted can't use it.
        """
        try:
            return cast(IStreamServerEndpoint, serverFromString(reactor, self.description))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as problem:
            # Twisted's parsers raise whatever their arguments make them raise.
            raise MonitoringEndpointError(
                f"{OPTION} {self.description[:200]!r} is no Twisted server endpoint "
                f"({str(problem)[:200]}); write something like 9464 or tcp:9464:interface=127.0.0.1."
            ) from problem


def _is_port(text: str) -> bool:
    try:
        parse_port(text, 0)
    except PortError:
        return False
    return True


def socket_endpoint(reactor: object, directory: Path) -> IStreamServerEndpoint:
    """
    The UNIX socket in a state directory, for the same user only.

    A socket that a killed process has left is removed, because it can't be bound again. One that somebody
    listens on stays, so that listening fails.
    """
    path = directory / SOCKET
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX) as tried:
                tried.settimeout(1.0)
                try:
                    tried.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
    except OSError:
        pass  # It is not there, or listening fails for the same reason, and says so.
    return cast(IStreamServerEndpoint, UNIXServerEndpoint(reactor, os.fspath(path), mode=0o600))


class MonitoringListener:
    """
    Listens on one endpoint.

    :param where: the name of the endpoint, if the error has no port.
    :param failed: called with a reason and a sentence if it can't listen.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        where: str,
        failed: Callable[[str, str], None],
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._where = where
        self._failed = failed
        self._port: IListeningPort | None = None
        self._starting: Deferred[None] | None = None

    @property
    def port(self) -> IListeningPort | None:
        """The port; None if it does not listen."""
        return self._port

    def start(self) -> None:
        """Listen, unless it does already."""
        if self._starting is None:
            self._starting = self._endpoint.listen(self._factory).addCallbacks(
                self._listening, self._not_listening
            )

    def stop(self) -> Deferred[None]:
        """Stop listening; fires when the port is free."""
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        return maybeDeferred(cast(Callable[[], Any], port.stopListening))

    def _listening(self, port: IListeningPort) -> None:
        self._port = port

    def _not_listening(self, failure: Failure) -> None:
        problem = failure.trap(CancelledError, CannotListenError, OSError)
        if problem is CancelledError:
            return
        port = getattr(failure.value, "port", None)
        where = f"TCP port {port} of {OPTION}" if isinstance(port, int) else self._where
        self._failed(*listening_failed(cast(Exception, failure.value), where, f"{OPTION} PORT"))
