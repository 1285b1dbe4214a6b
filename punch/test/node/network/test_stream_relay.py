"""An allocation over a TCP connection that links share, at the relay of a rendezvous."""

from __future__ import annotations

from collections.abc import Sequence

from punch.node.network.relay import RelayClient, RelayContext, StreamRelayClient, relay_endpoint
from punch.test.rendezvous.relay_service_case import Datagrams, RelayServiceCase
from punch.test.rendezvous.test_service import SERVICE
from punch.turn.client.requests import AllocationProblem
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import TurnTransport


class User:
    """A link that waits for room, and then sends."""

    def __init__(self) -> None:
        self.turns = 0

    def room_made(self) -> None:
        self.turns += 1


class TurnTests(RelayServiceCase):
    """Who may send when there is room."""

    def relay_allocated(self, relay: RelayClient) -> None:
        """RelayClientOwner"""

    def relay_failed(self, relay: RelayClient, problem: AllocationProblem, text: str) -> None:
        """RelayClientOwner"""
        self.fail(f"{problem} {text}")

    def relay_limited(self, relay: RelayClient, limit: RelayLimit) -> None:
        """RelayClientOwner"""

    def received(self, datagrams: Sequence[bytes], peer: Address, local: Address) -> None:
        """What peers send."""

    def test_a_link_that_has_left(self) -> None:
        """It gets no turn; those after it do."""
        (server,) = [each for each in self.servers() if each.url.transport is TurnTransport.TCP]
        reactor = self.home.reactor
        context = RelayContext(
            self, self.received, reactor, self.home.monotonic, self.net.random_bytes("stream relay")
        )
        endpoint = relay_endpoint(reactor, server, SERVICE, None, None, reactor, vetted=True)
        assert endpoint is not None
        relay = StreamRelayClient(server, context, endpoint)
        relay.start()
        self.net.advance(1.0)
        peer = Datagrams(self.office, self.office.addresses[0]).address
        relay.permit([peer])
        self.net.advance(1.0)
        left, stays = User(), User()
        relay.send([bytes(1200)] * 10, peer)
        self.assertEqual(relay.room(left), 0)
        relay.wait(left)
        relay.wait(stays)
        relay.forget(left)
        self.net.advance(1.0)
        self.assertEqual((left.turns, stays.turns), (0, 1))
        relay.abandon()
        self.net.advance(1.0)
