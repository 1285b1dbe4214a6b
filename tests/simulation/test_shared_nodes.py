"""Streams through a node that programs share: forwarded ports, pipes, back-pressure."""

from __future__ import annotations

from io import BytesIO

from twisted.internet.error import ConnectionLost
from twisted.protocols.basic import FileSender

from punch.apps.forward.messages import IDLE_TIME
from punch.test.apps.forward.test_datagrams import DatagramCase
from punch.test.apps.forward.test_forward import TwoSidesCase
from punch.test.apps.forward.test_pipe import ServicePipeCase
from punch.test.local.test_local import AttachedStreamCase, Recorders


class AttachedStreamTests(AttachedStreamCase):
    """Streams of programs that are attached to a node."""

    def test_back_pressure_and_a_pull_producer(self) -> None:
        """What the far program does not read stays with the sender; then all of it comes."""
        near, far = self.pair()
        far.transport.pauseProducing()
        file = BytesIO(bytes(3 << 20))
        sent = FileSender().beginFileTransfer(file, near.transport)
        self.net.advance(1.0)
        self.assertNoResult(sent)
        self.assertEqual(far.data, b"")
        self.assertLess(file.tell(), 5 << 19)
        far.transport.resumeProducing()
        self.run_until(lambda: len(far.data) == 3 << 20, 20.0)
        self.successResultOf(sent)

    def test_a_dead_link_is_asked(self) -> None:
        """A stream on a link whose other side has gone fails with the reason of a new call."""
        self.net.wait(self.alice.connect(self.bob_id), 20.0, "a link")
        self.net.wait(self.bob.stopService(), 3.0, "bob stops")
        self.net.advance(1.0)
        error = self.refused(self.attach("alice").open(self.bob_id, "any/1", Recorders()), 30.0)
        self.assertEqual(error.reason, "not-registered")


class ServicePipeTests(ServicePipeCase):
    """Pipes to services."""

    def test_a_service_that_ends_first_through_an_attached_program(self) -> None:
        """The node, which goes on, has all when the process of the pipe may end."""
        attached = self.attach("alice")
        service = self.ended_first(attached)
        attached.detach()
        self.run_until(lambda: len(service.data) == 2 << 20, 20.0)


class ForwardTests(TwoSidesCase):
    """Forwarded ports."""

    def test_each_direction_ends_by_itself(self) -> None:
        """A side that has ended its stream still gets an answer, through nodes of the same process."""
        self.serve()
        self.expose()
        self.forward()
        self.question_and_answer()

    def test_between_attached_programs(self) -> None:
        """The same through nodes of other processes; an aborted connection ends at the other side, too."""
        self.serve()
        self.expose(self.attach("bob"))
        self.forward(self.attach("alice"))
        self.question_and_answer()
        client, server = self.both()
        client.transport.abortConnection()
        self.ends(server, ConnectionLost)
        self.assertEqual(self.errors, [])

    def test_a_server_that_does_not_read(self) -> None:
        """
        A server that reads nothing for a while ends neither the stream nor the connection, and what was sent
        comes when it reads.
        """
        self.serve()
        self.expose()
        self.forward()
        client, server = self.both()
        server.transport.pauseProducing()
        client.transport.write(bytes(30 << 20))
        self.net.advance(5.0)
        self.assertEqual(len(server.data), 0)
        self.assertEqual(self.alice.link(self.bob_id).stream_count, 1)  # type: ignore[union-attr]
        server.transport.resumeProducing()
        self.run_until(lambda: len(server.data) > 0, 5.0)


class DatagramTests(DatagramCase):
    """Forwarded UDP ports."""

    def test_idle_flows_end(self) -> None:
        """Then nothing holds the link, until something is sent again."""
        self.expose()
        forwarder = self.forward()
        client = self.client()
        client.ask(b"a")
        self.run_until(lambda: len(client.received) == 1, 20.0)
        self.net.advance(IDLE_TIME - 5.0)
        client.ask(b"b")
        self.net.advance(IDLE_TIME - 5.0)
        self.assertEqual(forwarder.flow_count, 1)
        self.net.advance(20.0)
        self.assertEqual(forwarder.flow_count, 0)
        self.assertIsNone(self.alice.link(self.bob_id))
        client.ask(b"c")
        self.run_until(lambda: client.received == [b"A", b"B", b"C"], 20.0)
        ports = [addr for _, addr in self.server.received]
        self.assertEqual(ports[0], ports[1])
        self.assertNotEqual(ports[1], ports[2])
