"""What hypothesis draws for the tests of the wire formats."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import settings
from hypothesis import strategies as st

from punch.identity import Identity, PeerID
from punch.wire.address import Address, canonical
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
    Prekey,
    Probe,
    Probed,
    ProbeOutcome,
    Register,
    Reject,
    Relays,
    RenewRelays,
    Reply,
    Request,
    Returned,
    Revoke,
    Trickle,
    Vantage,
    Welcome,
)
from punch.wire.fields import is_visible
from punch.wire.invitation import AdmissionRefusal
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.peers.nat_profile import MAX_AGE, MAX_OBSERVED, MAX_STEP, Mapping, NatProfile, PortAssignment
from punch.wire.peers.prekey import SIGNED_SIZE
from punch.wire.peers.sealed import MAX_BODY, Envelope
from punch.wire.turn import MAX_LIFETIME, MAX_RELAYS, RelayServer, TurnTransport, TurnURI

SETTINGS = settings(derandomize=True, deadline=None, max_examples=50)


def identity(seed: int) -> Identity:
    """The same identity for the same number."""
    return Identity.generate(lambda size: sha256(b"test identity %d" % seed).digest()[:size])


IDENTITIES = [identity(seed) for seed in range(8)]

peer_ids: st.SearchStrategy[PeerID] = st.sampled_from([known.peer_id for known in IDENTITIES])
names = (
    st.text(
        st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"]), min_size=1, max_size=64
    )
    .filter(is_visible)
    .filter(lambda text: text == text.strip())
)
sentences = st.text(st.characters(codec="utf-8"), max_size=500).filter(is_visible)
calls = st.binary(min_size=16, max_size=16).map(bytes.hex)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
).filter(lambda text: "%" not in text)
ports = st.integers(1, 65535)


addresses: st.SearchStrategy[Address] = st.builds(
    canonical,
    st.sampled_from(["192.0.2.7", "10.1.2.3", "203.0.113.255", "2001:db8::7", "fd00::1", "::1"]),
    ports,
)
candidates = st.builds(
    Candidate,
    type=st.sampled_from(CandidateType),
    address=addresses,
    priority=st.integers(1, 2**31 - 1),
    foundation=st.from_regex(r"[A-Za-z0-9+/]{1,32}", fullmatch=True),
    related=st.none() | st.builds(canonical, hosts, st.integers(0, 65535)),
    component=st.integers(1, 256),
)

nat_profiles = st.builds(
    NatProfile,
    addresses.map(lambda address: address.host),
    st.frozensets(st.sampled_from(Mapping)),
    st.sampled_from([each for each in PortAssignment if each is not PortAssignment.SEQUENTIAL]),
    agreeing=st.integers(0, MAX_OBSERVED),
    observed=st.integers(0, MAX_OBSERVED),
    age=st.integers(0, MAX_AGE),
) | st.builds(
    NatProfile,
    addresses.map(lambda address: address.host),
    ports=st.just(PortAssignment.SEQUENTIAL),
    step=st.integers(1, MAX_STEP) | st.integers(-MAX_STEP, -1),
)


def octets(size: int) -> st.SearchStrategy[bytes]:
    """Exactly so many bytes."""
    return st.binary(min_size=size, max_size=size)


#: Of the right form; no signature in them verifies.
envelopes = st.builds(
    Envelope, peer_ids, st.binary(min_size=304, max_size=400) | st.just(bytes(MAX_BODY)), octets(64)
)
own_hosts = addresses.map(lambda address: address.host)
codes = st.sampled_from(ErrorCode)
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=60)

relay_urls = st.builds(
    TurnURI, st.none() | own_hosts | st.just("relay.example"), ports, st.sampled_from(TurnTransport)
)
relay_servers = st.builds(
    RelayServer,
    relay_urls,
    username=printable,
    password=printable,
    realm=printable,
    nonce=st.just("") | printable,
    lifetime=st.floats(1.0, MAX_LIFETIME),
    pin=st.none() | octets(32),
)
relays = st.lists(relay_servers, max_size=MAX_RELAYS).map(tuple)

#: Anything that a peer may send. (Built once: building strategies costs more than drawing from them.)
REQUESTS: dict[type[Request], st.SearchStrategy[Request]] = {
    Register: st.builds(
        Register,
        names,
        st.sampled_from(Accept),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=100),
        st.just(b"") | octets(SIGNED_SIZE),
    ),
    Ping: st.just(Ping()),
    Establish: st.builds(
        lambda call, envelope, notify, prekey: Establish(call, envelope.to, envelope, notify, prekey),
        calls,
        envelopes,
        st.booleans(),
        st.booleans(),
    ),
    Answer: st.builds(lambda call, envelope: Answer(call, envelope.to, envelope), calls, envelopes),
    Trickle: st.builds(lambda call, envelope: Trickle(call, envelope.to, envelope), calls, envelopes),
    Reject: st.builds(Reject, calls, peer_ids, st.sampled_from([ErrorCode.REFUSED, ErrorCode.BUSY])),
    Cancel: st.builds(Cancel, calls, peer_ids),
    RenewRelays: st.just(RenewRelays()),
    Probe: st.builds(Probe, own_hosts, ports, st.sampled_from(Vantage), octets(12), octets(16), octets(16)),
    Revoke: st.builds(Revoke, octets(64)),
}
requests: st.SearchStrategy[Request] = st.one_of(*REQUESTS.values())

#: Anything that a service may send.
REPLIES: dict[type[Reply], st.SearchStrategy[Reply]] = {
    Welcome: st.builds(
        Welcome,
        peer_ids,
        own_hosts,
        st.integers(0, 65535),
        st.floats(0.125, 3600),
        relays=relays,
        second_reflector=st.integers(0, 65535),
        reflector_addresses=st.lists(own_hosts, max_size=8).map(tuple),
    ),
    Relays: st.builds(Relays, relays),
    Probed: st.builds(Probed, octets(12), st.sampled_from(ProbeOutcome)),
    Pong: st.just(Pong()),
    Incoming: st.builds(Incoming, calls, peer_ids, names, envelopes),
    Answered: st.builds(Answered, calls, peer_ids, envelopes),
    Candidates: st.builds(Candidates, calls, peer_ids, envelopes),
    Prekey: st.builds(Prekey, peer_ids, octets(SIGNED_SIZE)),
    Ended: st.builds(Ended, calls, codes, sentences, sender=st.none() | peer_ids),
    Returned: st.builds(Returned, peer_ids),
    Error: st.builds(
        Error, codes, sentences, st.none() | calls, st.none() | st.sampled_from(AdmissionRefusal), sentences
    ),
}
replies: st.SearchStrategy[Reply] = st.one_of(*REPLIES.values())

messages: st.SearchStrategy[Message] = st.one_of(requests, replies)
