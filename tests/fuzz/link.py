"""Links: QUIC packets of a stranger and of a proved peer, with both QUIC libraries."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from random import Random

from punch.link.control_stream import (
    ControlFrameReader,
    ControlFrameType,
    FrameError,
    OptionalFrameType,
    decode_close,
    decode_credit,
    decode_slowed,
    encode_close,
    encode_credit,
    encode_frame,
)
from punch.link.core import LinkCore
from punch.link.events import CloseCode, LinkRole, StreamLimitError, encode_name
from punch.link.proof import LinkCertificate
from punch.link.quic.interface import QuicBackend
from punch.link.quic.packet import (
    MIN_INITIAL,
    CipherSuite,
    HeaderProtection,
    PacketKey,
    destination_id,
    is_client_initial,
    is_long,
    is_retry,
    packet_after_long_headers,
    read_frames,
    suites_for,
)
from punch.link.quic.qh3 import Qh3Backend
from punch.test.link.flooder import CALLEE_FLOODS, FLOODS, Flooder, integer
from punch.test.link.link_pair import ANSWER, CALLEE, CALLER, OFFER, CoreEnd, aioquic_backend
from punch.wire.peers.candidate import MAX_TCP_CANDIDATES, Candidate
from punch.wire.peers.link_frames import Begin, First, Nats, Opened, PayloadError, Targets, TCPCandidates
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment
from tests.fuzz.target import Reader, chunk, target

MOST_KEPT = 1 << 20
"""Bytes that a victim keeps of what it was sent: far more than any input has."""


@cache
def _certificate() -> LinkCertificate:
    return LinkCertificate.generate(Random(1).randbytes)


def _victim(role: LinkRole, backend: QuicBackend) -> CoreEnd:
    if role is LinkRole.CALLER:
        core = LinkCore(
            role=role,
            identity=CALLER,
            remote=CALLEE.peer_id,
            offer_digest=OFFER,
            answer_digest=ANSWER,
            certificate_sha256=_certificate().sha256,
            backend=backend,
            now=0.0,
        )
    else:
        core = LinkCore(
            role=role,
            identity=CALLEE,
            remote=CALLER.peer_id,
            offer_digest=OFFER,
            answer_digest=ANSWER,
            certificate=_certificate(),
            backend=backend,
            now=0.0,
        )
    return CoreEnd(core)


# -- packets without keys --

_SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
"""RFC 9001, section 5.2."""
_SUITE: CipherSuite = suites_for(bytes(32))[0]
_ID = b"original"


def _initial_secret(connection_id: bytes, sender: bytes) -> bytes:
    return _SUITE.expand(hmac.digest(_SALT, connection_id, sha256), sender + b" in", 32)


def initial(connection_id: bytes, destination: bytes, frames: bytes, number: int, *, client: bool) -> bytes:
    """An Initial packet with any frames, which anybody can make who has seen the first one."""
    secret = _initial_secret(connection_id, b"client" if client else b"server")
    frames += bytes(max(4, MIN_INITIAL - 60 - len(frames)))
    size = 4 + len(frames) + 16
    header = b"\xc3\0\0\0\1" + bytes([len(destination)]) + destination + b"\x08attacker" + b"\0"
    header += (0x4000 | size).to_bytes(2, "big") + number.to_bytes(4, "big")
    protected = PacketKey(_SUITE, secret).seal(number, header, frames)
    mask = HeaderProtection(_SUITE, secret).mask(protected[:16])
    first = bytes([header[0] ^ (mask[0] & 0x0F)])
    hidden = bytes(a ^ b for a, b in zip(header[-4:], mask[1:5], strict=True))
    return first + header[1:-4] + hidden + protected


def client_hello(packet: bytes) -> bytes:
    """The frames of a client's first Initial packet."""
    connection_id = packet[6 : 6 + packet[5]]
    secret = _initial_secret(connection_id, b"client")
    at = 6 + packet[5]
    at += 1 + packet[at]
    at += 1  # no token
    size = int.from_bytes(packet[at : at + 2], "big") & 0x3FFF
    at += 2
    mask = HeaderProtection(_SUITE, secret).mask(packet[at + 4 : at + 20])
    first = packet[0] ^ (mask[0] & 0x0F)
    length = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(packet[at : at + length], mask[1:], strict=False))
    header = bytes([first]) + packet[1:at] + number
    frames = PacketKey(_SUITE, secret).open(
        int.from_bytes(number, "big"), header, packet[at + length : at + size]
    )
    assert frames is not None
    return frames


def _initials() -> Iterator[bytes]:
    for backend in (Qh3Backend(), aioquic_backend()):
        if backend is not None:
            datagrams = backend.client(0.0).datagrams_to_send(0.0)
            frames = [client_hello(data).rstrip(b"\0") for data in datagrams if is_client_initial(data)]
            yield b"\0" + b"".join(b"\1" + chunk(each) for each in frames)
            yield b"\0\0" + chunk(datagrams[0])
    hello = (
        bytes.fromhex("0200005e0303")
        + bytes(32)
        + b"\0\x13\1\0\0\x36\0\x2b\0\2\3\4\0\x33\0\x24\0\x1d\0\x20"
        + bytes(range(32))
    )
    yield b"\1\1" + chunk(b"\2\0\0\0\0\6\0" + integer(len(hello)) + hello)
    yield b"\1\1" + chunk(b"\x1c\0\0\0") + b"\1" + chunk(b"\x1d\0\0")
    yield b"\1\0" + chunk(b"\xc0\0\0\0\0\x08attacker\x08attacker\0\0\0\2")
    yield b"\1\0" + chunk(b"\xf0\0\0\0\1\x08attacker\x08attackertoken" + bytes(16))


def _strange_packets(backend: QuicBackend, data: bytes) -> None:
    reader = Reader(data)
    is_caller = bool(reader.byte() & 1)
    victim = _victim(LinkRole.CALLER if is_caller else LinkRole.CALLEE, backend)
    victim.core.start(0.0)
    sent = victim.send(0.0)
    original = destination_id(sent[0]) or _ID if sent else _ID
    own = sent[0][15:23] if sent else _ID
    now, arrived, answered = 0.0, 0, 0
    for number in range(12):
        if not reader.more:
            break
        datagram = (
            reader.chunk()
            if not reader.byte() & 1
            else initial(original, own, reader.chunk(), number, client=not is_caller)
        )
        assert_reads(datagram)
        victim.receive([datagram], now)
        arrived += len(datagram)
        answered += sum(map(len, victim.send(now)))
        if not is_caller:
            assert answered <= 3 * arrived + 3 * MIN_INITIAL, (answered, arrived)
        assert victim.core.connection_count <= 5
        now += 0.01
    end = now + 40.0
    for _ in range(1000):
        timer = victim.next_timer()
        if timer is None or timer > end:
            break
        now = max(now + 1e-4, timer)
        victim.timer(now)
        victim.send(now)
    else:
        raise AssertionError("the timer does not rest")
    assert not victim.proved
    assert victim.closed is not None
    assert victim.core.connection_count <= 1


def assert_reads(datagram: bytes) -> None:
    """What is read without keys."""
    found = destination_id(datagram)
    assert found is None or len(found) <= 20
    if is_client_initial(datagram):
        assert is_long(datagram)
        assert not is_retry(datagram)
    assert packet_after_long_headers(datagram) <= len(datagram)


@target(_initials, longest=4096)
def stranger_qh3(data: bytes) -> None:
    """Packets of somebody who has no keys: handshakes that end in nothing, with qh3."""
    _strange_packets(Qh3Backend(), data)


# -- frames of a proved peer --


def _frames() -> Iterator[bytes]:
    stream = b"\x0a\4" + integer(2) + encode_name("x")
    control = encode_credit(4, 100_000) + encode_frame(0x80, b"later") + encode_close(1, "bye")
    for role, floods in ((0, FLOODS), (1, CALLEE_FLOODS)):
        for flood in floods.values():
            yield bytes([role, 0]) + chunk(stream + flood(0)) + b"\0" + chunk(flood(1) + flood(2))
    yield b"\0\1\0" + chunk(control)
    yield b"\1\1\0" + chunk(
        encode_frame(ControlFrameType.ACCEPTED) + encode_frame(ControlFrameType.RESTART, b"{}")
    )
    yield b"\0\1\4" + chunk(encode_name("chat/2") + bytes(50)) + b"\1\4" + chunk(b"more") + b"\2\4"


def _proved_peer(backend: QuicBackend, data: bytes) -> None:
    reader = Reader(data)
    is_caller = not reader.byte() & 1
    victim = _victim(LinkRole.CALLEE if is_caller else LinkRole.CALLER, backend)
    flooder = Flooder(victim, _certificate(), is_caller)
    offsets: dict[int, int] = {0: 65 if is_caller else 3}
    for number in range(24):
        if not reader.more or victim.closed is not None:
            break
        kind = reader.byte() % 4
        if kind == 0:
            payload = reader.chunk()[:1100]
            read_all = sum(1 for _ in read_frames(payload))
            assert read_all <= len(payload)
        elif kind == 3:
            flooder.now += reader.byte() / 4
            continue
        else:
            stream_id = reader.byte()
            piece = reader.chunk()[:1000] if kind == 1 else b""
            offset = offsets.get(stream_id, 0)
            offsets[stream_id] = offset + len(piece)
            payload = (
                bytes([0x0E | kind >> 1]) + integer(stream_id) + integer(offset) + integer(len(piece)) + piece
            )
        if number == 8 and victim.closed is None and victim.proved:
            with contextlib.suppress(StreamLimitError):
                victim.core.streams.send(victim.core.streams.open_stream("ours"), b"hello")
        flooder.send([payload])
    if victim.proved:
        assert victim.core.streams.window_budget >= 0
        assert sum(victim.core.streams.windows.values()) <= MOST_KEPT * 16
    assert sum(map(len, victim.received.values())) <= len(data)
    victim.core.fail(CloseCode.OK, "over", flooder.now + 1)
    victim.take()
    assert victim.closed is not None


@target(_frames, longest=2048)
def peer_qh3(data: bytes) -> None:
    """Packets with any frames by a peer that has proved its key, with qh3."""
    _proved_peer(Qh3Backend(), data)


_AIOQUIC = aioquic_backend()
if _AIOQUIC is not None:
    # Only where the library is installed: it needs a newer Python than we do.
    _backend: QuicBackend = _AIOQUIC

    @target(_initials, longest=4096)
    def stranger_aioquic(data: bytes) -> None:
        """The same with aioquic."""
        _strange_packets(_backend, data)

    @target(_frames, longest=2048)
    def peer_aioquic(data: bytes) -> None:
        """The same with aioquic."""
        _proved_peer(_backend, data)


def _control_frames() -> Iterator[bytes]:
    slowed = encode_frame(OptionalFrameType.SLOWED, b"\2")
    yield encode_credit(4, 100) + encode_close(3, "réason") + slowed + encode_frame(0x81, b"x")


@target(_control_frames, longest=1024)
def frames(data: bytes) -> None:
    """The frames of the control stream: where it is cut makes no difference."""

    def read(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
        frames, found = ControlFrameReader(), []
        for piece in pieces:
            try:
                for each in frames.feed(piece):
                    found.append(each)
            except FrameError:
                return found, True
        return found, False

    whole = read([data])
    assert whole == read([data[at : at + 1] for at in range(len(data))])
    for frame_type, payload in whole[0]:
        assert data.find(encode_frame(frame_type, payload)) >= 0
        try:
            if frame_type == ControlFrameType.CREDIT:
                assert encode_credit(*decode_credit(payload)) == encode_frame(frame_type, payload)
            elif frame_type == ControlFrameType.CLOSE:
                code, reason = decode_close(payload)
                assert decode_close(encode_close(code, reason)[3:]) == (code, reason)
            elif frame_type == OptionalFrameType.SLOWED:
                limit = decode_slowed(payload)
                assert limit is None or bytes([limit]) == payload
        except FrameError:
            continue


def _punching() -> Iterator[bytes]:
    profile = NatProfile(
        "192.0.2.1", frozenset({Mapping.ADDRESS_DEPENDENT}), PortAssignment.SEQUENTIAL, -2, 5, 6, 60
    )
    yield Nats((profile, NatProfile("2001:db8::1"))).encode()
    yield Targets(1, "prediction", "192.0.2.1", (40_000, 40_002)).encode()
    yield Targets(2, "simultaneous", "192.0.2.1", (40_000,), First.BOTH).encode()
    yield Opened(1, "192.0.2.1", ((50_000, 50_001), ())).encode()
    yield Opened(1, "192.0.2.1", (), 1024, (1024, 65535)).encode()
    yield Begin(3).encode()
    yield TCPCandidates(4, ()).encode()
    texts = (
        "0h 1 tcp 2113934335 192.168.1.2 40000 typ host tcptype passive",
        "0s 1 tcp 1677721600 2001:db8::1 50000 typ srflx raddr fd00::2 rport 40000 tcptype so",
        "1 1 udp 1 192.0.2.1 9 typ host",
    )
    yield TCPCandidates(5, tuple(map(Candidate.parse, texts))).encode()


@target(_punching, longest=2048)
def punching_frames(data: bytes) -> None:
    """NATS, TARGETS, OPENED, BEGIN and TCP frames: what is read can be written and read again."""
    kinds: tuple[type[Nats] | type[Targets] | type[Opened] | type[Begin] | type[TCPCandidates], ...] = (
        Nats,
        Targets,
        Opened,
        Begin,
        TCPCandidates,
    )
    for kind in kinds:
        try:
            found = kind.decode(data)
        except PayloadError:
            continue
        assert kind.decode(found.encode()) == found
        if isinstance(found, TCPCandidates):
            assert len(found.candidates) <= MAX_TCP_CANDIDATES
            assert all(each.protocol == "tcp" for each in found.candidates)
