"""
The attacks of `rendezvous.py --attacks`: one kind of hostile request, as fast as one process can send it or
at 50,000 a second, to a service on 127.0.0.1. Prints how many were sent.

They come from many addresses in 127.0.0.0/8, other ones than those of the honest load. SYNs that are never
followed by an ACK come from 198.18.0.0/15 (RFC 2544, for benchmarks), which only exists in a network
namespace of its own, where an interface swallows what is sent there: nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import select
import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Callable

from OpenSSL import SSL

from benchmarks.rendezvous_load import Load, source_address
from punch.net.udp.segmentation import SEGMENT_SIZE, SOL_UDP, UDP_SEGMENT

HOST = "127.0.0.1"
NETWORKS = (1000, 1200)
"""The numbers of the /24s that attacks come from."""
BATCH = 64
TOGETHER = 256
"""Connections that are open at a time."""
_COOKIE = b"\x21\x12\xa4\x42"


def paced(rate: float, seconds: float, size: int, send: Callable[[], int]) -> int:
    """Call `send`, which sends about `size` requests and returns how many, up to `rate` requests a second."""
    start = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < start + seconds:
        if sent > (now - start) * rate:
            time.sleep(size / rate)
        else:
            sent += send()
    return sent


def datagrams(port: int, request: Callable[[], bytes], rate: float, seconds: float) -> int:
    """Datagrams that are answered or refused."""
    with contextlib.ExitStack() as stack:
        sockets = deque[socket.socket]()
        for network in range(*NETWORKS):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((source_address(network), 0))
            sock.connect((HOST, port))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sockets.append(sock)
        size = len(request())
        segment = (SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(size))

        def send() -> int:
            sockets.rotate(1)
            try:
                sockets[0].sendmsg([request() for _ in range(BATCH)], [segment])
            except OSError:
                return 0
            return BATCH

        return paced(rate, seconds, BATCH, send)


def binding(ports: tuple[int, int], rate: float, seconds: float) -> int:
    """Binding requests."""
    return datagrams(ports[1], lambda: b"\x00\x01\x00\x00" + _COOKIE + os.urandom(12), rate, seconds)


def allocate(ports: tuple[int, int], rate: float, seconds: float) -> int:
    """Allocate requests without credentials."""
    tail = b"\x00\x19\x00\x04\x11\x00\x00\x00"
    return datagrams(ports[1], lambda: b"\x00\x03\x00\x08" + _COOKIE + os.urandom(12) + tail, rate, seconds)


def connections(port: int, request: Callable[[], bytes], rate: float, seconds: float) -> int:
    """TCP connections that send something and are then left open until others take their places."""
    waiting: deque[socket.socket] = deque()
    poll = select.epoll()
    connecting: dict[int, socket.socket] = {}
    networks = deque(range(*NETWORKS))
    linger = struct.pack("=ii", 1, 0)

    def send() -> int:
        networks.rotate(1)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        try:
            sock.bind((source_address(networks[0]), 0))
            problem = sock.connect_ex((HOST, port))
        except OSError as error:
            problem = error.errno or -1
        if problem not in (0, errno.EINPROGRESS):
            sock.close()
            return 0
        connecting[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLOUT)
        count = 0
        for number, _ in poll.poll(0.05 if len(connecting) >= TOGETHER else 0):
            done = connecting.pop(number)
            poll.unregister(number)
            try:
                done.send(request())
                count += 1
            except OSError:
                pass
            waiting.append(done)
        while len(waiting) > TOGETHER:
            waiting.popleft().close()
        return count

    return paced(rate, seconds, 1, send)


def hellos(ports: tuple[int, int], rate: float, seconds: float) -> int:
    """Complete ClientHellos, each with fresh random bytes, whose answer is not waited for."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_alpn_protos([b"punch/1"])
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    hello = connection.bio_read(65536)
    return connections(ports[0], lambda: hello[:11] + os.urandom(32) + hello[43:], rate, seconds)


def garbage(ports: tuple[int, int], rate: float, seconds: float) -> int:
    """Lines that are no TLS."""
    line = b"GET / HTTP/1.1 " * 20 + b"\n"
    return connections(ports[0], lambda: line, rate, seconds)


def lines(ports: tuple[int, int], rate: float, seconds: float) -> int:
    """Lines that are no messages, of registered peers: as many as the service reads."""
    load = Load([ports[0]], NETWORKS)
    load.keys(TOGETHER)
    end = time.monotonic() + seconds
    load.register(TOGETHER, together=16)
    sent = 0
    garbage = b'{"type":"nothing","call":"no such call"}\n' * BATCH
    while (now := time.monotonic()) < end:
        for peer in list(load.peers):
            if not peer.unsent:
                load.send(peer, garbage, now)
                sent += BATCH
        load.turn(now)
        if len(load.peers) < TOGETHER // 2:
            load.keys(16)
            load.register(16, together=16)
    return sent


def registrations(ports: tuple[int, int], rate: float, seconds: float) -> int:
    """Registrations of fresh keys."""
    load = Load([ports[0]], NETWORKS)
    load.keys(1000)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        load.keys(max(0, TOGETHER - len(load.fresh)))
        count += len(load.register(TOGETHER, together=TOGETHER)["latencies"])
    return count


def half_open(ports: tuple[int, int], rate: float, seconds: float) -> int:
    """SYNs from addresses that never answer. Only in a namespace."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    target = socket.inet_aton(HOST)
    count = 0

    def send() -> int:
        nonlocal count
        for _ in range(BATCH):
            count += 1
            source = struct.pack(">I", (198 << 24 | 18 << 16) + (count * 7919) % (1 << 17))
            tcp = struct.pack(
                ">HHIIBBHHH", 1024 + count % 60000, ports[0], count & 0xFFFFFFFF, 0, 5 << 4, 2, 65535, 0, 0
            )
            pseudo = source + target + struct.pack(">BBH", 0, 6, 20) + tcp
            total = sum(struct.unpack(">16H", pseudo))
            total = (total & 0xFFFF) + (total >> 16)
            check = ~(total + (total >> 16)) & 0xFFFF
            tcp = tcp[:16] + struct.pack(">H", check) + tcp[18:]
            header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, source, target)
            raw.sendto(header + tcp, (HOST, 0))
        return BATCH

    return paced(rate, seconds, BATCH, send)


KINDS: dict[str, Callable[[tuple[int, int], float, float], int]] = {
    "binding": binding,
    "allocate": allocate,
    "hellos": hellos,
    "half-open": half_open,
    "garbage": garbage,
    "lines": lines,
    "registrations": registrations,
}


def prepare_namespace() -> None:
    """In a network namespace of our own: loopback, and an interface that swallows 198.18.0.0/15."""
    for command in (
        "ip link set lo up",
        "ip link add swallows type veth peer name swallowed",
        "ip link set swallows arp off up",
        "ip link set swallowed arp off up",
        "ip address add 192.0.2.1/32 dev swallows",
        "ip route add 198.18.0.0/15 dev swallows",
    ):
        subprocess.run(command.split(), check=True)


def main() -> None:
    """Attack."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0].strip())
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("tcp", type=int)
    parser.add_argument("udp", type=int)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=50_000.0)
    options = parser.parse_args()
    start = time.monotonic()
    sent = KINDS[options.kind]((options.tcp, options.udp), options.rate, options.seconds)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
