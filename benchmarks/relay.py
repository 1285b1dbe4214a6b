"""
What the relay and the reflector carry, beside coturn in the same run.

    python benchmarks/relay.py [--seconds 2] [--rounds 3]

Each server runs on one core and the load comes from another, over loopback. Packets have 1,000 bytes and go
through UDP channels (RFC 8656, section 12) of several clients, as many as the server takes; what is counted
is what arrives. "singly" means that each datagram is sent by a system call of its own; "together", that the
load uses UDP_SEGMENT, as QUIC peers with large windows do. CPU is that of the server alone. Binding requests
come from a thousand prefixes, so that the limit for each (RATE in `punch.rendezvous.reflector`) stays out
of the way, in batches (`punch.net.udp.message_batch`), as otherwise the load would be slower than the
servers. Rounds are interleaved, and the median is reported.

The status is 1 if an aim is missed: a third of coturn's packets a second (singly, from client to peer), half
of its answers a second. Without coturn there is nothing to compare with, and the status is 2.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from punch.net.udp.message_batch import SIZE, AnswerSender, MessageReceiver, one_control_message
from punch.net.udp.segmentation import (
    SEGMENT_SIZE,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    segment_size,
)
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    long_term_key,
    parse,
)

HOST = "127.0.0.1"
SECRET = "a secret of this benchmark"
PAYLOAD = 1000
CLIENTS = 8
BURST = 32
"""Datagrams of one client at a time."""
ALLOCATIONS = 500
"""For the memory that each takes."""
PREFIXES = 1024
"""From which the reflector is asked."""
ASKED = 512
"""Requests that may wait for their answers."""
RELAY_AIM = 1 / 3
REFLECTOR_AIM = 0.5
START_TIME = 20.0


@dataclass(frozen=True)
class Server:
    """A running server. `cpu` is seconds so far, `memory` bytes that are resident."""

    name: str
    process: subprocess.Popen[bytes]
    port: int

    @property
    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the server has ended")


def free_port() -> int:
    """A UDP port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, cores: set[int]) -> Iterator[Server]:
    """A server, until the end of the block."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        os.sched_setaffinity(process.pid, cores)
        end = time.monotonic() + START_TIME
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.2)
            question = encode(
                StunMessage(Method.BINDING, MessageClass.REQUEST, os.urandom(12)), fingerprint=False
            )
            while True:
                probe.sendto(question, (HOST, port))
                try:
                    probe.recv(2048)
                    break
                except (TimeoutError, ConnectionError) as error:
                    if time.monotonic() > end or process.poll() is not None:
                        raise RuntimeError(f"{name} did not start") from error
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)
        yield Server(name, process, port)
    finally:
        process.terminate()
        process.wait(10)


def punch(directory: Path, cores: set[int]) -> contextlib.AbstractContextManager[Server]:
    """Our service, with all that it does, and its bandwidth limits out of the way."""
    port = free_port()
    secret = directory / "secret"
    secret.write_text(SECRET)
    command = [
        *(str(Path(sys.executable).with_name("twistd")), "-n", "punch-rendezvous", "--json"),
        *("--state-dir", str(directory / "state"), "--control", f"tcp:0:interface={HOST}"),
        *("--reflector-port", str(port), "--turn-secret-file", str(secret)),
        *("--relay-allow", "127.0.0.0/8", "--relay-rate", "999999999", "--relay-rate-per-peer", "999999999"),
        *("--relay-allocations-per-peer", "2000", "--relay-allocations-per-address", "2000"),
    ]
    return running("punch", command, port, cores)


def coturn(directory: Path, cores: set[int]) -> contextlib.AbstractContextManager[Server]:
    """coturn, as it comes."""
    port = free_port()
    command = [
        *("turnserver", "-n", "--no-cli", "--listening-ip", HOST, "--relay-ip", HOST, "-p", str(port)),
        *("--use-auth-secret", "--static-auth-secret", SECRET, "--realm", "bench", "--allow-loopback-peers"),
        *("--no-tls", "--no-dtls", "--no-tcp", "--log-file", str(directory / "turn.log"), "--simple-log"),
        *("--pidfile", str(directory / "turn.pid"), "-b", str(directory / "turndb")),
    ]
    return running("coturn", command, port, cores)


class AllocationClient:
    """One allocation, from a socket and an address of its own."""

    def __init__(self, server: Server, number: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((f"127.1.{number // 250}.{number % 250 + 1}", 0))
        self.socket.connect((HOST, server.port))
        self.socket.settimeout(2.0)
        self.username = f"{int(time.time()) + 3600}:benchmark"
        password = b64encode(hmac.digest(SECRET.encode(), self.username.encode(), "sha1")).decode()
        first = self._ask(Method.ALLOCATE, None, (Attribute.REQUESTED_TRANSPORT, 17))
        self.realm, self.nonce = first.get(Attribute.REALM), first.get(Attribute.NONCE)
        self.key = long_term_key(self.username, str(self.realm), password)
        answer = self._ask(Method.ALLOCATE, self.key, (Attribute.REQUESTED_TRANSPORT, 17))
        relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        if relayed is None:
            raise RuntimeError(f"{server.name} refuses to allocate: {answer.get(Attribute.ERROR_CODE)}")
        self.relayed: Address = relayed

    def bind(self, number: int, peer: Address) -> None:
        """Bind a channel."""
        attributes = ((Attribute.CHANNEL_NUMBER, number), (Attribute.XOR_PEER_ADDRESS, peer))
        answer = self._ask(Method.CHANNEL_BIND, self.key, *attributes)
        if answer.message_class != MessageClass.SUCCESS:
            raise RuntimeError(f"no channel: {answer.get(Attribute.ERROR_CODE)}")

    def close(self) -> None:
        """Give the allocation back."""
        with contextlib.suppress(OSError):
            self._ask(Method.REFRESH, self.key, (Attribute.LIFETIME, 0))
        self.socket.close()

    def _ask(self, method: Method, key: bytes | None, *attributes: tuple[int, Any]) -> StunMessage:
        if key is not None:
            login = (
                (Attribute.USERNAME, self.username),
                (Attribute.REALM, self.realm),
                (Attribute.NONCE, self.nonce),
            )
            attributes = (*attributes, *login)
        request = StunMessage(method, MessageClass.REQUEST, os.urandom(12), attributes)
        data = encode(request, key, fingerprint=False)
        end = time.monotonic() + 10.0
        while time.monotonic() < end:
            self.socket.send(data)
            with contextlib.suppress(TimeoutError, ConnectionError):
                while True:
                    received = self.socket.recv(65536)
                    if received[0] < 2 and received[8:20] == request.transaction_id:
                        return parse(received)
        raise RuntimeError("no answer")


def drain(sock: socket.socket, buffer: bytearray) -> int:
    """How many datagrams waited in a socket."""
    count = 0
    while True:
        try:
            size, ancillary, _, _ = sock.recvmsg_into([buffer], 64)
        except (BlockingIOError, ConnectionError):
            return count
        segment = segment_size(ancillary) or size
        count += -(-size // segment)


def send(sock: socket.socket, data: bytes, together: bool, remote: Address | None) -> None:
    """One burst."""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        if together:
            segment = (SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(len(data)))
            destination = () if remote is None else (0, remote)
            sock.sendmsg([data] * BURST, [segment], *destination)
        elif remote is None:
            for _ in range(BURST):
                sock.send(data)
        else:
            for _ in range(BURST):
                sock.sendto(data, remote)


@dataclass(frozen=True)
class Rate:
    """What was carried a second, and microseconds of the server's CPU for each."""

    rate: float
    cpu: float


def measure(server: Server, seconds: float, turn: Callable[[], int]) -> Rate:
    """Let `turn`, which says how many arrived, run for some time, after a tenth of it to warm up."""
    end = time.monotonic() + seconds / 10
    while time.monotonic() < end:
        turn()
    count, cpu, start = 0, server.cpu, time.monotonic()
    end = start + seconds
    while time.monotonic() < end:
        count += turn()
    elapsed, cpu = time.monotonic() - start, server.cpu - cpu
    return Rate(count / elapsed, cpu / max(1, count) * 1e6)


def relay(server: Server, seconds: float, *, to_peer: bool, together: bool) -> Rate:
    """Packets through channels, in one direction."""
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind((HOST, 0))
        clients = []
        for number in range(CLIENTS):
            client = AllocationClient(server, number)
            stack.callback(client.close)
            client.bind(0x4000, Address(*peer.getsockname()))
            clients.append(client)
        sockets = [each.socket for each in clients]
        for sock in (peer, *sockets):
            sock.setblocking(False)
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        buffer = bytearray(65536)
        data = b"\x40\x00" + PAYLOAD.to_bytes(2, "big") + bytes(PAYLOAD)

        def turn() -> int:
            count = 0
            for client in clients:
                if to_peer:
                    send(client.socket, data, together, None)
                    count += drain(peer, buffer)
                else:
                    send(peer, data[4:], together, client.relayed)
                    count += drain(client.socket, buffer)
            return count

        result = measure(server, seconds, turn)
        time.sleep(0.2)
        for sock in sockets:
            drain(sock, buffer)
            sock.setsockopt(SOL_UDP, UDP_GRO, 0)
            sock.settimeout(1.0)
        return result


def reflector(server: Server, seconds: float) -> Rate:
    """Binding requests, each from another prefix than the one before, as many as the server answers."""
    question = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, os.urandom(12)), fingerprint=False)
    name = socket.AF_INET.to_bytes(2, sys.byteorder) + server.port.to_bytes(2, "big")
    name = (name + socket.inet_aton(HOST)).ljust(28, b"\0")
    # The addresses that requests come from (IP_PKTINFO)
    sources = [
        one_control_message(
            (0, 8, struct.pack("=I4s4s", 0, bytes((127, 2 + n // 250, n % 250, 1)), bytes(4)))
        )
        for n in range(PREFIXES)
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sender, receiver = AnswerSender(), MessageReceiver()
        number = waiting = 0
        latest = time.monotonic()

        def turn() -> int:
            nonlocal number, waiting, latest
            if waiting < ASKED:
                for _ in range(SIZE):
                    number = (number + 1) % PREFIXES
                    sender.add(question, name, sources[number])
                sender.send(sock.fileno())
                waiting += SIZE
            count = receiver.receive(sock.fileno())
            now = time.monotonic()
            if count:
                waiting, latest = waiting - count, now
            elif now > latest + 0.05:
                waiting, latest = 0, now  # What is lost is not waited for.
            return count

        return measure(server, seconds, turn)


def memory(server: Server) -> float:
    """Bytes of the server's memory that an allocation with a channel takes."""
    with contextlib.ExitStack() as stack:
        before = 0
        for number in range(ALLOCATIONS + 50):
            if number == 50:
                before = server.memory
            client = AllocationClient(server, number)
            stack.callback(client.close)
            client.bind(0x4000, Address(HOST, 9))
        return (server.memory - before) / ALLOCATIONS


TESTS: dict[str, Callable[[Server, float], Rate]] = {
    "client to peer, singly": lambda server, s: relay(server, s, to_peer=True, together=False),
    "client to peer, together": lambda server, s: relay(server, s, to_peer=True, together=True),
    "peer to client, singly": lambda server, s: relay(server, s, to_peer=False, together=False),
    "peer to client, together": lambda server, s: relay(server, s, to_peer=False, together=True),
    "reflector": reflector,
}


def main() -> int:
    """Print the table; the exit status says whether the aims are met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0].strip())
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    servers, load = {cores[0]}, {cores[-1]}
    os.sched_setaffinity(0, load)
    results: dict[tuple[str, str], list[Rate]] = {}
    memories: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        known = [stack.enter_context(punch(directory, servers))]
        if shutil.which("turnserver"):
            known.append(stack.enter_context(coturn(directory, servers)))
        for _ in range(options.rounds):
            for test, run in TESTS.items():
                for server in known:
                    results.setdefault((test, server.name), []).append(run(server, options.seconds))
        for server in known:
            memories[server.name] = memory(server)
    return report(results, memories, as_json=options.json)


def report(results: dict[tuple[str, str], list[Rate]], memories: dict[str, float], *, as_json: bool) -> int:
    """Print what was measured."""
    figures = {
        key: Rate(median(each.rate for each in rates), median(each.cpu for each in rates))
        for key, rates in results.items()
    }
    ratios = {
        test: figures[test, "punch"].rate / figures[test, "coturn"].rate
        for test in TESTS
        if (test, "coturn") in figures
    }
    if as_json:
        shown = {f"{test}, {name}": [rate.rate, rate.cpu] for (test, name), rate in figures.items()}
        print(json.dumps({"rates": shown, "ratios": ratios, "memory": memories}))
    else:
        print(f"{platform.platform()}, {platform.machine()}; Python {platform.python_version()}")
        print(f"{'':26}{'punch /s':>12}{'CPU µs':>8}{'coturn /s':>12}{'CPU µs':>8}{'ratio':>8}")
        for test in TESTS:
            ours, theirs = figures[test, "punch"], figures.get((test, "coturn"))
            line = f"{test:26}{ours.rate:12,.0f}{ours.cpu:8.1f}"
            if theirs is not None:
                line += f"{theirs.rate:12,.0f}{theirs.cpu:8.1f}{ratios[test]:8.2f}"
            print(line)
        for name, size in memories.items():
            print(f"{name}: {size / 1024:.1f} KiB of memory an allocation")
    if not ratios:
        print("coturn is not installed: there is nothing to compare with.")
        return 2
    met = ratios["client to peer, singly"] >= RELAY_AIM and ratios["reflector"] >= REFLECTOR_AIM
    if not as_json:
        print(f"aims: a third of its packets, {REFLECTOR_AIM} of its answers: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
