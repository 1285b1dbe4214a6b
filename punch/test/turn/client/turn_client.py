"""A TURN client's core and a server whose answers the test writes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from punch.turn.client.core import TurnClient
from punch.turn.client.requests import Data, Event, RelayCredentials
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    error,
    long_term_key,
    parse,
    success,
)

RELAYED = Address("198.51.100.1", 50000)
MAPPED = Address("203.0.113.1", 40000)
PEER = Address("203.0.113.2", 6000)
OTHER = Address("203.0.113.2", 6001)
STRANGER = Address("192.0.2.66", 53)
CREDENTIALS = RelayCredentials("1900000000:alice", "secret", "punch", "nonce-1")
KEY = long_term_key("1900000000:alice", "punch", "secret")
CHECK = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12)))
QUIC = b"\x41" + bytes(99)


class ScriptedServer:
    """A server that answers one client as it should, or as the test says."""

    def __init__(self, credentials: RelayCredentials = CREDENTIALS, *, reliable: bool = False) -> None:
        self.client = TurnClient(credentials, Random(7).randbytes, reliable=reliable)
        self.now = 1000.0
        self.nonce = "nonce-1"
        self.lifetime = 600

    def events(self) -> list[Event]:
        """The client's events that were not taken yet."""
        found = []
        while (event := self.client.next_event()) is not None:
            found.append(event)
        return found

    def sent(self) -> list[bytes]:
        """The messages that the client sends now."""
        return self.client.data_to_send()

    def requests(self) -> list[StunMessage]:
        """The STUN messages that the client sends now, without ChannelData."""
        return [parse(data) for data in self.sent() if data[0] < 0x40]

    def give(self, message: StunMessage, key: bytes | None = KEY) -> Data | None:
        """Send a message to the client."""
        return self.client.receive(encode(message, key), self.now)

    def answer(self, request: StunMessage) -> None:
        """Answer a request as RFC 8656 says."""
        attributes: dict[int, list[tuple[int, Any]]] = {
            Method.ALLOCATE: [
                (Attribute.XOR_RELAYED_ADDRESS, RELAYED),
                (Attribute.XOR_MAPPED_ADDRESS, MAPPED),
                (Attribute.LIFETIME, self.lifetime),
            ],
            Method.REFRESH: [(Attribute.LIFETIME, self.lifetime)],
        }
        if request.message_class is not MessageClass.REQUEST:
            return
        if request.get(Attribute.NONCE) != self.nonce:
            code = 438 if request.has_integrity() else 401
            told = ((Attribute.REALM, "punch"), (Attribute.NONCE, self.nonce))
            self.give(error(request, code, "no", *told), None)
        else:
            self.give(success(request, *attributes.get(request.method, [])))

    def refuse(
        self, request: StunMessage, code: int, *attributes: tuple[int, Any], signed: bool = True
    ) -> None:
        """Answer a request with an error."""
        self.give(error(request, code, "no", *attributes), KEY if signed else None)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> list[StunMessage]:
        """Let time pass and answer each request; returns the requests."""
        end, asked = self.now + seconds, []
        while not until():
            for request in self.requests():
                asked.append(request)
                self.answer(request)
            timer = self.client.get_timer()
            if timer is None or timer > end:
                break
            self.now = max(self.now, timer)
            self.client.handle_timer(self.now)
        self.now = end if not until() else self.now
        return asked

    def allocated(self) -> ScriptedServer:
        """Make the client's allocation; returns this object."""
        self.client.allocate(self.now)
        (request,) = self.requests()
        self.answer(request)
        self.events()
        return self
