"""The rendezvous: its TCP port, control sessions, other processes, Redis, its files."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import count

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.control_session import ControlSession
from punch.rendezvous.directory.messages import (
    PeerClaimed,
    PeerLost,
    PeerReply,
    PeerRequest,
    ProcessMessageError,
    Sealer,
    derive,
)
from punch.rendezvous.directory.redis_address import RedisAddress, RedisAddressError
from punch.rendezvous.directory.remote_calls import Locate, RemoteCalls, Send
from punch.rendezvous.members.lists import DenyList, ListFileError, parse_members
from punch.rendezvous.monitoring.service import figures_of
from punch.rendezvous.registry.outputs import Deliver, DeliverToProcess, Disconnect
from punch.rendezvous.registry.registry import Registry
from punch.rendezvous.tcp.protocol_sniffer import Established, ProtocolSniffer, ProtocolSnifferFactory
from punch.sanitize import sanitize
from punch.test.internet import Internet
from punch.test.rendezvous.directory.directory_processes import REDIS, Process
from punch.test.rendezvous.directory.simulated_redis import encode as encode_resp
from punch.test.rendezvous.registry.test_registry import ALICE, BOB, CAROL, envelope
from punch.test.rendezvous.tcp.test_protocol_sniffer import ClosingTransport, Inside
from punch.test.rendezvous.test_control_session import Probes
from punch.test.system import SERVICE, Rendezvous
from punch.wire import strict_json
from punch.wire.control import (
    Accept,
    Answer,
    Cancel,
    ErrorCode,
    Establish,
    Ping,
    Register,
    Reject,
    RenewRelays,
    Trickle,
)
from punch.wire.control_lines import MAX_LINE, decode_reply
from punch.wire.control_lines import encode as encode_line
from tests.fuzz.target import Reader, check_log, chunk, target
from tests.fuzz.wire import stun_messages

LIMITS = replace(
    RendezvousLimits(),
    introductions=6,
    introductions_per_address=3,
    registrations=4,
    registrations_per_address=2,
)
CALL = "0" * 32
PEERS = (ALICE, BOB, CAROL)


def _lines() -> list[bytes]:
    """What the three peers may say to each other."""
    lines = [encode_line(each) for each in (Register("alice", Accept.ASK), Ping(), RenewRelays())]
    for to in PEERS:
        for request in (
            Establish(CALL, to, envelope(to), True),
            Answer(CALL, to, envelope(to)),
            Trickle(CALL, to, envelope(to)),
            Reject(CALL, to, ErrorCode.BUSY),
            Cancel(CALL, to),
        ):
            lines.append(encode_line(request))
    return lines


@cache
def _known_lines() -> list[bytes]:
    return _lines()


def _sessions() -> Iterator[bytes]:
    register, lines = b"\0\1\0\0\2\0\0\3\0", _known_lines()
    yield register + b"\0\1\x08\0\2\x04\0\1\x0a\0\2\x05\0\1\x0c"
    yield register + b"\0\1\x08\2\x10\0\2\x07\3\1"
    yield register + b"\0\1\x08\1\2\0\2\0\0\2\4"
    yield b"".join(b"\4\1" + chunk(line) for line in lines[:3])
    yield b"\4\1" + chunk(b"{}") + b"\4\1" + chunk(b'{"type":"later","call":"' + CALL.encode() + b'"}')


@target(_sessions, longest=4096)
def control_sessions(data: bytes) -> None:
    """
    Lines of three peers on connections that come and go. The tables stay bounded, what peers get can be read,
    and nothing is left when all have gone.
    """
    now, numbers = 1000.0, count(1)
    registry = Registry(LIMITS)
    sessions: dict[int, ControlSession] = {}

    def opened(peer: PeerID, place: int) -> ControlSession:
        return ControlSession(
            registry,
            next(numbers),
            peer,
            f"203.0.{place % 2}.7",
            reflector_port=3478,
            limits=LIMITS,
            now=now,
            probing=Probes(),
        )

    def deliver() -> None:
        while (output := registry.next_output()) is not None:
            connections = {each.connection: each for each in sessions.values()}
            if isinstance(output, Deliver):
                connections[output.connection].send(output.reply)
            elif isinstance(output, Disconnect) and output.connection in connections:
                connections[output.connection].close(output.error, now)
        for place, session in list(sessions.items()):
            for line in session.lines_to_send():
                assert len(line) <= MAX_LINE + 1
                decode_reply(line[:-1])
            if session.closed:
                del sessions[place]

    reader = Reader(data)
    for _ in range(60):
        if not reader.more:
            break
        kind, place = reader.byte() % 5, reader.byte()
        if kind in (0, 4):
            place %= 8
            session = sessions.get(place)
            if session is None:
                session = sessions[place] = opened(PEERS[place % 3], place)
            lines = _known_lines()
            session.receive_line(lines[reader.byte() % len(lines)] if kind == 0 else reader.chunk(), now)
        elif kind == 1:
            gone = sessions.pop(place % 8, None)
            if gone is not None:
                gone.connection_lost(now)
        elif kind == 2:
            now += place
            registry.handle_timer(now)
            for session in list(sessions.values()):
                session.handle_timer(now)
        else:
            registry.stop()
        deliver()
        assert len(registry) <= LIMITS.registrations
        assert registry.introduction_count <= LIMITS.introductions
    for session in list(sessions.values()):
        session.connection_lost(now)
    assert (len(registry), registry.introduction_count, registry.get_timer()) == (0, 0, None)


# -- other processes --

_SECRET = bytes(range(32))


def _messages() -> Iterator[bytes]:
    names = [str(peer) for peer in PEERS]
    texts = [{"peer": names[0], "type": "lost"}, {"peer": names[1], "type": "claimed", "since": 5}]
    for number, line in enumerate(_known_lines()[3:]):
        texts.append(
            {
                "peer": names[number % 3],
                "type": "request",
                "name": "x",
                "address": "192.0.2.1",
                "line": line.decode(),
            }
        )
    replies = (
        '{"type":"answered","call":"%s","from":"%s","answer":%s}',
        '{"type":"candidate","call":"%s","from":"%s","envelope":%s}',
        '{"type":"ended","call":"%s","from":"%s","code":"busy","text":"no"}',
        '{"type":"error","call":"%s","from":"%s","code":"not-registered","text":"no"}',
    )
    body = strict_json.dumps(envelope(ALICE).to_json()).decode()
    for reply in replies:
        texts.append(
            {"peer": names[0], "type": "reply", "line": reply % ((CALL, names[2], body)[: reply.count("%s")])}
        )
    for text in texts:
        yield b"\1" + chunk(strict_json.dumps(text))
    yield b"".join(b"\1" + chunk(strict_json.dumps(text)) for text in texts[2:10])
    yield b"\0" + chunk(Sealer(_SECRET, lambda size: b"o" * size).seal("00" * 16, PeerClaimed(ALICE, 1)))


def _sealed(to: str, number: int, text: bytes) -> bytes:
    """What `Sealer.seal` makes at the process "bbb…", with any text."""
    sender, encoded = b"b" * 16, number.to_bytes(8, "big")
    key = hmac.digest(derive(_SECRET, "messages"), sender, "sha256")
    header = b"\1" + sender + encoded
    return header + ChaCha20Poly1305(key).encrypt(bytes(4) + encoded, text, header + bytes.fromhex(to))


@target(_messages, longest=4096)
def directory_messages(data: bytes) -> None:
    """
    What comes through Redis: from whoever can write there, and from a process of the service that has gone
    mad. When that process is gone, nothing is left of it.
    """
    now = 1000.0
    remote_calls = RemoteCalls(LIMITS)
    registry = remote_calls.registry
    own = Sealer(_SECRET, lambda size: b"a" * size)
    other = Sealer(_SECRET, lambda size: b"b" * size)
    registry.register(1, ALICE, "alice", Accept.ASK, "192.0.2.1", now)
    registry.register(2, BOB, "bob", Accept.ASK, "198.51.100.1", now)

    def work() -> None:
        while (output := registry.next_output()) is not None:
            if isinstance(output, Deliver):
                encode_line(output.reply)
            elif isinstance(output, DeliverToProcess):
                remote_calls.send(output.process, output.peer, output.reply)
        while (todo := remote_calls.next_output()) is not None:
            if isinstance(todo, Locate):
                remote_calls.located(todo.key, other.name, now)
            elif isinstance(todo, Send):
                own.seal(todo.process, todo.message)

    registry.request(ALICE, 1, Establish(CALL, CAROL, envelope(CAROL)), now)
    work()
    reader = Reader(data)
    for number in range(30):
        if not reader.more:
            break
        mad = reader.byte() & 1
        message = _sealed(own.name, number + 1, reader.chunk()) if mad else reader.chunk()
        now += 1.0
        with contextlib.suppress(ProcessMessageError):
            process, found = own.open(message)
            assert process == other.name
            if isinstance(found, PeerRequest):
                assert isinstance(found.name, str)
            if isinstance(found, (PeerRequest, PeerReply, PeerLost)):
                remote_calls.receive(process, found, now)
        work()
        assert registry.introduction_count <= LIMITS.introductions
        assert len(remote_calls) <= LIMITS.introductions
    remote_calls.process_lost(other.name, now)
    work()
    assert len(remote_calls) == registry.introduction_count == 0
    assert remote_calls.processes == set()


def _redis_answers() -> Iterator[bytes]:
    connected = [b"# Server\r\nredis_version:7.0.15\r\n", [b"subscribe", b"punch:to:", 1]]
    beat = ["OK", b"owner", 0, "OK", 1, [b"1700000000", b"5"], 1]
    yield b"\0" + b"".join(map(encode_resp, connected + beat))
    yield b"\0" + encode_resp([b"message", b"punch:to:", bytes(30)]) * 2
    yield b"\0-NOAUTH Authentication required.\r\n"
    yield b"\1$5\r\n12345\r\n*-1\r\n*2\r\n:1\r\n$-1\r\n"


@target(_redis_answers, longest=1024)
def redis_answers(data: bytes) -> None:
    """Whatever answers at the address of Redis: the directory does not work, says why, and tries again."""
    net = Internet(1)
    net.announce = False
    host = net.host("redis", REDIS)
    reader = Reader(data)
    size = reader.byte()
    answer = reader.rest()

    class Hostile(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            for at in range(0, len(answer), size + 1):
                self.transport.write(answer[at : at + size + 1])

    net.wait(TCP4ServerEndpoint(host.reactor, 6379).listen(Factory.forProtocol(Hostile)), 1)
    process = Process(net, 1)
    process.register(ALICE)
    net.advance(8.0)
    assert process.directory.problem is not None
    assert len(process.directory.problem) < 600
    process.directory.stop()
    net.advance(6.0)
    check_log()


# -- the TCP port --


def _connections() -> Iterator[bytes]:
    hello = b"\x16\3\1\0\x30\1\0\0\x2c\3\3" + bytes(range(32)) + bytes(10)
    yield b"\0\1" + chunk(hello) + b"\0\2" + chunk(hello) + b"\1\4"
    yield b"\0\1" + chunk(hello[:7]) + b"\0\1" + chunk(hello[7:]) + b"\2\1"
    yield b"\0\3" + chunk(b"\0\1\0\0" + bytes(16)) + b"\0\4" + chunk(b"GET / HTTP/1.1") + b"\1\x40"


@target(_connections, longest=2048)
def protocol_sniffer(data: bytes) -> None:
    """
    First bytes of connections: the chosen protocol gets what was sent, in order, or the connection is closed.
    """
    clock = Clock()
    limits = replace(RendezvousLimits(), handshakes=4, handshakes_per_address=2, connections=8)
    made: list[Inside] = []

    def route(address: IAddress, established: Established) -> Inside:
        inside = Inside(address, established, lambda seconds: None, 0.0)
        made.append(inside)
        return inside

    factory = ProtocolSnifferFactory(
        dict.fromkeys((0, 1, 0x16), route),
        limits,
        clock=clock,
        monotonic=clock.seconds,
    )
    open_: dict[int, tuple[ProtocolSniffer, ClosingTransport]] = {}
    sent: dict[ClosingTransport, bytes] = {}
    reader = Reader(data)
    for _ in range(40):
        if not reader.more:
            break
        kind, number = reader.byte() % 3, reader.byte() % 8
        if kind == 0:
            if number not in open_:
                made_now = factory.buildProtocol(IPv4Address("TCP", f"192.0.{number % 3}.1", 1000 + number))
                if made_now is None:
                    continue
                transport = ClosingTransport()
                transport.protocol = made_now
                open_[number] = made_now, transport
                made_now.makeConnection(transport)
            protocol, transport = open_[number]
            if transport.connected:
                data = reader.chunk()
                sent[transport] = sent.get(transport, b"") + data
                protocol.dataReceived(data)
            else:
                del open_[number]
        elif kind == 1:
            clock.advance(number * 2.0)
        elif number in open_:
            _, transport = open_.pop(number)
            if transport.connected:
                transport.loseConnection()
        assert factory.open_count <= limits.connections
    for inside in made:
        assert inside.received[0] in (0, 1, 0x16)
        assert any(each.startswith(inside.received) for each in sent.values())
    factory.close_connections(1.0)
    clock.advance(2.0)
    assert factory.open_count == 0
    assert not clock.getDelayedCalls()
    check_log()


class _Client(Protocol):
    """A client that notes whether it was cut off."""

    def __init__(self) -> None:
        self.received = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)


@cache
def _system() -> tuple[Internet, Rendezvous]:
    net = Internet(1)
    net.announce = False
    rendezvous = Rendezvous(net, net.host("rendezvous", SERVICE))
    net.host("client", "203.0.113.5")
    return net, rendezvous


def _tcp() -> Iterator[bytes]:
    from OpenSSL import SSL

    for protocols in ([b"punch/1"], [b"stun.turn"], [b"other"], []):
        context = SSL.Context(SSL.TLS_METHOD)
        if protocols:
            context.set_alpn_protos(protocols)
        client = SSL.Connection(context, None)
        client.set_connect_state()
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        yield b"\xff" + client.bio_read(4096)
    messages = list(stun_messages())
    for size in (b"\xff", b"\5"):
        yield size + b"".join(messages[5:8])


@target(_tcp, longest=2048)
def tcp(data: bytes) -> None:
    """What a stranger sends to the TCP port of a whole rendezvous: the answer is small."""
    net, rendezvous = _system()
    client = net.hosts["client"]
    reader = Reader(data)
    size = reader.byte() + 1
    stream = reader.rest()
    endpoint = TCP4ClientEndpoint(client.reactor, SERVICE, 7001)
    connection = net.wait(endpoint.connect(Factory.forProtocol(_Client)), 5.0, "a connection")
    assert isinstance(connection, _Client)
    assert connection.transport is not None
    for at in range(0, min(len(stream), 64 * size), size):
        connection.transport.write(stream[at : at + size])
        net.advance(0.001)
    net.advance(0.2)
    assert connection.received <= 20_000
    connection.transport.abortConnection()  # type: ignore[attr-defined]
    net.advance(1.0)
    assert figures_of(rendezvous.service).connections == 0
    check_log()


# -- files and addresses --


def _lists() -> Iterator[bytes]:
    yield f"# friends\n{ALICE}\n\n  {BOB} # bob\n".encode()
    yield b"203.0.113.9\n198.51.100.0/24\n2001:db8:7::/48\n::ffff:1.2.3.0/120\n"
    yield b"a b\n" + b"\xef\xbb\xbf1.2.3.4"


@target(_lists, longest=1024)
def list_files(data: bytes) -> None:
    """The deny list and the list of members: an error names its place."""
    text = data.decode("utf-8", "surrogateescape")
    parsers: tuple[Callable[[str], object], ...] = (DenyList.parse, parse_members)
    for parse in parsers:
        try:
            found = parse(text)
        except ListFileError as error:
            sentence = str(error)
            assert "line " in sentence
            assert sanitize(sentence).replace("\n", "").replace("\t", "") == sentence, sentence
            continue
        if isinstance(found, DenyList):
            for host in ("1.2.3.4", "2001:db8::1", "::ffff:1.2.3.4", "", "%", "x"):
                found.has_host(host)


@target(
    lambda: (
        b"redis://:secret@[2001:db8::1]:6379/1",
        b"rediss+sentinel://a:1,b:2/main/0?x=y",
        b"rediss://user:p%20w@host",
    ),
    longest=300,
)
def redis_address(data: bytes) -> None:
    """`--registry`."""
    with contextlib.suppress(RedisAddressError):
        address = RedisAddress.parse(data.decode("utf-8", "surrogateescape"))
        assert address.location
