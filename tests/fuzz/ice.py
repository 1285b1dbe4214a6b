"""
The ICE agent, netcheck and port mapping: whole sequences of datagrams, by strangers and by a peer, reflectors
and routers that keep to no rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from urllib.parse import urlsplit

from punch.ice.checklist import MAX_PAIRS
from punch.ice.events import AgentState
from punch.ice.port_lease import TRIES
from punch.ice.port_mapper import MAX_TCP_PORTS, PortMapper, mapped_addresses
from punch.natcheck.core import Netcheck
from punch.natcheck.report import NetcheckReport
from punch.test.ice.ice_network import REFLECTOR
from punch.test.ice.test_hostile import STRANGER, Situation
from punch.test.strategies import IDENTITIES
from punch.ui.json.events import netcheck_fields
from punch.ui.text.netcheck import conclusions, text
from punch.wire import port_mapping, strict_json
from punch.wire.address import Address, TCPAddress, Transmit, canonical
from punch.wire.control import Probe, Probed, ProbeOutcome
from punch.wire.peers.candidate import Candidate
from punch.wire.port_mapping import parse_search_answer
from punch.wire.stun import Attribute
from tests.fuzz.target import Reader, chunk, target
from tests.fuzz.turn import attributes_of, signed
from tests.fuzz.wire import stun_messages

RAW, REQUEST, ANSWER, CANDIDATE, TIME, LOCAL = range(6)


def _sequences() -> Iterator[bytes]:
    situation = Situation()
    name = (Attribute.USERNAME, f"{situation.ours.ufrag}:{situation.theirs.ufrag}")
    role = (Attribute.ICE_CONTROLLED, 1)
    check = attributes_of((Attribute.PRIORITY, 1000), role)
    mapped = attributes_of((Attribute.XOR_MAPPED_ADDRESS, situation.alice.bases[0]))

    def request(flags: int, attributes: bytes) -> bytes:
        return bytes([REQUEST, flags]) + chunk(attributes)

    def answer(flags: int, attributes: bytes) -> bytes:
        return bytes([ANSWER, flags]) + chunk(attributes)

    yield request(0, check) + answer(0, mapped) + bytes([TIME, 30]) + answer(0, mapped)
    yield request(0, check) + bytes([TIME, 5]) + answer(8, attributes_of((Attribute.ERROR_CODE, (487, "no"))))
    yield request(0, attributes_of((Attribute.PRIORITY, 1), (Attribute.ICE_CONTROLLING, 2**64 - 1)))
    yield answer(0, mapped) + request(
        0, check + attributes_of((Attribute.USE_CANDIDATE, True), (Attribute.NOMINATION, 3))
    )
    yield request(1, check) + request(2, attributes_of(name) + check) + request(4, check)
    yield answer(8, attributes_of((Attribute.ERROR_CODE, (400, "no")))) + bytes([TIME, 200])
    yield (
        bytes([CANDIDATE, 0])
        + chunk(b"1 1 udp 1000 203.0.113.66 6666 typ srflx raddr 10.0.0.1 rport 5")
        + request(0, check)
    )
    yield b"".join(
        bytes([RAW, number & 3]) + chunk(data)
        for number, data in enumerate(stun_messages())
        if number % 5 == 0
    )
    yield answer(0, mapped) + bytes([LOCAL, 0, TIME, 40, LOCAL, 1, TIME, 100])


@target(_sequences, longest=2048)
def agent(data: bytes) -> None:
    """
    Datagrams in any order. The agent's tables stay bounded, its timer rests, and to an address that has sent
    nothing authentic it sends no more than came from there, and a few checks.
    """
    situation = Situation()
    network, alice = situation.network, situation.alice
    agent = alice.agent
    sources = (situation.bob.bases[0], STRANGER, Address("2001:db8::66", 6), REFLECTOR)
    ours = f"{situation.ours.ufrag}:{situation.theirs.ufrag}"
    reader = Reader(data)
    for number in range(40):
        if not reader.more:
            break
        kind, flags = reader.byte() % 6, reader.byte()
        source = sources[flags >> 6]
        # What is due anyway, so that what follows is because of the datagram
        network.run(0.0)
        before = len(alice.sent)
        if kind == RAW:
            datagram = reader.chunk()
            sent = network.inject(alice, datagram, source)
            assert sum(len(each.data) for each in sent if each.remote == source) <= len(datagram), sent
        elif kind == REQUEST:
            attributes = reader.chunk()
            if not flags & 2:
                attributes = attributes_of((Attribute.USERNAME, ours)) + attributes
            key = None if flags & 4 else b"x" * 24 if flags & 1 else situation.ours.key
            datagram = signed(b"\0\1", number.to_bytes(12, "big"), attributes, key, fingerprint=not flags & 8)
            sent = network.inject(alice, datagram, source)
            if key != situation.ours.key:
                assert sum(len(each.data) for each in sent if each.remote == source) <= len(datagram), sent
        elif kind == ANSWER:
            attributes = reader.chunk()
            asked = [each for _, each in alice.sent[-64:] if each.data[:2] == b"\0\1"]
            if asked:
                check = asked[-1 - (flags >> 4 & 3) % len(asked)]
                answer = signed(
                    b"\1\x11" if flags & 8 else b"\1\1",
                    check.data[8:20],
                    attributes,
                    None if flags & 4 else situation.theirs.key,
                    fingerprint=True,
                )
                network.inject(alice, answer, source if flags & 1 else check.remote, check.local)
        elif kind == CANDIDATE:
            try:
                candidate = Candidate.parse(reader.chunk().decode("utf-8", "replace"))
            except ValueError:
                continue
            agent.add_remote_candidate(candidate, network.now)
        elif kind == TIME:
            before = len(alice.sent)
            network.run(flags / 4)
            assert len(alice.sent) - before <= 100 + 30 * flags, "too much is sent"
        elif flags & 1:
            agent.add_local_address(Address(f"192.0.2.{100 + (flags >> 1) % 8}", 5000))
        else:
            agent.remove_local(alice.bases[0], network.now)
        assert len(alice.sent) - before <= 100 + 30 * flags, "too much is sent"
        assert len(agent.pairs) <= MAX_PAIRS, agent.pairs
        assert repr([event for _, event in alice.events])
    network.run(120.0)
    if agent.selected is None:
        assert agent.state in (AgentState.FAILED, AgentState.CHECKING, AgentState.NEW), agent.state
    agent.close(network.now)
    assert agent.get_timer() is None


def _reflections() -> Iterator[bytes]:
    mapped = attributes_of((Attribute.XOR_MAPPED_ADDRESS, Address("203.0.113.1", 1000)))
    proof = attributes_of((Attribute.PROBE, bytes(16)))
    answers = b"".join(bytes([0]) + chunk(mapped + proof) for _ in range(6))
    yield answers + b"\1\0\1\1\2\10" + answers
    yield (
        b"\0"
        + chunk(mapped)
        + b"\2\40"
        + b"\0"
        + chunk(attributes_of((Attribute.XOR_MAPPED_ADDRESS, Address("2001:db8::1", 5))))
    )
    yield b"".join(b"\3" + chunk(data) for number, data in enumerate(stun_messages()) if number % 7 == 0)


@target(_reflections, longest=1024)
def netcheck(data: bytes) -> None:
    """Reflectors that answer as they like: netcheck ends in time, with a report."""
    bound: list[Address] = []

    def bind(host: str) -> Address:
        bound.append(Address(host, 40_000 + len(bound)))
        return bound[-1]

    now, end = 100.0, 160.0
    core = Netcheck(peer=IDENTITIES[0].peer_id, random=Random(1).randbytes, bind=bind, now=now)
    core.start(["10.0.0.2", "2001:db8::2"], ["198.51.100.1", "2001:db8::1"], 3478, 3479, now=now)
    waiting: list[Transmit] = []
    probes: list[Probe] = []
    reader = Reader(data)
    while not core.done and now < end:
        sent = core.datagrams_to_send(now)
        assert len(sent) <= 32
        waiting += sent
        probes += core.probes_to_send()
        kind = reader.byte() % 4 if reader.more else 2
        if kind == 0 and waiting:
            request = waiting.pop(0)
            answer = signed(b"\1\1", request.data[8:20], reader.chunk(), None)
            core.receive_datagram(answer, request.remote, request.local, now)
        elif kind == 1 and probes:
            outcome = list(ProbeOutcome)[reader.byte() % len(ProbeOutcome)]
            core.receive_probed(Probed(probes.pop(0).transaction, outcome), now)
        elif kind == 3:
            core.receive_datagram(reader.chunk(), Address("198.51.100.1", 3478), bound[0], now)
        else:
            timer = core.get_timer()
            assert timer is not None
            now = max(now, timer)
            core.handle_timer(now)
    assert core.done, "it does not end"
    report = NetcheckReport("punch://198.51.100.1:7001", ipv4=core.ipv4, ipv6=core.ipv6)
    assert text(report)
    conclusions(report)
    strict_json.dumps(netcheck_fields(report))


_PCP = bytes.fromhex("0281000000001c2000000064") + bytes(12)
_MAPPED = bytes.fromhex("9c409c40 00000000 00000000 0000ffff cb007105")
_NAT_PMP = bytes.fromhex("0080000000000064cb007105"), bytes.fromhex("00810000000000649c409c4000001c20")


def _router_answers() -> Iterator[bytes]:
    yield _PCP + bytes(12) + b"\x11\0\0\0" + _MAPPED
    yield from _NAT_PMP
    yield bytes.fromhex("0081000100000064")


@target(_router_answers, longest=1200)
def port_mapping_answers(data: bytes) -> None:
    """Answers of PCP and NAT-PMP: what is read is in range."""
    answer = port_mapping.parse(data)
    if isinstance(answer, port_mapping.PcpAnswer):
        assert len(answer.nonce) in (0, 12)
        assert (answer.external is None) == (not answer.nonce)
        assert answer.result or answer.external is not None
        if answer.external is not None:
            assert canonical(*answer.external) == answer.external
    elif isinstance(answer, port_mapping.AddressAnswer):
        assert (answer.host is None) == (answer.result != 0)


def _searches() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n"
    yield b"HTTP/1.0 200 OK\nlocation:http://192.168.1.1/\n"


@target(_searches, longest=1600)
def upnp_search_answers(data: bytes) -> None:
    """Answers to a search for UPnP: no URL of another host, and none that is no URL."""
    url = parse_search_answer(data, "192.168.1.1")
    if url is not None:
        parts = urlsplit(url)
        assert (parts.scheme, parts.hostname, parts.username) == ("http", "192.168.1.1", None)


def _router_runs() -> Iterator[bytes]:
    whole = _PCP[2:] + _MAPPED
    yield b"\0" + chunk(whole) + b"\4\xff" * 8
    yield b"\0" + chunk(b"\0\2" + whole[2:]) + b"\1" + chunk(_NAT_PMP[0]) + b"\1" + chunk(_NAT_PMP[1])
    yield b"\0" + chunk(whole) + b"\5\0\0" + chunk(whole) + b"\5\1\5\0" + b"\4\xff" * 8
    yield (b"\4\1\1" + chunk(_NAT_PMP[0]) + b"\1" + chunk(_NAT_PMP[1]) + b"\4\xff\2\3") * 3


@target(_router_runs, longest=1024)
def port_mapping_router(data: bytes) -> None:
    """A router, or somebody in its place, that answers as it likes: few requests, and timers that rest."""
    base, gateway = Address("192.168.1.7", 40000), Address("192.168.1.1", 5351)
    tcp = [TCPAddress(base.host, port) for port in range(40000, 40010)]
    core = PortMapper(Random(1).randbytes)
    reader, now, sent, asked = Reader(data), 100.0, 0, b""

    def keep(anew: bool) -> None:
        core.keep([base], {base.host: gateway.host}, now, anew=anew)

    def send() -> None:
        nonlocal sent, asked
        for transmit in core.datagrams_to_send(now):
            sent += 1
            assert transmit.remote == gateway
            assert transmit.local in (base, *tcp)
            asked = transmit.data if transmit.data[0] == 2 else asked

    keep(False)
    calls = 1
    while reader.more:
        send()
        kind = reader.byte() % 6
        if kind == 0:
            # With the right nonce and protocol
            body = reader.chunk()
            answer = b"\x02\x81" + body[:22] + asked[24:40] + body[22:]
            core.receive_datagram(answer, gateway, base, now)
        elif kind == 1:
            core.receive_datagram(reader.chunk(), gateway, base, now)
        elif kind == 2:
            calls += 1
            keep(bool(reader.byte() & 1))
        elif kind == 3:
            core.receive_datagram(reader.chunk(), Address("192.168.1.9", 5351), base, now)
        elif kind == 5:
            calls += 1
            port = tcp[reader.byte() % len(tcp)]
            if core.mapping_of(port) is None:
                core.add_tcp(port, now)
            else:
                core.remove_tcp(port, now)
        else:
            now += reader.byte() ** 2
        while core.next_event() is not None:
            pass
        for mapping in core.mappings:
            assert mapping.external.port
            assert not mapping.external.is_ipv6
            assert mapping.external.protocol == mapping.base.protocol
            mapped_addresses(mapping.base, mapping.external, ["203.0.113.1"])
        assert len(core.mappings) <= 1 + MAX_TCP_PORTS
    for _ in range(500):
        send()
        timer = core.get_timer()
        if timer is None:
            break
        now = max(now, timer)
    assert core.get_timer() is None, "it does not come to rest"
    # Of each question at most `TRIES`, for each call or TCP port, and each renewal that nobody answers
    assert sent <= 3 * TRIES * (calls + len(data) + 20), sent
