"""The relay on real sockets: coturn's load client and aioice, which nobody here wrote, and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import re
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aioice.turn import create_turn_endpoint

from punch.net.udp.segmentation import SEGMENT_SIZE, SOL_UDP, UDP_SEGMENT
from punch.wire.address import Address
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    long_term_key,
    parse,
)
from punch.wire.turn import StreamSplitter, encode_channel_data, parse_channel_data
from tests.needs import missing, need
from tests.ports import free_port, wait_until_open
from tests.processes import TWISTD, JSONProcess, programs

HOST = "127.0.0.1"
SECRET = "north of the tests"
TIMEOUT = 10.0
UDP = (Attribute.REQUESTED_TRANSPORT, 17)


@dataclass(frozen=True)
class RunningRendezvous:
    """A running rendezvous."""

    process: JSONProcess
    udp: int
    tcp: int


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRendezvous]:
    """A rendezvous that relays to loopback."""
    directory: Path = tmp_path_factory.mktemp("relay")
    secret = directory / "secret"
    secret.write_text(SECRET + "\n")
    udp = free_port()
    with programs(directory) as running:
        process = running.rendezvous(
            *("--control", "tcp:0", "--reflector-port", str(udp), "--host", HOST),
            *("--turn-secret-file", str(secret), "--relay-allow", "127.0.0.0/8", "--relay-allow", "::1/128"),
        )
        address = RendezvousAddress.parse(process.wait("listening")["address"])
        yield RunningRendezvous(process, udp, address.port)
        assert process.process.poll() is None, process.stderr
        assert "Traceback" not in process.stderr


def credentials(user: str = "tests", expires: float = 3600.0) -> tuple[str, str]:
    """As anybody makes them who knows the secret."""
    username = f"{int(time.time() + expires)}:{user}"
    return username, b64encode(hmac.digest(SECRET.encode(), username.encode(), "sha1")).decode()


class TestLoadClient:
    """turnutils_uclient; Send indications, as its channels leave the range of RFC 8656."""

    def run(self, service: RunningRendezvous, *options: str) -> str:
        need("turnutils_uclient")
        port = service.tcp if "-t" in options else service.udp
        command = ["turnutils_uclient", *options, "-W", SECRET, "-u", "load", "-p", str(port), HOST]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        output = finished.stdout + finished.stderr
        assert finished.returncode == 0, output
        return output

    @pytest.mark.parametrize("transport", [(), ("-t",)], ids=["udp", "tcp"])
    def test_twice_in_a_row(self, service: RunningRendezvous, transport: tuple[str, ...]) -> None:
        """Nothing is lost, and five-tuples are free again the moment they are given back."""
        for _ in range(2):
            output = self.run(service, "-s", "-y", *transport, "-m", "4", "-n", "50", "-z", "5", "-l", "500")
            found = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", output)
            assert found, output
            sent, received = map(int, found[-1])
            assert sent == received > 0, output
            assert "Total lost packets 0 " in output
            assert "error" not in output.lower(), output

    @pytest.mark.parametrize("transport", [(), ("-t",)], ids=["udp", "tcp"])
    def test_twice_at_the_same_time(self, service: RunningRendezvous, transport: tuple[str, ...]) -> None:
        """Two of them do not get in each other's way."""
        options = ("-s", "-y", *transport, "-m", "2", "-n", "50", "-z", "5", "-l", "500")
        with ThreadPoolExecutor(2) as pool:
            for output in pool.map(lambda _: self.run(service, *options), range(2)):
                assert "Total lost packets 0 " in output
                assert "error" not in output.lower(), output

    def test_without_rtcp(self, service: RunningRendezvous) -> None:
        """turnutils_uclient works without EVEN-PORT and RESERVATION-TOKEN."""
        output = self.run(service, "-s", "-y", "-c", "-n", "20")
        assert "Total lost packets 0 " in output

    def test_with_its_peer(self, service: RunningRendezvous) -> None:
        """Data reaches an address that is not a relayed one."""
        need("turnutils_peer")
        port = free_port()
        peer = subprocess.Popen(
            ["turnutils_peer", "-p", str(port), "-L", HOST],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_open(peer, ("udp", port))
            output = self.run(service, "-s", "-c", "-e", HOST, "-r", str(port), "-n", "20")
            assert "Total lost packets 0 " in output
        finally:
            peer.kill()
            peer.wait()


class AioiceReceiver(asyncio.DatagramProtocol):
    """What aioice hands over."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_aioice(service: RunningRendezvous, transport: str) -> None:
    """It allocates, and talks through the relay with a socket and with another allocation of its own."""

    async def open_client() -> tuple[Any, AioiceReceiver]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        username, password = credentials("aioice")
        endpoint, receiver = await create_turn_endpoint(
            AioiceReceiver,
            (HOST, service.udp if transport == "udp" else service.tcp),
            username,
            password,
            transport="udp" if transport == "udp" else "tcp",
            ssl=context if transport == "tls" else False,
        )
        return endpoint, receiver

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        alice, alice_received = await open_client()
        bob, bob_received = await open_client()
        peer_transport, peer = await loop.create_datagram_endpoint(AioiceReceiver, (HOST, 0))
        own = peer_transport.get_extra_info("sockname")
        relayed = alice.get_extra_info("sockname")
        alice.sendto(b"to a socket", own)
        assert await asyncio.wait_for(peer.received.get(), TIMEOUT) == (b"to a socket", relayed)
        peer_transport.sendto(b"and back", relayed)
        assert await asyncio.wait_for(alice_received.received.get(), TIMEOUT) == (b"and back", own)
        other = bob.get_extra_info("sockname")
        bob.sendto(b"open", relayed)
        heard = None
        for _ in range(20):
            # Until his relay lets her in, too, it drops what she says
            alice.sendto(b"relay to relay", other)
            with contextlib.suppress(asyncio.TimeoutError):
                heard = await asyncio.wait_for(bob_received.received.get(), 0.5)
                break
        assert heard == (b"relay to relay", relayed)
        for each in (alice, bob, peer_transport):
            each.close()
        await asyncio.sleep(0.3)

    asyncio.run(talk())


class FiveTupleClient:
    """One five-tuple, by hand."""

    def __init__(
        self, service: RunningRendezvous, *, tcp: bool = False, user: str = "by hand", host: str = HOST
    ) -> None:
        self.username, self.password = credentials(user)
        self.realm = self.nonce = ""
        self._splitter = StreamSplitter() if tcp else None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect((host, service.tcp if tcp else service.udp))
        self._messages: list[bytes] = []

    def __enter__(self) -> FiveTupleClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def key(self) -> bytes:
        return long_term_key(self.username, self.realm, self.password)

    def request(self, method: int, *attributes: tuple[int, Any]) -> bytes:
        """With credentials, those of a 401 included."""
        if not self.nonce:
            challenge = self.ask_bytes(
                encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, os.urandom(12)))
            )
            self.realm = str(challenge.get(Attribute.REALM))
            self.nonce = str(challenge.get(Attribute.NONCE))
        login = (
            (Attribute.USERNAME, self.username),
            (Attribute.REALM, self.realm),
            (Attribute.NONCE, self.nonce),
        )
        message = StunMessage(method, MessageClass.REQUEST, os.urandom(12), (*attributes, *login))
        return encode(message, self.key, fingerprint=False)

    def receive(self) -> bytes:
        """The next message."""
        if self._splitter is None:
            return self.socket.recv(65536)
        while not self._messages:
            self._messages += self._splitter.feed(self.socket.recv(65536))
        return self._messages.pop(0)

    def ask_bytes(self, request: bytes) -> StunMessage:
        """The answer to a request."""
        self.socket.send(request)
        while True:
            data = self.receive()
            if data[0] < 4 and data[8:20] == request[8:20]:
                return parse(data)

    def ask(self, method: int, *attributes: tuple[int, Any]) -> StunMessage:
        return self.ask_bytes(self.request(method, *attributes))

    def allocate(self) -> Address:
        relayed = self.ask(Method.ALLOCATE, UDP).get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Address)
        return relayed

    def bind(self, peer: Address) -> None:
        attributes = ((Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, peer))
        assert code_of(self.ask(Method.CHANNEL_BIND, *attributes)) == 0


def code_of(message: StunMessage) -> int:
    """The error code, 0 for success."""
    found = message.get(Attribute.ERROR_CODE)
    return int(found[0]) if found is not None else 0


class TestWhatCoturnGetsWrong:
    """coturn 4.6.1 does each of these differently."""

    def test_after_the_integrity(self, service: RunningRendezvous) -> None:
        """An appended, unsigned LIFETIME of 0 deletes nothing."""
        with FiveTupleClient(service) as client:
            client.allocate()
            request = client.request(Method.REFRESH)
            longer = request + bytes.fromhex("000d000400000000")
            answer = client.ask_bytes(longer[:2] + (len(longer) - 20).to_bytes(2, "big") + longer[4:])
            assert answer.get(Attribute.LIFETIME) == 600
            assert code_of(client.ask(Method.REFRESH)) == 0

    def test_overrun(self, service: RunningRendezvous) -> None:
        """An attribute that overruns its message gets no success."""
        with FiveTupleClient(service) as client:
            request = bytearray(client.request(Method.ALLOCATE, UDP))
            request[22:24] = (4000).to_bytes(2, "big")
            client.socket.send(bytes(request))
            client.socket.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                assert parse(client.socket.recv(65536)).message_class == MessageClass.ERROR
            client.socket.settimeout(TIMEOUT)
            assert code_of(client.ask(Method.REFRESH)) == 437

    def test_without_an_allocation(self, service: RunningRendezvous) -> None:
        with FiveTupleClient(service) as client:
            peer = (Attribute.XOR_PEER_ADDRESS, Address("203.0.113.1", 1))
            channel = (Attribute.CHANNEL_NUMBER, 0x4000)
            assert code_of(client.ask(Method.REFRESH)) == 437
            assert code_of(client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))) == 437
            assert code_of(client.ask(Method.CREATE_PERMISSION, peer)) == 437
            assert code_of(client.ask(Method.CHANNEL_BIND, channel, peer)) == 437

    @pytest.mark.parametrize("transport", [0, 1, 6, 132])
    def test_other_transports(self, service: RunningRendezvous, transport: int) -> None:
        with FiveTupleClient(service) as client:
            assert code_of(client.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, transport))) == 442

    def test_invented_reservation(self, service: RunningRendezvous) -> None:
        with FiveTupleClient(service) as client:
            assert (
                code_of(client.ask(Method.ALLOCATE, UDP, (Attribute.RESERVATION_TOKEN, b"invented"))) == 508
            )


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_bursts(service: RunningRendezvous, tcp: bool) -> None:
    """Datagrams of all sizes, many in one system call, arrive whole and in order, both ways."""
    sizes = [1000] * 30 + [200] + [1] * 5 + [1200] * 10 + [7]
    data = [bytes([number]) * size for number, size in enumerate(sizes)]
    with (
        FiveTupleClient(service, tcp=tcp) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        peer.bind((HOST, 0))
        peer.settimeout(TIMEOUT)
        relayed = client.allocate()
        client.bind(Address(*peer.getsockname()))
        for each in data:
            client.socket.send(encode_channel_data(0x4000, each, padded=tcp))
        received = [peer.recvfrom(65536) for _ in data]
        assert [each for each, _ in received] == data
        assert {Address(*address) for _, address in received} == {relayed}
        for start in range(0, 30, 10):
            segment = (SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(1000))
            try:
                peer.sendmsg(data[start : start + 10], [segment], 0, relayed)
            except OSError as problem:
                missing(f"this kernel has no UDP_SEGMENT ({problem})")
        for each in data[30:]:
            peer.sendto(each, relayed)
        for each in data:
            message = parse_channel_data(client.receive())
            assert message is not None
            assert message.data == each
        assert code_of(client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))) == 0


def test_ipv6(service: RunningRendezvous) -> None:
    """A client that arrives over IPv6 is relayed over what it asks for."""
    try:
        client = FiveTupleClient(service, host="::1")
    except OSError:
        missing("this machine has no IPv6 loopback address")
    with client, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind(("::1", 0))
        peer.settimeout(TIMEOUT)
        answer = client.ask(Method.ALLOCATE, UDP, (Attribute.REQUESTED_ADDRESS_FAMILY, 2))
        relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Address)
        assert relayed.is_ipv6
        client.bind(Address("::1", peer.getsockname()[1]))
        client.socket.send(encode_channel_data(0x4000, b"hello", padded=False))
        data, address = peer.recvfrom(65536)
        assert data == b"hello"
        peer.sendto(b"and back", address)
        message = parse_channel_data(client.receive())
        assert message is not None
        assert message.data == b"and back"


def test_descriptors(service: RunningRendezvous) -> None:
    """A hundred allocations come and go, and leave no descriptor behind."""
    directory = Path(f"/proc/{service.process.process.pid}/fd")
    if not directory.exists():
        missing("this system has no /proc")

    def opened() -> int:
        return len(list(directory.iterdir()))

    # The connections of earlier tests may still be closing
    before = 0
    while before != (now := opened()):
        before = now
        time.sleep(0.2)
    clients = [FiveTupleClient(service, user=f"many {number % 4}") for number in range(100)]
    for client in clients:
        client.allocate()
    assert opened() >= before + 100
    for client in clients:
        client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        client.socket.close()
    deadline = time.monotonic() + TIMEOUT
    while opened() > before + 2:
        assert time.monotonic() < deadline, opened() - before
        time.sleep(0.02)


def test_descriptors_are_shared(tmp_path: Path) -> None:
    """Relays take no more of the few open files than their part: connections still come in."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    udp = free_port()
    with programs(tmp_path) as running:
        process = running.start(
            [
                *("sh", "-c", 'ulimit -n 300 && exec "$@"', "sh", TWISTD, "-n", "punch-rendezvous", "--json"),
                *("--state-dir", str(tmp_path / "state"), "--control", "tcp:0", "--reflector-port", str(udp)),
                *("--host", HOST, "--turn-secret-file", str(secret), "--relay-allow", "127.0.0.0/8"),
            ]
        )
        tcp = RendezvousAddress.parse(process.wait("listening")["address"]).port
        service = RunningRendezvous(process, udp, tcp)
        with contextlib.ExitStack() as opened:
            codes = [
                code_of(
                    opened.enter_context(FiveTupleClient(service, user=f"user {n % 5}")).ask(
                        Method.ALLOCATE, UDP
                    )
                )
                for n in range(310)
            ]
            assert codes[0] == 0
            assert set(codes) == {0, 508}
            assert codes.count(0) < 100
            with FiveTupleClient(service, tcp=True) as late:
                assert code_of(late.ask(Method.REFRESH)) == 437
        assert "Traceback" not in process.stderr
