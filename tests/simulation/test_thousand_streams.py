"""As many streams on one link as it can have."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from twisted.internet.protocol import Factory, Protocol

from punch.test.internet.links import LinkSpec
from punch.test.internet.world import Internet
from punch.test.link.link_pair import open_stream
from punch.test.link.test_internet import SimulatedLinkCase


class TimedSink(Protocol):
    """
    Keeps what came, and notes when.

    :param size: how much will come.
    :param full: called when it is all there.
    """

    def __init__(self, net: Internet, size: int, full: Callable[[], object]) -> None:
        self.data = bytearray()
        self.times: list[float] = []
        self._net, self._size, self._full = net, size, full

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.times.append(self._net.monotonic())
        if len(self.data) == self._size:
            self._full()


class ThousandStreamsTests(SimulatedLinkCase):
    def test_a_thousand_streams(self) -> None:
        """All are open at once, and each of them brings something in every second."""
        net = self.internet()
        near, far, _ = self.connect_hosts(net, *self.pair(net, LinkSpec(delay=0.01, rate=68e6)))
        contents = [number.to_bytes(2, "big") * 8500 for number in range(1000)]
        sinks: list[TimedSink] = []
        full: list[None] = []

        def make() -> TimedSink:
            sinks.append(TimedSink(net, 17_000, lambda: full.append(None)))
            return sinks[-1]

        far.services.serve("many/1", Factory.forProtocol(make))
        begin = net.monotonic()
        for content in contents:
            open_stream(near.link, "many/1", Protocol()).write(content)
        net.run_until(lambda: len(full) == 1000, 60)
        self.assertEqual(sorted(bytes(sink.data) for sink in sinks), contents)
        for sink in sinks:
            times = [begin, *sink.times]
            self.assertLess(max(after - before for before, after in pairwise(times)), 1.0)
        # None was done before all had begun
        self.assertGreater(min(sink.times[-1] for sink in sinks), max(sink.times[0] for sink in sinks))
