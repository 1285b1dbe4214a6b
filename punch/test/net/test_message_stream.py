"""A TCP connection that carries messages, on the simulated internet."""

from __future__ import annotations

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from punch.net.message_stream import MessageStream
from punch.test.internet import InternetTestCase, LinkSpec
from punch.wire.turn import StreamSplitter


class FullTests(InternetTestCase):
    """More is written than can be sent soon."""

    def connected(self, stream: MessageStream) -> None:
        """MessageStreamOwner"""
        self.stream = stream

    def received(self, messages: list[bytes]) -> None:
        """MessageStreamOwner"""

    def disconnected(self) -> None:
        """MessageStreamOwner"""

    def test_drained(self) -> None:
        """Its owner is told when there is room again, and can write at once."""
        net = self.internet()
        server = net.host("server", "198.51.100.1")
        client = net.host("client", "198.51.100.2", link=LinkSpec(delay=0.03, rate=1e6))
        net.wait(TCP4ServerEndpoint(server.reactor, 7001).listen(Factory.forProtocol(Protocol)), 1.0)
        full: list[bool] = []
        reactor = client.reactor

        def drained() -> None:
            full.append(self.stream.full)
            self.stream.write([bytes(1000)])

        stream = MessageStream(self, StreamSplitter(), reactor, drained)
        endpoint = TCP4ClientEndpoint(reactor, "198.51.100.1", 7001)
        net.wait(endpoint.connect(Factory.forProtocol(lambda: stream)), 1.0)
        stream.write([bytes(1000)])
        net.advance(1.0)
        self.assertEqual(full, [])
        stream.write([bytes(1000)] * 1000)
        self.assertTrue(stream.full)
        net.advance(20.0)
        self.assertEqual(full, [False])
        stream.close()
        net.advance(2.0)
