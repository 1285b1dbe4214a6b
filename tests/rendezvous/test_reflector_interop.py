"""
The reflector on real sockets: asked by coturn's STUN clients, which nobody here wrote, and by a plain socket.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)
from tests.needs import has_ipv6, missing, need

# The reflector alone, on one free port of both loopback addresses, until stdin ends.
SERVER = """
import sys
from twisted.internet import reactor, stdio
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Protocol
from punch.net.udp.server import PlainPort
from punch.rendezvous.udp_server import UDPServer
class Parent(Protocol):
    def connectionLost(self, reason):
        reactor.stop()

hosts = sys.argv[1:]
server = UDPServer()
for attempt in range(20):
    first = PlainPort(reactor, hosts[0], 0, server)
    port = first.port
    try:
        for host in hosts[1:]:
            PlainPort(reactor, host, port, server)
        break
    except CannotListenError:
        first.close()
stdio.StandardIO(Parent())
print(port, flush=True)
reactor.run()
"""

TRANSACTION = b"interop test"
TIMEOUT = 20.0


HOSTS = ("127.0.0.1", "::1")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a running reflector."""
    hosts = HOSTS if has_ipv6() else HOSTS[:1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, *hosts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            pytest.fail(f"the reflector did not start: {server.communicate()[1]}")
        yield int(line)
        assert server.poll() is None, "the reflector ended by itself"
        _, errors = server.communicate("", timeout=TIMEOUT)
        assert errors == ""
    finally:
        server.kill()
        server.wait()


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """Each loopback address."""
    address: str = request.param
    if ":" in address and not has_ipv6():
        missing("this machine has no IPv6 loopback address")
    return address


def run(*command: str) -> str:
    """What a client prints."""
    need(command[0])
    finished = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def addresses(output: str, label: str) -> set[tuple[str, int]]:
    """The addresses that coturn's programs print after a label, in their form, which has no brackets."""
    return {
        (found[1], int(found[2])) for found in re.finditer(rf"{label}: (?:: )?(\S+):(\d+)\s*$", output, re.M)
    }


def test_stunclient(host: str, port: int) -> None:
    """coturn's STUN client is told its address."""
    output = run("turnutils_stunclient", "-p", str(port), host)
    ((reflexive, reflexive_port),) = addresses(output, "UDP reflexive addr")
    assert reflexive == host, output
    assert reflexive_port > 1023, output


@pytest.mark.parametrize("option", ["-m", "-f"])
def test_natdiscovery(host: str, port: int, option: str) -> None:
    """
    coturn's NAT discovery sees that the mapped address is its own, so there is no NAT, and that the server
    offers no RFC 5780, so there is nothing more to ask.
    """
    output = run("turnutils_natdiscovery", option, "-p", str(port), "-L", host, host)
    reflexive = addresses(output, "UDP reflexive addr")
    assert len(reflexive) == 1, output
    assert reflexive == addresses(output, "Local addr"), output
    assert "No NAT! (Endpoint Independent Mapping)" in output
    assert "RFC 5780 response" not in output


def test_natdiscovery_hairpinning(host: str, port: int) -> None:
    """Its hairpinning test sends to the mapped address that it was told, and gets its own request there."""
    output = run("turnutils_natdiscovery", "-H", "-p", str(port), "-L", host, host)
    assert addresses(output, "UDP reflexive addr"), output
    assert "Received a request (maybe a successful hairpinning)" in output


def test_natdiscovery_padding(host: str, port: int) -> None:
    """A request for padding is refused with a code that it understands."""
    output = run("turnutils_natdiscovery", "-m", "-P", "-p", str(port), "-L", host, host)
    assert "The response is an error 420" in output


@contextlib.contextmanager
def asking(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is connected to the reflector, so that it takes answers from nowhere else."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT)
        client.connect((host, port))
        yield client


def test_sizes(host: str, port: int) -> None:
    """20 bytes are answered with 32, or 44 over IPv6, from the very port that was asked."""
    with asking(host, port) as client:
        client.send(encode(StunMessage(Method.BINDING, MessageClass.REQUEST, TRANSACTION), fingerprint=False))
        answer = client.recv(65536)
        assert len(answer) == (44 if ":" in host else 32)
        message = parse(answer)
        assert message.transaction_id == TRANSACTION
        mapped = (Attribute.XOR_MAPPED_ADDRESS, Address(*client.getsockname()[:2]))
        assert message.attributes == (mapped,)


def test_noise(host: str, port: int) -> None:
    """
    Empty and enormous datagrams, truncated requests and answers get silence, and don't disturb the next
    question.
    """
    question = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, TRANSACTION))
    with asking(host, port) as client:
        enormous = 65507
        noise = [
            b"",
            b"\x00",
            bytes(20),
            bytes(enormous),
            b"\xff" * enormous,
            question[:20] + bytes(enormous - 20),
            *(question[:size] for size in range(1, len(question))),
            encode(StunMessage(Method.BINDING, MessageClass.SUCCESS, TRANSACTION)),
            encode(StunMessage(Method.BINDING, MessageClass.INDICATION, TRANSACTION)),
            encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION)),
            b"\x00\x01\x00\x00" + bytes(range(16)),
        ]
        for number, data in enumerate(noise):
            client.send(data)
            transaction = number.to_bytes(12, "big")
            client.send(encode(StunMessage(Method.BINDING, MessageClass.REQUEST, transaction)))
            # Loopback keeps datagrams in order: had the noise been answered, that would come first.
            assert parse(client.recv(65536)).transaction_id == transaction, data[:40]
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(65536)
