"""
A rendezvous that is honest, but for one thing: to a peer that registers anew it delivers the first offer that
the peer had before. Prints JSON lines: its address, and the type and call of every message of a peer.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any, cast

from punch.identity import Identity
from punch.test.internet import Host
from punch.test.node.control.scripted_service import ScriptedConnection, ScriptedService, ServerTLS
from punch.test.node.middleman import Middleman
from punch.wire.control import Incoming, Register, Request
from punch.wire.rendezvous_address import RendezvousAddress, pin_of

HOST = "127.0.0.1"
REPLAYED = "f" * 32
"""The call that the recorded offer is delivered as."""


class Loopback:
    """A reactor, as far as it is needed, on loopback only."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any) -> Any:
        return self._reactor.listenTCP(port, factory, interface=HOST)


def tell(event: str, **fields: object) -> None:
    """One line."""
    print(json.dumps({"event": event, **fields}), flush=True)


def main() -> None:
    """Run until it is killed."""
    from twisted.internet import reactor

    key = Identity.generate()
    certificate = key.certificate(datetime(2020, 1, 1, tzinfo=timezone.utc), 36500)
    host = cast(Host, SimpleNamespace(reactor=Loopback(reactor)))
    service = ScriptedService(host, ServerTLS(certificate, key.private_key), 0)
    middle = Middleman(service)

    def answer(connection: ScriptedConnection, request: Request) -> None:
        middle.answer(connection, request)
        tell(type(request).__name__, call=getattr(request, "call", None))
        if isinstance(request, Register):
            for to, offer in middle.passed:
                if to == connection.peer and isinstance(offer, Incoming):
                    middle.deliver(to, replace(offer, call=REPLAYED))
                    break

    service.answer = answer
    address = RendezvousAddress(
        HOST, cast(Any, service.port.getHost()).port, pin_of(key.private_key.public_key())
    )
    tell("listening", address=str(address))
    cast(Any, reactor).run()


if __name__ == "__main__":
    main()
