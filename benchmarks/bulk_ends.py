"""
The two ends of each transport that `bulk.py` compares: one process sends, the other receives.

Each process speaks JSON lines with the one that started it: whatever one end prints under "signal" is given
to the other on its stdin, and the last line has the end's CPU time (and the sender's the elapsed time), in
seconds, from the moment the connection was ready until the receiver's application had the last byte.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Any

CHUNK = b"\x5a" * 65536
DONE = b"!"


class Meter:
    """Wall and CPU time since the connection was ready."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def report(self) -> None:
        say(result={"seconds": time.monotonic() - self._wall, "cpu": time.process_time() - self._cpu})


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def hear() -> Any:
    return json.loads(sys.stdin.readline())


# Twisted: our link, and TLS


def run_twisted(start: Callable[[Any], None]) -> None:
    from twisted.internet import reactor

    start(reactor)
    reactor.run()


def make_protocols(reactor: Any, size: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from twisted.internet.interfaces import IPushProducer
    from twisted.internet.protocol import Protocol
    from zope.interface import implementer

    @implementer(IPushProducer)
    class Sender(Protocol):
        def connectionMade(self) -> None:
            self.meter = Meter()
            self.left = size
            self.running = True
            assert self.transport is not None
            self.transport.registerProducer(self, True)  # type: ignore[attr-defined]
            self.resumeProducing()

        def resumeProducing(self) -> None:
            assert self.transport is not None
            self.running = True
            while self.running and self.left:
                self.left -= len(CHUNK)
                if not self.left:
                    self.transport.unregisterProducer()  # type: ignore[attr-defined]
                self.transport.write(CHUNK)

        def pauseProducing(self) -> None:
            self.running = False

        def stopProducing(self) -> None:
            self.running = False

        def dataReceived(self, data: bytes) -> None:
            self.meter.report()
            reactor.callLater(0.05, reactor.stop)

    class Receiver(Protocol):
        def connectionMade(self) -> None:
            self.meter = Meter()
            self.left = size

        def dataReceived(self, data: bytes) -> None:
            self.left -= len(data)
            if not self.left:
                assert self.transport is not None
                self.transport.write(DONE)
                self.meter.report()
                reactor.callLater(0.1, reactor.stop)

    return Sender, Receiver


def link_end(sending: bool, size: int, *, portable: bool = False) -> None:
    from twisted.internet.protocol import Factory

    from punch.identity import Identity
    from punch.link.core import LinkCore
    from punch.link.events import LinkRole
    from punch.link.link import Link
    from punch.link.proof import LinkCertificate
    from punch.link.services import Services
    from punch.net.udp.sockets import open_portable, open_socket
    from punch.wire.address import Address

    caller = Identity.generate(lambda n: b"\x01" * n)
    callee = Identity.generate(lambda n: b"\x02" * n)
    digest = sha256(b"bulk").digest()

    def start(reactor: Any) -> None:
        sender, receiver = make_protocols(reactor, size)
        remote: list[Address] = []
        services = Services()

        def received(datagrams: Sequence[bytes], source: Address, socket: Any) -> None:
            remote[:] = [source]
            link.receive(datagrams)

        sock = (open_portable if portable else open_socket)(reactor, "127.0.0.1", 0, received)
        if sending:
            signal = hear()
            remote.append(Address("127.0.0.1", signal["port"]))
            core = LinkCore(
                role=LinkRole.CALLER,
                identity=caller,
                remote=callee.peer_id,
                offer_digest=digest,
                answer_digest=digest,
                certificate_sha256=bytes.fromhex(signal["certificate"]),
                clock=time.monotonic,
                now=time.monotonic(),
            )
        else:
            certificate = LinkCertificate.generate()
            core = LinkCore(
                role=LinkRole.CALLEE,
                identity=callee,
                remote=caller.peer_id,
                offer_digest=digest,
                answer_digest=digest,
                certificate=certificate,
                clock=time.monotonic,
                now=time.monotonic(),
            )
        link = Link(
            core,
            clock=reactor,
            monotonic=time.monotonic,
            send=lambda datagrams: sock.send(datagrams, remote[0]),
            services=services,
        )
        if sending:
            link.start()
            link.when_proved().addCallback(lambda _: link.connect("bulk/1", Factory.forProtocol(sender)))
        else:
            services.serve("bulk/1", Factory.forProtocol(receiver))
            say(signal={"port": sock.local.port, "certificate": certificate.sha256.hex()})

    run_twisted(start)


def tls_end(sending: bool, size: int) -> None:
    from datetime import datetime, timezone

    from cryptography.hazmat.primitives.serialization import Encoding
    from OpenSSL import SSL
    from twisted.internet.protocol import ClientFactory, Factory
    from twisted.internet.ssl import Certificate, CertificateOptions, PrivateCertificate, TLSVersion
    from twisted.protocols.tls import TLSMemoryBIOFactory

    from punch.identity import Identity

    def start(reactor: Any) -> None:
        sender, receiver = make_protocols(reactor, size)
        if sending:
            signal = hear()
            options = CertificateOptions(
                raiseMinimumTo=TLSVersion.TLSv1_3,
                trustRoot=Certificate.loadPEM(signal["certificate"]),
            )
            factory = ClientFactory.forProtocol(sender)
            factory.noisy = False
            reactor.connectTCP("127.0.0.1", signal["port"], TLSMemoryBIOFactory(options, True, factory))
            return
        identity = Identity.generate()
        pem = identity.certificate(datetime.now(timezone.utc)).public_bytes(Encoding.PEM).decode()
        both = pem + identity.to_pem().decode()
        private = PrivateCertificate.loadPEM(both)  # type: ignore[no-untyped-call]
        options = private.options()
        options.getContext().set_min_proto_version(SSL.TLS1_3_VERSION)
        factory = Factory.forProtocol(receiver)
        factory.noisy = False
        port = reactor.listenTCP(0, TLSMemoryBIOFactory(options, False, factory), interface="127.0.0.1")
        say(signal={"port": port.getHost().port, "certificate": pem})

    run_twisted(start)


# asyncio: aioquic's own driver, and aiortc


async def aioquic_end(sending: bool, size: int) -> None:
    import ssl

    from aioquic.asyncio.client import connect
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.asyncio.server import serve
    from aioquic.quic import events
    from aioquic.quic.configuration import QuicConfiguration

    from punch.link.proof import LinkCertificate

    done = asyncio.Event()

    class AioquicReceiver(QuicConnectionProtocol):
        left = size
        meter: Meter | None = None

        def quic_event_received(self, event: events.QuicEvent) -> None:
            if isinstance(event, events.HandshakeCompleted):
                self.meter = Meter()
            elif isinstance(event, events.StreamDataReceived):
                self.left -= len(event.data)
                if not self.left:
                    self._quic.send_stream_data(event.stream_id, DONE, True)
                    assert self.meter is not None
                    self.meter.report()
                    asyncio.get_running_loop().call_later(0.2, done.set)

    if not sending:
        made = LinkCertificate.generate()
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["bulk"])
        configuration.certificate, configuration.private_key = made.certificate, made.private_key
        server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=AioquicReceiver)
        assert server._transport is not None
        say(signal={"port": server._transport.get_extra_info("sockname")[1]})
        await done.wait()
        return
    signal = hear()
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["bulk"], verify_mode=ssl.CERT_NONE, server_name="bulk"
    )
    async with connect("127.0.0.1", signal["port"], configuration=configuration) as client:
        meter = Meter()
        reader, writer = await client.create_stream()
        for _ in range(size // len(CHUNK)):
            writer.write(CHUNK)
            await asyncio.sleep(0)
        await reader.readexactly(1)
        meter.report()


async def aiortc_end(sending: bool, size: int) -> None:
    from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    done = asyncio.Event()
    chunk = CHUNK[:16384]

    async def describe() -> None:
        say(signal={"sdp": connection.localDescription.sdp, "type": connection.localDescription.type})

    if sending:
        channel = connection.createDataChannel("bulk")
        channel.bufferedAmountLowThreshold = 256 * 1024
        room = asyncio.Event()
        opened = asyncio.Event()
        channel.on("open", opened.set)
        channel.on("bufferedamountlow", room.set)
        channel.on("message", lambda _: done.set())
        await connection.setLocalDescription(await connection.createOffer())
        await describe()
        await connection.setRemoteDescription(RTCSessionDescription(**await asyncio.to_thread(hear)))
        await opened.wait()
        meter = Meter()
        for _ in range(size // len(chunk)):
            channel.send(chunk)
            if channel.bufferedAmount > 1024 * 1024:
                room.clear()
                await room.wait()
        await done.wait()
        meter.report()
    else:
        left = size
        meters: list[Meter] = []

        def on_channel(channel: Any) -> None:
            meters.append(Meter())

            def on_message(message: bytes) -> None:
                nonlocal left
                left -= len(message)
                if not left:
                    channel.send(DONE)
                    meters[0].report()
                    asyncio.get_running_loop().call_later(0.3, done.set)

            channel.on("message", on_message)

        connection.on("datachannel", on_channel)
        await connection.setRemoteDescription(RTCSessionDescription(**await asyncio.to_thread(hear)))
        await connection.setLocalDescription(await connection.createAnswer())
        await describe()
        await done.wait()
    await connection.close()


def run_asyncio(end: Callable[[bool, int], Awaitable[None]], sending: bool, size: int) -> None:
    async def main() -> None:
        await end(sending, size)

    asyncio.run(main())


ENDS: dict[str, Callable[[bool, int], None]] = {
    "punch": link_end,
    "punch-portable": lambda sending, size: link_end(sending, size, portable=True),
    "tls": tls_end,
    "aioquic": lambda sending, size: run_asyncio(aioquic_end, sending, size),
    "aiortc": lambda sending, size: run_asyncio(aiortc_end, sending, size),
}

if __name__ == "__main__":
    ENDS[sys.argv[1]](sys.argv[2] == "send", int(sys.argv[3]))
