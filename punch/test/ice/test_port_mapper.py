"""The core that asks routers for ports, with answers that a router or somebody else may send."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.port_lease import CONFIRM, LIFETIME, RETRY, TRIES, MappingProtocol, PortMapping
from punch.ice.port_mapper import (
    MAX_TCP_PORTS,
    RELEASE_AGAIN,
    Event,
    Mapped,
    PortMapper,
    Unmapped,
    mapped_addresses,
)
from punch.wire.address import Address, TCPAddress, Transmit

GATEWAY = Address("192.168.1.1", 5351)
BASE = Address("192.168.1.7", 40000)
OTHER_BASE = Address("192.168.1.8", 40001)
TCP_BASE = TCPAddress(BASE.host, 40010)
BASE6 = Address("2001:db8::7", 40000)
EXTERNAL = Address("203.0.113.5", 41000)


def is_pcp(transmit: Transmit) -> bool:
    return transmit.data[0] == 2


def pcp(
    request: bytes,
    external: Address = EXTERNAL,
    *,
    result: int = 0,
    lifetime: int = LIFETIME,
    epoch: int = 100,
) -> bytes:
    """PCP's answer to a request (RFC 6887, section 11.1)."""
    ip = ip_address(external.host).packed
    host = ip if len(ip) == 16 else bytes(10) + b"\xff\xff" + ip
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, lifetime, epoch)
    return head + request[24:42] + struct.pack("!H16s", external.port, host)


def nat_pmp(
    request: bytes,
    external: Address = EXTERNAL,
    *,
    result: int = 0,
    lifetime: int = LIFETIME,
    epoch: int = 100,
) -> bytes:
    """NAT-PMP's answer to a request; to one of PCP, the refusal of its version (RFC 6887, appendix A)."""
    if request[0] == 2:
        return struct.pack("!BBHI", 0, 0x81, 1, epoch)
    if request[1] == 0:
        return struct.pack("!BBHI4s", 0, 0x80, result, epoch, ip_address(external.host).packed)
    (internal,) = struct.unpack_from("!H", request, 4)
    return struct.pack("!BBHIHHI", 0, 0x80 | request[1], result, epoch, internal, external.port, lifetime)


class PortMapperTestCase(SynchronousTestCase):
    """One socket at one gateway, unless a test says otherwise."""

    def setUp(self) -> None:
        self.core = PortMapper(Random(1).randbytes)
        self.now = 1000.0

    def keep(self, *bases: Address, anew: bool = False) -> list[Transmit]:
        """A call needs the ports of these sockets; returns the requests that are sent."""
        bases = bases or (BASE,)
        self.core.keep(bases, {base.host: "192.168.1.1" for base in bases}, self.now, anew=anew)
        return self.sent()

    def sent(self) -> list[Transmit]:
        return self.core.datagrams_to_send(self.now)

    def advance(self, seconds: float, answer: Callable[[bytes], bytes] | None = None) -> list[Transmit]:
        """Let time pass; returns all requests, which `answer` answers."""
        end = self.now + seconds
        sent = self.sent()
        while (due := self.core.get_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            more = self.sent()
            sent += more
            for transmit in more if answer is not None else ():
                assert answer is not None
                self.receive(answer(transmit.data), local=transmit.local)
        self.now = end
        return sent

    def receive(self, data: bytes, remote: Address = GATEWAY, local: Address = BASE) -> None:
        # It comes to another socket than that whose port is mapped
        self.core.receive_datagram(data, remote, Address(local.host, 5), self.now)

    def events(self) -> list[Event]:
        found = []
        while (event := self.core.next_event()) is not None:
            found.append(event)
        return found

    def mapped(self, answer: Callable[[bytes], bytes] = pcp) -> PortMapping:
        """Have a port mapped."""
        pending = self.keep()
        while pending:
            for transmit in pending:
                self.receive(answer(transmit.data))
            pending = self.sent()
        (mapping,) = self.core.mappings
        self.assertEqual(self.events(), [Mapped(mapping)])
        return mapping


class AskingTests(PortMapperTestCase):
    """How a port is asked for."""

    def test_both_at_once(self) -> None:
        """PCP is asked for the mapping, NAT-PMP for the address only, so that a router makes one mapping."""
        one, two = self.keep()
        self.assertEqual((one.remote, one.local, two.remote), (GATEWAY, BASE, GATEWAY))
        self.assertEqual((one.data[:2].hex(), two.data.hex()), ("0201", "0000"))
        self.receive(nat_pmp(two.data))
        self.receive(pcp(one.data))
        self.assertEqual(self.events(), [Mapped(PortMapping(BASE, EXTERNAL, MappingProtocol.PCP))])
        self.assertEqual(self.advance(60.0), [])

    def test_nat_pmp_when_pcp_is_refused(self) -> None:
        """NAT-PMP is asked for the mapping, in whatever order the two answers come."""
        for first in (0, 1):
            self.core = PortMapper(Random(1).randbytes)
            requests = self.keep()
            for transmit in (requests[first], requests[1 - first]):
                self.receive(nat_pmp(transmit.data))
            (request,) = self.sent()
            self.assertEqual(request.data, bytes.fromhex("00010000 9c40 9c40 00001c20"))
            self.receive(nat_pmp(request.data))
            self.assertEqual(self.events(), [Mapped(PortMapping(BASE, EXTERNAL, MappingProtocol.NAT_PMP))])

    def test_nat_pmp_when_pcp_is_ignored(self) -> None:
        """NAT-PMP is asked after two requests of PCP, since one of them may have been lost."""
        self.receive(nat_pmp(self.keep()[1].data))
        sent = self.advance(0.75)
        self.assertEqual([is_pcp(each) for each in sent], [True, False])
        self.receive(nat_pmp(sent[1].data))
        self.assertEqual(self.core.mappings, [PortMapping(BASE, EXTERNAL, MappingProtocol.NAT_PMP)])

    def test_silence(self) -> None:
        """
        Most routers answer nothing: they get five requests of each kind, and more only for a call ten minutes
        later.
        """
        self.keep()
        self.assertTrue(self.core.may_follow)
        self.advance(1.8)
        self.assertFalse(self.core.may_follow)
        self.assertEqual(self.core.in_use, {BASE.host})
        self.assertEqual(len(self.advance(RETRY)), 2 * (TRIES - 4))
        self.assertEqual((self.core.in_use, self.core.get_timer()), (set(), None))
        self.now -= 60.0
        self.assertEqual(self.keep(), [])
        self.now += 60.0 + RETRY
        self.assertEqual(len(self.keep()), 2)

    def test_ipv6_is_asked_by_pcp_only(self) -> None:
        """PCP opens the firewall. The router is at a link-local address (RFC 6887, section 8.1)."""
        self.core.keep([BASE6], {BASE6.host: "fe80::1%eth0"}, self.now)
        (request,) = self.sent()
        self.assertEqual(request.remote, Address("fe80::1%eth0", 5351))
        self.assertEqual(request.data[8:24], ip_address(BASE6.host).packed)
        self.receive(pcp(request.data, BASE6), Address("fe80::1", 5351), BASE6)
        self.assertEqual(self.core.mappings, [PortMapping(BASE6, BASE6, MappingProtocol.PCP)])

    def test_no_gateway(self) -> None:
        self.core.keep([BASE, BASE6], {}, self.now)
        self.assertEqual((self.sent(), self.core.may_follow), ([], False))


class KeepingTests(PortMapperTestCase):
    """How a mapping is kept."""

    def test_renewed_before_half_its_life(self) -> None:
        for answer in (pcp, nat_pmp):
            self.core = PortMapper(Random(1).randbytes)
            before = self.mapped(answer)
            begin = self.now
            due = self.core.get_timer()
            assert due is not None
            self.assertTrue(0.43 * LIFETIME <= due - begin < 0.5 * LIFETIME)
            sent = self.advance(10 * LIFETIME, answer)
            self.assertLess(len(sent), 60)
            self.assertEqual((self.core.mappings, self.events()), ([before], []))
            # The same port is wished for
            self.assertTrue(all(b"\xa0\x28" in each.data for each in sent if len(each.data) > 2))

    def test_expires_when_it_is_not_renewed(self) -> None:
        """The router is asked again at intervals that halve, and at the end the mapping is gone."""
        mapping = self.mapped()
        sent = self.advance(LIFETIME - 1)
        self.assertEqual(self.core.mappings, [mapping])
        self.assertTrue(3 * TRIES < len(sent) < 12 * TRIES, len(sent))
        self.advance(2.0)
        self.assertEqual((self.core.mappings, self.events()), ([], [Unmapped(mapping)]))
        self.advance(RETRY)
        self.assertIsNone(self.core.get_timer())

    def test_short_and_long_lifetimes(self) -> None:
        """
        A lifetime that is too short, such as 0, is no mapping. None is believed to be longer than a day.
        """
        for lifetime in (0, 1, 19):
            self.core = PortMapper(Random(1).randbytes)
            for transmit in self.keep():
                self.receive(pcp(transmit.data, lifetime=lifetime))
            self.assertEqual((self.core.mappings, self.advance(RETRY)), ([], []))
        self.core = PortMapper(Random(1).randbytes)
        self.mapped(lambda request: pcp(request, lifetime=20))
        self.assertLess(len(self.advance(100.0, lambda request: pcp(request, lifetime=20))), 15)
        self.core = PortMapper(Random(1).randbytes)
        self.mapped(lambda request: pcp(request, lifetime=2**32 - 1))
        self.assertEqual(len(self.advance(86400 / 2, pcp)), 1)

    def test_another_port(self) -> None:
        """Another program has the port that is requested, or has taken it while the router restarted."""
        self.mapped()
        self.now += CONFIRM
        (request,) = self.keep()
        taken = Address(EXTERNAL.host, 999)
        self.receive(pcp(request.data, taken))
        self.assertEqual(self.events(), [Mapped(PortMapping(BASE, taken, MappingProtocol.PCP))])

    def test_a_call_confirms_an_old_mapping(self) -> None:
        for answer, count in ((pcp, 1), (nat_pmp, 1)):
            self.core = PortMapper(Random(1).randbytes)
            self.mapped(answer)
            self.now += CONFIRM - 1
            self.assertEqual(self.keep(), [])
            self.now += 1
            self.assertEqual(len(self.keep()), count)

    def test_a_restarted_router(self) -> None:
        """Its epoch begins anew: the other mappings are asked for at once (RFC 6887, section 8.5)."""
        for epoch, lost in ((100 + 45, False), (3, True), (10_000, True), (99, True)):
            self.core = PortMapper(Random(1).randbytes)
            for transmit in self.keep(BASE, OTHER_BASE):
                if is_pcp(transmit):
                    self.receive(pcp(transmit.data), local=transmit.local)
            self.assertEqual(len(self.core.mappings), 2)
            self.now += 45
            first, second = self.keep(BASE, OTHER_BASE)
            self.receive(pcp(second.data, epoch=145), local=second.local)
            self.receive(pcp(first.data, epoch=epoch), local=first.local)
            self.assertEqual([each.local for each in self.sent()], [OTHER_BASE] if lost else [], epoch)

    def test_a_router_with_an_erratic_epoch(self) -> None:
        """Each answer looks like a restart. Two sockets must not cause requests for each other for ever."""
        epochs = Random(2)
        waiting = self.keep(BASE, OTHER_BASE)
        asked = 0
        for _ in range(100):
            asked += len(waiting)
            self.now += 0.01
            for transmit in waiting:
                if is_pcp(transmit):
                    self.receive(pcp(transmit.data, epoch=epochs.getrandbits(32)), local=transmit.local)
            waiting = self.sent()
        self.assertLess(asked, 8)
        self.assertEqual(len(self.core.mappings), 2)

    def test_addresses_that_go_and_come(self) -> None:
        """A missing route changes nothing; a socket that is gone, or a new router, ends the mapping."""
        mapping = self.mapped()
        self.core.keep([BASE], {}, self.now)
        self.assertEqual((self.core.mappings, self.sent()), ([mapping], []))
        self.core.keep([BASE], {BASE.host: "192.168.1.254"}, self.now)
        self.assertEqual((self.core.mappings, self.events()), ([], [Unmapped(mapping)]))
        self.assertEqual({each.remote.host for each in self.sent()}, {"192.168.1.254"})
        self.core.keep([], {}, self.now)
        self.assertEqual((self.sent(), self.core.get_timer()), ([], None))

    def test_released(self) -> None:
        """The mapping is deleted by a request with lifetime 0, of the protocol that made it."""
        self.mapped()
        self.core.release(self.now)
        (request,) = self.sent()
        self.assertEqual(
            (request.data[:8].hex(), request.data[40:44].hex()), ("0201000000000000", "9c400000")
        )
        self.core = PortMapper(Random(1).randbytes)
        self.mapped(nat_pmp)
        self.core.release(self.now)
        (request,) = self.sent()
        self.assertEqual(request.data.hex(), "000100009c40000000000000")

    def test_released_twice(self) -> None:
        """The first request may be lost, and its answer is not waited for."""
        for answer in (pcp, nat_pmp):
            self.core = PortMapper(Random(1).randbytes)
            self.mapped(answer)
            self.core.release(self.now)
            requests = self.sent()
            self.assertEqual((len(requests), self.core.is_releasing), (1, True))
            self.assertEqual(self.core.in_use, {BASE.host})
            self.assertEqual(self.core.get_timer(), self.now + RELEASE_AGAIN)
            self.now += RELEASE_AGAIN
            self.assertEqual(self.sent(), requests)
            self.assertEqual((self.core.is_releasing, self.core.get_timer()), (False, None))


class TCPTests(PortMapperTestCase):
    """TCP ports, which are mapped while somebody needs them."""

    def add(self, base: Address = TCP_BASE) -> list[Transmit]:
        self.core.add_tcp(base, self.now)
        return self.sent()

    def test_asked_by_what_works(self) -> None:
        """
        A TCP port is requested by the protocol that has mapped the UDP port: one request of PCP, or two of
        NAT-PMP in turn.
        """
        self.mapped()
        (request,) = self.add()
        self.assertEqual((request.data[:2].hex(), request.data[36], request.local), ("0201", 6, TCP_BASE))
        self.assertTrue(self.core.awaits_tcp(TCP_BASE))
        self.receive(pcp(request.data))
        mapping = PortMapping(TCP_BASE, TCPAddress(*EXTERNAL), MappingProtocol.PCP)
        self.assertEqual((self.core.mapping_of(TCP_BASE), self.events()), (mapping, [Mapped(mapping)]))
        self.core = PortMapper(Random(1).randbytes)
        self.mapped(nat_pmp)
        (request,) = self.add()
        self.assertEqual(request.data.hex(), "0000")
        self.receive(nat_pmp(request.data))
        (request,) = self.sent()
        self.assertEqual(request.data.hex(), "000200009c4a9c4a00001c20")
        self.receive(nat_pmp(request.data))
        mapping = PortMapping(TCP_BASE, TCPAddress(*EXTERNAL), MappingProtocol.NAT_PMP)
        self.assertEqual(self.core.mapping_of(TCP_BASE), mapping)
        self.assertEqual(self.advance(60.0), [])

    def test_waits_for_the_udp_port(self) -> None:
        """A router that has not answered yet is asked when it has; one that maps none is not asked at all."""
        pending = self.keep()
        self.assertEqual(self.add(), [])
        self.assertTrue(self.core.awaits_tcp(TCP_BASE))
        self.receive(pcp(pending[0].data))
        (request,) = self.sent()
        self.assertEqual(request.data[36], 6)
        self.core = PortMapper(Random(1).randbytes)
        for transmit in self.keep():
            answer = pcp if is_pcp(transmit) else nat_pmp
            self.receive(answer(transmit.data, result=2))
        self.assertEqual((self.add(), self.core.awaits_tcp(TCP_BASE)), ([], False))
        self.core = PortMapper(Random(1).randbytes)
        self.assertEqual((self.add(), self.core.awaits_tcp(TCP_BASE)), ([], False))

    def test_refused(self) -> None:
        """
        The UDP port stays mapped, and nobody waits any longer. The router is not asked for another TCP port
        for ten minutes, or for as long as it says. In another network, the router there is asked.
        """
        for answer, lifetime, wait in ((pcp, 30, RETRY), (pcp, 1200, 1200.0), (nat_pmp, 0, RETRY)):
            self.core = PortMapper(Random(1).randbytes)
            self.began = self.now
            mapping = self.mapped(answer)
            self.refuse(self.add(), answer, lifetime)
            self.assertEqual((self.core.mappings, self.core.awaits_tcp(TCP_BASE)), ([mapping], False))
            self.core.remove_tcp(TCP_BASE, self.now)
            self.assertEqual(self.advance(wait - 1.0), [])
            self.assertEqual((self.add(), self.core.awaits_tcp(TCP_BASE)), ([], False))
            self.core.remove_tcp(TCP_BASE, self.now)
            self.now += 1.0
            self.refuse(self.add(), answer, lifetime)
            self.core.remove_tcp(TCP_BASE, self.now)
            self.assertEqual(self.add(), [])
            self.core.remove_tcp(TCP_BASE, self.now)
            self.keep(anew=True)
            self.assertEqual(len(self.add()), 1)

    def refuse(self, pending: list[Transmit], answer: Callable[..., bytes], lifetime: int) -> None:
        """Answer these requests for a TCP port, and refuse it."""
        self.assertEqual(len(pending), 1)
        epoch = 100 + int(self.now - self.began)
        while pending:
            (request,) = pending
            result = 0 if request.data == bytes(2) else 8
            self.receive(answer(request.data, result=result, lifetime=lifetime, epoch=epoch))
            pending = self.sent()

    def test_no_answer(self) -> None:
        """Silence is no refusal, since the router may be restarting: it is asked for the next port."""
        self.mapped()
        self.assertEqual(len(self.add() + self.advance(60.0)), TRIES)
        self.core.remove_tcp(TCP_BASE, self.now)
        self.assertEqual(len(self.add()), 1)

    def test_a_few(self) -> None:
        """As many ports are mapped as a router has room for. A place that becomes free is used again."""
        self.mapped()
        ports = [TCPAddress(BASE.host, 50000 + number) for number in range(3 * MAX_TCP_PORTS)]
        asked = sum(len(self.add(port)) for port in ports)
        self.assertEqual(asked, MAX_TCP_PORTS)
        self.core.remove_tcp(ports[0], self.now)
        self.sent()
        self.assertEqual(len(self.add(ports[-1])), 1)

    def test_removed(self) -> None:
        """The mapping is deleted, also if it has not been answered yet, and the UDP port stays."""
        for answered in (True, False):
            for answer in (pcp, nat_pmp):
                self.core = PortMapper(Random(1).randbytes)
                udp = self.mapped(answer)
                pending = self.add()
                while pending and (answered or (answer is nat_pmp and pending[0].data[1] == 0)):
                    self.receive(answer(pending[0].data))
                    pending = self.sent()
                self.core.remove_tcp(TCP_BASE, self.now)
                (request,) = self.sent()
                lifetime = request.data[4:8] if is_pcp(request) else request.data[8:12]
                self.assertEqual((lifetime, request.local), (bytes(4), TCP_BASE))
                self.now += RELEASE_AGAIN
                self.assertEqual(self.sent(), [request])
                self.assertEqual((self.core.mappings, self.core.in_use), ([udp], set()))

    def test_mapped_again_at_once(self) -> None:
        """The release of the mapping before is not sent once more."""
        self.mapped()
        (request,) = self.add()
        self.receive(pcp(request.data))
        self.core.remove_tcp(TCP_BASE, self.now)
        self.sent()
        (request,) = self.add()
        self.now += RELEASE_AGAIN
        self.receive(pcp(request.data))
        self.assertEqual((self.sent(), self.core.is_releasing), ([], False))

    def test_all_released(self) -> None:
        """At the end both are deleted."""
        self.mapped()
        (request,) = self.add()
        self.receive(pcp(request.data))
        self.core.release(self.now)
        self.assertEqual({each.data[36] for each in self.sent()}, {6, 17})

    def test_answers_for_the_other_protocol(self) -> None:
        """An answer about a UDP port maps no TCP port of the same number, nor the other way round."""
        base = TCPAddress(*BASE)
        udp = self.mapped()
        (request,) = self.add(base)
        wrong = pcp(request.data)
        self.receive(wrong[:36] + bytes((17,)) + wrong[37:])
        self.assertEqual(self.core.mappings, [udp])
        self.core = PortMapper(Random(1).randbytes)
        udp = self.mapped(nat_pmp)
        self.receive(nat_pmp(self.add(base)[0].data))
        (request,) = self.sent()
        self.receive(nat_pmp(b"\0\1" + request.data[2:]))
        self.assertEqual(self.core.mappings, [udp])
        self.receive(nat_pmp(request.data))
        self.assertEqual(len(self.core.mappings), 2)

    def test_both_are_renewed(self) -> None:
        """Two mappings of one socket address, each with its own answers."""
        self.mapped()
        (request,) = self.add(TCPAddress(*BASE))
        self.receive(pcp(request.data))
        self.events()
        sent = self.advance(5 * LIFETIME, pcp)
        self.assertEqual({each.data[36] for each in sent}, {6, 17})
        self.assertEqual((len(self.core.mappings), self.events()), (2, []))

    def test_another_router(self) -> None:
        """
        The TCP port is in use, so another router is asked for it, too. A port whose address is gone has no
        mapping.
        """
        self.mapped()
        (request,) = self.add()
        self.receive(pcp(request.data))
        self.core.keep([BASE], {BASE.host: "192.168.1.254"}, self.now)
        self.assertIsNone(self.core.mapping_of(TCP_BASE))
        router = Address("192.168.1.254", 5351)
        self.receive(pcp(self.sent()[0].data), router)
        (request,) = self.sent()
        self.assertEqual((request.remote, request.data[36]), (router, 6))
        self.receive(pcp(request.data), router)
        self.assertEqual(len(self.core.mappings), 2)
        self.core.keep([OTHER_BASE], {}, self.now)
        self.assertEqual((self.core.mappings, self.sent()), ([], []))

    def test_a_restarted_router(self) -> None:
        """It has lost both: an answer about one has the other asked for again."""
        self.mapped()
        (request,) = self.add()
        self.receive(pcp(request.data))
        self.now += 45.0
        (request,) = self.keep()
        self.receive(pcp(request.data, epoch=3))
        self.assertEqual([each.data[36] for each in self.sent()], [6])


class HostileTests(PortMapperTestCase):
    """Routers that refuse or lie, and neighbours that answer in their place."""

    def test_refusals(self) -> None:
        """
        A refusal of any kind is no mapping. Only the other protocol is tried, and nothing more for ten
        minutes.
        """
        for result in range(1, 14):
            self.core = PortMapper(Random(1).randbytes)
            requests = self.keep()
            for transmit in requests:
                answer = pcp if is_pcp(transmit) else nat_pmp
                self.receive(answer(transmit.data, result=result))
            self.assertEqual((self.core.mappings, self.advance(RETRY - 1)), ([], []))
            self.assertEqual(self.keep(), [])
            self.assertFalse(self.core.may_follow)

    def test_a_refused_renewal(self) -> None:
        """The mapping stays until it expires, and the router is asked again."""
        mapping = self.mapped()
        self.now += CONFIRM
        (request,) = self.keep()
        self.receive(pcp(request.data, result=2, lifetime=30))
        self.assertEqual(self.core.mappings, [mapping])
        self.advance(LIFETIME / 2 + 60, pcp)
        self.assertEqual((self.core.mappings, self.events()), ([mapping], []))

    def test_a_long_refusal_is_believed_for_a_day(self) -> None:
        for transmit in self.keep():
            answer = pcp if is_pcp(transmit) else nat_pmp
            self.receive(answer(transmit.data, result=2, lifetime=2**32 - 1))
        self.now += 86000
        self.assertEqual(self.keep(), [])
        self.now += 1000
        self.assertEqual(len(self.keep()), 2)

    def test_answers_of_others(self) -> None:
        """10,000 answers come from all wrong places, and before anything was asked."""
        self.receive(pcp(bytes(60)))
        request, address = self.keep()
        wrong = [
            (pcp(request.data), Address("192.168.1.99", 5351), BASE),
            (pcp(request.data), Address("192.168.1.1", 5352), BASE),
            (pcp(request.data), GATEWAY, OTHER_BASE),
            (nat_pmp(address.data), Address("192.168.1.99", 5351), BASE),
        ]
        for number in range(10_000):
            self.receive(*wrong[number % len(wrong)])
        self.assertEqual((self.core.mappings, self.sent(), self.events()), ([], [], []))

    def test_forged_answers_of_the_gateway(self) -> None:
        """An answer without the nonce or for another port has no effect. A repeated answer counts once."""
        request, address = self.keep()
        other = request.data[:24] + bytes(12) + request.data[36:]
        for _ in range(10_000):
            self.receive(pcp(other))
        self.receive(pcp(request.data[:40] + b"\0\1" + request.data[42:]))
        self.receive(struct.pack("!BBHIHHI", 0, 0x81, 0, 100, BASE.port, 1, LIFETIME))
        self.assertEqual((self.core.mappings, self.sent()), ([], []))
        self.receive(pcp(request.data))
        for _ in range(10_000):
            self.receive(pcp(request.data, Address("192.0.2.66", 1), epoch=1))
            self.receive(nat_pmp(address.data, epoch=1))
        (mapping,) = self.core.mappings
        self.assertEqual((mapping.external, self.sent(), len(self.events())), (EXTERNAL, [], 1))

    def test_no_mapping(self) -> None:
        """An answer with port 0, or with an address of the other family, is no mapping."""
        for external in (Address(EXTERNAL.host, 0), Address("2001:db8::1", 5)):
            self.core = PortMapper(Random(1).randbytes)
            self.receive(pcp(self.keep()[0].data, external))
            self.assertEqual(self.core.mappings, [])


class MappedAddressTests(SynchronousTestCase):
    """Where a mapped port may be reached."""

    def check(self, named: str, seen_at: Sequence[str], *expected: str) -> None:
        found = mapped_addresses(BASE, Address(named, 7), seen_at)
        self.assertEqual(found, [Address(host, 7) for host in expected])

    def test_honest(self) -> None:
        self.check("203.0.113.5", ["203.0.113.5"], "203.0.113.5")
        self.check("203.0.113.5", [], "203.0.113.5")

    def test_behind_another_nat(self) -> None:
        """The peer may be in the network between the two NATs, or the outer NAT may pass on all ports."""
        self.check("100.64.0.9", ["203.0.113.5"], "100.64.0.9", "203.0.113.5")
        self.check("192.168.0.2", [], "192.168.0.2")

    def test_useless_and_wrong(self) -> None:
        for named in ("127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1"):
            self.check(named, ["203.0.113.5"], "203.0.113.5")
            self.check(named, [])
        self.check("192.0.2.66", ["203.0.113.5", "2001:db8::1"], "192.0.2.66", "203.0.113.5")
