"""docs/protocol.md says what the code does: its vectors, its codes, its numbers, its examples."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from punch.apps.chat import protocol as chat
from punch.apps.chat.conversations import LEAVE_TIMEOUT
from punch.apps.chat.model import MAX_TEXT
from punch.identity import Identity, PeerID
from punch.link import control_stream, proof
from punch.link import events as link
from punch.link.control_stream import APPLICATION_CODES
from punch.link.quic import interface as quic
from punch.rendezvous.config import RendezvousLimits
from punch.wire import control, control_lines, strict_json
from punch.wire.invitation import AdmissionRefusal
from punch.wire.peers import sealed
from punch.wire.peers.candidate import MAX_CANDIDATES, Candidate
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.peers.prekey import KEY_SIZE, PREKEY_LABEL, SIGNED_SIZE, private_prekey, signed_prekey
from punch.wire.peers.sealed import (
    AnswerBody,
    Envelope,
    Offer,
    TrickledCandidates,
)
from punch.wire.rendezvous_address import DEFAULT_PORT, RendezvousAddress, pin_of

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "protocol.md").read_text(encoding="utf-8")
VECTORS: dict[str, Any] = json.loads((DOCS / "protocol-vectors.json").read_text(encoding="utf-8"))


def identity(who: str) -> Identity:
    """Alice or Bob of the vectors."""
    seed = bytes.fromhex(VECTORS[who]["seed"])
    return Identity.generate(lambda size: seed[:size])


ALICE, BOB = identity("alice"), identity("bob")
REPLY_PRIVATE = X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["reply_private"]))
CALL: str = VECTORS["call"]


def envelope(name: str) -> Envelope:
    """One of the vectors' envelopes."""
    return Envelope.from_json(VECTORS[name]["envelope"])


def candidates(name: str) -> tuple[Candidate, ...]:
    """What stands in it."""
    return tuple(Candidate.parse(text) for text in VECTORS[name]["candidates"])


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_identities(who: str) -> None:
    known, expected = identity(who), VECTORS[who]
    assert known.peer_id.key.hex() == expected["public_key"]
    assert str(known.peer_id) == expected["peer_id"]
    assert PeerID.parse(expected["peer_id"]) == known.peer_id
    assert known.x25519().private_bytes_raw().hex() == expected["x25519_private"]
    assert known.peer_id.x25519().public_bytes_raw().hex() == expected["x25519_public"]


def test_address() -> None:
    expected = VECTORS["address"]
    pin = pin_of(identity(expected["public_key_of"]).private_key.public_key())
    address = RendezvousAddress(expected["host"], expected["port"], pin)
    assert str(address) == expected["text"]
    assert RendezvousAddress.parse(expected["text"]) == address


@pytest.mark.parametrize("name", ["offer", "offer_with_nats"])
def test_offer(name: str) -> None:
    expected = VECTORS[name]
    opened = sealed.open_offer(BOB, ALICE.peer_id, envelope(name))
    assert opened == Offer(
        expected["name"],
        expected["ufrag"],
        expected["password"],
        candidates(name),
        bytes.fromhex(expected["reply_key"]),
        expected["pacing"],
        expected["generation"],
        expected["complete"],
        nats=tuple(map(NatProfile.from_json, expected.get("nats", ()))),
    )
    assert opened.reply_key == REPLY_PRIVATE.public_key().public_bytes_raw()
    assert envelope(name).digest().hex() == expected["digest"]


def test_answer() -> None:
    expected = VECTORS["answer"]
    offer_digest = envelope("offer").digest()
    opened = sealed.open_answer(ALICE.peer_id, REPLY_PRIVATE, BOB.peer_id, offer_digest, envelope("answer"))
    assert opened == AnswerBody(
        expected["name"],
        expected["ufrag"],
        expected["password"],
        candidates("answer"),
        bytes.fromhex(expected["certificate"]),
        expected["pacing"],
        expected["complete"],
    )
    assert envelope("answer").digest().hex() == expected["digest"]


def test_prekey() -> None:
    assert private_prekey(BOB).private_bytes_raw().hex() == VECTORS["bob"]["prekey_seed"]
    assert signed_prekey(BOB).hex() == VECTORS["bob"]["signed_prekey"]
    assert len(signed_prekey(BOB)) == SIGNED_SIZE
    for number in (SIGNED_SIZE, KEY_SIZE):
        assert f"{number:,}" in section("5.6")


def test_hybrid() -> None:
    reply_kem = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(VECTORS["reply_kem_seed"]))
    expected, sealed_offer = VECTORS["hybrid_offer"], envelope("hybrid_offer")
    offer = sealed.open_offer(BOB, ALICE.peer_id, sealed_offer)
    assert offer.reply_kem == reply_kem.public_key().public_bytes_raw()
    assert offer.reply_kem.hex() == expected["reply_kem"]
    assert replace(offer, reply_kem=b"") == sealed.open_offer(BOB, ALICE.peer_id, envelope("offer"))
    assert sealed_offer.digest().hex() == expected["digest"]
    answer = sealed.open_answer(
        ALICE.peer_id,
        REPLY_PRIVATE,
        BOB.peer_id,
        sealed_offer.digest(),
        envelope("hybrid_answer"),
        reply_kem=reply_kem,
    )
    assert answer.candidates == candidates("answer")
    assert envelope("hybrid_answer").digest().hex() == VECTORS["hybrid_answer"]["digest"]


def test_trickled_candidates() -> None:
    offer_digest = envelope("offer").digest()
    for name, me, key, sender in (
        ("candidates_from_alice", BOB, BOB.x25519(), ALICE),
        ("candidates_from_bob", ALICE, REPLY_PRIVATE, BOB),
    ):
        number = VECTORS[name]["number"]
        opened = sealed.open_trickle(
            me.peer_id, key, sender.peer_id, CALL, offer_digest, number, envelope(name)
        )
        assert opened == TrickledCandidates(candidates(name), VECTORS[name]["complete"])


def test_link_proof() -> None:
    expected = VECTORS["link_proof"]
    client, server = (bytes.fromhex(expected[f"{side}_traffic_secret_0"]) for side in ("client", "server"))
    binding = proof.tls_binding(client, server)
    assert binding.hex() == expected["binding"]
    digests = envelope("offer").digest(), envelope("answer").digest()
    assert proof.make_proof(ALICE, BOB.peer_id, *digests, binding).hex() == expected["proof"]
    proof.check_proof(bytes.fromhex(expected["proof"]), ALICE.peer_id, BOB.peer_id, *digests, binding)


def section(number: str) -> str:
    """The text of a section and of those below it."""
    depth = "#" * (2 + number.count("."))
    match = re.search(rf"^{depth} {re.escape(number)}\.? .*?(?=^#{{2,{len(depth)}}} |\Z)", TEXT, re.M | re.S)
    assert match is not None, number
    return match[0]


def first_cells(text: str) -> list[str]:
    """The first cell of every row of the tables in a text, without the heads."""
    rows = re.findall(r"^\| *`?([^|`]*?)`? *\|", text, re.M)
    return [row for row in rows if row and not row.startswith("---") and row not in ("type", "code", "form")]


def test_every_message_and_code_is_written_down() -> None:
    shapes = {"4.1": control.REQUESTS, "4.2": control.REPLIES}
    for number, known in shapes.items():
        assert first_cells(section(number)) == list(known)
        for shape in known.values():
            row = re.search(rf"^\| `{shape.type}` .*", section(number), re.M)
            assert row is not None
            assert not shape.versioned or "`version`" in row[0]
            for entry in shape.fields:
                assert f"`{entry.key}`" in row[0], (shape.type, entry.key)
    codes = {code.value for code in control.ErrorCode} - {control.ErrorCode.OTHER.value}
    assert set(first_cells(section("4.3"))) == codes
    assert first_cells(section("4.4"))[1:] == [each.value for each in AdmissionRefusal]


def test_every_label_is_written_down() -> None:
    labels = {sealed.OFFER_LABEL, sealed.ANSWER_LABEL, sealed.CANDIDATE_LABEL, proof.PROOF_LABEL}
    labels |= {control.REVOCATION_LABEL, PREKEY_LABEL}
    assert set(re.findall(r"^\| `(punch/1 [a-z ]+)`", section("1"), re.M)) == {
        label.decode() for label in labels
    }


def test_frames_and_close_codes() -> None:
    written = dict(re.findall(r"^\| (0x[0-9a-f]{2}) \| ([A-Z]+) \|", section("8.3"), re.M))
    assert {int(number, 16): name for number, name in written.items()} == {
        frame.value: frame.name
        for frame in (*control_stream.ControlFrameType, *control_stream.OptionalFrameType)
    }
    assert [int(code) for code in first_cells(section("8.5"))] == [code.value for code in link.CloseCode]
    assert f"0x{APPLICATION_CODES:04x}" in section("8.5")
    assert dict(re.findall(r"^\| ([0-9]) \| ([a-z]+) \|", section("9"), re.M)) == {
        str(chat.HELLO): "hello",
        str(chat.MESSAGE): "message",
        str(chat.ACK): "ack",
        str(chat.BYE): "bye",
        str(chat.READ): "read",
        str(chat.NAME): "name",
    }


def test_numbers() -> None:
    limits, link_limits = RendezvousLimits(), link.LinkLimits()
    expected: dict[str, list[float]] = {
        "2": [DEFAULT_PORT],
        "3": [
            control_lines.MAX_LINE,
            strict_json.MAX_DEPTH,
            limits.handshake_time,
            limits.register_time,
            limits.keepalive,
            limits.silence,
            limits.ring_time,
            limits.answered_time,
            limits.handshakes,
            limits.handshakes_per_address,
            limits.connections_per_address,
            limits.registrations_per_address,
            limits.registrations,
            limits.introductions,
            limits.introductions_per_address,
            limits.answered_per_callee,
            limits.answered_per_source,
            limits.address_rate,
            limits.address_burst,
            limits.message_rate,
            limits.message_burst,
            limits.calls_per_caller,
            limits.calls_per_callee,
            limits.incoming_rate,
            limits.incoming_burst,
            limits.calls_per_source,
            limits.source_rate,
            limits.source_burst,
        ],
        "5": [sealed.MAX_BODY, sealed.PADDING, MAX_CANDIDATES],
        "8": [
            quic.DATAGRAM_SIZE,
            quic.MAX_DATAGRAM_FRAME,
            link.MAX_DATAGRAM,
            link.MAX_REASON,
            link.INITIAL_CREDIT,
            link_limits.streams,
            link_limits.unproved,
            link_limits.unproved_seconds,
            link_limits.prove_seconds,
            link_limits.header_seconds,
            link_limits.close_seconds,
            control_stream.MAX_FRAME,
        ],
        "9": [MAX_TEXT, chat.MAX_NAME, chat.EPOCH, chat.MAX_KNOWN],
    }
    for number, values in expected.items():
        written = set(re.findall(r"[0-9]+", section(number).replace(",", "")))
        for value in values:
            assert f"{value:g}" in written or str(value) in written, (number, value)
    assert quic.ALPN in section("8")
    assert f"`{chat.STREAM_NAME}`" in section("9")
    assert f"({LEAVE_TIMEOUT:g} s)" in section("9")
    assert f"{link_limits.early_bytes // 1024} KiB" in section("8.2")
    assert f"{link_limits.unproved_bytes // 1024} KiB" in section("8")


def test_examples() -> None:
    """The example lines are what the code writes."""
    match = re.search(r"```json\n(.*?)```", section("4.3"), re.S)
    assert match is not None
    lines = match[1].encode().splitlines()
    assert len(lines) >= 5
    for line in lines:
        message: control.Message
        try:
            message = control_lines.decode_request(line)
        except control_lines.UnknownType:
            message = control_lines.decode_reply(line)
        assert control_lines.encode(message) == line


def test_links_between_the_pages() -> None:
    """Every page and section that is linked to is there."""
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)", TEXT, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (DOCS / target).exists(), target
