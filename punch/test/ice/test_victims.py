"""What strangers whose addresses a peer names get from us, over all of its calls."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from punch.contacts import AddressBook
from punch.ice.agent import Agent
from punch.ice.budget import (
    LATER_GAP,
    MAX_BYTES,
    MAX_PACKETS,
    RELAY_WINDOW,
    Budget,
    Route,
)
from punch.ice.checks import IceCredentials, IceRole, build_check
from punch.ice.limits import WINDOW
from punch.identity import Identity
from punch.node.events import Connected
from punch.test.ice.ice_network import NAT, REFLECTOR, IceNetwork
from punch.test.internet import NAT as InternetNAT
from punch.test.internet import Host, Seen
from punch.test.internet.recorder import bind
from punch.test.node.middleman import MiddlemanTestCase
from punch.test.system import SERVICE, Peer, introduce
from punch.wire.address import Address, Transmit
from punch.wire.control import Accept, Answer, Candidates, Ended, ErrorCode, Incoming
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.peers.sealed import Offer, TrickledCandidates, open_answer, seal_offer, seal_trickle
from punch.wire.special_addresses import DISCOVERY_NAME
from punch.wire.stun import Attribute, MessageClass, encode, parse, success

UFRAG, PASSWORD = "eveUfrag", "e" * 24
PORTS = range(7000, 7008)


class VictimTestCase(MiddlemanTestCase):
    """Eve, whom Bob knows, wants us to send to others."""

    def setUp(self) -> None:
        super().setUp()
        self.eve = Identity.generate(self.net.random_bytes("eve"))
        self.bob.known.add(self.eve.peer_id, "eve")
        self.victims = [self.net.host(f"victim {number}") for number in range(5)]
        self.seen: list[Seen] = []
        self.net.trace = self.seen.append
        self.calls = 0

    def candidates(self, victims: list[Host]) -> tuple[Candidate, ...]:
        """As many candidates as a generation may have, of all types."""
        addresses = [Address(victim.address, port) for port in PORTS for victim in victims][:32]
        types = (CandidateType.HOST, CandidateType.SRFLX, CandidateType.RELAY)
        return tuple(
            Candidate(types[number % 3], each, 2**31 - 1 - number, str(number), related=Address("0.0.0.0", 9))
            if number % 3
            else Candidate(CandidateType.HOST, each, 2**31 - 1 - number, str(number))
            for number, each in enumerate(addresses)
        )

    def call(self, candidates: tuple[Candidate, ...], later: tuple[Candidate, ...] = ()) -> IceCredentials:  # type: ignore[override]
        """Eve calls; returns what Bob's answer says of his agent."""
        self.calls += 1
        call = self.net.random_bytes(f"call {self.calls}")(16).hex()
        private = X25519PrivateKey.from_private_bytes(self.net.random_bytes(f"reply {self.calls}")(32))
        offer = Offer("eve", UFRAG, PASSWORD, candidates, private.public_key().public_bytes_raw(), 5)
        envelope = seal_offer(self.eve, self.bob.id, offer)
        self.middle.deliver(self.bob.id, Incoming(call, self.eve.peer_id, "eve", envelope))
        trickle = TrickledCandidates(later, True)
        sealed = seal_trickle(
            self.eve, self.bob.id, self.bob.id.x25519(), call, envelope.digest(), 0, trickle
        )
        self.middle.deliver(self.bob.id, Candidates(call, self.eve.peer_id, sealed))
        self.net.advance(1.0)
        (answer,) = (
            each for each in self.middle.requests(Answer) if isinstance(each, Answer) and each.call == call
        )
        opened = open_answer(self.eve.peer_id, private, self.bob.id, envelope.digest(), answer.answer)
        self.current = call
        return IceCredentials(opened.ufrag, opened.password)

    def hang_up(self) -> None:
        """Eve ends the call."""
        ended = Ended(self.current, ErrorCode.CANCELLED, "", sender=self.eve.peer_id)
        self.middle.deliver(self.bob.id, ended)

    def got(self) -> tuple[int, int]:
        """Return how many packets and bytes have reached victims."""
        addresses = {victim.address for victim in self.victims}
        links = {interface.down.name for victim in self.victims for interface in victim.interfaces}
        arrived = [seen for seen in self.seen if seen.destination[0] in addresses and seen.link in links]
        return len(arrived), sum(seen.size for seen in arrived)

    def assert_little(self) -> None:
        """Check that all victims together got little."""
        packets, size = self.got()
        self.assertGreater(packets, 0)
        self.assertLessEqual(packets, MAX_PACKETS)
        self.assertLessEqual(size, MAX_BYTES)

    def call_after_call(self) -> None:
        """A dozen calls in nine minutes, each naming other addresses, in the offer and afterwards."""
        for number in range(12):
            everything = self.candidates(self.victims)
            self.call(everything[number % 8 : 16], everything[16 + number % 8 :])
            self.net.advance(43.0)
            self.hang_up()
        self.assert_little()


class VictimTests(VictimTestCase):
    """Bob is on the internet."""

    def test_one_call(self) -> None:
        """One call until it has failed."""
        self.call(self.candidates(self.victims[:1])[:8])
        self.net.advance(60.0)
        self.assert_little()

    def test_call_after_call(self) -> None:
        """Each call names other addresses."""
        self.call_after_call()

    def test_the_service(self) -> None:
        """Ports of the rendezvous, at whose reflector and relay Bob's packets are answered."""
        for _ in range(3):
            self.call(
                tuple(
                    Candidate(CandidateType.HOST, Address(SERVICE, port), 2**30 - number, str(number))
                    for number, port in enumerate((3478, 7001, *PORTS))
                )
            )
            self.net.advance(20.0)
            self.hang_up()
        checks = [
            seen
            for seen in self.seen
            if (seen.link, seen.protocol, seen.destination[0]) == ("bob up", "udp", SERVICE)
            and Attribute.USERNAME in dict(parse(seen.payload).attributes)
        ]
        self.assertGreater(len(checks), 0)
        self.assertLessEqual(len(checks), MAX_PACKETS)

    def test_ports_beside_one_that_answers(self) -> None:
        """Eve is behind the same address as her victims, answers at one port, and calls again and again."""
        shared = self.victims[0]
        own = Address(shared.address, 6999)
        socket = bind(shared, own.port)

        def answer() -> None:
            for data, source in socket.received:
                request = parse(data)
                if request.message_class is MessageClass.REQUEST:
                    mapped = (Attribute.XOR_MAPPED_ADDRESS, Address(*source))
                    socket.send(encode(success(request, mapped), PASSWORD.encode()), *source)
            socket.received.clear()

        answered = 0
        for _ in range(8):
            mine = Candidate(CandidateType.HOST, own, 2**31 - 1, "own")
            self.call((mine, *self.candidates([shared])))
            for _ in range(40):
                answered += len(socket.received)
                answer()
                self.net.advance(0.1)
            self.hang_up()
            self.net.advance(60.0)
        self.assertGreater(answered, 8)
        self.seen = [seen for seen in self.seen if tuple(seen.destination) != tuple(own)]
        self.assert_little()

    def test_checks_with_a_false_source(self) -> None:
        """Eve knows Bob's credentials, and sends checks and a handshake that seem to come from a victim."""
        bobs = self.call(())
        (base,) = self.bob.host.addresses
        (port,) = {socket.port for socket in self.bob.node.status.sockets}
        sockets = [bind(self.victims[0], each) for each in PORTS]
        eves = IceCredentials(UFRAG, PASSWORD)
        for number in range(20):
            for socket in sockets:
                random = self.net.random_bytes(f"check {number} {id(socket)}")
                check = build_check(random(12), eves, bobs, IceRole.CONTROLLING, 7, 2**24)
                socket.send(check, base, port)
                initial = bytes([0xC3, 0, 0, 0, 1, 8]) + random(8) + b"\0\0\x44\x90" + random(1160)
                socket.send(initial, base, port)
            self.net.advance(0.5)
        self.net.advance(60.0)
        self.assert_little()

    def test_an_honest_call_afterwards(self) -> None:
        """Alice's budget is used up by what her candidates were; the call comes about all the same."""
        self.eve = self.alice.identity
        for _ in range(2):
            self.call(self.candidates(self.victims))
            self.net.advance(5.0)
            self.hang_up()
        self.assert_little()
        introduce(self.bob, self.alice)
        self.alice.call(self.bob.id)
        self.alice.wait_for(Connected, 5.0)


class TranslatedVictimTests(VictimTestCase):
    """Bob is on a network of IPv6 and a NAT64, and Eve names each victim in several forms."""

    PREFIX = "64:ff9b:1::"

    def peer(self, name: str, accept: Accept = Accept.ASK, known: AddressBook | None = None) -> Peer:
        if name != "bob":
            return super().peer(name, accept, known)
        self.net.dns[DISCOVERY_NAME] = [f"{self.PREFIX}c000:aa"]
        nat64 = InternetNAT("203.0.113.1", nat64=IPv6Network(f"{self.PREFIX}/96"))
        lan = self.net.lan("ipv6", ipv6="2001:db8:1::/64", nat=nat64)
        peer = Peer(self.net, lan.host(name), self.address, accept=accept, known=known, pacing=0.02)
        self.peers.append(peer)
        return peer

    def candidates(self, victims: list[Host]) -> tuple[Candidate, ...]:
        return tuple(
            replace(each, address=each.address._replace(host=self.form(each.address.host, number % 3)))
            for number, each in enumerate(super().candidates(victims))
        )

    def form(self, host: str, number: int) -> str:
        """The address itself, or with the prefix of the network's NAT64, or with the well-known one."""
        prefix = ("", self.PREFIX, "64:ff9b::")[number]
        return str(IPv6Address(prefix) + int(IPv4Address(host))) if prefix else host

    def test_call_after_call(self) -> None:
        """All forms have one limit."""
        self.call_after_call()
        victims = {victim.address for victim in self.victims}
        forms = {self.form(host, 1) for host in victims}
        sent = [seen.destination[0] for seen in self.seen if seen.link == "bob up"]
        self.assertTrue(forms & set(sent))
        self.assertLessEqual(sum(host in forms for host in sent), MAX_PACKETS)
        self.assertEqual([host for host in sent if host.startswith("64:ff9b::")], [])

    def test_private_addresses(self) -> None:
        """Nothing goes to those of the network of the NAT64."""
        self.victims = [self.net.host(f"printer {number}", f"10.9.9.{number}") for number in range(5)]
        for _ in range(3):
            self.call(self.candidates(self.victims))
            self.net.advance(20.0)
            self.hang_up()
        self.assertEqual(self.got(), (0, 0))


class LyingRelayTests(SynchronousTestCase):
    """
    A relay works together with Eve: what is sent through it never leaves it, and it answers all checks, since
    it sees them and Eve knows the password.
    """

    OURS = Address("192.0.2.1", 5000), Address("2001:db8:1::1", 5000)
    RELAYED = Address("198.51.100.1", 50000), Address("2001:db8:2::1", 50000)
    HONEST = Address("198.51.100.2", 50000)
    VICTIMS = "203.0.113.66", "203.0.113.67", "2001:db8:3::66"

    def setUp(self) -> None:
        self.budget = Budget()
        self.random = Random(1)
        self.now = 0.0
        self.through_it = {*self.RELAYED}
        self.sent: list[Transmit] = []
        self.answered = 0

    def agent(self, *, steady: bool = False) -> Agent:
        """An agent of ours for a call or restart."""
        agent = Agent(
            controlling=False,
            credentials=IceCredentials.generate(self.random.randbytes),
            random=self.random.randbytes,
            steady=steady,
            budget=self.budget,
        )
        for base in self.OURS:
            agent.add_local_address(base)
        for relayed in self.RELAYED:
            agent.add_relayed(relayed, None, "lying relay", host=relayed.host)
        agent.add_relayed(self.HONEST, None, "honest relay", host=self.HONEST.host)
        agent.set_remote(IceCredentials(UFRAG, PASSWORD), 0.05, self.now)
        return agent

    def run_until(self, agent: Agent, end: float) -> None:
        """The relay answers all that comes to it, and asks in the name of all victims."""
        while self.now < end:
            for transmit in agent.datagrams_to_send(self.now):
                message = parse(transmit.data)
                if transmit.local not in self.through_it:
                    self.sent.append(transmit)
                elif message.message_class is MessageClass.REQUEST:
                    mapped = (Attribute.XOR_MAPPED_ADDRESS, transmit.local)
                    answer = encode(success(message, mapped), PASSWORD.encode())
                    self.answered += 1
                    agent.receive_datagram(answer, transmit.remote, transmit.local, self.now)
                    # It sends the same from other addresses, as if the victim had answered
                    for local in (*self.OURS, self.HONEST):
                        if local.is_ipv6 == transmit.remote.is_ipv6:
                            agent.receive_datagram(answer, transmit.remote, local, self.now)
            while agent.next_event() is not None:
                pass
            self.now += 0.2

    def ask(self, agent: Agent, size: int) -> None:
        """Checks that seem to come from the victims, to all of our addresses."""
        eves = IceCredentials(UFRAG, PASSWORD)
        for local in (*self.RELAYED, *self.OURS, self.HONEST):
            for host in self.VICTIMS:
                victim = Address(host, PORTS[0])
                if victim.is_ipv6 == local.is_ipv6:
                    transaction_id = self.random.randbytes(12)
                    check = build_check(
                        transaction_id, eves, agent.credentials, IceRole.CONTROLLING, 7, 2**24, size=size
                    )
                    agent.receive_datagram(check, victim, local, self.now)

    def test_its_answers_open_no_other_route(self) -> None:
        """Ten minutes of calls and restarts: nearly nothing goes to victims but through this relay."""
        kinds = (CandidateType.HOST, CandidateType.SRFLX, CandidateType.RELAY)
        for call in range(10):
            agent = self.agent(steady=bool(call % 2))
            for number, host in enumerate(self.VICTIMS * 2):
                kind = kinds[(number + call) % 3]
                related = None if kind is CandidateType.HOST else Address("0.0.0.0", 9)
                victim = Address(host, PORTS[number % 2])
                agent.add_remote_candidate(
                    Candidate(kind, victim, 2**31 - 1 - number, str(number), related=related), self.now
                )
            for number in range(4):
                self.ask(agent, size=1200 if number % 2 else 0)
                self.run_until(agent, self.now + 13.0)
        self.assertLess(self.now, WINDOW)
        self.assertGreater(self.answered, 50)
        self.assertGreater(len(self.sent), 0)
        self.assertLessEqual(len(self.sent), MAX_PACKETS)
        size = sum(len(each.data) + (48 if each.remote.is_ipv6 else 28) for each in self.sent)
        self.assertLessEqual(size, MAX_BYTES)
        relayed, victim = self.RELAYED[0], Address(self.VICTIMS[0], PORTS[0])
        self.assertTrue(self.budget.is_validated(Route(victim, relayed), self.now))
        for through in (None, self.HONEST):
            self.assertFalse(self.budget.is_validated(Route(victim, through), self.now))

    def test_our_own_router(self) -> None:
        """
        It answers for the address at which reflectors see us, and for that of a socket: nobody can have us
        aim there. What it says of another address is believed, which is why few packets go to named ports.
        """
        ours, socket, other = "203.0.113.50", self.OURS[0].host, self.VICTIMS[0]
        for host, proven in ((other, {other}), (ours, set()), (socket, set())):
            self.budget = Budget()
            agent = self.agent()
            agent.reflexive.add(self.OURS[0], Address(ours, 5000))
            named = Candidate(CandidateType.HOST, Address(host, 7000), 2**30, "1")
            agent.add_remote_candidate(named, self.now)
            self.run_until(agent, self.now + 5.0)
            self.assertEqual(agent.openings.proven_hosts, proven)

    def test_ports_of_a_relay(self) -> None:
        """
        Calls that name ever new ports at the address of a relay that we use, and nothing answers there. The
        limit for each minute is only for what goes through this relay.
        """
        kinds = (CandidateType.HOST, CandidateType.SRFLX, CandidateType.RELAY)
        for call in range(12):
            agent = self.agent()
            for number in range(8):
                kind = kinds[number % 3]
                related = None if kind is CandidateType.HOST else Address("0.0.0.0", 9)
                named = self.HONEST._replace(port=50_100 + 10 * call + number)
                candidate = Candidate(kind, named, 2**31 - 1 - number, str(number), related=related)
                agent.add_remote_candidate(candidate, self.now)
            self.run_until(agent, self.now + 45.0)
        self.assertLess(self.now, WINDOW)
        to_relay = [each for each in self.sent if each.remote.host == self.HONEST.host]
        within = sum(each.local == self.HONEST for each in to_relay)
        self.assertGreater(within, MAX_PACKETS)
        self.assertGreater(len(to_relay) - within, 0)
        self.assertLessEqual(len(to_relay) - within, MAX_PACKETS)

    def test_where_it_says_that_it_relays(self) -> None:
        """
        A relay may say that its relayed addresses are at a victim's host. What goes there but through this
        relay has no limit for each minute.
        """
        victim = Address(self.VICTIMS[0], 50000)
        self.through_it.add(victim)
        for call in range(9):
            agent = self.agent()
            agent.add_relayed(victim, None, "lying relay", host=self.RELAYED[0].host)
            for port in PORTS:
                named = victim._replace(port=port)
                kind, related = CandidateType.RELAY, Address("0.0.0.0", 9)
                agent.add_remote_candidate(Candidate(kind, named, 1000, "1", related=related), self.now)
            self.run_until(agent, self.now + RELAY_WINDOW + call)
        self.assertGreater(len(self.sent), 0)
        self.assertLessEqual(len(self.sent), MAX_PACKETS)


class HonestTests(SynchronousTestCase):
    """Two agents that have nearly used up what they may send."""

    def test_a_path_that_opens_late(self) -> None:
        """
        Behind NATs that let in only whom one has sent to, after twenty seconds in which nothing passed
        between them: the next of the checks that are kept for later find a way.
        """
        network = IceNetwork(budgets=True)
        nats = NAT("203.0.113.1"), NAT("203.0.113.2")
        alice = network.host("alice", "192.168.1.2", nat=nats[0], steady=True)
        bob = network.host("bob", "192.168.2.2", nat=nats[1], steady=True, controlling=False)
        began = network.now
        publics = {nat.public for nat in nats}
        network.blocked = lambda source, target: network.now < began + 20.0 and target.host in publics
        for host in (alice, bob):
            host.agent.gather([REFLECTOR], network.now)
        network.run(4.0)
        network.introduce(alice, bob, end=False)
        network.introduce(bob, alice, end=False)
        network.run(60.0, network.connected)
        self.assertTrue(network.connected())
        self.assertLess(network.now - began, 20.0 + 2 * LATER_GAP)
