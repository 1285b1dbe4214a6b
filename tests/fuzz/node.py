"""A peer and what others tell it: its rendezvous, the other side of a call, name servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.names.dns import IN, SRV, Message, Record_SRV, RRHeader

from punch.identity import Identity
from punch.natcheck.captive_portal import LONGEST, needs_look_up, redirects_to, requires_sign_in
from punch.net.srv import ServiceResolver
from punch.node.calls.signaling import CallEnded, Signaling, SignalingState
from punch.node.control.core import ControlCore
from punch.node.control.servers import Servers
from punch.test.internet import Internet
from punch.test.node.calls.call_pair import ALICE, BOB, CERTIFICATE, CallPair, description
from punch.test.node.control.scripted_service import ScriptedService
from punch.test.system import SERVICE, Peer
from punch.ui.text.causes import problem_sentence
from punch.wire.control import Accept, ErrorCode, Register
from punch.wire.peers.sealed import ANSWER_LABEL, CANDIDATE_LABEL, Envelope, open_offer
from punch.wire.proxy import MAX_HEAD, ProxyAddress, ProxyError, handshake
from punch.wire.rendezvous_address import RendezvousAddress, in_order, pin_of
from tests.fuzz.target import Reader, check_log, chunk, target
from tests.fuzz.wire import reply_lines, sealed_texts

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _control() -> Iterator[bytes]:
    lines = list(reply_lines())
    yield b"\0" + chunk(b"\n".join(lines) + b"\n") + b"\1\x20"
    yield (
        b"\0" + chunk(lines[0] + b"\n" + lines[4][:50]) + b"\0" + chunk(lines[4][50:] + b"\n") + b"\1\xff\2\1"
    )
    yield b"\0" + chunk(lines[9] + b"\n") + b"\1\xff"


@target(_control, longest=4096)
def control_client(data: bytes) -> None:
    """Bytes of a rendezvous, and their end, for which there is a sentence."""
    now = 50.0
    core = ControlCore(RendezvousAddress("192.0.2.1"), Register("alice", Accept.ASK), now)
    core.secured()
    reader = Reader(data)
    for _ in range(60):
        if not reader.more:
            break
        kind = reader.byte() % 3
        if kind == 0:
            core.receive_data(reader.chunk(), now)
        elif kind == 1:
            now += reader.byte() / 4
            core.handle_timer(now)
        else:
            core.check(reader.byte() / 8, now)
        assert len(core.data_to_send(now)) <= 200
        while (event := core.next_event()) is not None:
            assert repr(event)
        if core.problem is not None:
            assert core.get_timer() is None
    assert problem_sentence(core.cause_of_loss(tls_failed=False))


_STEPS = 5


def _calls() -> Iterator[bytes]:
    texts = [text[1:] for text in sealed_texts()]
    yield b"\0" + chunk(texts[1]) + b"\1" + chunk(texts[2]) + b"\2\x40"
    yield b"\1" + chunk(texts[2]) + b"\4\1" + b"\3\2" + b"\1" + chunk(texts[2])
    yield b"\4\0" + b"\0" + chunk(texts[1]) + b"\2\xff"


@target(_calls, longest=2048)
def signaling(data: bytes) -> None:
    """
    Answers and candidates of a peer that is really called, or calls, with any contents: the call goes on or
    ends, once, and both sides keep little.
    """
    pair = CallPair()
    reply = open_offer(BOB, ALICE.peer_id, pair.establish.offer).reply_key
    digest = pair.establish.offer.digest()
    answers = 0
    reader = Reader(data)
    ends: dict[Signaling, int] = {pair.caller: 0, pair.callee: 0}

    def sealed(sender: Identity, to: Identity, label: bytes, context: bytes, text: bytes) -> Envelope:
        key = X25519PublicKey.from_public_bytes(reply) if to is ALICE else to.peer_id.x25519()
        info = label + b"\0" + sender.peer_id.key + to.peer_id.key + context
        body = _SUITE.encrypt(text, key, info)
        return Envelope(to.peer_id, body, sender.sign(label, to.peer_id.key + context + body))

    counts = {ALICE.peer_id: 0, BOB.peer_id: 0}
    for _ in range(40):
        if not reader.more:
            break
        kind = reader.byte() % _STEPS
        if kind == 0:
            answers += 1
            pair.caller.receive_answer(sealed(BOB, ALICE, ANSWER_LABEL, digest, reader.chunk()), pair.now)
        elif kind == 1:
            text = reader.chunk()
            for sender, to, side in ((ALICE, BOB, pair.callee), (BOB, ALICE, pair.caller)):
                number = counts[sender.peer_id]
                counts[sender.peer_id] += 1
                context = bytes.fromhex(pair.establish.call) + digest + number.to_bytes(4, "big")
                side.receive_candidates(sealed(sender, to, CANDIDATE_LABEL, context, text))
        elif kind == 2:
            pair.now += reader.byte()
            for side in (pair.caller, pair.callee):
                side.handle_timer(pair.now)
        elif kind == 3:
            codes = list(ErrorCode)
            code = codes[reader.byte() % len(codes)]
            pair.caller.receive_end(code)
            pair.callee.receive_end(code)
        else:
            if reader.byte() & 1 and pair.callee.state is SignalingState.RINGING:
                pair.callee.accept(description("bob"), CERTIFICATE, pair.now)
        for side in (pair.caller, pair.callee):
            assert len(side.messages_to_send()) <= 8
            while (event := side.next_event()) is not None:
                ends[side] += isinstance(event, CallEnded)
                assert ends[side] <= 1
    for side in (pair.caller, pair.callee):
        side.handle_timer(pair.now + 1000.0)


@target(_control, longest=2048)
def peer(data: bytes) -> None:
    """A whole peer, with a rendezvous that sends it any lines; nothing of it is logged as an error."""
    net = Internet(1)
    net.announce = False
    key = Identity.generate(net.random_bytes("service"))
    service = ScriptedService.with_key(net.host("service", SERVICE), key)
    address = RendezvousAddress(SERVICE, 7001, pin_of(key.private_key.public_key()))
    peer = Peer(net, net.host("peer", "203.0.113.5"), address, accept=Accept.ANYONE).register()
    peer.call(BOB.peer_id)
    net.advance(0.2)
    reader = Reader(data)
    for _ in range(8):
        if not reader.more:
            break
        kind = reader.byte() % 3
        if kind == 0:
            service.last.raw(reader.chunk())
            net.advance(0.1)
        else:
            net.advance(reader.byte() / 8)
    net.advance(3.0)
    peer.stop()
    check_log()


class _Answers:
    """Name servers, whose answer is an input."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def lookupService(self, name: str, timeout: object) -> Deferred[Any]:
        return succeed((self._answers, [], []))


def _dns() -> Iterator[bytes]:
    message = Message(5, answer=1)
    for payload in (
        Record_SRV(10, 5, 7001, b"one.example.org"),
        Record_SRV(10, 0, 443, b"two.example.org"),
        Record_SRV(0, 0, 7001, b"."),
        Record_SRV(1, 65535, 7001, b"127.0.0.1"),
    ):
        message.answers.append(RRHeader(b"_punch._tcp.example.org", SRV, IN, 60, payload))
    yield message.toStr()


@target(_dns, longest=1024)
def srv_records(data: bytes) -> None:
    """Answers of name servers: names and ports that may be connected to, in an order."""
    message = Message()
    try:
        message.fromStr(data)
    except Exception:  # what Twisted's parser raises never comes to us
        return
    clock = Clock()
    found: list[Any] = []
    resolver = ServiceResolver(clock, lambda: _Answers(message.answers))  # type: ignore[arg-type,return-value]
    resolver("example.org").addCallback(found.append)
    clock.advance(10.0)
    (records,) = found
    servers = Servers([RendezvousAddress("example.org", has_services=True)], bytes)
    servers.found("example.org", records)
    for server in servers.order():
        assert RendezvousAddress.parse(str(server.address)) == server.address
    assert sorted(map(repr, in_order(records or (), bytes))) == sorted(map(repr, records or ()))
    check_log()


def _proxies() -> Iterator[bytes]:
    yield b"\0\xff" + b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nVia: x\r\n\r\nhello"
    yield b"\0\5" + b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    yield b"\1\0" + b"\5\2\1\0" + b"\5\0\0\1" + bytes(6) + b"hello"
    yield b"\1\xff" + b"\5\0" + b"\5\0\0\3\4host\0\1" + b"\5\1\0\1"


@target(_proxies, longest=4096)
def proxy_answers(data: bytes) -> None:
    """What answers at the address of a proxy: where it is cut makes no difference."""
    reader = Reader(data)
    kind, size = reader.byte() & 1, reader.byte() + 1
    stream = reader.rest()
    proxy = ProxyAddress.parse("socks5://me:secret@192.0.2.9" if kind else "http://me:secret@192.0.2.9")

    def talk(pieces: list[bytes]) -> tuple[bytes, bytes | None, object]:
        core = handshake(proxy, "rendezvous.example", 7001)
        said, rest = core.begin(), b""
        for piece in pieces:
            if core.rest is not None:
                rest += piece
                continue
            try:
                said += core.receive(piece)
            except ProxyError as error:
                return said, None, (error.refusal, error.detail)
        return said, None if core.rest is None else core.rest + rest, None

    whole = talk([stream])
    pieces = talk([stream[at : at + size] for at in range(0, len(stream), size)])
    # What would be said next is not said if the same piece has a refusal, too
    assert whole[1:] == pieces[1:]
    assert whole[0] == pieces[0][: len(whole[0])]
    assert len(pieces[0]) < 1000
    assert whole[1] is None or stream.endswith(whole[1])
    assert len(stream) < MAX_HEAD


def _portals() -> Iterator[bytes]:
    yield b"HTTP/1.1 302 Found\r\nLocation: http://login.example/?from=x\r\n\r\n"
    yield b"HTTP/1.0 511 Network Authentication Required\r\n\r\n<html>"
    yield b"HTTP/1.1 307 x\r\nlocation : http://[2001:db8::1%eth0]:5/\r\n\r\n"


@target(_portals, longest=1024)
def captive_portal(data: bytes) -> None:
    """What answers a web request in place of the rendezvous: a portal or none, never of another answer."""
    for host in ("rendezvous.example", "192.0.2.1", "2001:db8::1"):
        other = redirects_to(data, host)
        if requires_sign_in(data) or other is not None:
            assert data.startswith(b"HTTP/1.")
            assert (
                requires_sign_in(data)
                or redirects_to(data + bytes(LONGEST), host) == other
                or b"\r\n\r\n" not in data
            )
        if other is not None:
            assert len(other) < 256
            needs_look_up(host, other)
