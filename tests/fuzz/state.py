"""The files of a state directory, which something else may have written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache

from punch.contacts import AddressBook, AddressBookError
from punch.node.calls.offer_freshness import KeptOffers
from punch.rendezvous.members import records as member_records
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.membership import MemberStoreError
from punch.sanitize import name_on_one_line
from punch.sentences import sentence_of
from punch.state import PeerState, RendezvousState
from punch.state_files import StateError
from punch.test.strategies import IDENTITIES
from punch.wire.fields import is_visible
from punch.wire.invitation import AdmissionRefusal, Invitation
from tests.fuzz.files import directory, write_damaged
from tests.fuzz.target import chunk, target

BOB, EVE = IDENTITIES[1].peer_id, IDENTITIES[2].peer_id


def _books() -> Iterator[bytes]:
    path = directory() / "seed.json"
    book = AddressBook(path)
    book.add(BOB, "Bob")
    book.grant(BOB, "echo/1")
    book.block(EVE)
    yield path.read_bytes()
    yield (
        b'{"version":2,"peers":{"%s":{"claimed":"B","known":true,"blocked":false,"name":null}}}'
        % str(BOB).encode()
    )
    yield b'{"%s":{"name":"Bob"}}' % str(BOB).encode()
    yield b'{"peers":{"%s":{"name":"Bob","petname":"b"}}}' % str(EVE).encode()


@target(_books, longest=1024)
def address_book(data: bytes) -> None:
    """`known.json`: read or refused with a sentence; what is read can be written and read again."""
    path = directory() / "known.json"
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    try:
        book = AddressBook(path)
    except AddressBookError as error:
        text = sentence_of(error)
        assert text.endswith("."), text
        return
    for peer in book:
        entry = book.entry(peer)
        assert entry.name is None or is_visible(entry.name)
        assert name_on_one_line(entry.claimed) == entry.claimed, entry
        assert book.granted(peer, "x") in (True, False)
        if entry.name is not None:
            assert book.find(entry.name) == peer
    book.add(BOB, "Bob")
    book.rename(EVE, "evelyn-1")
    again = AddressBook(path)
    assert {peer: again.entry(peer) for peer in again} == {peer: book.entry(peer) for peer in book}


def _files() -> Iterator[bytes]:
    yield b"\0" + IDENTITIES[0].to_pem()
    yield b"\1" + b"8080\n"
    yield b"\2" + b"punch://192.0.2.1:7001\n"
    kept = KeptOffers(5)
    kept.newest[BOB] = 7
    yield b"\3" + kept.encode()
    yield b"\4" + "Böb\n".encode()
    yield b"\5" + b"17\n"


_NAMES = (
    "identity.key",
    "last-web-port",
    "last-rendezvous",
    "offers.json",
    "display-name",
    "replaced",
    "address",
    "certificate.pem",
)


@target(_files, longest=1024)
def small_files(data: bytes) -> None:
    """The small files of peers and rendezvous: read, ignored, or refused with a sentence."""
    kind = data[0] % len(_NAMES) if data else 0
    root = directory() / "state"
    root.mkdir(mode=0o700, exist_ok=True)
    for each in root.iterdir():
        each.unlink()
    path = root / _NAMES[kind]
    path.write_bytes(data[1:])
    path.chmod(0o600)
    state, service = PeerState(root, "alice"), RendezvousState(root)

    def unused(size: int) -> bytes:
        raise AssertionError("a key was made over another one")

    for read in (
        lambda: state.identity(unused if kind == 0 else os.urandom),
        lambda: state.last_web_port,
        lambda: state.last_rendezvous,
        lambda: KeptOffers.decode(state.read_offers() or KeptOffers(0).encode()),
        lambda: state.display_name,
        lambda: state.replacements,
        lambda: service.read_address(),
    ):
        try:
            read()
        except StateError as error:
            text = sentence_of(error)
            assert text.endswith("."), text
        except ValueError:
            # What `KeptOffers.decode` declares
            assert kind == 3


@cache
def _members() -> bytes:
    path = directory() / "seed.sqlite"
    database = MemberDatabase(path)
    invitation = Invitation(bytes(4), bytes(6), bytes(16))
    database.invite(invitation, 3, 1e9, 1000)
    database.redeem(invitation, BOB, "bob", 5.0)
    database.add_usage(1, {BOB: 7}, {"bob": 7})
    database.close()
    return path.read_bytes()


def _damages() -> Iterator[bytes]:
    yield b""
    yield b"\0\x10\0" + chunk(bytes(30))
    size = len(_members()) - 50
    yield (size >> 16).to_bytes(1, "big") + (size & 0xFFFF).to_bytes(2, "big") + chunk(b"\xff\xfe text")


@target(_damages, longest=512)
def member_database(data: bytes) -> None:
    """The members of a rendezvous, in a file that something has damaged."""
    path = directory() / "members.sqlite"
    write_damaged(path, _members(), data)
    path.chmod(0o600)
    try:
        database = MemberDatabase(path)
    except MemberStoreError:
        return
    try:
        for read in (
            lambda: database.is_member(BOB),
            lambda: database.relay_quota(BOB),
            lambda: database.revocation(BOB),
            lambda: database.revoked(),
            lambda: database.count_revoked(),
            lambda: database.usage(0),
            lambda: database.members(),
            lambda: database.add_usage(2, {EVE: 1}, {"eve": 1}),
            lambda: database.relayed(1),
            lambda: database.relayed_for(1, "bob"),
        ):
            with contextlib.suppress(MemberStoreError):
                read()
    finally:
        database.close()


def _records() -> Iterator[bytes]:
    for record in (
        member_records.InvitationMade(bytes(6), bytes(32), 2, 1e9, 10**10),
        member_records.InvitationRedeemed(bytes(6), BOB, "Bob", 1e9),
        member_records.PeerRevoked(EVE, AdmissionRefusal.ID_REVOKED, 1e9, bytes(64)),
        member_records.RevocationUndone(EVE, 1e9),
    ):
        yield member_records.encode(record)


@target(_records, longest=1024)
def member_record(data: bytes) -> None:
    """What other processes have written about members: kept, or refused."""
    try:
        record = member_records.decode(data)
    except member_records.RecordError:
        return
    assert member_records.decode(member_records.encode(record)) == record
    store = MemberDatabase(None)
    try:
        store.add_records([record])
        store.is_member(BOB)
        store.members()
        store.revoked()
    finally:
        store.close()
