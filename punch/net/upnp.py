"""
Port mappings by UPnP: starts a process for each request, which uses the optional library `miniupnpc`
(`punch.net.upnp_child` says why).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from ipaddress import IPv4Address
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger

from punch.net import upnp_child
from punch.wire import strict_json
from punch.wire.address import Address
from punch.wire.fields import field, integer, mapping, string
from punch.wire.port_mapping import UpnpGrant, UpnpRequest

Upnp = Callable[[UpnpRequest], "Deferred[UpnpGrant | None]"]
"""
Asks a router for a mapping, or for its deletion. The result is None if it maps none, or has deleted it; it
comes within `upnp_child.TIME` seconds, and is no failure.
"""
MAX_OUTPUT = 1024
"""Bytes that are read of the process."""
_NEEDED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Where the system finds the libraries of an interpreter that is installed at an unusual place."""

_log = Logger()


def upnp_of_machine(reactor: Any) -> Upnp | None:
    """Return what asks routers by UPnP; None if miniupnpc is not installed (`txpunch[upnp]`)."""
    found = find_spec("miniupnpc")
    if found is None or found.origin is None or not sys.executable:
        return None
    directory = os.path.dirname(found.origin)
    return lambda request: ask(reactor, directory, request)


def ask(reactor: Any, directory: str, request: UpnpRequest) -> Deferred[UpnpGrant | None]:
    """
    Implement `Upnp`.

    :param directory: where miniupnpc is.
    """
    internal = request.internal
    protocol = internal.protocol.upper()
    fields = [request.url, protocol, internal.host, internal.port, request.port, request.lifetime]
    arguments = [sys.executable, "-I", "-S", upnp_child.__file__, directory, json.dumps(fields)]
    process = _UpnpProcess()
    try:
        reactor.spawnProcess(process, sys.executable, arguments, env=_environment(), path="/")
    except OSError as error:
        _log.warn("UPnP can't be used: {error}", error=error)
        return succeed(None)
    return process.result


def _environment() -> dict[str, str]:
    """
    The environment of the process: only what an interpreter may need to start. The process reads what a
    router sends with a library in C, so it is not given the node's environment, which may contain passwords.
    """
    return {name: os.environ[name] for name in _NEEDED if name in os.environ}


def parse_answer(output: bytes) -> UpnpGrant | None:
    """Read what the process printed; None if no port is mapped, or it is malformed."""
    try:
        answer = mapping(strict_json.loads(output))
        external = Address(field(answer, "host", _host), field(answer, "port", integer(1, 65535)))
        return UpnpGrant(external, field(answer, "lifetime", integer(0, strict_json.MAX_INTEGER)))
    except ValueError:
        return None


def _host(value: object) -> str:
    """The IPv4 address; "0.0.0.0" for anything else."""
    try:
        return str(IPv4Address(string(value)))
    except ValueError:
        return "0.0.0.0"


class _UpnpProcess(ProcessProtocol):
    """The process of one request."""

    def __init__(self) -> None:
        self.result: Deferred[UpnpGrant | None] = Deferred()
        self._output = b""

    def connectionMade(self) -> None:
        self.transport.closeStdin()  # type: ignore[union-attr]

    def outReceived(self, data: bytes) -> None:
        self._output = (self._output + data)[: MAX_OUTPUT + 1]

    def childConnectionLost(self, childFD: int) -> None:
        # Not processEnded, which a reactor without signal handlers does not call
        if childFD == 1 and not self.result.called:
            _log.debug("UPnP: {output}", output=self._output)
            self.result.callback(parse_answer(self._output) if len(self._output) <= MAX_OUTPUT else None)
