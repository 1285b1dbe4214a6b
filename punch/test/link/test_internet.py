"""The whole link on the simulated internet: loss, a path that takes less, and runs that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.protocol import Factory, Protocol

from punch.link.control_stream import ControlFrameType
from punch.link.core import LinkCore
from punch.link.link import Link
from punch.link.quic.interface import QuicBackend
from punch.link.services import Services
from punch.net.udp.sockets import open_socket
from punch.test.internet.host import Host
from punch.test.internet.links import LinkSpec
from punch.test.internet.packet import Seen
from punch.test.internet.testcase import InternetTestCase
from punch.test.internet.world import Internet
from punch.test.link.link_pair import LinkTestCase, aioquic_backend, open_stream
from punch.wire.address import Address


class Sink(Protocol):
    def __init__(self) -> None:
        self.size = 0

    def dataReceived(self, data: bytes) -> None:
        self.size += len(data)


class End:
    """One peer: a socket for each of its addresses, and a link that takes the path it is told."""

    def __init__(self, host: Host, core: LinkCore) -> None:
        self.frames: list[bytes] = []
        self.sockets = [open_socket(host.reactor, address, 0, self.received) for address in host.addresses]
        self.path = 0
        self.other: End | None = None
        self.services = Services()
        self.link = Link(
            core,
            clock=host.reactor,
            monotonic=host.monotonic,
            send=self.send,
            services=self.services,
            on_control=lambda frame_type, payload: self.frames.append(payload),
        )

    def send(self, datagrams: Sequence[bytes]) -> None:
        assert self.other is not None
        self.sockets[self.path].send(datagrams, self.other.sockets[self.path].local)

    def received(self, datagrams: Sequence[bytes], remote: Address, socket: object) -> None:
        self.link.receive(datagrams)

    def take_path(self, number: int) -> None:
        self.path = number
        self.link.path_changed()


class SimulatedLinkCase(InternetTestCase, LinkTestCase):
    """A link between two hosts of a simulated internet."""

    def connect_hosts(
        self, net: Internet, alice: Host, bob: Host, backend: QuicBackend | None = None
    ) -> tuple[End, End, Sink]:
        changes = {"backend": backend or self.backend, "now": net.monotonic()}
        near, far = End(alice, self.make_caller(**changes).core), End(bob, self.make_callee(**changes).core)
        near.other, far.other = far, near
        sink = Sink()
        far.services.serve("bulk/1", Factory.forProtocol(lambda: sink))
        near.link.start()
        net.wait(near.link.when_proved(), 10)
        return near, far, sink

    def pair(self, net: Internet, link: LinkSpec) -> tuple[Host, Host]:
        return net.host("alice", link=link), net.host("bob", link=link)


class TracedLinkCase(SimulatedLinkCase):
    """Links whose datagrams are traced."""

    def trace(self, backend: QuicBackend | None, seed: int) -> list[tuple[float, int, str]]:
        seen: list[tuple[float, int, str]] = []
        net = self.internet(seed)

        def note(packet: Seen) -> None:
            seen.append((round(packet.time, 9), packet.size, packet.fate))

        net.trace = note
        near, far, sink = self.connect_hosts(
            net, *self.pair(net, LinkSpec(delay=0.01, jitter=0.002, loss=0.03)), backend
        )
        open_stream(near.link, "bulk/1", Protocol()).write(bytes(60_000))
        net.run_until(lambda: sink.size >= 60_000, 60)
        self.assertGreater(near.link.losses, 0)
        done: Any = near.link.when_closed()
        far.link.close(reason="done")
        net.wait(done, 5)
        return seen

    def assert_alike(self, backend: QuicBackend | None) -> None:
        first, second = self.trace(backend, 3), self.trace(backend, 3)
        self.assertEqual(first, second)
        self.assertIn("lost", [fate for _, _, fate in first])
        self.assertNotEqual(first, self.trace(backend, 4))


class SimulatedLinkTests(TracedLinkCase):
    def test_loss_reordering_and_duplication(self) -> None:
        net = self.internet()
        rough = LinkSpec(delay=0.01, jitter=0.005, loss=0.05, reorder=0.05, duplicate=0.05)
        near, _, sink = self.connect_hosts(net, *self.pair(net, rough))
        open_stream(near.link, "bulk/1", Protocol()).write(bytes(300_000))
        net.run_until(lambda: sink.size >= 300_000, 60)
        self.assertEqual(sink.size, 300_000)

    def test_a_path_of_1232_bytes(self) -> None:
        """The transfer moves to a path that takes no larger packet, which QUIC can't see."""
        net = self.internet()
        spec = LinkSpec(delay=0.01, rate=50e6)
        alice, bob = self.pair(net, spec)
        narrow = net.lan("narrow", "10.0.0.0/24", isolated=True)
        for host in (alice, bob):
            host.attach(narrow, link=LinkSpec(delay=0.01, rate=50e6, mtu=1232))
        near, far, sink = self.connect_hosts(net, alice, bob)
        open_stream(near.link, "bulk/1", Protocol()).write(bytes(2_000_000))
        net.run_until(lambda: sink.size > 500_000, 10)
        begin = net.monotonic()
        near.take_path(1)
        far.take_path(1)
        net.run_until(lambda: sink.size >= 2_000_000, 10)
        self.assertEqual(sink.size, 2_000_000)
        self.assertLess(net.monotonic() - begin, 1.0)

    def test_streams_and_control_frames_on_a_slow_path(self) -> None:
        """Those that come later have their share at once, and what controls the link waits for no bulk."""
        net = self.internet()
        alice, bob = self.pair(net, LinkSpec(delay=0.01, rate=64_000.0))
        near, far, sink = self.connect_hosts(net, alice, bob)
        later = Sink()
        far.services.serve("later/1", Factory.forProtocol(lambda: later))
        open_stream(near.link, "bulk/1", Protocol()).write(bytes(120_000))
        net.advance(5.0)
        begin = net.monotonic()
        near.link.send_control(ControlFrameType.CANDIDATES, b"x")
        open_stream(near.link, "later/1", Protocol()).write(bytes(8_000))
        net.run_until(lambda: far.frames, 20.0)
        self.assertLess(net.monotonic() - begin, 2.5)
        net.run_until(lambda: later.size == 8_000, 20.0)
        # 1 s of its own, and as much of the other one.
        self.assertLess(net.monotonic() - begin, 4.5)
        net.run_until(lambda: sink.size == 120_000, 20.0)
        self.assertLess(net.monotonic() - begin, 13.0)

    def test_runs_are_alike(self) -> None:
        """Times and sizes are the same from run to run, loss included."""
        self.assert_alike(None)

    def test_runs_are_alike_with_aioquic(self) -> None:
        backend = aioquic_backend()
        if backend is None:
            self.skipTest("aioquic (the extra `aioquic`) is not installed")
        self.assert_alike(backend)
