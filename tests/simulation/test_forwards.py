"""More forwarded connections than a link has streams."""

from __future__ import annotations

from punch.test.apps.forward.test_forward import ForwardTestCase


class ManyConnectionsTests(ForwardTestCase):
    def test_more_connections_than_streams(self) -> None:
        """Those that a link does not take wait, unread, until others end."""
        self.serve()
        self.expose()
        self.forward()
        clients = [self.client() for _ in range(1100)]
        for client in clients:
            client.transport.write(b"question")
        self.run_until(lambda: len(self.web.built) > 900, 20.0)
        self.net.advance(2.0)
        first = len(self.web.built)
        self.assertLess(first, 1100)
        for client, server in zip(clients, list(self.web.built), strict=False):
            client.transport.loseConnection()
            server.transport.loseConnection()
        self.run_until(lambda: len(self.web.built) == 1100, 20.0)
        self.net.advance(1.0)
        self.assertEqual({bytes(server.data) for server in self.web.built}, {b"question"})
        self.assertEqual(self.errors, [])
