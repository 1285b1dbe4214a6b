"""The core that asks routers for ports (`punch.ice.port_mapper`), with routers that have UPnP."""

from __future__ import annotations

from random import Random

from punch.ice.port_lease import CONFIRM, LIFETIME, RETRY, MappingProtocol, PortMapping
from punch.ice.port_mapper import Mapped, PortMapper, Unmapped
from punch.test.ice.test_port_mapper import (
    BASE,
    BASE6,
    EXTERNAL,
    GATEWAY,
    OTHER_BASE,
    PortMapperTestCase,
    nat_pmp,
    pcp,
)
from punch.wire.address import Address, TCPAddress, Transmit
from punch.wire.port_mapping import MULTICAST, UpnpGrant, UpnpRequest

URL = "http://192.168.1.1:5000/rootDesc.xml"
SSDP = Address(GATEWAY.host, 1900)


def found(url: str = URL) -> bytes:
    """A router's answer to a search."""
    return f"HTTP/1.1 200 OK\r\nLOCATION: {url}\r\n\r\n".encode()


def searches(sent: list[Transmit]) -> list[Address]:
    return [each.remote for each in sent if each.data.startswith(b"M-SEARCH")]


class UpnpTests(PortMapperTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.core = PortMapper(Random(1).randbytes, upnp=True)

    def grant(self, request: UpnpRequest, lifetime: int = LIFETIME, external: Address = EXTERNAL) -> None:
        self.core.receive_upnp(request, UpnpGrant(external, lifetime), self.now)

    def asked(self) -> UpnpRequest:
        """The only request of UPnP that is to be performed now."""
        (request,) = self.core.upnp_requests()
        return request

    def granted(self, lifetime: int = LIFETIME) -> None:
        """Have a port mapped by UPnP."""
        self.keep()
        self.receive(found(), SSDP)
        self.advance(0.75)
        self.grant(self.asked(), lifetime)
        self.assertEqual(self.events(), [Mapped(PortMapping(BASE, EXTERNAL, MappingProtocol.UPNP))])

    def test_asked_when_the_others_are_silent(self) -> None:
        """A router is searched for at once, and asked for a port after 0.75 s, in case PCP answers."""
        sent = self.keep()
        self.assertEqual(searches(sent), [SSDP, MULTICAST])
        self.receive(found(), SSDP)
        self.advance(0.7)
        self.assertEqual(self.core.upnp_requests(), [])
        self.advance(0.1)
        self.assertEqual(self.asked(), UpnpRequest(URL, BASE, BASE.port, LIFETIME))
        self.assertEqual(self.core.upnp_requests(), [])
        self.assertTrue(self.core.may_follow)

    def test_asked_when_the_others_are_refused(self) -> None:
        """UPnP is asked at once, in whatever order the answers come."""
        for last in range(3):
            self.core = PortMapper(Random(1).randbytes, upnp=True)
            one, two = [each for each in self.keep() if each.remote == GATEWAY]
            answers = [(pcp(one.data, result=2), GATEWAY), (nat_pmp(two.data, result=2), GATEWAY)]
            answers.insert(last, (found(), SSDP))
            for data, remote in answers:
                self.receive(data, remote)
            self.grant(self.asked())
            self.assertEqual(self.core.mappings, [PortMapping(BASE, EXTERNAL, MappingProtocol.UPNP)])

    def test_not_asked_where_another_way_works(self) -> None:
        """UPnP is not asked for a second mapping."""
        for answer, method in ((pcp, MappingProtocol.PCP), (nat_pmp, MappingProtocol.NAT_PMP)):
            self.core = PortMapper(Random(1).randbytes, upnp=True)
            waiting = self.keep()
            self.receive(found(), SSDP)
            while waiting:
                for transmit in waiting:
                    if transmit.remote == GATEWAY:
                        self.receive(answer(transmit.data))
                waiting = self.sent()
            self.assertEqual([each.method for each in self.core.mappings], [method])
            self.advance(RETRY)
            self.assertEqual(self.core.upnp_requests(), [])

    def test_asked_when_nat_pmp_refuses_the_mapping(self) -> None:
        """NAT-PMP tells the address and refuses the mapping."""
        one, two = [each for each in self.keep() if each.remote == GATEWAY]
        self.receive(found(), SSDP)
        self.receive(nat_pmp(one.data))
        self.receive(nat_pmp(two.data))
        (request,) = self.sent()
        self.receive(nat_pmp(request.data, result=2))
        self.grant(self.asked())
        self.assertEqual(self.core.mappings, [PortMapping(BASE, EXTERNAL, MappingProtocol.UPNP)])

    def test_few_searches(self) -> None:
        """
        There are two searches, each sent to the router and to all. IPv6 has none, since PCP opens its
        firewall.
        """
        sent = self.keep() + self.advance(RETRY)
        self.assertEqual(searches(sent), [SSDP, MULTICAST] * 2)
        self.core.keep([BASE6], {BASE6.host: "fe80::1%eth0"}, self.now)
        self.assertEqual(searches(self.sent()), [])

    def test_renewed(self) -> None:
        """Before half of its life, at the URL that is known, without PCP, NAT-PMP and searches."""
        self.granted()
        self.assertEqual(self.advance(0.43 * LIFETIME), [])
        self.assertEqual(self.core.upnp_requests(), [])
        self.assertEqual(self.advance(0.07 * LIFETIME), [])
        request = self.asked()
        self.assertEqual(request, UpnpRequest(URL, BASE, EXTERNAL.port, LIFETIME))
        self.grant(request)
        self.assertEqual((self.events(), len(self.core.mappings)), ([], 1))

    def test_a_tcp_port(self) -> None:
        """It is asked for at the URL that is known, without a search, and deleted when nobody needs it."""
        self.granted()
        base = TCPAddress(BASE.host, 40010)
        self.core.add_tcp(base, self.now)
        self.assertEqual(self.sent(), [])
        request = self.asked()
        self.assertEqual(request, UpnpRequest(URL, base, base.port, LIFETIME))
        self.assertEqual(request.internal.protocol, "tcp")
        self.assertTrue(self.core.awaits_tcp(base))
        self.grant(request)
        mapping = PortMapping(base, TCPAddress(*EXTERNAL), MappingProtocol.UPNP)
        self.assertEqual(self.core.mapping_of(base), mapping)
        self.core.remove_tcp(base, self.now)
        self.assertEqual(self.asked(), UpnpRequest(URL, base, EXTERNAL.port, 0))
        self.assertEqual((len(self.core.mappings), self.sent()), (1, []))

    def test_a_tcp_port_that_comes_too_late(self) -> None:
        """A port that nobody needs any more is given back."""
        self.granted()
        base = TCPAddress(BASE.host, 40010)
        self.core.add_tcp(base, self.now)
        request = self.asked()
        self.core.remove_tcp(base, self.now)
        self.grant(request)
        self.assertEqual(self.asked(), UpnpRequest(URL, base, EXTERNAL.port, 0))

    def test_a_tcp_port_that_is_refused(self) -> None:
        """
        The router is not searched for, nor asked in other ways, nor for another TCP port for ten minutes;
        unless it turns out that it has moved, and refused nothing.
        """
        base = TCPAddress(BASE.host, 40010)
        for moves in (False, True):
            self.core = PortMapper(Random(1).randbytes, upnp=True)
            self.granted()
            self.core.add_tcp(base, self.now)
            self.core.receive_upnp(self.asked(), None, self.now)
            self.assertEqual((self.sent(), self.core.awaits_tcp(base)), ([], False))
            self.core.remove_tcp(base, self.now)
            if moves:
                self.now += CONFIRM
                self.keep()
                self.core.receive_upnp(self.asked(), None, self.now)
                self.receive(found(URL.replace("5000", "5001")), SSDP)
                self.advance(0.75)
                self.grant(self.asked())
            self.core.add_tcp(base, self.now)
            requests = [each.internal for each in self.core.upnp_requests()]
            self.assertEqual((self.sent(), requests), ([], [base] if moves else []))
            self.core.remove_tcp(base, self.now)
            self.advance(RETRY)
            self.core.add_tcp(base, self.now)
            self.assertEqual(self.asked().internal, base)

    def test_a_tcp_port_that_is_not_renewed(self) -> None:
        """That is no refusal of TCP: the router is searched for, since it may have moved."""
        self.granted()
        base = TCPAddress(BASE.host, 40010)
        self.core.add_tcp(base, self.now)
        self.grant(self.asked())
        self.advance(LIFETIME / 2)
        for request in self.core.upnp_requests():
            self.core.receive_upnp(request, None, self.now)
        self.assertEqual(searches(self.sent()), [SSDP, MULTICAST] * 2)

    def test_permanent(self) -> None:
        """A mapping without lifetime is looked after all the same, and deleted at the end."""
        self.granted(lifetime=0)
        self.advance(LIFETIME / 2)
        self.grant(self.asked(), 0)
        self.core.release(self.now)
        self.assertEqual(self.asked(), UpnpRequest(URL, BASE, EXTERNAL.port, 0))
        self.assertEqual(self.sent(), [])

    def test_a_router_that_moves(self) -> None:
        """After its restart it describes itself at another port: it is searched for again."""
        self.granted()
        self.now += CONFIRM
        self.assertEqual(self.keep(), [])
        self.core.receive_upnp(self.asked(), None, self.now)
        self.assertEqual(searches(self.sent()), [SSDP, MULTICAST])
        self.receive(found(URL.replace("5000", "5001")), SSDP)
        self.advance(0.75)
        self.grant(self.asked(), external=Address(EXTERNAL.host, 999))
        mapping = PortMapping(BASE, Address(EXTERNAL.host, 999), MappingProtocol.UPNP)
        self.assertEqual(self.events(), [Mapped(mapping)])

    def test_refused(self) -> None:
        """The next call asks again after ten minutes; what is mapped stays until it expires."""
        for lifetime in (None, 1, 19):
            self.core = PortMapper(Random(1).randbytes, upnp=True)
            self.keep()
            self.receive(found(), SSDP)
            self.advance(0.75)
            grant = None if lifetime is None else UpnpGrant(EXTERNAL, lifetime)
            self.core.receive_upnp(self.asked(), grant, self.now)
            self.assertEqual((self.core.mappings, self.core.may_follow), ([], False))
            self.now += RETRY - 1
            self.assertEqual(self.keep(), [])
            self.now += 1
            self.assertNotEqual(self.keep(), [])

    def test_expires(self) -> None:
        """A router that does not renew is asked at intervals, and at the end the mapping is gone."""
        self.granted()
        asked = 0
        while self.core.mappings:
            self.advance(30.0)
            for request in self.core.upnp_requests():
                asked += 1
                self.core.receive_upnp(request, None, self.now)
        self.assertLess(asked, 20)
        self.assertEqual([type(event) for event in self.events()], [Unmapped])

    def test_granted_too_late(self) -> None:
        """Nobody needs the port any more, since the socket is gone or all is over: it is given back."""
        for forget in (lambda: self.core.keep([], {}, self.now), lambda: self.core.release(self.now)):
            self.core = PortMapper(Random(1).randbytes, upnp=True)
            self.keep()
            self.receive(found(), SSDP)
            self.advance(0.75)
            request = self.asked()
            forget()
            self.grant(request)
            self.assertEqual(self.asked(), UpnpRequest(URL, BASE, EXTERNAL.port, 0))
            self.assertEqual((self.core.mappings, self.events()), ([], []))

    def test_answers_of_others(self) -> None:
        """Neighbours that answer a search, answers that nobody waits for, and URLs of other hosts."""
        self.receive(found(), SSDP)
        self.keep(BASE, OTHER_BASE)
        for data, remote in (
            (found(), Address("192.168.1.99", 1900)),
            (found("http://192.168.1.99/x"), SSDP),
            (found(), GATEWAY),
            (b"HTTP/1.1 200 OK", SSDP),
            (pcp(bytes(60)), SSDP),
        ):
            self.receive(data, remote)
        self.advance(10.0)
        self.assertEqual((self.core.upnp_requests(), self.core.mappings), ([], []))
        self.receive(found(), SSDP)
        self.assertEqual(self.core.upnp_requests(), [])

    def test_any_port_of_the_router(self) -> None:
        """Some answer searches from another port than 1900."""
        self.keep()
        self.receive(found(), Address(GATEWAY.host, 54321))
        self.advance(0.75)
        self.assertEqual(self.asked().url, URL)

    def test_without_its_address(self) -> None:
        """A router that names none: the port counts, and reflectors see the address."""
        self.keep()
        self.receive(found(), SSDP)
        self.advance(0.75)
        self.grant(self.asked(), external=Address("0.0.0.0", 999))
        (mapping,) = self.core.mappings
        self.assertEqual(mapping.external.port, 999)
