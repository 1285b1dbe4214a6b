"""The core of netcheck by itself: the scheduler of coroutines, hostile input, and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping as Pairs
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.ice.port_lease import MappingProtocol, PortMapping
from punch.ice.punching.techniques import NatClass, Technique
from punch.natcheck.core import Netcheck
from punch.natcheck.profile import (
    ANY_FILTERING,
    ANY_MAPPING,
    Filtering,
    Hairpinning,
)
from punch.natcheck.report import (
    Direct,
    FamilyReport,
    Lifetime,
    NetcheckReport,
    PathPolicy,
    RouterReport,
    Transport,
)
from punch.natcheck.transactions import Future, Scheduler
from punch.node.causes import ControlProblem, ProblemCode
from punch.test.strategies import IDENTITIES
from punch.ui.json.events import netcheck_fields
from punch.ui.text.causes import problem_sentence
from punch.ui.text.netcheck import conclusions, text
from punch.wire.address import Address
from punch.wire.control import Probed, ProbeOutcome, commitment
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.stun import Attribute, MessageClass, encode, parse, success

ALICE = IDENTITIES[0].peer_id
EIM, ADM, APDM = Mapping
EIF, ADF, APDF = Filtering
A = Address("203.0.113.1", 1000)
FIRST, SECOND = Address("198.51.100.1", 3478), Address("198.51.100.1", 3479)
SETTINGS = settings(derandomize=True, deadline=None, max_examples=50)


class TaskTests(SynchronousTestCase):
    """The scheduler of coroutines."""

    def test_turns(self) -> None:
        scheduler = Scheduler(10.0)
        told: list[str] = []
        signal: Future[str] = Future()

        async def one() -> str:
            told.append(await signal)
            await scheduler.sleep(2.0)
            told.append("slept")
            return "done"

        async def other() -> bool:
            return await scheduler.within(signal, 1.0)

        result, early = scheduler.spawn(one()), scheduler.spawn(other())
        self.assertEqual(scheduler.get_timer(), 11.0)
        scheduler.handle_timer(11.0)
        self.assertEqual((early.value, told), (False, []))
        signal.set("now")
        signal.set("again")
        self.assertEqual((told, result.done), (["now"], False))
        self.assertRaises(RuntimeError, lambda: result.value)
        scheduler.handle_timer(13.0)
        self.assertEqual((told, result.value), (["now", "slept"], "done"))
        self.assertIsNone(scheduler.get_timer())


class HostileTests(SynchronousTestCase):
    """Hostile and damaged answers."""

    def setUp(self) -> None:
        self.now = 100.0
        self.bound: list[Address] = []
        self.core = Netcheck(peer=ALICE, random=Random(1).randbytes, bind=self.bind, now=self.now)
        self.core.start(["10.0.0.2"], ["198.51.100.1"], 3478, 3479, now=self.now)

    def bind(self, host: str) -> Address:
        self.bound.append(Address(host, 40000 + len(self.bound)))
        return self.bound[-1]

    def finish(self, seconds: float = 60.0) -> FamilyReport:
        """Let time pass without any more answers."""
        end = self.now + seconds
        while not self.core.done:
            due = self.core.get_timer()
            assert due is not None
            self.assertLess(due, end)
            self.now = max(self.now, due)
            self.core.handle_timer(self.now)
            self.core.datagrams_to_send(self.now)
            for probe in self.core.probes_to_send():
                self.core.receive_probed(Probed(probe.transaction, ProbeOutcome.RATE), self.now)
        assert self.core.ipv4 is not None
        return self.core.ipv4

    def test_silence(self) -> None:
        """Three seconds, then it is over: no UDP."""
        self.assertEqual(self.finish(3.5), FamilyReport(local_addresses=("10.0.0.2",)))
        self.assertIsNone(self.core.ipv6)

    def test_answers_from_elsewhere(self) -> None:
        """An answer that does not come from the address asked is ignored."""
        [request] = self.core.datagrams_to_send(self.now)
        answer = encode(success(parse(request.data), (Attribute.XOR_MAPPED_ADDRESS, A)), fingerprint=False)
        for remote, local in (
            (SECOND, request.local),
            (Address("192.0.2.66", 3478), request.local),
            (FIRST, Address("10.0.0.2", 1)),
        ):
            self.core.receive_datagram(answer, remote, local, self.now)
        self.assertFalse(self.finish().udp)

    def test_bad_answers(self) -> None:
        """An answer without an address, with port 0, an error, or for another transaction is no answer."""
        [request] = self.core.datagrams_to_send(self.now)
        good = success(parse(request.data), (Attribute.XOR_MAPPED_ADDRESS, A))
        for bad in (
            replace(good, message_class=MessageClass.ERROR),
            replace(good, message_class=MessageClass.REQUEST),
            replace(good, transaction_id=bytes(12)),
            replace(good, attributes=((Attribute.XOR_MAPPED_ADDRESS, A._replace(port=0)),)),
        ):
            self.core.receive_datagram(encode(bad, fingerprint=False), FIRST, request.local, self.now)
        self.assertFalse(self.finish().udp)

    def test_unknown_attributes(self) -> None:
        """An answer with an attribute that has to be understood and is not (RFC 8489, section 6.3.3)."""
        [request] = self.core.datagrams_to_send(self.now)
        answer = success(parse(request.data), (Attribute.XOR_MAPPED_ADDRESS, A), (0x7777, b""))
        self.core.receive_datagram(encode(answer, fingerprint=False), FIRST, request.local, self.now)
        self.assertFalse(self.finish().udp)

    def test_unknown_probes(self) -> None:
        """The service answers probe requests that were never made."""
        self.core.receive_probed(Probed(bytes(12), ProbeOutcome.SENT), self.now)
        self.assertFalse(self.finish().udp)

    def test_no_address_of_ours(self) -> None:
        """A machine without IPv4, or where nothing can be bound."""
        core = Netcheck(peer=ALICE, random=Random(1).randbytes, bind=lambda _: None, now=0.0)
        core.start(["10.0.0.2"], ["198.51.100.1", "2001:db8::1"], 3478, now=0.0)
        self.assertTrue(core.done)
        self.assertEqual(core.ipv4, FamilyReport(local_addresses=("10.0.0.2",)))
        self.assertEqual(core.ipv6, FamilyReport())

    def test_a_reflector_without_proofs(self) -> None:
        """Any STUN server: what it can't prove is unknown, nothing is asked for without a proof."""
        self.answer_all(proof=None)
        report = self.finish()
        self.assertEqual((report.udp, report.mapping, report.filtering), (True, {EIM, ADM}, ANY_FILTERING))

    def test_a_service_that_refuses(self) -> None:
        """Every proof is said to be wrong, or too many."""
        self.answer_all(proof=bytes(16))
        for probe in self.core.probes_to_send():
            self.core.receive_probed(Probed(probe.transaction, ProbeOutcome.REFUSED), self.now)
        self.assertEqual(self.finish().filtering, ANY_FILTERING)

    def test_several_public_addresses(self) -> None:
        """A NAT with two public addresses, which depend on the destination: both are reported."""
        self.answer_all(proof=None, public={FIRST: "203.0.113.1", SECOND: "203.0.113.2"})
        self.assertEqual(self.finish().public_addresses, ("203.0.113.1", "203.0.113.2"))

    def answer_all(self, proof: bytes | None, public: Pairs[Address, str] | None = None) -> None:
        """
        Be the reflectors, and no NAT that filters or forgets.

        :param public: its address, by which reflector is asked.
        """
        while requests := self.core.datagrams_to_send(self.now):
            for request in requests:
                parsed = parse(request.data)
                if request.remote not in (FIRST, SECOND) or parsed.message_class is not MessageClass.REQUEST:
                    continue
                self.assertEqual(len(parsed.get(Attribute.PROBE) or b""), len(commitment(ALICE, bytes(16))))
                mapped = Address((public or {}).get(request.remote, "203.0.113.1"), request.local.port)
                attributes: list[tuple[int, object]] = [(Attribute.XOR_MAPPED_ADDRESS, mapped)]
                if proof is not None:
                    attributes.append((Attribute.PROBE, proof))
                answer = encode(success(parsed, *attributes), fingerprint=False)
                self.core.receive_datagram(answer, request.remote, request.local, self.now)

    @SETTINGS
    @given(st.binary(max_size=100))
    def test_garbage(self, data: bytes) -> None:
        self.core.receive_datagram(data, FIRST, self.bound[0], self.now)


PROBLEM = ControlProblem(ProblemCode.NAME_UNKNOWN, RendezvousAddress("nowhere.example"))
HOME = FamilyReport(
    udp=True,
    local_addresses=("192.168.1.2",),
    public_addresses=("203.0.113.7",),
    translated=True,
    mapping=frozenset({EIM}),
    filtering=frozenset({APDF}),
    hairpinning=Hairpinning.NO,
    ports=PortAssignment.PRESERVING,
    latency=0.0123456,
)
WALLED6 = FamilyReport(
    udp=True,
    local_addresses=("2001:db8::2",),
    public_addresses=("2001:db8::2",),
    filtering=frozenset({APDF}),
)
ALL_WAYS: dict[Transport, bool | None] = dict.fromkeys(Transport, True)
PUNCH = "punch://192.0.2.1:7001"


TRANSLATED6 = FamilyReport(
    udp=True,
    local_addresses=("2001:db8::2",),
    public_addresses=("203.0.114.99",),
    translated=True,
    mapping=frozenset({EIM}),
    filtering=frozenset({APDF}),
    hairpinning=Hairpinning.NO,
    ports=PortAssignment.RANDOM,
)
"""IPv6 alone, and a NAT64."""


class WordTests(SynchronousTestCase):
    """The report as text and as JSON."""

    def said(self, report: NetcheckReport) -> str:
        """All conclusions; the text has them all, too."""
        sentences = conclusions(report)
        for sentence in sentences:
            self.assertIn(f"\n* {sentence}", text(report))
            self.assertTrue(sentence.endswith("."), sentence)
        value = json.loads(json.dumps(netcheck_fields(report)))
        self.assertEqual((value["event"], value["conclusions"]), ("netcheck", sentences))
        return "\n".join(sentences)

    def test_nat64(self) -> None:
        """A public IPv4 address of a local IPv6 one is reported as NAT64, and not as a NAT of that family."""
        report = NetcheckReport(PUNCH, FamilyReport(), TRANSLATED6, transports=ALL_WAYS)
        said = self.said(report)
        self.assertIn("This network makes IPv4 of IPv6 on the way to the rendezvous (NAT64).", said)
        self.assertIn("Peers that have IPv4 alone need a relay.", said)
        self.assertNotIn("hairpin", said)
        self.assertIn("2001:db8::2, seen as 203.0.114.99: NAT64, which makes IPv4 of it", text(report))
        self.assertNotIn("behind a NAT", text(report))
        both = self.said(NetcheckReport(PUNCH, HOME, TRANSLATED6, transports=ALL_WAYS))
        self.assertIn("(NAT64)", both)
        self.assertNotIn("Peers that have IPv4 alone", both)

    def test_ipv4_by_translation(self) -> None:
        """The NAT64 is judged as a NAT is, and Punch's own address says nothing."""
        ipv4 = replace(HOME, local_addresses=("192.0.0.1",))
        report = NetcheckReport(PUNCH, ipv4, None, transports=ALL_WAYS)
        said = self.said(report)
        self.assertIn("(NAT64). Over IPv6: direct links to peers that have it", said)
        self.assertIn("Over IPv4, through the NAT64: direct links to most peers.", said)
        self.assertNotIn("hairpin", said)
        self.assertNotIn("192.0.0.1", text(report))
        self.assertIn("through a NAT64", text(report))

    def test_home(self) -> None:
        """The usual network."""
        report = NetcheckReport(PUNCH, HOME, FamilyReport(), control_latency=0.02, transports=ALL_WAYS)
        said = self.said(report)
        self.assertIn("Over IPv4: direct links to most peers. To those whose NAT", said)
        self.assertIn("A relay can be reached over UDP, TCP and TLS.", said)
        self.assertIn("does not hairpin", said)
        written = text(report)
        for part in (
            "192.168.1.2, seen as 203.0.113.7: behind a NAT",
            "endpoint-independent: one port for all destinations",
            "12.3 ms",
            "20.0 ms",
            "IPv6          no, this machine has no such address",
        ):
            self.assertIn(part, written)
        value = json.loads(json.dumps(netcheck_fields(report)))
        self.assertEqual((value["direct"], value["certain"]), ("most", True))
        self.assertEqual(
            value["ipv4"],
            {
                "udp": True,
                "near": False,
                "local_addresses": ["192.168.1.2"],
                "public_addresses": ["203.0.113.7"],
                "nat": True,
                "mapping": "endpoint-independent",
                "mapping_may_be": ["endpoint-independent"],
                "filtering": "address-and-port-dependent",
                "filtering_may_be": ["address-and-port-dependent"],
                "hairpinning": "no",
                "port_allocation": "preserving",
                "mapping_lifetime": None,
                "latency": 0.0123,
                "profile": None,
                "techniques": None,
                "port_mapping": None,
            },
        )
        self.assertEqual(set(value["ipv6"]), set(value["ipv4"]))

    def test_not_certain(self) -> None:
        """A conclusion that is not certain is called probable, with the reason."""
        family = replace(HOME, mapping=frozenset({EIM, ADM}), hairpinning=Hairpinning.UNKNOWN)
        report = NetcheckReport(PUNCH, family, transports=ALL_WAYS)
        said = self.said(report)
        self.assertIn("probably direct links to most peers", said)
        self.assertIn("a second port and a second address", said)
        self.assertNotIn("hairpin", said)
        self.assertIn("unknown: endpoint-independent or address-dependent", text(report))
        value = report.to_json()["ipv4"]
        self.assertEqual(value["mapping"], "unknown")
        self.assertEqual(value["mapping_may_be"], ["endpoint-independent", "address-dependent"])
        self.assertEqual((report.direct, report.certain), (Direct.MOST, False))

    def test_mapping_unknown(self) -> None:
        """If the mapping is unknown, nothing is concluded, and the report says what would help."""
        family = replace(HOME, mapping=ANY_MAPPING, filtering=ANY_FILTERING, ports=PortAssignment.RANDOM)
        report = NetcheckReport(PUNCH, family, transports=ALL_WAYS)
        said = self.said(report)
        self.assertIn("Over IPv4: it can't be told with whom links will be direct", said)
        self.assertIn("a second port and a second address", said)
        self.assertEqual((report.direct, report.certain), (Direct.UNKNOWN, False))
        unreached = self.said(replace(report, problem=PROBLEM))
        self.assertNotIn("second port", unreached)
        self.assertIn("More can be told when the rendezvous can be reached.", unreached)

    def test_near(self) -> None:
        """A rendezvous on this machine or in its network shows nothing of the internet."""
        for ipv4, ipv6 in ((replace(HOME, near=True), None), (None, replace(WALLED6, near=True))):
            report = NetcheckReport(PUNCH, ipv4, ipv6, transports=ALL_WAYS)
            said = self.said(report)
            self.assertIn("nothing is known of the way to peers on the internet", said)
            self.assertNotIn("direct links", said)
            self.assertEqual((report.direct, report.certain), (Direct.UNKNOWN, False))
        self.assertNotIn("IPv6", self.said(NetcheckReport(PUNCH, HOME, replace(WALLED6, near=True))))

    def test_another_port_for_each_destination(self) -> None:
        """Few direct links, and that is certain without knowing more."""
        for mappings in ({ADM}, {APDM}, {ADM, APDM}):
            family = replace(HOME, mapping=frozenset(mappings), filtering=ANY_FILTERING)
            report = NetcheckReport(PUNCH, family, transports=ALL_WAYS)
            self.assertIn("Over IPv4: few links are direct at once", self.said(report))
            self.assertEqual(report.direct, Direct.SOME)

    def test_open(self) -> None:
        """No NAT, nothing filtered."""
        family = FamilyReport(
            udp=True,
            local_addresses=("203.0.113.7",),
            public_addresses=("203.0.113.7",),
            filtering=frozenset({EIF, ADF}),
        )
        report = NetcheckReport(PUNCH, family, transports=ALL_WAYS)
        self.assertIn("Over IPv4: direct links to all peers", self.said(report))
        self.assertIn("203.0.113.7, seen as it is: no NAT", text(report))

    def test_no_udp(self) -> None:
        """Links take the relay, if there is one."""
        nothing = FamilyReport(local_addresses=("10.0.0.2",))
        ways: dict[Transport, bool | None] = {**ALL_WAYS, Transport.UDP: False, Transport.TURN_UDP: False}
        said = self.said(NetcheckReport(PUNCH, nothing, transports=ways))
        self.assertIn("links to other networks are on a relay, until they get a direct path over TCP", said)
        self.assertIn("A relay can be reached over TCP and TLS.", said)
        none: dict[Transport, bool | None] = dict.fromkeys(Transport, False)
        self.assertIn("can't be reached", self.said(NetcheckReport(PUNCH, nothing, transports=none)))
        offers_none: dict[Transport, bool | None] = {Transport.CONTROL: True}
        self.assertIn("offers no relay", self.said(NetcheckReport(PUNCH, nothing, transports=offers_none)))

    def test_ipv6(self) -> None:
        """Only IPv6 works: links are possible with peers that have it."""
        both = self.said(NetcheckReport(PUNCH, HOME, WALLED6, transports=ALL_WAYS))
        self.assertIn("Over IPv6: direct links to peers that have it, too.", both)
        report = NetcheckReport(PUNCH, FamilyReport(), WALLED6, transports=ALL_WAYS)
        self.assertIn("peers that have no IPv6 need a relay", self.said(report))
        self.assertEqual(report.direct, Direct.SOME)

    def test_no_reflector(self) -> None:
        report = NetcheckReport(PUNCH, reflector=False, transports={Transport.CONTROL: True})
        self.assertIn("nothing is known about UDP", self.said(report))
        self.assertEqual((report.udp, report.direct), (None, Direct.UNKNOWN))

    def test_silence_without_a_rendezvous(self) -> None:
        """If there may be no reflector, a missing answer says nothing about UDP."""
        silent = FamilyReport(udp=None, local_addresses=("10.0.0.2",))
        report = NetcheckReport(PUNCH, silent, FamilyReport(), problem=PROBLEM)
        self.assertEqual((report.udp, report.direct, report.certain), (None, Direct.UNKNOWN, False))
        said = self.said(report)
        self.assertIn("Nothing answers over UDP either", said)
        self.assertNotIn("on a relay", said)
        self.assertIn("IPv4          unknown, nothing answers 10.0.0.2\n", text(report))
        self.assertIsNone(report.to_json()["ipv4"]["filtering"])

    def test_no_address_in_the_family(self) -> None:
        """An IPv6-only machine can't tell by an IPv4 address whether it has UDP."""
        report = NetcheckReport(PUNCH, FamilyReport(), problem=PROBLEM)
        self.assertEqual((report.udp, report.direct), (None, Direct.UNKNOWN))
        self.assertIn("This machine has no IPv4 address", self.said(report))

    def test_no_address_at_all(self) -> None:
        """A name that nobody knows says nothing of reflectors."""
        report = NetcheckReport(PUNCH, problem=PROBLEM)
        self.assertEqual(self.said(report), f"{problem_sentence(PROBLEM)}\nSo nothing is known about UDP.")

    def test_what_the_user_allows(self) -> None:
        """Techniques that are switched off are not named, nor what follows from them."""
        profile = NatProfile("203.0.113.7", frozenset({EIM}), PortAssignment.PRESERVING)
        strict = NatProfile("203.0.113.7", frozenset({APDM}), PortAssignment.RANDOM)
        home = replace(HOME, profile=profile)
        random = replace(HOME, mapping=frozenset({APDM}), ports=PortAssignment.RANDOM, profile=strict)
        ways = "relayed", "spray", "direct"
        for policy, family, direct, techniques, sentence in (
            (PathPolicy(), home, "most", ["simultaneous-open", "prediction", "spraying"], "for some seconds"),
            (
                PathPolicy(spray=False),
                home,
                "most",
                ["simultaneous-open", "prediction", "relay"],
                "stay on a relay, as nothing is sprayed",
            ),
            (PathPolicy(spray=False), random, "some", ["relay"] * 3, "Others are on a relay."),
            (PathPolicy(relayed=False), home, "most", ["ice", None, None], "there is none, as links never"),
            (PathPolicy(relayed=False), random, "some", [None] * 3, "few links, as the NAT has another port"),
            (PathPolicy(direct=False), home, "none", ["relay"] * 3, "All links take a relay (--relay only)."),
        ):
            family = replace(family, policy=policy)
            report = NetcheckReport(PUNCH, family, transports=ALL_WAYS, policy=policy)
            said = self.said(report)
            self.assertIn(sentence, said)
            self.assertEqual("direct links" in said, direct == "most", said)
            value = report.to_json()
            self.assertEqual((value["direct"], value["certain"]), (direct, True))
            self.assertEqual(
                {each: value["policy"][each] for each in ways}, {each: getattr(policy, each) for each in ways}
            )
            found = value["ipv4"]["techniques"]
            named = [found[each] for each in ("independent", "sequential", "random")]
            self.assertEqual(named, techniques)
            self.assertEqual("spraying" in text(report), "spraying" in techniques)

    def test_headline_without_udp(self) -> None:
        """It says no more than the conclusions, whatever the user allows."""
        blocked = FamilyReport(False, local_addresses=("10.0.0.2",))
        for policy, headline, sentence in (
            (PathPolicy(), "Direct links: over TCP alone", "until they get a direct path over TCP"),
            (PathPolicy(tcp=False), "Relayed links alone", "links to other networks are on a relay."),
            (PathPolicy(relayed=False), "No links to other networks", "there are no links to other networks"),
            (
                PathPolicy(relayed=False, tcp=False),
                "No links to other networks",
                "there are no links to other networks",
            ),
            (PathPolicy(direct=False), "Relayed links, as you have set it", "links to other networks are on"),
        ):
            family = replace(blocked, policy=policy)
            report = NetcheckReport(PUNCH, family, transports=ALL_WAYS, policy=policy)
            self.assertIs(report.direct, Direct.NONE)
            self.assertIn(sentence, self.said(report))
            self.assertEqual(netcheck_fields(report)["details"]["headline"], headline)

    def test_no_relay_for_ipv4(self) -> None:
        """Peers that have no IPv6 are not said to need what is switched off."""
        policy = PathPolicy(relayed=False)
        for family, sentence in (
            (WALLED6, "There is no UDP over IPv4: there are no links to peers that have no IPv6"),
            (TRANSLATED6, "There are no links to peers that have IPv4 alone"),
        ):
            family = replace(family, policy=policy)
            report = NetcheckReport(PUNCH, FamilyReport(), family, transports=ALL_WAYS, policy=policy)
            said = self.said(report)
            self.assertIn(f"{sentence}, as links never take a relay (--relay never).", said)
            self.assertNotIn("need a relay", said)

    def test_techniques_of_other_networks(self) -> None:
        """ICE is enough where everybody gets in; TCP where no UDP gets out, but not beside a proxy."""
        random = NatProfile("203.0.113.7", frozenset({EIM}), PortAssignment.RANDOM)
        everybody = replace(HOME, filtering=frozenset({EIF}), profile=random)
        report = NetcheckReport(PUNCH, everybody, transports=ALL_WAYS)
        assert everybody.techniques is not None
        self.assertEqual(set(everybody.techniques.values()), {Technique.ICE})
        self.assertIn("  techniques  ICE, whatever the other NAT does", text(report))
        blocked = FamilyReport(False, local_addresses=("10.0.0.2",))
        assert blocked.techniques is not None
        self.assertIs(blocked.techniques[NatClass.INDEPENDENT], Technique.TCP)
        self.assertIs(blocked.techniques[NatClass.RANDOM], Technique.RELAY)
        said = text(NetcheckReport(PUNCH, blocked, transports=ALL_WAYS))
        self.assertIn(
            "  techniques  TCP if the other NAT has one port for all destinations, preserved ports or "
            "sequential ports, a relay if it has random ports",
            said,
        )
        policy = PathPolicy(tcp=False)
        blocked = replace(blocked, policy=policy)
        said = text(NetcheckReport(PUNCH, blocked, transports=ALL_WAYS, policy=policy))
        self.assertIn("  techniques  a relay, whatever the other NAT does", said)
        self.assertNotIn("over TCP where", said)

    def test_page(self) -> None:
        """What the page shows is what the command prints."""
        counted_down = NatProfile("203.0.113.7", frozenset({APDM}), PortAssignment.SEQUENTIAL, -2, 5, 5)
        family = replace(
            HOME, mapping=frozenset({APDM}), profile=counted_down, router=RouterReport(upnp=False)
        )
        mapped = PortMapping(Address("192.168.1.2", 7), Address("100.64.0.9", 7), MappingProtocol.PCP)
        for router, words in (
            (RouterReport(upnp=False), "maps no ports by PCP or NAT-PMP; to ask by UPnP: "),
            (RouterReport(), "maps no ports"),
            (RouterReport(mapped), "which the rendezvous does not see, so there is another NAT beyond"),
        ):
            report = NetcheckReport(PUNCH, replace(family, router=router), transports=ALL_WAYS)
            shown, written = netcheck_fields(report)["details"], text(report)
            for fact in shown["ipv4"][1:]:
                self.assertIn(f"\n  {fact['term']:<12}{', '.join(fact['texts'])}\n", written)
            found = {fact["term"]: fact["texts"] for fact in shown["ipv4"]}
            self.assertIn(words, found["router"][0])
            self.assertIn("sequential, each 2 below the one before", found["ports"][0])
            self.assertIn(found["address"][0], written)
        self.assertEqual((shown["headline"], shown["good"]), ("Direct links: with most people", True))

    def test_problem(self) -> None:
        """The reason comes first."""
        report = NetcheckReport(PUNCH, HOME, problem=PROBLEM, transports={Transport.CONTROL: False})
        self.assertEqual(conclusions(report)[0], problem_sentence(PROBLEM))
        self.assertNotIn("offers no relay", self.said(report))

    def test_lifetime(self) -> None:
        for lifetime, words in (
            (Lifetime(14.5, 16.2), "at least 14 s, less than 17 s"),
            (Lifetime(100.0, None), "at least 100 s"),
            (Lifetime(0.0, 6.5), "less than 7 s"),
        ):
            report = NetcheckReport(PUNCH, replace(HOME, lifetime=lifetime))
            self.assertIn(f"  lifetime    {words}\n", text(report))
            self.assertEqual(
                report.to_json()["ipv4"]["mapping_lifetime"],
                {"at_least": lifetime.at_least, "below": lifetime.below},
            )
