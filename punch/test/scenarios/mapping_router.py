"""A router on the simulated internet that maps ports when asked, by PCP, NAT-PMP or UPnP."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import ip_address

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IUDPTransport
from twisted.internet.protocol import DatagramProtocol

from punch.test.internet import Host, Lan
from punch.wire.address import Address
from punch.wire.port_mapping import UpnpGrant, UpnpRequest


class MappingRouter(DatagramProtocol):
    """
    Answers at the gateway of a LAN with a NAT, and forwards the ports that it maps.

    It reads and writes messages by itself, as the RFCs draw them.

    :param pcp: whether it has PCP; without, it refuses the version (RFC 6887, appendix A).
    :param nat_pmp: whether it has NAT-PMP; without, it is silent.
    :param external: the address that it names; None: the right one.
    :param result: the result code of all answers.
    :param lifetime: seconds of all mappings.
    :param delay: seconds that it takes for an answer.
    :param tcp: whether it maps TCP ports, too.
    :ivar taken: external ports that other programs have.
    :ivar asked: the time and bytes of each request of PCP and NAT-PMP.
    :ivar asked_by_upnp: the requests of UPnP.
    :ivar searches: how often UPnP was searched for.
    :ivar mapped: the external port of each internal port of UDP.
    :ivar mapped_tcp: the same for TCP.
    """

    transport: IUDPTransport
    noisy = False

    def __init__(
        self,
        lan: Lan,
        *,
        pcp: bool = True,
        nat_pmp: bool = True,
        external: str | None = None,
        result: int = 0,
        lifetime: int = 7200,
        delay: float = 0.0,
        tcp: bool = True,
    ) -> None:
        assert lan.nat is not None
        assert lan.gateway is not None
        self.nat = lan.nat
        self.gateway = lan.gateway
        self.pcp = pcp
        self.nat_pmp = nat_pmp
        self.external = external
        self.result = result
        self.lifetime = lifetime
        self.delay = delay
        self.taken: set[int] = set()
        self.asked: list[tuple[float, bytes]] = []
        self.asked_by_upnp: list[UpnpRequest] = []
        self.searches = 0
        self.tcp = tcp
        self.mapped: dict[int, int] = {}
        self.mapped_tcp: dict[int, int] = {}
        self._net = lan.net
        self._began = self._net.now
        self._host = lan.host(f"{lan.name} router", self.gateway)
        self._host.reactor.listenUDP(5351, self, self.gateway)
        self._host.reactor.listenUDP(1900, _Ssdp(self), self.gateway)

    def gateways(self, host: Host) -> Mapping[str, str]:
        """What a host behind it knows about it."""
        return {address: self.gateway for address in host.addresses if ":" not in address}

    def upnp(self, request: UpnpRequest) -> Deferred[UpnpGrant | None]:
        """What UPnP has at this router, for a host of its LAN (`punch.net.upnp.Upnp`)."""
        result: Deferred[UpnpGrant | None] = Deferred()
        self.asked_by_upnp.append(request)

        def perform() -> None:
            internal = request.internal
            if internal.protocol == "tcp" and not self.tcp:
                result.callback(None)
                return
            port = self._map(internal.protocol, internal.host, internal.port, request.port, request.lifetime)
            grant = UpnpGrant(Address(self._external, port), 0) if request.lifetime else None
            result.callback(grant)

        self._host.reactor.callLater(0.1, perform)
        return result

    def restart(self) -> None:
        """Lose all mappings."""
        for protocol, mapped in (("udp", self.mapped), ("tcp", self.mapped_tcp)):
            for port in mapped.values():
                self.nat.unforward(protocol, port)
            mapped.clear()
        self.nat.forget()
        self._began = self._net.now

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.asked.append((self._net.now, datagram))
        self._host.reactor.callLater(self.delay, self._take, datagram, addr)

    def _take(self, datagram: bytes, addr: tuple[str, int]) -> None:
        epoch = int(self._net.now - self._began)
        if datagram[0] == 2 and not self.pcp:
            if self.nat_pmp:
                self.transport.write(struct.pack("!BBHI", 0, 129, 1, epoch), addr)
        elif datagram[0] == 2:
            self.transport.write(self._map_by_pcp(datagram, addr[0], epoch), addr)
        elif self.nat_pmp and datagram[1] == 0:
            address = ip_address(self._external).packed
            self.transport.write(struct.pack("!BBHI4s", 0, 128, self.result, epoch, address), addr)
        elif self.nat_pmp:
            internal, wanted, lifetime = struct.unpack_from("!HHI", datagram, 4)
            protocol = {1: "udp", 2: "tcp"}[datagram[1]]
            result = 2 if protocol == "tcp" and not self.tcp else self.result
            port = 0 if result else self._map(protocol, addr[0], internal, wanted, lifetime)
            granted = self.lifetime if lifetime else 0
            answer = struct.pack("!BBHIHHI", 0, 128 + datagram[1], result, epoch, internal, port, granted)
            self.transport.write(answer, addr)

    @property
    def _external(self) -> str:
        return self.external or self.nat.public or ""

    def _map_by_pcp(self, request: bytes, source: str, epoch: int) -> bytes:
        (lifetime,) = struct.unpack_from("!I", request, 4)
        result = self.result
        if request[8:24] != bytes(10) + b"\xff\xff" + ip_address(source).packed:
            result = 12
        nonce, number, internal, wanted = struct.unpack_from("!12sB3xHH", request, 24)
        protocol = {17: "udp", 6: "tcp"}[number]
        if protocol == "tcp" and not self.tcp:
            result = 8
        port = 0 if result else self._map(protocol, source, internal, wanted, lifetime)
        granted = self.lifetime if lifetime else 0
        header = struct.pack("!BBBBII12x", 2, 129, 0, result, granted, epoch)
        address = bytes(10) + b"\xff\xff" + ip_address(self._external).packed
        return header + struct.pack("!12sB3xHH16s", nonce, number, internal, port, address)

    def _map(self, protocol: str, host: str, internal: int, wanted: int, lifetime: int) -> int:
        mapped = self.mapped if protocol == "udp" else self.mapped_tcp
        if not lifetime:
            if internal in mapped:
                self.nat.unforward(protocol, mapped.pop(internal))
            return 0
        if internal not in mapped:
            port = wanted or internal
            while port in self.taken or port in mapped.values():
                port += 1
            mapped[internal] = port
            self.nat.forward(protocol, port, (host, internal))
        return mapped[internal]


class _Ssdp(DatagramProtocol):
    """Answers searches for UPnP."""

    transport: IUDPTransport
    noisy = False

    def __init__(self, router: MappingRouter) -> None:
        self._router = router
        self._answer = f"HTTP/1.1 200 OK\r\nLOCATION: http://{router.gateway}:5000/x.xml\r\n\r\n".encode()

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        if datagram.startswith(b"M-SEARCH * HTTP/1.1\r\n"):
            self._router.searches += 1
            self.transport.write(self._answer, addr)
