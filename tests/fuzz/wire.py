"""The formats of `punch.wire`: STUN, TURN, control lines, addresses, invitations, sealed messages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from punch.identity import PIN_VERSION, PeerID, PeerIDError, key_from_text, key_to_text
from punch.sanitize import sanitize
from punch.sentences import sentence_of
from punch.test.node.calls.call_pair import ALICE, BOB, CallPair, candidate
from punch.test.wire.stun_vectors import PASSWORD, VECTORS
from punch.wire import strict_json
from punch.wire.address import Address
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Message,
    Ping,
    Pong,
    Probe,
    Probed,
    ProbeOutcome,
    Register,
    Reject,
    Relays,
    RenewRelays,
    Returned,
    Revoke,
    Trickle,
    Vantage,
    Welcome,
)
from punch.wire.control_lines import ControlError, decode_reply, decode_request
from punch.wire.control_lines import encode as encode_line
from punch.wire.framing import (
    MAX_LENGTH,
    DatagramKind,
    DatagramSplitter,
    FramingError,
    classify,
    encode_frames,
)
from punch.wire.invitation import AdmissionRefusal, Invitation, InvitationError
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.link_frames import LateCandidates, PayloadError, Restart
from punch.wire.peers.sealed import (
    ANSWER_LABEL,
    CANDIDATE_LABEL,
    OFFER_LABEL,
    AnswerBody,
    Envelope,
    Offer,
    SealError,
    TrickledCandidates,
    open_answer,
    open_offer,
    open_trickle,
    seal_answer,
    seal_offer,
    seal_trickle,
)
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError
from punch.wire.stun import (
    MAX_ATTRIBUTES,
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    TooManyAttributesError,
    encode,
    header,
    parse,
)
from punch.wire.turn import (
    RelayServer,
    StreamSplitter,
    TurnTransport,
    TurnURI,
    TurnURIError,
    encode_channel_data,
    is_turn,
    parse_channel_data,
)
from tests.fuzz.target import Reader, target


def stun_messages() -> Iterator[bytes]:
    """The vectors of the RFCs, and messages with each attribute."""
    yield from VECTORS
    transaction = bytes(range(12))
    peers = Address("192.0.2.1", 5), Address("2001:db8::1", 6)
    turn: list[tuple[int, Any]] = [
        (Attribute.XOR_PEER_ADDRESS, peers[0]),
        (Attribute.XOR_PEER_ADDRESS, peers[1]),
        (Attribute.CHANNEL_NUMBER, 0x4001),
        (Attribute.LIFETIME, 600),
        (Attribute.REQUESTED_TRANSPORT, 17),
        (Attribute.REQUESTED_ADDRESS_FAMILY, 2),
        (Attribute.EVEN_PORT, True),
        (Attribute.RESERVATION_TOKEN, bytes(8)),
        (Attribute.DATA, b"data"),
        (Attribute.DONT_FRAGMENT, True),
    ]
    answer: list[tuple[int, Any]] = [
        (Attribute.ERROR_CODE, (438, "Stale Nonce")),
        (Attribute.UNKNOWN_ATTRIBUTES, (0x7FFF,)),
        (Attribute.REALM, "punch"),
        (Attribute.NONCE, "nonce"),
        (Attribute.ALTERNATE_SERVER, peers[1]),
        (Attribute.MAPPED_ADDRESS, peers[0]),
    ]
    check: list[tuple[int, Any]] = [
        (Attribute.USERNAME, "aaaa:bbbb"),
        (Attribute.PRIORITY, 1),
        (Attribute.ICE_CONTROLLING, 2),
        (Attribute.USE_CANDIDATE, True),
    ]
    for method, message_class, attributes in (
        (Method.ALLOCATE, MessageClass.REQUEST, turn),
        (Method.ALLOCATE, MessageClass.ERROR, answer),
        (Method.BINDING, MessageClass.REQUEST, check),
    ):
        message = StunMessage(method, message_class, transaction, tuple(attributes))
        yield encode(message, PASSWORD)
        yield encode(message, PASSWORD, sha256=True, fingerprint=False)
        for attribute in attributes:
            yield encode(StunMessage(method, message_class, transaction, (attribute,)), fingerprint=False)


@target(stun_messages, longest=2048)
def stun(data: bytes) -> None:
    """STUN messages: all ways to read one agree, and what is read can be written and read again."""
    unread = header(data)
    with contextlib.suppress(STUNError):
        few = parse(data, lenient=True, most=MAX_ATTRIBUTES, only=frozenset({6, 20, 21, 30}))
        assert len(few.attributes) <= MAX_ATTRIBUTES
        assert few.decoded() == parse(data, lenient=True)
    lenient: StunMessage | None = None
    with contextlib.suppress(STUNError):
        lenient = parse(data, lenient=True)
    if lenient is not None:
        assert unread is not None
        assert (unread.method, unread.message_class) == (lenient.method, lenient.message_class)
        assert unread.transaction_id == lenient.transaction_id
        assert not lenient.check_integrity(b"a key that nobody has")
    try:
        message = parse(data)
    except TooManyAttributesError:
        raise
    except STUNError:
        assert lenient is None or lenient.invalid()
        return
    assert lenient is not None
    assert not lenient.invalid()
    assert lenient == message
    for key, sha256 in ((None, False), (PASSWORD, False), (PASSWORD, True)):
        try:
            written = encode(message, key, sha256=sha256)
        except STUNError:
            # What is longest has no room for the protection
            assert len(data) > 60_000, message
            continue
        again = parse(written)
        assert again == message, (again, message)
        assert again.has_fingerprint
        assert again.check_integrity(PASSWORD) == (key is not None)


def _streams() -> Iterator[bytes]:
    messages = list(stun_messages())
    yield b"\x05" + b"".join(messages[:3]) + encode_channel_data(0x4000, b"hello", padded=True)
    yield b"\x01" + encode_channel_data(0x4FFF, b"", padded=True) * 3
    yield b"\x10" + messages[7] + messages[3]


@target(_streams, longest=4096)
def stun_stream(data: bytes) -> None:
    """STUN and ChannelData on a stream: how it is cut into segments makes no difference."""
    reader = Reader(data)
    size = reader.byte() + 1
    stream = reader.rest()

    def split(pieces: list[bytes]) -> tuple[list[bytes], bool, int]:
        splitter = StreamSplitter()
        found: list[bytes] = []
        for piece in pieces:
            try:
                found += splitter.feed(piece, longest=1500, longest_request=900)
            except FramingError:
                return found, True, 0
            assert splitter.waiting <= 1500 + 4
        return found, False, splitter.waiting

    messages, failed, waiting = split([stream[at : at + size] for at in range(0, len(stream), size)])
    if not failed:
        assert (messages, failed, waiting) == split([stream])
    for message in messages:
        if message[0] >= 0x40:
            channel = parse_channel_data(message)
            assert channel is not None
            assert encode_channel_data(*channel, padded=False) == message
        assert len(message) <= 1500


def _framed() -> Iterator[bytes]:
    yield b"\0" + encode_frames((b"\0\1" + bytes(18), b"\x40" + bytes(200), b"x"))
    yield b"\2" + encode_frames((bytes(MAX_LENGTH), b"x")) + b"\0"
    yield b"\xff" + encode_frames((b"x",)) + b"\0\0"
    yield b"\0" + encode_frames((b"x",)) + (MAX_LENGTH + 1).to_bytes(2, "big")


@target(_framed, longest=4096)
def datagram_stream(data: bytes) -> None:
    """Datagrams on a TCP connection (RFC 4571): where the stream is cut makes no difference."""
    stream = data[1:]

    def split(size: int) -> tuple[list[bytes], bool]:
        splitter, found = DatagramSplitter(), list[bytes]()
        for at in range(0, len(stream), size):
            try:
                found += splitter.feed(stream[at : at + size])
            except FramingError:
                return found, False
            kept = len(stream[: at + size]) - len(encode_frames(found))
            assert 0 <= kept < 2 + MAX_LENGTH
        return found, True

    whole, pieces, bytewise = (split(size) for size in (len(stream) + 1, data[0] + 1 if data else 1, 1))
    assert pieces[1] == bytewise[1] == whole[1]
    # What a piece has before a wrong length is lost with it
    assert bytewise[0][: len(pieces[0])] == pieces[0]
    assert pieces[0][: len(whole[0])] == whole[0]
    assert whole[0] == bytewise[0] or not whole[1]
    assert stream.startswith(encode_frames(bytewise[0]))


def _datagrams() -> Iterator[bytes]:
    yield from VECTORS
    yield encode_channel_data(0x4001, b"data", padded=False)
    for first in (0x00, 0x16, 0x40, 0x50, 0x80, 0xC3):
        yield bytes([first]) + bytes(30)


@target(_datagrams, longest=1500)
def datagram_kind(data: bytes) -> None:
    """What kind of datagram it is (RFC 7983): nothing is two things at once."""
    kind = classify(data)
    if header(data) is not None and data[0] <= 3:
        assert kind is DatagramKind.STUN
    if is_turn(data):
        assert kind is DatagramKind.STUN
        unread = header(data)
        assert unread is None or 2 <= unread.method < 16
    channel = parse_channel_data(data)
    if channel is not None:
        assert kind is DatagramKind.CHANNEL_DATA
        written = encode_channel_data(*channel, padded=False)
        assert data.startswith(written)


def _requests() -> Iterator[bytes]:
    establish = CallPair().establish
    offer = establish.offer
    requests: list[Message] = [
        Register("alice", Accept.ASK, "token"),
        Ping(),
        establish,
        Establish(establish.call, offer.to, offer, True),
        Answer(establish.call, offer.to, offer),
        Trickle(establish.call, offer.to, offer),
        Reject("0" * 32, BOB.peer_id, ErrorCode.BUSY),
        Cancel("0" * 32, BOB.peer_id),
        RenewRelays(),
        Probe("192.0.2.1", 5, Vantage.PORT, bytes(12), bytes(16), bytes(16)),
        Revoke.by(ALICE),
    ]
    yield from map(encode_line, requests)


def _relay() -> RelayServer:
    return RelayServer(
        TurnURI("relay.example", 3478, TurnTransport.TLS),
        "1:alice",
        "secret",
        "punch",
        "nonce",
        600.0,
        bytes(32),
    )


def reply_lines() -> Iterator[bytes]:
    envelope = CallPair().establish.offer
    replies: list[Message] = [
        Welcome(ALICE.peer_id, "192.0.2.1", 3478, 30.0, (_relay(),), 3479, ("2001:db8::1",), 5),
        Relays((_relay(), _relay())),
        Probed(bytes(12), ProbeOutcome.SENT),
        Pong(5),
        Incoming("0" * 32, ALICE.peer_id, "alice", envelope),
        Answered("0" * 32, ALICE.peer_id, envelope),
        Candidates("0" * 32, ALICE.peer_id, envelope),
        Ended("0" * 32, ErrorCode.BUSY, "busy", sender=ALICE.peer_id),
        Returned(ALICE.peer_id),
        Error(ErrorCode.DENIED, "no", None, AdmissionRefusal.NOT_INVITED, "Ask Bob."),
    ]
    yield from map(encode_line, replies)


def _control_line(decode: Callable[[bytes], Message], line: bytes) -> None:
    try:
        message = decode(line)
    except ControlError as error:
        # Both are sent to the other side
        encode_line(Error(error.code, error.text))
        return
    try:
        written = encode_line(message)
    except ValueError:
        # Escapes of characters that are not ASCII are longer than these
        assert len(line) > 1000
        return
    assert decode(written) == message, (written, line)


@target(_requests, longest=16_400)
def control_request(data: bytes) -> None:
    """Lines that a service reads."""
    _control_line(decode_request, data)


@target(reply_lines, longest=16_400)
def control_reply(data: bytes) -> None:
    """Lines that a peer reads."""
    _control_line(decode_reply, data)


@target(lambda: (b'{"a":[1,2.5,-3e2,"\\u00e9",null,true]}', b"[[[[]]]]", b'"\\ud800"'), longest=2048)
def json(data: bytes) -> None:
    """Strict JSON."""
    try:
        value = strict_json.loads(data)
    except strict_json.JSONError:
        return
    assert strict_json.loads(strict_json.dumps(value)) == value


_PIN = key_to_text(bytes(range(32)), PIN_VERSION)


def _addresses() -> Iterator[bytes]:
    token = str(Invitation(bytes(4), bytes(6), bytes(16)))
    for text in (
        "punch://example.org:7001",
        "example.org",
        f"punch://192.0.2.1/{_PIN}",
        f"punch://[2001:db8::1]:5/{_PIN},punch://two.example:6",
        f"punch://b\xfccher.example?token={token}",
        "127.1",
        "punch://0x7f000001:1",
        "[::ffff:1.2.3.4%eth0]:1",
    ):
        yield text.encode()


@target(_addresses, longest=600)
def rendezvous_address(data: bytes) -> None:
    """`punch://` addresses: the printed form means the same."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        for address in RendezvousAddress.parse_all(text):
            again = RendezvousAddress.parse(address.with_invitation)
            assert again == address, (again, address)
            assert (again.has_services, again.invitation) == (address.has_services, address.invitation)
    except RendezvousAddressError as error:
        text = sentence_of(error)
        assert len(text) < 500, text
        assert sanitize(text).replace("\n", "").replace("\t", "") == text, text


def _ids() -> Iterator[bytes]:
    yield str(ALICE.peer_id).encode()
    yield str(ALICE.peer_id).upper().encode()
    yield _PIN.encode()
    yield str(Invitation(bytes(4), bytes(6), bytes(16))).encode()


@target(_ids, longest=300)
def keys_as_text(data: bytes) -> None:
    """Peer IDs, pins and invitations: what is read is written as it was printed."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(PeerIDError):
        peer = PeerID.parse(text)
        assert PeerID.parse(str(peer)) == peer
    with contextlib.suppress(PeerIDError):
        payload, version = key_from_text(text, "pin")
        assert key_from_text(key_to_text(payload, version), "pin") == (payload, version)
    with contextlib.suppress(InvitationError):
        invitation = Invitation.parse(text)
        assert Invitation.parse(str(invitation)) == invitation


@target(
    lambda: (
        b"turn:192.0.2.1:3478?transport=udp",
        b"turns:[2001:db8::1]:5349",
        b"TURN:relay.example?transport=TCP",
    ),
    longest=400,
)
def turn_uri(data: bytes) -> None:
    """TURN URIs (RFC 7065)."""
    try:
        uri = TurnURI.parse(data.decode("utf-8", "surrogateescape"))
    except TurnURIError:
        return
    assert TurnURI.parse(str(uri)) == uri


def _candidates() -> Iterator[bytes]:
    yield str(candidate(1)).encode()
    yield b"1 1 UDP 2130706431 2001:db8::1 8998 typ srflx raddr 10.0.1.1 rport 0 generation 0"
    yield b"1 1 tcp 1 10.0.1.1 9 typ host tcptype active"
    yield b"1 1 udp 1 abc.local 9 typ host"


@target(_candidates, longest=600)
def candidate_text(data: bytes) -> None:
    """ICE candidates (RFC 8839)."""
    try:
        found = Candidate.parse(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        return
    assert Candidate.parse(str(found)) == found


def _restarts() -> Iterator[bytes]:
    yield Restart(1, "ufrag", "p" * 24, (candidate(1),)).encode()
    yield LateCandidates(1, (candidate(1), candidate(2))).encode()


@target(_restarts, longest=4096)
def ice_restart(data: bytes) -> None:
    """RESTART and CANDIDATES frames of a proved peer."""
    for kind in (Restart, LateCandidates):
        try:
            found = kind.decode(data)
        except PayloadError:
            continue
        assert kind.decode(found.encode()) == found


_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


@cache
def _reply_key() -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes(range(32)))


_CALL = "0" * 32
_DIGEST = bytes(32)


def sealed_texts() -> Iterator[bytes]:
    offer = Offer(
        "alice", "ufrag", "p" * 24, (candidate(1),), bytes(32), time=1, challenge=bytes(16), link=bytes(32)
    )
    answer = AnswerBody("bob", "ufrag", "p" * 24, (candidate(2),), bytes(32))
    trickle = TrickledCandidates((candidate(3),), True, bytes(16))
    # What seal_… seals is not returned by anything, so it is opened again here
    for kind, envelope in (
        (0, seal_offer(ALICE, BOB.peer_id, offer)),
        (1, seal_answer(ALICE, BOB.peer_id, _reply_key().public_key().public_bytes_raw(), _DIGEST, answer)),
        (2, seal_trickle(ALICE, BOB.peer_id, BOB.peer_id.x25519(), _CALL, _DIGEST, 0, trickle)),
    ):
        label, key, context = _use(kind)
        info = label + b"\0" + ALICE.peer_id.key + BOB.peer_id.key + context
        yield bytes([kind]) + _SUITE.decrypt(envelope.body, key, info).rstrip()
    yield b"\x03" + offer_body()


def offer_body() -> bytes:
    """The body of an offer that is sealed."""
    return CallPair().establish.offer.body


def _use(kind: int) -> tuple[bytes, X25519PrivateKey, bytes]:
    if kind == 0:
        return OFFER_LABEL, BOB.x25519(), b""
    if kind == 1:
        return ANSWER_LABEL, _reply_key(), _DIGEST
    return CANDIDATE_LABEL, BOB.x25519(), bytes.fromhex(_CALL) + _DIGEST + bytes(4)


@target(sealed_texts, longest=4096)
def sealed(data: bytes) -> None:
    """
    Offers, answers and trickled candidates: what a peer seals who keeps all rules of sealing and none of the
    rest, and what a stranger sends for a sealed body.
    """
    kind = data[0] & 3 if data else 0
    label, key, context = _use(kind if kind < 3 else 0)
    body = data[1:]
    if kind < 3:
        info = label + b"\0" + ALICE.peer_id.key + BOB.peer_id.key + context
        body = _SUITE.encrypt(body, key.public_key(), info)
    envelope = Envelope(BOB.peer_id, body, ALICE.sign(label, BOB.peer_id.key + context + body))
    try:
        if kind == 1:
            answer = open_answer(BOB.peer_id, key, ALICE.peer_id, _DIGEST, envelope)
            public = key.public_key().public_bytes_raw()
            sealed_again = seal_answer(ALICE, BOB.peer_id, public, _DIGEST, answer)
            assert open_answer(BOB.peer_id, key, ALICE.peer_id, _DIGEST, sealed_again) == answer
        elif kind == 2:
            trickle = open_trickle(BOB.peer_id, key, ALICE.peer_id, _CALL, _DIGEST, 0, envelope)
            sealed_again = seal_trickle(ALICE, BOB.peer_id, key.public_key(), _CALL, _DIGEST, 0, trickle)
            assert open_trickle(BOB.peer_id, key, ALICE.peer_id, _CALL, _DIGEST, 0, sealed_again) == trickle
        else:
            offer = open_offer(BOB, ALICE.peer_id, envelope)
            assert open_offer(BOB, ALICE.peer_id, seal_offer(ALICE, BOB.peer_id, offer)) == offer
    except SealError as error:
        sentence = str(error)
        assert "too much" not in sentence, sentence
