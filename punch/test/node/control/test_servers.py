"""Several servers of one rendezvous: their order, and how a peer goes from one to the other."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IResolver
from twisted.internet.protocol import Factory
from twisted.names import dns
from twisted.names.error import DNSNameError
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.net.srv import TIMEOUT, LookUpService, ServiceResolver
from punch.node.control.client import ControlClient
from punch.node.control.servers import Server, Servers
from punch.rendezvous.members.lists import DenyList
from punch.test.internet import Host, Internet
from punch.test.internet.testcase import InternetTestCase
from punch.test.node.control.scripted_service import ScriptedConnection, ScriptedService
from punch.test.node.control.test_tls import Watcher
from punch.test.system import Rendezvous
from punch.wire.control import Accept, Error, ErrorCode, Register, Request, Welcome
from punch.wire.rendezvous_address import RendezvousAddress, ServiceRecord, in_order, pin_of

A, B, C = (RendezvousAddress(f"192.0.2.{number}") for number in (1, 2, 3))
NAME = RendezvousAddress.parse("punch://example.org")


def counter() -> object:
    """A source of randomness that gives 0, 1, 2, …"""
    numbers = count()
    return lambda size: next(numbers).to_bytes(size, "big")


class OrderTests(SynchronousTestCase):
    def order(self, servers: Servers) -> list[str]:
        return [server.address.host for server in servers.order()]

    def test_as_given(self) -> None:
        self.assertEqual(self.order(Servers([B, A, C], bytes)), [B.host, A.host, C.host])

    def test_the_one_that_answered_last_comes_first(self) -> None:
        servers = Servers([A, B, C], bytes)
        servers.answered(Server(C, C))
        self.assertEqual(self.order(servers), [C.host, A.host, B.host])

    def test_one_that_failed_comes_last_until_it_answers(self) -> None:
        servers = Servers([A, B], bytes)
        servers.answered(Server(A, A))
        servers.failed(Server(A, A))
        self.assertEqual(self.order(servers), [B.host, A.host])
        servers.answered(Server(A, A))
        self.assertEqual(self.order(servers), [A.host, B.host])

    def test_priority_then_weight(self) -> None:
        """SRV records are ordered by RFC 2782: by priority, then at random by weight."""
        records = [
            ServiceRecord(20, 0, "last", 1),
            ServiceRecord(10, 1, "light", 1),
            ServiceRecord(10, 9, "heavy", 1),
        ]
        random = counter()
        orders = Counter(
            tuple(record.host for record in in_order(records, random))  # type: ignore[arg-type]
            for _ in range(1100)
        )
        self.assertEqual(set(orders), {("light", "heavy", "last"), ("heavy", "light", "last")})
        self.assertGreater(orders["heavy", "light", "last"], 3 * orders["light", "heavy", "last"])

    def test_records_stand_for_a_name(self) -> None:
        servers = Servers([NAME], bytes)
        self.assertEqual(servers.names, ["example.org"])
        self.assertEqual(servers.order(), [Server(NAME, NAME)])
        servers.found("example.org", [ServiceRecord(1, 0, "a.example.net", 443)])
        (server,) = servers.order()
        self.assertEqual((server.address.location, server.proves.host), ("a.example.net:443", "example.org"))
        servers.found("example.org", None)
        self.assertEqual(servers.order(), [server])

    def test_no_such_service(self) -> None:
        servers = Servers([NAME], bytes)
        servers.found("example.org", [ServiceRecord(0, 0, "", 0)])
        self.assertEqual(servers.order(), [])

    def test_a_port_needs_no_look_up(self) -> None:
        self.assertEqual(Servers([RendezvousAddress.parse("example.org:7001"), A], bytes).names, [])


class StubDNS:
    """Answers as it is told to, in place of the name servers of this machine."""

    def __init__(self, answer: Deferred[object]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def lookupService(self, name: str, timeout: object) -> Deferred[object]:
        """Answer."""
        self.asked.append(name)
        return self.answer


class LookUpTests(InternetTestCase):
    def look_up(self, answer: Deferred[object]) -> list[object]:
        net = self.internet()
        self.dns = StubDNS(answer)
        found: list[object] = []
        resolver = ServiceResolver(net.host("a").reactor, lambda: self.dns)  # type: ignore[arg-type,return-value]
        resolver("example.org").addCallback(found.append)
        net.advance(TIMEOUT + 0.1)
        return found

    def test_records(self) -> None:
        payloads = [
            dns.Record_SRV(10, 5, 7001, b"One.example.org"),
            dns.Record_SRV(20, 0, 443, b"not/a/host"),
            dns.Record_CNAME(b"other.example.org"),
        ]
        answers = [dns.RRHeader(b"example.org", payload.TYPE, payload=payload) for payload in payloads]
        found = self.look_up(succeed((answers, [], [])))
        self.assertEqual(found, [[ServiceRecord(10, 5, "one.example.org", 7001)]])
        self.assertEqual(self.dns.asked, ["_punch._tcp.example.org"])

    def test_what_others_may_not_name(self) -> None:
        """
        IP addresses for names, what only has a name in it, and the ports of other protocols; a target of "."
        is kept.
        """
        odd = (b"\nb.example.org", b"punch://b.example.org", b"\xff.example.org")
        payloads = [
            *(dns.Record_SRV(1, 0, 7001, host) for host in (b"127.0.0.1", b"[::1]", b"10", b"0x7f.1", *odd)),
            *(dns.Record_SRV(1, 0, port, b"a.example.org") for port in (0, 22, 25, 443, 1023, 1024)),
            dns.Record_SRV(2, 0, 0, b""),
        ]
        answers = [dns.RRHeader(b"example.org", payload.TYPE, payload=payload) for payload in payloads]
        (found,) = self.look_up(succeed((answers, [], [])))
        assert isinstance(found, list)
        self.assertEqual(
            [(record.host, record.port) for record in found],
            [("a.example.org", 443), ("a.example.org", 1024), ("", 0)],
        )

    def test_what_the_library_raises_at_once(self) -> None:
        """As for a malformed /etc/resolv.conf, or without descriptors."""

        def broken() -> IResolver:
            raise IndexError("nameserver")

        net = self.internet()
        found: list[object] = []
        ServiceResolver(net.host("a").reactor, broken)("example.org").addCallback(found.append)
        self.assertEqual(found, [None])

    def test_no_such_name(self) -> None:
        answer: Deferred[object] = Deferred()
        answer.errback(DNSNameError())
        self.assertEqual(self.look_up(answer), [()])

    def test_silence(self) -> None:
        self.assertEqual(self.look_up(Deferred()), [None])

    def test_broken_network(self) -> None:
        answer: Deferred[object] = Deferred()
        answer.errback(OSError("No domain name servers available"))
        self.assertEqual(self.look_up(answer), [None])


class AnyHostWatcher(Watcher):
    """Takes a welcome from any host."""

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        self.welcomes.append(welcome)


class FailoverTests(InternetTestCase):
    """A client with two servers that have the same key."""

    def setUp(self) -> None:
        self.net: Internet = self.internet()
        self.hosts = [self.net.host(f"server {number}", f"198.51.100.{number}") for number in (1, 2)]
        self.one = Rendezvous(self.net, self.hosts[0], relay=False)
        self.two = Rendezvous(self.net, self.hosts[1], relay=False, name="198.51.100.2")
        self.watcher = AnyHostWatcher(self.net)

    def client(
        self,
        *addresses: RendezvousAddress,
        look_up_service: LookUpService | None = None,
        member: Identity | None = None,
    ) -> ControlClient:
        """A client that is started."""
        machine: Host = self.net.host(" ".join(["client of", *(each.location for each in addresses)]))
        self.machine = machine
        client = ControlClient(
            reactor=machine.reactor,
            address=addresses,
            identity=Identity.generate(self.net.random_bytes("client key")),
            register=Register("alice", Accept.ASK),
            handler=self.watcher,
            random=self.net.random_bytes("client"),
            look_up_service=look_up_service,
            member=member,
            for_relays=member is not None,
        )
        client.start()
        self.addCleanup(client.stop)
        return client

    def test_moves_to_the_other_server(self) -> None:
        client = self.client(self.one.address, self.two.address)
        self.net.run_until(lambda: self.watcher.welcomes, 5.0, "a welcome")
        self.assertEqual(client.address, self.one.address)
        self.one.stop()
        self.net.run_until(lambda: len(self.watcher.welcomes) == 2, 5.0, "another welcome")
        self.assertEqual(client.address, self.two.address)

    def test_servers_that_are_looked_up(self) -> None:
        """The records lead to the server; its pin is that of the address which was given."""
        records = [ServiceRecord(10, 0, "198.51.100.1", self.one.address.port)]
        name = replace(NAME, pin=self.one.address.pin)
        client = self.client(name, look_up_service=lambda domain: succeed(records))
        self.net.run_until(lambda: self.watcher.welcomes, 5.0, "a welcome")
        self.assertEqual(client.address, self.one.address)

    def test_stopped_during_a_look_up(self) -> None:
        """It ends at once, with no error left over."""
        answers: list[Deferred[Sequence[ServiceRecord] | None]] = []

        def look_up(domain: str) -> Deferred[Sequence[ServiceRecord] | None]:
            answers.append(Deferred())
            return answers[-1]

        client = self.client(NAME, look_up_service=look_up)
        self.net.advance(1.0)
        self.net.wait(client.stop(), 1.0)
        del client
        gc.collect()  # Failures that nobody takes are told when they are collected
        self.assertEqual(self.flushLoggedErrors(), [])
        answers[0].callback(())
        self.net.advance(5.0)
        self.assertEqual(self.watcher.welcomes, [])

    def test_passes_a_server_that_is_silent_or_refuses(self) -> None:
        refused = RendezvousAddress("198.51.100.2", 9, self.two.address.pin)
        silent = RendezvousAddress("203.0.113.99", 7001, self.two.address.pin)
        client = self.client(refused, silent, self.two.address)
        self.net.run_until(lambda: self.watcher.welcomes, 6.0, "a welcome")
        self.assertEqual(client.address, self.two.address)
        self.assertEqual(self.watcher.problems, [])

    def test_what_a_server_says_is_shown_while_another_one_is_down(self) -> None:
        """In whatever order they are tried; and they are tried again."""
        down = RendezvousAddress("198.51.100.2", 9, self.one.address.pin)
        self.one.service.deny(DenyList.parse("0.0.0.0/0"))
        for addresses in ((self.one.address, down), (down, self.one.address)):
            self.client(*addresses)
            self.net.advance(3.0)
        codes = [problem.error for _, problem, _ in self.watcher.problems]
        self.assertGreater(len(codes), 3)
        self.assertEqual(set(codes), {ErrorCode.DENIED})
        self.assertNotIn(None, [retry_in for _, _, retry_in in self.watcher.problems])

    def test_a_refusal_is_final_only_if_it_is_everywhere(self) -> None:
        """A service of another version of the protocol, beside one that is down, and alone."""
        key = Identity.generate(self.net.random_bytes("another key"))
        other = ScriptedService.with_key(self.net.host("other", "198.51.100.3"), key)

        def refuse(connection: ScriptedConnection, request: Request) -> None:
            connection.reply(Error(ErrorCode.VERSION, "No."))
            connection.close()

        other.answer = refuse
        address = RendezvousAddress("198.51.100.3", 7001, pin_of(key.private_key.public_key()))
        down = RendezvousAddress("198.51.100.2", 9, address.pin)
        for addresses, goes_on in (((down, address), True), ((address, down), True), ((address,), False)):
            client = self.client(*addresses)
            self.net.advance(3.0)
            client.stop()
            self.net.advance(1.0)
            self.assertEqual({each.error for _, each, _ in self.watcher.problems}, {ErrorCode.VERSION})
            self.assertEqual(self.watcher.problems[-1][2] is not None, goes_on)
            self.watcher.problems.clear()

    def test_registers_again_for_relays_with_the_same_server(self) -> None:
        """With a member's voucher. The other server is asked nothing, and what comes later is reported."""
        key = Identity.generate(self.net.random_bytes("another key"))
        servers = [
            ScriptedService.with_key(self.net.host(host, host), key)
            for host in ("198.51.100.3", "198.51.100.4")
        ]

        def welcome(connection: ScriptedConnection, request: Request) -> None:
            if isinstance(request, Register):
                assert connection.peer is not None
                connection.reply(
                    Welcome(connection.peer, "203.0.113.1", 0, 20.0, relays_for_members=not request.voucher)
                )

        for server in servers:
            server.answer = welcome
        pin = pin_of(key.private_key.public_key())
        addresses = [RendezvousAddress(f"198.51.100.{number}", 7001, pin) for number in (3, 4)]
        client = self.client(*addresses, member=Identity.generate(self.net.random_bytes("member key")))
        self.net.run_until(lambda: self.watcher.welcomes, 5.0, "a welcome")
        vouched = [
            [bool(request.voucher) for request in server.requests if isinstance(request, Register)]
            for server in servers
        ]
        self.assertEqual(vouched, [[False, True], []])
        self.assertEqual((client.address, self.watcher.problems), (addresses[0], []))
        servers[0].last.reply(Error(ErrorCode.REPLACED, "Another one is there."))
        servers[0].last.close()
        self.net.advance(1.0)
        ((_, problem, retry_in),) = self.watcher.problems
        self.assertEqual((problem.error, retry_in), (ErrorCode.REPLACED, None))

    def test_a_wrong_pin_does_not_end_it_while_another_server_may_come_back(self) -> None:
        wrong = RendezvousAddress("198.51.100.1", 7001, bytes(32))
        refused = RendezvousAddress("198.51.100.2", 9, bytes(32))
        self.client(wrong, refused)
        self.net.advance(10.0)
        self.assertGreater(len(self.watcher.problems), 1)
        self.assertTrue(all(retry is not None for _, _, retry in self.watcher.problems))

    def test_records_that_name_this_machine(self) -> None:
        """The names in records may not lead to loopback or link-local addresses."""
        self.net.dns["server.example.org"] = ["127.0.0.1", "169.254.1.1", "198.51.100.2"]
        records = [ServiceRecord(1, 0, "server.example.org", 7001), ServiceRecord(2, 0, "localhost", 7001)]
        name = replace(NAME, pin=self.two.address.pin)
        client = self.client(name, look_up_service=lambda domain: succeed(records))
        reached: list[object] = []

        class Listener(Factory):
            def buildProtocol(self, addr: IAddress | None) -> None:
                reached.append(addr)

        for own in ("127.0.0.1", "::1"):
            self.machine.reactor.listenTCP(7001, Listener(), interface=own)
        self.net.run_until(lambda: self.watcher.welcomes, 5.0, "a welcome")
        self.assertEqual(client.address, RendezvousAddress("server.example.org", 7001, name.pin))
        self.two.stop()
        self.net.advance(20.0)
        self.assertEqual(reached, [])
