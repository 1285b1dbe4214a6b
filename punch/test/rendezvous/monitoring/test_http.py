"""The operator's listener: where it listens, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.monitoring.http import (
    MAX_CONNECTIONS,
    MonitoringConnections,
    MonitoringSite,
    health_page,
)
from punch.rendezvous.monitoring.listener import (
    MonitoringEndpoint,
    MonitoringEndpointError,
    MonitoringListener,
)
from punch.rendezvous.monitoring.status import Health


class EndpointTests(SynchronousTestCase):
    def test_loopback_unless_told_otherwise(self) -> None:
        for text, description, local in (
            ("9464", "tcp:9464:interface=127.0.0.1", True),
            ("tcp:9464", "tcp:9464:interface=127.0.0.1", True),
            ("tcp:9464:interface=127.0.0.1", "tcp:9464:interface=127.0.0.1", True),
            (r"tcp:9464:interface=\:\:1", r"tcp:9464:interface=\:\:1", True),
            ("tcp:9464:interface=0.0.0.0", "tcp:9464:interface=0.0.0.0", False),
            ("tcp:9464:interface=192.0.2.1", "tcp:9464:interface=192.0.2.1", False),
            ("unix:/run/punch/metrics", "unix:/run/punch/metrics", True),
        ):
            self.assertEqual(MonitoringEndpoint.parse(text), MonitoringEndpoint(description, local))

    def test_what_is_no_endpoint(self) -> None:
        for text in ("", "x", "65536", "-1", "127.0.0.1:9464", "tcp:", "tcp:x", "stdio:", "ssl:9464"):
            problem = self.assertRaises(MonitoringEndpointError, MonitoringEndpoint.parse, text)
            self.assertIn("--metrics", str(problem))
        problem = self.assertRaises(
            MonitoringEndpointError, MonitoringEndpoint.parse, "tcp:9464:interface=localhost"
        )
        self.assertIn("localhost", str(problem))
        problem = self.assertRaises(
            MonitoringEndpointError,
            MonitoringEndpoint("tcp:9464:colour=red", True).server,
            MemoryReactorClock(),
        )
        self.assertIn("--metrics", str(problem))


class _PortInUse(MemoryReactorClock):
    """A reactor whose ports are in use."""

    def listenTCP(self, port: int, *args: object, **more: object) -> object:
        raise CannotListenError("127.0.0.1", port, OSError(98, "in use"))


class ListenerTests(SynchronousTestCase):
    def listener(self, reactor: MemoryReactorClock) -> tuple[MonitoringListener, list[tuple[str, str]]]:
        said: list[tuple[str, str]] = []
        endpoint = MonitoringEndpoint.parse("9464").server(reactor)
        made = MonitoringListener(endpoint, Factory(), "there", lambda *words: said.append(words))
        return made, said

    def test_listens_once(self) -> None:
        reactor = MemoryReactorClock()
        listener, said = self.listener(reactor)
        listener.start()
        listener.start()
        self.assertEqual([(server[0], server[3]) for server in reactor.tcpServers], [(9464, "127.0.0.1")])
        self.assertEqual(said, [])
        self.assertIsNotNone(listener.port)
        self.successResultOf(listener.stop())
        self.assertIsNone(listener.port)

    def test_port_in_use(self) -> None:
        listener, said = self.listener(_PortInUse())
        listener.start()
        ((reason, text),) = said
        self.assertEqual(reason, "port-in-use")
        self.assertIn("TCP port 9464 of --metrics is in use already", text)
        self.successResultOf(listener.stop())


class SiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.health = Health()
        self.health.started()

    def ask(self, request: str, *, local: bool = True, **headers: str) -> tuple[int, Mapping[str, str], str]:
        """Send one request; the status, the header fields and the body of the answer."""
        site = MonitoringSite({b"/healthz": health_page(self.health.report)}, Clock(), local=local)
        channel = site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        fields = {"Host": "127.0.0.1:9464"} | headers
        lines = [f"{request} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        channel.dataReceived("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        head, _, body = transport.value().decode().partition("\r\n\r\n")
        status, *found = head.split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in found), body

    def test_health(self) -> None:
        status, fields, body = self.ask("GET /healthz")
        self.assertEqual((status, body), (200, '{"status": "ok", "reasons": []}\n'))
        self.assertEqual(fields["Content-Type"], "application/json")
        self.assertNotIn("Server", fields)
        self.assertEqual(self.ask("HEAD /healthz")[::2], (200, ""))

    def test_degraded_still_serves(self) -> None:
        self.health.add_check("registry", lambda: "Redis can't be reached.")
        status, _, body = self.ask("GET /healthz")
        self.assertEqual(status, 200)
        self.assertIn("Redis can't be reached.", body)

    def test_a_service_that_stops_is_not_used(self) -> None:
        self.health.stopping()
        self.assertEqual(self.ask("GET /healthz")[0], 503)

    def test_other_requests(self) -> None:
        self.assertEqual(self.ask("GET /")[0], 404)
        self.assertEqual(self.ask("DELETE /healthz")[0], 405)
        self.assertEqual(self.ask("POST /healthz")[0], 405)

    def test_no_request_has_a_body(self) -> None:
        """It is not waited for, nor kept in memory or in a file."""
        for field in ("Content-Length: 100000000", "Transfer-Encoding: chunked"):
            site = MonitoringSite({b"/healthz": health_page(self.health.report)}, Clock(), local=True)
            transport = StringTransport()
            channel = site.buildProtocol(None)
            channel.makeConnection(transport)
            channel.dataReceived(f"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n{field}\r\n\r\n".encode())
            self.assertTrue(transport.disconnected, field)

    def test_many_connections(self) -> None:
        """Whoever opens many closes their own oldest, and keeps nobody from an answer."""
        site = MonitoringSite({b"/healthz": health_page(self.health.report)}, Clock(), local=True)
        connections = MonitoringConnections(site)
        transports = []
        for _ in range(2 * MAX_CONNECTIONS):
            transport = StringTransport()
            connections.buildProtocol(None).makeConnection(transport)
            transports.append(transport)
        closed = [each.disconnected for each in transports]
        self.assertEqual(closed, [True] * MAX_CONNECTIONS + [False] * MAX_CONNECTIONS)
        asking = connections.buildProtocol(None)
        answer = StringTransport()
        asking.makeConnection(answer)
        asking.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self.assertTrue(answer.value().startswith(b"HTTP/1.1 200 "))
        asking.connectionLost(Failure(ConnectionDone()))
        more = [StringTransport() for _ in range(2)]
        for transport in more:
            connections.buildProtocol(None).makeConnection(transport)
        self.assertEqual(sum(each.disconnected for each in transports), MAX_CONNECTIONS + 2)

    def test_names_that_lead_to_loopback(self) -> None:
        """A page whose own name resolves to 127.0.0.1 reads nothing."""
        self.assertEqual(self.ask("GET /healthz", Host="attacker.example:9464")[0], 421)
        self.assertEqual(self.ask("GET /healthz", local=False, Host="rendezvous:9464")[0], 200)
        for host in ("localhost:9464", "[::1]:9464", "192.0.2.1"):
            self.assertEqual(self.ask("GET /healthz", Host=host)[0], 200, host)

    def test_a_host_that_is_no_text(self) -> None:
        self.assertEqual(self.ask("GET /healthz", Host="\udcff")[0], 421)
