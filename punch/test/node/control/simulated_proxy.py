"""A proxy on the simulated internet: HTTP CONNECT or SOCKS5, written from the RFCs alone."""

from __future__ import annotations

from socket import inet_ntoa
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from punch.test.internet import Host


class SimulatedProxy(Factory):
    """
    Listens on port 3128 of a host.

    :param kind: `http` or `socks5`.
    :ivar targets: what it was asked to connect to: host and port.
    :ivar answer: is said instead of connecting.
    :ivar silent: nothing is said.
    """

    noisy = False

    def __init__(self, host: Host, kind: str) -> None:
        self.reactor = host.reactor
        self.kind = kind
        self.targets: list[tuple[str, int]] = []
        self.answer: bytes | None = None
        self.silent = False
        host.reactor.listenTCP(3128, self)

    def buildProtocol(self, addr: object) -> Protocol:
        return _Client(self)


class _Client(Protocol):
    def __init__(self, proxy: SimulatedProxy) -> None:
        self._proxy = proxy
        self._received = b""
        self._greeted = False
        self._target: _Target | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._target is not None:
            self._target.write(data)
            return
        self._received += data
        if self._proxy.silent:
            return
        if self._proxy.answer is not None:
            self._say(self._proxy.answer)
            self.transport.loseConnection()  # type: ignore[union-attr]
        elif self._proxy.kind == "http":
            self._http()
        else:
            self._socks()

    def _say(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def _http(self) -> None:
        if not self._received.endswith(b"\r\n\r\n"):
            return
        method, target, _ = self._received.split(b"\r\n")[0].split(b" ")
        assert method == b"CONNECT"
        host, _, port = target.decode().rpartition(":")
        self._connect(host.strip("[]"), int(port), b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 502 No\r\n\r\n")

    def _socks(self) -> None:
        if not self._greeted:
            self._greeted = True
            self._received = b""
            self._say(b"\x05\x00")
            return
        kind, rest = self._received[3], self._received[4:]
        assert kind in (1, 3)
        size = 4 if kind == 1 else rest[0]
        encoded = rest[:4] if kind == 1 else rest[1 : 1 + size]
        host = inet_ntoa(encoded) if kind == 1 else encoded.decode()
        port = int.from_bytes(rest[-2:], "big")
        reply = b"\x00\x01" + bytes(6)
        self._connect(host, port, b"\x05\x00" + reply, b"\x05\x04" + reply)

    def _connect(self, host: str, port: int, through: bytes, failed: bytes) -> None:
        self._proxy.targets.append((host, port))
        self._target = target = _Target(self)
        connecting = HostnameEndpoint(self._proxy.reactor, host, port).connect(
            Factory.forProtocol(lambda: target)
        )

        def refused(_: Failure) -> None:
            self._say(failed)
            self.transport.loseConnection()  # type: ignore[union-attr]

        connecting.addCallbacks(lambda _: self._say(through), refused)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._target is not None and self._target.transport is not None:
            self._target.transport.loseConnection()


class _Target(Protocol):
    def __init__(self, client: _Client) -> None:
        self._client: Any = client

    def write(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.transport.loseConnection()
