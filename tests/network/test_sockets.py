"""Batched and portable sockets over the real loopback, on the reactors that POSIX systems have."""

from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor

from punch.net.udp import sockets as udp
from punch.net.udp.message_batch import HAS_BATCHES
from punch.net.udp.segmentation import SOL_UDP, UDP_GRO, UDP_SEGMENT, set_ttl
from punch.net.udp.server import open_ports
from punch.net.udp.sockets import (
    BatchedSocket,
    DatagramSocket,
    PortableSocket,
    Reach,
    has_segmentation,
    open_batched,
    open_portable,
    open_socket,
)
from punch.rendezvous.udp_server import UDPServer
from punch.wire.address import Address
from punch.wire.stun import Attribute, MessageClass, Method, StunMessage, encode, parse
from tests import system_call_filter
from tests.needs import has_ipv6, missing

Open = Callable[[Any, str, int, Any], DatagramSocket]

KINDS = [pytest.param(open_portable, id="portable"), pytest.param(open_batched, id="batched")]
HOSTS = ["127.0.0.1", "::1"]


def need_segmentation() -> None:
    if not has_segmentation():
        missing("this kernel has no UDP_SEGMENT (Linux 4.18 has)")


class Inbox:
    def __init__(self) -> None:
        self.batches: list[tuple[list[bytes], Address]] = []

    def __call__(self, datagrams: Sequence[bytes], remote: Address, sock: object) -> None:
        self.batches.append((list(datagrams), remote))

    @property
    def data(self) -> list[bytes]:
        return [data for datagrams, _ in self.batches for data in datagrams]


class Loop:
    """A reactor of one's own, turned by hand."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.sockets: list[DatagramSocket] = []

    def open(self, how: Open, host: str = "127.0.0.1", port: int = 0) -> tuple[Any, Inbox]:
        inbox = Inbox()
        self.sockets.append(how(self.reactor, host, port, inbox))
        return self.sockets[-1], inbox

    def run_until(self, condition: Callable[[], bool], seconds: float = 5.0) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.reactor.iterate(0.01)
        return True


@pytest.fixture(params=["epoll", "poll", "select"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    parameters = request.node.callspec.params.values()
    if open_batched in parameters:
        need_segmentation()
    if "::1" in parameters and not has_ipv6():
        missing("this machine has no IPv6 loopback address")
    reactor: Any
    if request.param == "epoll":
        try:
            from twisted.internet.epollreactor import EPollReactor
        except ImportError:
            missing("epoll is Linux's")
        reactor = EPollReactor()
    else:
        reactor = PollReactor() if request.param == "poll" else SelectReactor()
    loop = Loop(reactor)
    yield loop
    for opened in loop.sockets:
        opened.close()
    reactor.iterate(0)
    reactor.removeAll()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("receive", KINDS)
@pytest.mark.parametrize("send", KINDS)
def test_every_size_between_every_two_kinds(loop: Loop, send: Open, receive: Open, host: str) -> None:
    here, _ = loop.open(send, host)
    there, inbox = loop.open(receive, host)
    assert there.local.host == host
    assert there.local.port > 0
    sent = [bytes([number % 256]) * 1200 for number in range(70)]
    sent += [b"short", b"", b"x", b"", b"y" * 1300, b"z" * 65507 if host == "127.0.0.1" else b"z" * 60000]
    here.send(sent, there.local)
    assert loop.run_until(lambda: len(inbox.data) >= len(sent))
    assert inbox.data == sent
    assert {remote for _, remote in inbox.batches} == {here.local}


@pytest.mark.skipif(sys.platform != "linux", reason="IP_MTU_DISCOVER is Linux's")
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut(loop: Loop, kind: Open, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DF is set in all that leaves, in both kinds of sockets (RFC 9000, section 14)."""
    made: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, *arguments: Any, **fields: Any) -> None:
            super().__init__(*arguments, **fields)
            made.append(self)

    monkeypatch.setattr(socket, "socket", Noted)
    loop.open(kind, host)
    (opened,) = made
    level, option = (socket.IPPROTO_IPV6, 23) if ":" in host else (socket.IPPROTO_IP, 10)
    assert opened.getsockopt(level, option) == 3  # IP_PMTUDISC_PROBE


@pytest.mark.parametrize("kind", KINDS)
def test_batches_by_sender(loop: Loop, kind: Open) -> None:
    there, inbox = loop.open(kind)
    senders = [loop.open(kind)[0] for _ in range(3)]
    for number in range(5):
        for sender in senders:
            sender.send([b"%d" % number], there.local)
    assert loop.run_until(lambda: len(inbox.data) >= 15)
    assert sorted(remote for _, remote in inbox.batches) == sorted(sender.local for sender in senders)
    assert all(datagrams == [b"0", b"1", b"2", b"3", b"4"] for datagrams, _ in inbox.batches)


@pytest.mark.parametrize("kind", KINDS)
def test_send_errors_are_losses(loop: Loop, kind: Open) -> None:
    here, _ = loop.open(kind)
    there, inbox = loop.open(kind)
    for wrong in (
        Address("::1", 9),
        Address("255.255.255.255", 9),
        Address("127.0.0.1", 0),
        Address("no address", 9),
    ):
        here.send([b"x"], wrong)
        here.send([b"x" * 1200] * 20, wrong)
    here.send([b"x" * 65508, b"x" * 100_000, b"good"], there.local)
    assert loop.run_until(lambda: bool(inbox.data))
    assert inbox.data == [b"good"]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_listens_there(loop: Loop, kind: Open) -> None:
    """An ICMP error that comes back is nobody's business."""
    here, inbox = loop.open(kind)
    gone, _ = loop.open(kind)
    gone.close()
    there, others = loop.open(kind)
    for _ in range(3):
        here.send([b"x" * 1200] * 10, gone.local)
        loop.run_until(lambda: False, 0.02)
    here.send([b"good"], there.local)
    there.send([b"good"], here.local)
    assert loop.run_until(lambda: bool(others.data) and bool(inbox.data))


@pytest.mark.parametrize("kind", KINDS)
def test_addresses_that_cannot_be_had(loop: Loop, kind: Open) -> None:
    taken, _ = loop.open(kind)
    with pytest.raises(CannotListenError):
        loop.open(kind, "127.0.0.1", taken.local.port)
    with pytest.raises(CannotListenError):
        loop.open(kind, "192.0.2.1")


@pytest.mark.skipif(sys.platform != "linux", reason="shows what arrives as Linux does")
@pytest.mark.parametrize("kind", KINDS)
def test_datagrams_that_do_not_come_far(loop: Loop, kind: Open) -> None:
    """One has the TTL and the option that it was sent with; those before and after it have the usual ones."""
    recvttl, recvopts = 12, 6
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", 0))
        inbox.settimeout(5.0)
        for option in (recvttl, recvopts):
            inbox.setsockopt(socket.IPPROTO_IP, option, 1)
        sender, _ = loop.open(kind)
        remote = Address(*inbox.getsockname())
        arrived = []
        for reach in (None, Reach(5), None, Reach(7, 3), None):
            if reach is None:
                sender.send([b"usual"], remote)
            else:
                sender.send_limited(b"limited", remote, reach)
            data, ancillary, _, _ = inbox.recvmsg(100, 200)
            levels = {kind: value for level, kind, value in ancillary if level == socket.IPPROTO_IP}
            ttl = int.from_bytes(levels[socket.IP_TTL], sys.byteorder)
            arrived.append((data, ttl, levels.get(recvopts, b"")))
        assert arrived == [
            (b"usual", arrived[0][1], b""),
            (b"limited", 5, b""),
            (b"usual", arrived[0][1], b""),
            # Type, length, pointer behind the end; this host has incremented the overflow count of 12
            (b"limited", 7, bytes((68, 4, 5, 13 << 4))),
            (b"usual", arrived[0][1], b""),
        ]


def test_the_ttl_is_that_of_the_system_again() -> None:
    """Also if that changes later, on Linux."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        usual = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
        for ttl, expected in ((5, 5), (None, usual)):
            assert set_ttl(sock, False, ttl)
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == expected
    if sys.platform == "linux":
        options = Options()
        assert set_ttl(options, False, None)
        assert options.set == [(socket.IPPROTO_IP, socket.IP_TTL, -1)]


class Options:
    """Keeps the options that are set."""

    def __init__(self) -> None:
        self.set: list[tuple[int, int, int]] = []

    def setsockopt(self, level: int, optname: int, value: int, /) -> None:
        self.set.append((level, optname, value))


@pytest.mark.parametrize("kind", KINDS)
def test_close(loop: Loop, kind: Open) -> None:
    here, inbox = loop.open(kind)
    there, _ = loop.open(kind)
    there.send([b"on its way"], here.local)
    here.close()
    here.close()
    here.send([b"x"], there.local)
    assert not loop.run_until(lambda: bool(inbox.batches), 0.05)
    again, _ = loop.open(kind, "127.0.0.1", here.local.port)
    assert again.local == here.local


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_for_the_collector(loop: Loop, kind: Open) -> None:
    """A closed socket refers no more to its receiver, the owner's method, so that both go at once."""

    class Owner:
        def __init__(self) -> None:
            self.socket = kind(loop.reactor, "127.0.0.1", 0, self.received)

        def received(self, datagrams: Sequence[bytes], remote: Address, sock: DatagramSocket) -> None:
            raise AssertionError

    gc.disable()
    try:
        owner = Owner()
        gone = weakref.ref(owner)
        owner.socket.close()
        del owner
        assert loop.run_until(lambda: gone() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_closed_by_its_receiver(loop: Loop, kind: Open) -> None:
    batches: list[Sequence[bytes]] = []

    def receive(datagrams: Sequence[bytes], remote: Address, sock: Any) -> None:
        batches.append(datagrams)
        sock.close()

    there = kind(loop.reactor, "127.0.0.1", 0, receive)
    for _ in range(2):
        loop.open(kind)[0].send([b"x"], there.local)
    assert not loop.run_until(lambda: len(batches) > 1, 0.1)
    assert len(batches) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_that_fails(loop: Loop, kind: Open) -> None:
    """It is logged; what others sent arrives, and so does what comes later."""
    heard: list[bytes] = []

    def receive(datagrams: Sequence[bytes], remote: Address, sock: object) -> None:
        heard.extend(datagrams)
        raise ZeroDivisionError("a fault of the receiver")

    there = kind(loop.reactor, "127.0.0.1", 0, receive)
    loop.sockets.append(there)
    for _ in range(2):
        heard.clear()
        for _ in range(2):
            loop.open(kind)[0].send([b"x"], there.local)
        assert loop.run_until(lambda: len(heard) == 2)


def test_the_best_one_is_chosen(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    need_segmentation()
    assert isinstance(loop.open(open_socket)[0], BatchedSocket)
    # An option that no kernel has, as this one is on an older kernel or another system.
    monkeypatch.setattr(udp, "UDP_SEGMENT", 9999)
    assert not has_segmentation()
    assert isinstance(loop.open(open_socket)[0], PortableSocket)


def test_one_call_carries_many(loop: Loop) -> None:
    """That is what the batched socket is for: the kernel is called once for 54 datagrams, on both sides."""
    need_segmentation()
    calls = {"sendmsg": 0, "recvmsg_into": 0}

    class Counting(socket.socket):
        def sendmsg(self, *arguments: Any) -> int:
            calls["sendmsg"] += 1
            return super().sendmsg(*arguments)

        def recvmsg_into(self, *arguments: Any) -> Any:
            calls["recvmsg_into"] += 1
            return super().recvmsg_into(*arguments)

    sock = Counting(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    inbox = Inbox()
    counted = BatchedSocket(loop.reactor, sock, inbox)
    loop.sockets.append(counted)
    counted.send([b"x" * 1200] * 108, counted.local)
    assert loop.run_until(lambda: len(inbox.data) == 108)
    assert calls["sendmsg"] == 2
    assert calls["recvmsg_into"] <= 6


class Refusing(socket.socket):
    """A socket whose kernel says something else than yes."""

    refusals: list[tuple[str, int]]

    def _refuse(self, name: str) -> None:
        if self.refusals and self.refusals[0][0] == name:
            raise OSError(self.refusals.pop(0)[1], "refused")

    def sendmsg(self, *arguments: Any) -> int:
        self._refuse("sendmsg")
        return super().sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:
        self._refuse("sendto")
        return super().sendto(*arguments)


def open_refusing(loop: Loop, *refusals: tuple[str, int]) -> BatchedSocket:
    sock = Refusing(socket.AF_INET, socket.SOCK_DGRAM)
    sock.refusals = list(refusals)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    opened = BatchedSocket(loop.reactor, sock, Inbox())
    loop.sockets.append(opened)
    return opened


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (errno.EIO, False),
        (errno.EINVAL, True),
        (errno.EMSGSIZE, True),
        (errno.EPERM, False),
        (errno.ENOMEM, False),
        (errno.EACCES, False),
        (errno.ENOSYS, False),
    ],
    ids=str,
)
def test_a_device_that_cannot_segment(loop: Loop, code: int, kept: bool) -> None:
    """The datagrams go singly; the next ones too, if it is not their size that is wrong."""
    need_segmentation()
    here = open_refusing(loop, ("sendmsg", code))
    there, inbox = loop.open(open_batched)
    sent = [bytes([number]) * 1200 for number in range(20)]
    here.send(sent, there.local)
    assert loop.run_until(lambda: len(inbox.data) == 20)
    assert inbox.data == sent
    assert here.segments is kept
    here.send(sent, there.local)
    assert loop.run_until(lambda: len(inbox.data) == 40)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENOPROTOOPT], ids=str)
@pytest.mark.parametrize("refused", [UDP_GRO, UDP_SEGMENT], ids=["gro", "segment"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_option_is_refused(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, code: int, refused: int, host: str
) -> None:
    """There is a socket all the same, and it sends and receives."""
    need_segmentation()

    class Without(socket.socket):
        def setsockopt(self, *arguments: Any) -> None:
            if arguments[0] == SOL_UDP and arguments[1] == refused:
                raise OSError(code, "refused")
            super().setsockopt(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Without)
        here, inbox = loop.open(open_batched, host)
    sent = [bytes([number]) * 1200 for number in range(20)]
    here.send(sent, here.local)
    assert loop.run_until(lambda: len(inbox.data) == 20)
    assert inbox.data == sent


def test_a_full_buffer_of_the_kernel(loop: Loop) -> None:
    """What finds no room waits and keeps its order; what is too much is lost."""
    need_segmentation()
    here = open_refusing(
        loop, ("sendmsg", errno.EAGAIN), ("sendmsg", errno.ENOBUFS), ("sendto", errno.EAGAIN)
    )
    there, inbox = loop.open(open_batched)
    sent = [number.to_bytes(2, "big") * 600 for number in range(100)] + [b"last"]
    here.send(sent[:60], there.local)
    here.send(sent[60:], there.local)
    assert inbox.data == []
    assert loop.run_until(lambda: len(inbox.data) == len(sent))
    assert inbox.data == sent
    writer = IReactorFDSet(loop.reactor)
    assert here not in writer.getWriters()
    flooded = open_refusing(loop, ("sendto", errno.EAGAIN))
    flooded.send([b"x"] + [b""] * 10_000, there.local)
    assert flooded.queued == udp.SEND_QUEUE
    # What has a reach of its own does not wait, neither for room nor for those before
    assert not flooded.send_limited(b"limited", there.local, Reach(5))
    refusing = open_refusing(loop, ("sendto", errno.EAGAIN))
    assert not refusing.send_limited(b"limited", there.local, Reach(5))
    assert refusing.send_limited(b"limited", there.local, Reach(5))
    assert refusing.queued == 0
    refusing.close()
    assert not refusing.send_limited(b"limited", there.local, Reach(5))


def test_many_hosts_ask_at_once(loop: Loop) -> None:
    """Each gets the answer to its own question, from the address that it has asked."""
    if not HAS_BATCHES:
        missing("no recvmmsg")
    asked: list[int] = []
    ports = open_ports(loop.reactor, None, 0, UDPServer(answered=asked.append))
    clients: list[tuple[socket.socket, StunMessage]] = []
    try:
        for number in range(150):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((f"127.3.{number}.1", 0))
            # A connected socket drops what comes from elsewhere.
            sock.connect((f"127.0.0.{1 + number % 5}", ports[0].port))
            sock.setblocking(False)
            request = StunMessage(Method.BINDING, MessageClass.REQUEST, os.urandom(12))
            clients.append((sock, request))
            sock.send(encode(request, fingerprint=number % 3 == 0))
            sock.send(b"noise")
        assert loop.run_until(lambda: sum(asked) == 150)
        for sock, request in clients:
            answer = parse(sock.recv(2048))
            assert answer.transaction_id == request.transaction_id
            assert answer.get(Attribute.XOR_MAPPED_ADDRESS) == Address(*sock.getsockname())
            with pytest.raises(BlockingIOError):
                sock.recv(2048)
    finally:
        for sock, _ in clients:
            sock.close()
        for port in ports:
            port.close()


class Handed:
    """A server that keeps what a port hands over."""

    short_request = b"\0" * 8
    short_size = 20

    def __init__(self) -> None:
        self.batches: list[tuple[list[bytes], Address]] = []

    def answer(self, request: bytes, host: bytes, port: int) -> bytes | None:
        raise AssertionError("nothing short was sent")

    def received(self, datagrams: Sequence[bytes], remote: Address, local: Address, port: object) -> None:
        self.batches.append((list(datagrams), remote))

    def turn_ended(self) -> None:
        """Nothing to do."""


def test_a_host_after_one_of_the_other_family(loop: Loop) -> None:
    """What one host has sent is handed over together and in order, whoever sent something before."""
    if not HAS_BATCHES:
        missing("no recvmmsg")
    if not has_ipv6():
        missing("this machine has no IPv6 loopback address")
    server = Handed()
    ports = open_ports(loop.reactor, None, 0, server)
    sent = [bytes([number]) * (50 + number) for number in range(9)]
    try:
        with (
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        ):
            six.sendto(b"six", ("::1", ports[0].port))
            assert loop.run_until(lambda: len(server.batches) == 1)
            four.bind(("127.0.0.1", 0))
            for data in sent:
                four.sendto(data, ("127.0.0.1", ports[0].port))
            assert loop.run_until(lambda: sum(len(each) for each, _ in server.batches) == 1 + len(sent))
            assert server.batches[1:] == [(sent, Address(*four.getsockname()))]
    finally:
        for port in ports:
            port.close()


@pytest.mark.parametrize("code", ["EPERM", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_a_sandbox_refuses_the_calls_for_batches(code: str) -> None:
    """Then they are not used: nothing is lost, and nothing is tried for ever."""
    if not HAS_BATCHES:
        missing("no recvmmsg")
    tests = "many_hosts_ask or host_after_one"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", tests]
    run = subprocess.run(
        [*system_call_filter.without_batches(code), *command], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout
    assert "passed" in run.stdout
