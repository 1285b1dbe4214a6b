"""The relay and the reflector, and a client of the relay: whole sequences of datagrams."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from punch.rendezvous.reflector import Reflector
from punch.test.rendezvous.test_relay_random_requests import IN_ALL, RandomRequestTests, RelayUsers
from punch.test.turn.client.turn_client import CHECK, KEY, MAPPED, OTHER, PEER, QUIC, RELAYED, ScriptedServer
from punch.test.turn.server.turn_server import BOB, HERE, UDP, FiveTupleClient
from punch.turn.client.core import ClientState
from punch.turn.server.allocation import FiveTuple
from punch.turn.server.core import AMPLIFICATION
from punch.wire.address import Address
from punch.wire.stun import (
    FINGERPRINT_MASK,
    HEADER_SIZE,
    MAGIC_COOKIE,
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)
from punch.wire.turn import encode_channel_data
from tests.fuzz.target import Reader, chunk, target
from tests.fuzz.wire import stun_messages

LOGIN = (Attribute.USERNAME, Attribute.REALM, Attribute.NONCE)


def attributes_of(*attributes: tuple[int, Any]) -> bytes:
    """Attributes as in a message."""
    message = StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12), attributes)
    return encode(message, fingerprint=False)[HEADER_SIZE:]


def signed(
    message_type: bytes,
    transaction: bytes,
    attributes: bytes,
    key: bytes | None,
    *,
    fingerprint: bool = False,
) -> bytes:
    """A message with any attributes, as bytes, whose lengths and protection are right nevertheless."""
    attributes = attributes[:60_000] + bytes(-len(attributes[:60_000]) % 4)
    head, tail = message_type, MAGIC_COOKIE.to_bytes(4, "big") + transaction

    def text(length: int) -> bytes:
        return head + length.to_bytes(2, "big") + tail + attributes

    if key is not None:
        digest = hmac.digest(key, text(len(attributes) + 24), "sha1")
        attributes += b"\0\x08\0\x14" + digest
    if fingerprint:
        covered = text(len(attributes) + 8)
        attributes += b"\x80\x28\0\x04" + (crc32(covered) ^ FINGERPRINT_MASK).to_bytes(4, "big")
    return text(len(attributes))


def message_type(byte: int) -> bytes:
    """The type of a message from one byte: its class from the upper two bits, its method from the others."""
    return (byte & 0xF | (byte & 0x40) << 2 | (byte & 0x80) >> 3 | (byte & 0x30) << 1).to_bytes(2, "big")


def _reflected() -> Iterator[bytes]:
    for message in stun_messages():
        if message[:2] == b"\0\1":
            yield b"\0" + message
            yield b"\1" + message
    yield b"\1" + encode(
        StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12), ((Attribute.PROBE, bytes(16)),))
    )
    yield b"\0" + encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12)), fingerprint=False)


@target(_reflected, longest=2100)
def reflector(data: bytes) -> None:
    """Binding requests: each answer is one, says where the request came from, and is small."""
    if not data:
        return
    remote = ("203.0.113.9", 9, Address("203.0.113.9", 9)), ("2001:db8::9%eth0", 9, Address("2001:db8::9", 9))
    host, port, expected = remote[data[0] & 1]
    question = data[1:]
    answer = Reflector(prove=lambda *_: bytes(16)).handle(question, (host, port), 0.0, "192.0.2.1")
    if answer is None:
        return
    assert len(answer) <= AMPLIFICATION * len(question)
    message = parse(answer)
    assert message.message_class in (MessageClass.SUCCESS, MessageClass.ERROR)
    assert message.transaction_id == question[8:20]
    if message.message_class is MessageClass.SUCCESS:
        assert message.get(Attribute.XOR_MAPPED_ADDRESS) == expected


RAW, REQUEST, FROM_PEER, TIME, END, CHANNEL = range(6)
_METHODS = (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND, Method.SEND)


def _step(kind: int, client: int, *rest: bytes) -> bytes:
    return bytes([kind, client]) + b"".join(rest)


def _turn_sequences() -> Iterator[bytes]:
    peer = (Attribute.XOR_PEER_ADDRESS, BOB)

    def ask(client: int, method: int, *attributes: tuple[int, Any]) -> bytes:
        return _step(REQUEST, client, bytes([method, 0]), chunk(attributes_of(*attributes)))

    allocate = ask(0, 0, UDP)
    yield (
        allocate
        + ask(0, 2, peer)
        + ask(0, 3, peer, (Attribute.CHANNEL_NUMBER, 0x4000))
        + _step(CHANNEL, 0, chunk(encode_channel_data(0x4000, b"hello", padded=False)))
        + ask(0, 4, peer, (Attribute.DATA, b"data"))
        + _step(FROM_PEER, 0, chunk(b"back"))
        + _step(TIME, 200)
        + ask(0, 1, (Attribute.LIFETIME, 0))
    )
    yield ask(1, 0, UDP, (Attribute.EVEN_PORT, True)) + ask(
        2, 0, UDP, (Attribute.RESERVATION_TOKEN, bytes(8))
    )
    yield ask(3, 0, UDP, (Attribute.REQUESTED_ADDRESS_FAMILY, 2)) + _step(END, 3) + _step(TIME, 255)
    yield ask(0, 0, UDP, (Attribute.DONT_FRAGMENT, True)) + ask(0, 0, (Attribute.REQUESTED_TRANSPORT, 6))
    yield b"".join(
        _step(RAW, number & 3, chunk(data)) for number, data in enumerate(stun_messages()) if number % 4 == 0
    )


@target(_turn_sequences, longest=2048)
def server(data: bytes) -> None:
    """
    Datagrams and streams of clients with and without credentials, and datagrams of peers. The tables are
    right after each, and empty at the end; strangers get three bytes for one at most; what goes to peers was
    permitted.
    """
    users = RelayUsers()
    server, core = users.server, users.server.core
    checks = RandomRequestTests("test_counts")
    clients = [
        FiveTupleClient(server, Address("203.0.113.1", 1000), "alice", local=HERE),
        FiveTupleClient(server, Address("203.0.113.1", 1001), "alice", local=HERE),
        FiveTupleClient(server, Address("203.0.113.2", 1000), "bob", local=HERE, connection=1),
        FiveTupleClient(server, Address("2001:db8::7", 1000), "carol", local=HERE),
    ]
    reader = Reader(data)
    for _ in range(30):
        if not reader.more:
            break
        kind, number = reader.byte() % 6, reader.byte()
        client = clients[number & 3]
        if number & 0x80:
            client.nonce = client.handed_out
        if kind == TIME:
            server.advance(number * 4.0)
            for each in clients:
                each.nonce = core.authenticator.nonces.for_address(each.remote, server.unix)
        elif kind == END:
            core.disconnected(FiveTuple(client.remote, client.local, client.connection), server.now)
        elif kind == FROM_PEER:
            relayed = sorted(users.table.by_relayed)
            if relayed:
                server.from_peer(relayed[number % len(relayed)], reader.chunk())
        else:
            if kind == REQUEST:
                method, flags = _METHODS[reader.byte() % 5], reader.byte()
                attributes = reader.chunk()
                login = attributes_of(
                    (Attribute.USERNAME, client.username),
                    (Attribute.REALM, client.realm),
                    (Attribute.NONCE, client.nonce),
                )
                sent = signed(
                    (0x16 if method == Method.SEND else int(method)).to_bytes(2, "big"),
                    server.random(12),
                    attributes
                    if method == Method.SEND or flags & 1
                    else attributes + bytes(-len(attributes) % 4) + login,
                    None if method == Method.SEND or flags & 2 else client.key,
                    fingerprint=bool(flags & 4),
                )
            else:
                sent = reader.chunk()
            answers = client.send(sent)
            for answer in answers:
                message = parse(answer)
                if not message.has_integrity() and client.connection == 0:
                    assert len(answer) <= AMPLIFICATION * len(sent), (sent, answer)
        _, to_peers = core.outputs(server.now)
        for sent_on in (*to_peers, *client.to_peers):
            allocation = sent_on.port.allocation
            assert allocation is not None
            assert sent_on.peer.host in allocation.permissions
            assert not sent_on.peer.host.startswith(("127.", "10.", "192.168."))
            assert sent_on.peer.host not in ("::1", "0.0.0.0", "::", HERE.host)
        client.to_peers = []
        checks.check(users)
        assert len(server.ports.open_ports) <= IN_ALL
    server.advance(8000.0)
    assert len(users.table) == 0
    assert not server.ports.open_ports
    assert core.get_timer() is None


def _turn_answers() -> Iterator[bytes]:
    success = attributes_of(
        (Attribute.XOR_RELAYED_ADDRESS, RELAYED),
        (Attribute.XOR_MAPPED_ADDRESS, MAPPED),
        (Attribute.LIFETIME, 600),
    )
    stale = attributes_of(
        (Attribute.ERROR_CODE, (438, "no")), (Attribute.REALM, "punch"), (Attribute.NONCE, "other")
    )
    data = attributes_of((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"hello"))

    def answer(flags: int, attributes: bytes) -> bytes:
        return bytes([0, flags]) + chunk(attributes)

    yield answer(1, success) + b"\3\0" + b"\3\1" + answer(1, b"") + answer(1, b"") + b"\2\x60"
    yield (
        answer(2, stale)
        + answer(1, success)
        + b"\3\2"
        + answer(3, attributes_of((Attribute.ERROR_CODE, (403, "no"))))
    )
    yield answer(1, success) + b"\1\0" + chunk(signed(b"\0\x17", bytes(12), data, None))
    yield (
        answer(1, success)
        + b"\3\0"
        + answer(1, b"")
        + b"\1\0"
        + chunk(encode_channel_data(0x4000, b"x", padded=False))
    )
    yield answer(3, attributes_of((Attribute.ERROR_CODE, (441, "no")))) + b"\2\x10" + b"\4\0"
    yield answer(3, attributes_of((Attribute.ERROR_CODE, (300, "no")), (Attribute.ALTERNATE_SERVER, PEER)))


@target(_turn_answers, longest=1024)
def client(data: bytes) -> None:
    """A server that answers as it likes: what the client sends and keeps is bounded, and it ends."""
    server = ScriptedServer()
    client = server.client
    client.allocate(server.now)
    waiting: list[bytes] = []
    reader = Reader(data)

    def take() -> None:
        sent = client.data_to_send()
        assert len(sent) <= 64, len(sent)
        waiting.extend(each for each in sent if each[0] < 0x40)
        for event in server.events():
            assert repr(event)

    def wait(seconds: float) -> None:
        end = server.now + seconds
        for _ in range(2000):
            timer = client.get_timer()
            if timer is None or timer > end:
                break
            server.now = max(server.now, timer)
            client.handle_timer(server.now)
            take()
        else:
            raise AssertionError("the timer does not rest")
        server.now = end

    take()
    for _ in range(40):
        if not reader.more:
            break
        kind, number = reader.byte() % 6, reader.byte()
        if kind == 0:
            attributes = reader.chunk()
            request = waiting.pop(0) if waiting else bytes(HEADER_SIZE)
            kind_of_answer = b"\1" + bytes([request[1] & 0xF | (0x10 if number & 2 else 0)])
            client.receive(
                signed(kind_of_answer, request[8:20], attributes, KEY if number & 1 else None), server.now
            )
        elif kind == 1:
            received = client.receive(reader.chunk(), server.now)
            assert received is None or client.relayed is not None
        elif kind == 2:
            wait(number * 8.0)
        elif kind == 3:
            peer = (PEER, OTHER, Address("2001:db8::2", 1))[number % 3]
            client.send(QUIC if number & 0x10 else CHECK, peer, server.now)
        elif kind == 4:
            client.probe(server.now)
            client.check_size(server.now)
        else:
            client.close(server.now)
        take()
        del waiting[:-32]
    client.close(server.now)
    wait(60.0)
    assert client.state is ClientState.OVER or client.state is ClientState.NEW, client.state
    assert client.relayed is None
