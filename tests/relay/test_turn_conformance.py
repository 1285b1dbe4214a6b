"""The errors of RFC 8656 and RFC 8489, asked for by a client that has nothing of Punch in it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from punch.wire.rendezvous_address import RendezvousAddress
from tests.ports import free_port
from tests.processes import programs
from tests.relay.turn_probe import (
    ADDITIONAL_ADDRESS_FAMILY,
    ALLOCATE,
    CHANNEL_BIND,
    CHANNEL_NUMBER,
    CREATE_PERMISSION,
    DONT_FRAGMENT,
    EVEN_PORT,
    LIFETIME,
    NONCE,
    REALM,
    REFRESH,
    REQUESTED_ADDRESS_FAMILY,
    REQUESTED_TRANSPORT,
    RESERVATION_TOKEN,
    UDP,
    UNKNOWN_ATTRIBUTES,
    USERNAME,
    XOR_MAPPED_ADDRESS,
    XOR_PEER_ADDRESS,
    XOR_RELAYED_ADDRESS,
    TurnProbe,
    peer,
)

HOST = "127.0.0.1"
SECRET = "north of the probe"
CAROL = peer("127.0.0.1", 9999)
CHANNEL = (CHANNEL_NUMBER, b"\x40\x00\0\0")

Open = Callable[..., TurnProbe]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The UDP port of a rendezvous whose peers may have three allocations each."""
    directory: Path = tmp_path_factory.mktemp("conformance")
    secret = directory / "secret"
    secret.write_text(SECRET + "\n")
    udp = free_port()
    with programs(directory) as running:
        process = running.rendezvous(
            *("--control", "tcp:0", "--reflector-port", str(udp), "--host", HOST),
            *("--turn-secret-file", str(secret), "--relay-allow", "127.0.0.0/8"),
            *("--relay-allocations-per-peer", "3"),
        )
        RendezvousAddress.parse(process.wait("listening")["address"])
        yield udp
        assert process.process.poll() is None, process.stderr
        assert "Traceback" not in process.stderr


@pytest.fixture
def probe(port: int, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Makes probes: logged in, and allocated unless told otherwise."""
    opened: list[TurnProbe] = []

    def make(*, allocate: bool = True, user: str | None = None) -> TurnProbe:
        made = TurnProbe(HOST, port, SECRET, user or f"{request.node.name}")
        opened.append(made)
        made.login()
        if allocate:
            assert made.ask(ALLOCATE, UDP).code == 0
        return made

    yield make
    for each in opened:
        each.ask(REFRESH, (LIFETIME, bytes(4)))
        each.close()


def test_success(probe: Open) -> None:
    """What RFC 8656, section 7.2 wants in the answer, signed."""
    client = probe(allocate=False)
    answer = client.ask(ALLOCATE, UDP)
    assert answer.code == 0
    assert answer.signed
    assert {XOR_RELAYED_ADDRESS, XOR_MAPPED_ADDRESS, LIFETIME} <= set(answer.attributes)
    assert struct.unpack(">I", answer.attributes[LIFETIME])[0] >= 600
    assert client.ask(CREATE_PERMISSION, CAROL).code == 0
    assert client.ask(CHANNEL_BIND, CHANNEL, CAROL).code == 0
    assert client.ask(CHANNEL_BIND, CHANNEL, CAROL).code == 0
    assert client.ask(REFRESH, (LIFETIME, bytes(4))).code == 0


def test_no_credentials(probe: Open) -> None:
    """401 with realm and nonce (RFC 8489, section 9.2.4)."""
    client = probe(allocate=False)
    for method in (ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND):
        answer = client.exchange(client.message(method, [UDP]))
        assert answer.code == 401
        assert not answer.signed
        assert answer.attributes[REALM]
        assert answer.attributes[NONCE]


@pytest.mark.parametrize("missing", ["username", "realm", "nonce"])
def test_incomplete_credentials(probe: Open, missing: str) -> None:
    """400."""
    assert probe(allocate=False).ask(ALLOCATE, UDP, **{missing: None}).code == 400


@pytest.mark.parametrize(
    "username",
    [b"\xff\xfe\xfd", b"\xc0\x80", b"9999999999:\xed\xa0\x80", b"nobody", b"", b"\0" * 509],
)
def test_usernames_that_are_none(probe: Open, username: bytes) -> None:
    """401, or 400 for what is no text."""
    assert probe(allocate=False).ask(ALLOCATE, UDP, username=username).code in (400, 401)


def test_wrong_password(probe: Open) -> None:
    client = probe(allocate=False)
    client.password = b"wrong"
    assert client.ask(ALLOCATE, UDP).code == 401


@pytest.mark.parametrize("nonce", [b"stale", b"", b"A" * 16, b"\xff\xff", b"x" * 764])
def test_stale_nonces(probe: Open, nonce: bytes) -> None:
    """438 with the right one."""
    client = probe(allocate=False)
    answer = client.ask(ALLOCATE, UDP, nonce=nonce)
    assert answer.code == 438
    client.nonce = answer.attributes[NONCE]
    assert client.ask(ALLOCATE, UDP).code == 0


@pytest.mark.parametrize(
    ("code", "attributes"),
    [
        (400, ()),
        (442, ((REQUESTED_TRANSPORT, b"\x06\0\0\0"),)),
        (442, ((REQUESTED_TRANSPORT, b"\xff\0\0\0"),)),
        (400, ((REQUESTED_TRANSPORT, b"\x11\0\0"),)),
        (400, ((REQUESTED_TRANSPORT, b""),)),
        (440, (UDP, (REQUESTED_ADDRESS_FAMILY, b"\x03\0\0\0"))),
        (440, (UDP, (REQUESTED_ADDRESS_FAMILY, b"\0\0\0\0"))),
        (440, (UDP, (REQUESTED_ADDRESS_FAMILY, b"\xff\0\0\0"))),
        (400, (UDP, (EVEN_PORT, b""))),
        (400, (UDP, (EVEN_PORT, b"\0"), (RESERVATION_TOKEN, bytes(8)))),
        (400, (UDP, (REQUESTED_ADDRESS_FAMILY, b"\x01\0\0\0"), (RESERVATION_TOKEN, bytes(8)))),
        (400, (UDP, (RESERVATION_TOKEN, bytes(7)))),
        (400, (UDP, (ADDITIONAL_ADDRESS_FAMILY, b"\x01\0\0\0"))),
        (400, (UDP, (ADDITIONAL_ADDRESS_FAMILY, b"\x03\0\0\0"))),
        (400, (UDP, (ADDITIONAL_ADDRESS_FAMILY, b"\x02\0\0\0"), (REQUESTED_ADDRESS_FAMILY, b"\x02\0\0\0"))),
        (400, (UDP, (ADDITIONAL_ADDRESS_FAMILY, b"\x02\0\0\0"), (EVEN_PORT, b"\x80"))),
        (508, (UDP, (RESERVATION_TOKEN, b"invented"))),
        (400, (UDP, (LIFETIME, b"\0\0"))),
        (420, (UDP, (DONT_FRAGMENT, b""))),
        (420, (UDP, (0x7FFF, b"what?"))),
    ],
)
def test_allocate(probe: Open, code: int, attributes: tuple[tuple[int, bytes], ...]) -> None:
    """Section 7.2; each error signed, and no reason to fail for the next request."""
    client = probe(allocate=False)
    answer = client.ask(ALLOCATE, *attributes)
    assert answer.code == code
    assert answer.signed
    if code == 420:
        assert answer.attributes[UNKNOWN_ATTRIBUTES] == struct.pack(">H", attributes[-1][0])
    assert client.ask(ALLOCATE, UDP).code == 0


def test_mismatch(probe: Open) -> None:
    """437: an allocation too many, and none where one is needed."""
    client = probe()
    assert client.ask(ALLOCATE, UDP).code == 437
    bare = probe(allocate=False, user="without one")
    for method, attributes in (
        (REFRESH, ()),
        (REFRESH, ((LIFETIME, bytes(4)),)),
        (CREATE_PERMISSION, (CAROL,)),
        (CHANNEL_BIND, (CHANNEL, CAROL)),
    ):
        answer = bare.ask(method, *attributes)
        assert answer.code == 437
        assert answer.signed


def test_somebody_elses(probe: Open, port: int) -> None:
    """441: credentials of another user at the five-tuple of an allocation."""
    client = probe()
    other = TurnProbe(HOST, port, SECRET, "somebody else")
    client.username, client.password, own = (
        other.username,
        other.password,
        (client.username, client.password),
    )
    other.close()
    for method, attributes in (
        (ALLOCATE, (UDP,)),
        (REFRESH, ()),
        (CREATE_PERMISSION, (CAROL,)),
        (CHANNEL_BIND, (CHANNEL, CAROL)),
    ):
        answer = client.ask(method, *attributes)
        assert answer.code == 441
        assert answer.signed
    client.username, client.password = own


def test_quota(probe: Open) -> None:
    """486."""
    for _ in range(3):
        probe(user="greedy")
    assert probe(allocate=False, user="greedy").ask(ALLOCATE, UDP).code == 486


@pytest.mark.parametrize(
    ("code", "attributes"),
    [
        (400, ()),
        (400, ((XOR_PEER_ADDRESS, b""),)),
        (400, ((XOR_PEER_ADDRESS, bytes(8)),)),
        (400, (peer("127.0.0.1", 1, family=3),)),
        (400, (CAROL, (XOR_PEER_ADDRESS, b"\0\x02\0\0\0\0\0\0"))),
        (443, ((XOR_PEER_ADDRESS, b"\0\x02" + bytes(18)),)),
        (403, (peer("10.1.2.3", 1),)),
        (403, (CAROL, peer("192.168.1.1", 1))),
        (420, (CAROL, (0x7FFE, b""))),
    ],
)
def test_create_permission(probe: Open, code: int, attributes: tuple[tuple[int, bytes], ...]) -> None:
    """Section 10.2."""
    answer = probe().ask(CREATE_PERMISSION, *attributes)
    assert answer.code == code
    assert answer.signed


@pytest.mark.parametrize(
    ("code", "attributes"),
    [
        (400, (CHANNEL,)),
        (400, (CAROL,)),
        (400, ((CHANNEL_NUMBER, b"\x3f\xff\0\0"), CAROL)),
        (400, ((CHANNEL_NUMBER, b"\x50\x00\0\0"), CAROL)),
        (400, ((CHANNEL_NUMBER, b"\x40\x00"), CAROL)),
        (400, (CHANNEL, peer("127.0.0.1", 1, family=9))),
        (443, (CHANNEL, (XOR_PEER_ADDRESS, b"\0\x02" + bytes(18)))),
        (403, (CHANNEL, peer("169.254.169.254", 80))),
    ],
)
def test_channel_bind(probe: Open, code: int, attributes: tuple[tuple[int, bytes], ...]) -> None:
    """Section 12.2."""
    answer = probe().ask(CHANNEL_BIND, *attributes)
    assert answer.code == code
    assert answer.signed


def test_channels_that_exist(probe: Open) -> None:
    """400: a number for another peer, and a peer with another number."""
    client = probe()
    assert client.ask(CHANNEL_BIND, CHANNEL, CAROL).code == 0
    assert client.ask(CHANNEL_BIND, CHANNEL, peer("127.0.0.1", 1)).code == 400
    assert client.ask(CHANNEL_BIND, (CHANNEL_NUMBER, b"\x40\x01\0\0"), CAROL).code == 400


@pytest.mark.parametrize("family", [b"\x02\0\0\0", b"\x03\0\0\0"])
def test_refresh_of_another_family(probe: Open, family: bytes) -> None:
    """443, also for one that there is not; section 8.2."""
    assert probe().ask(REFRESH, (REQUESTED_ADDRESS_FAMILY, family)).code == 443


def test_too_long(probe: Open) -> None:
    """400 for what nobody needs to read; the next request is served."""
    client = probe(allocate=False)
    for attributes in ([(0xFFFE, b"")] * 65, [(0xFFFE, bytes(2048))], [(USERNAME, bytes(60_000))]):
        assert client.exchange(client.message(ALLOCATE, attributes)).code in (400, 401)
    assert client.ask(ALLOCATE, UDP).code == 0


def test_what_gets_no_answer(probe: Open) -> None:
    """What is no STUN message, no request, or says another length than it has."""
    client = probe(allocate=False)
    request = client.signed(ALLOCATE, [UDP])
    for wrong in (
        request[:-4],
        request + bytes(4),
        request[:4] + bytes(4) + request[8:],
        b"\x01" + request[1:],
        request[:20] + b"\x00\x19\xff\xff" + request[24:],
    ):
        assert client.exchange(wrong, 0.2).code == -1
    assert client.ask(ALLOCATE, UDP).code == 0
