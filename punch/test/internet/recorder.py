"""A datagram protocol that records what it receives, for tests of networks."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol

from punch.test.internet.host import Host

Received = list[tuple[bytes, tuple[str, int]]]


class Recorder(DatagramProtocol):
    """Records each datagram with its time of arrival."""

    def __init__(self, clock: IReactorTime, echo: bool = False) -> None:
        self.clock = clock
        self.echo = echo
        self.received: Received = []
        self.times: list[float] = []

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.received.append((datagram, addr))
        self.times.append(self.clock.seconds())
        if self.echo:
            assert self.transport is not None
            self.transport.write(datagram, addr)

    def send(self, datagram: bytes, host: str, port: int) -> None:
        assert self.transport is not None
        self.transport.write(datagram, (host, port))

    @property
    def data(self) -> list[bytes]:
        return [datagram for datagram, _ in self.received]


def bind(host: Host, port: int = 0, interface: str = "", echo: bool = False, size: int = 8192) -> Recorder:
    """Open a recorder on a host; datagrams are truncated to `size` bytes."""
    recorder = Recorder(host.reactor, echo)
    host.reactor.listenUDP(port, recorder, interface, size)
    return recorder
