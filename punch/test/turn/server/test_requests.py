"""Requests to the relay: what RFC 8656 says to each, and to each that is wrong."""

from __future__ import annotations

import hmac
from ipaddress import ip_network
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.net.segmented_table import PROBATION
from punch.test.turn.server.turn_server import (
    ALICE,
    BOB,
    HERE,
    HERE6,
    UDP,
    FiveTupleClient,
    TurnServer,
    code_of,
)
from punch.turn.server.allocation import RelayLimitHit
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)
from punch.wire.stun_attributes import IPV4, IPV6, AddressErrorCode


class RequestCase(SynchronousTestCase):
    """A server and a client."""

    def setUp(self) -> None:
        self.server = TurnServer()
        self.alice = self.server.client()

    def server_with(self, **settings: Any) -> FiveTupleClient:
        """Another server, with other settings; its client."""
        self.server = TurnServer(**settings)
        self.alice = self.server.client()
        return self.alice

    def refused(self, code: int, answer: StunMessage) -> None:
        """It must be this error."""
        self.assertEqual(answer.message_class, MessageClass.ERROR)
        self.assertEqual(code_of(answer), code, answer)


class AllocateTests(RequestCase):
    """Section 7."""

    def test_success(self) -> None:
        """The answer has the relayed address, the mapped address, and the lifetime."""
        answer = self.alice.ask(Method.ALLOCATE, UDP)
        relayed = relayed_in(answer)
        self.assertEqual(relayed.host, HERE.host)
        self.assertTrue(49152 <= relayed.port <= 65535)
        self.assertEqual(answer.get(Attribute.XOR_MAPPED_ADDRESS), ALICE)
        self.assertEqual(answer.get(Attribute.LIFETIME), 600)
        self.assertIn(relayed, self.server.ports.open_ports)
        self.assertFalse(answer.has_fingerprint)

    def test_ports_are_random(self) -> None:
        """RFC 6056: not in any order."""
        ports = [self.server.client(Address("203.0.113.9", 1000 + n)).allocate().port for n in range(20)]
        self.assertEqual(len(set(ports)), 20)
        self.assertNotIn(sorted(ports), (ports, ports[::-1]))
        self.assertGreater(max(ports) - min(ports), 5000)

    def test_ports_that_others_have(self) -> None:
        """The next free one, as long as there is one."""
        self.server_with(ports=(50000, 50003))
        self.server.ports.taken = {50001, 50002}
        ports = {self.server.client(Address("203.0.113.9", n)).allocate().port for n in (1, 2)}
        self.assertEqual(ports, {50000, 50003})
        self.refused(508, self.alice.ask(Method.ALLOCATE, UDP))

    def test_no_descriptors(self) -> None:
        """508, and the service goes on."""
        self.server.ports.descriptors = 0
        self.refused(508, self.alice.ask(Method.ALLOCATE, UDP))
        self.assertEqual(self.server.core.allocations.by_client, {})
        self.server.ports.descriptors = 1
        self.alice.allocate()

    def test_retransmission(self) -> None:
        """The same question has the same answer; another one is a mistake."""
        request = self.alice.request(Method.ALLOCATE, UDP)
        first, second = self.alice.send(request), self.alice.send(request)
        self.assertEqual(first, second)
        self.refused(437, self.alice.ask(Method.ALLOCATE, UDP))

    def test_deleted(self) -> None:
        """Five-tuple and port are free at once."""
        relayed = self.alice.allocate()
        answer = self.alice.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        self.assertEqual(answer.get(Attribute.LIFETIME), 0)
        self.assertNotIn(relayed, self.server.ports.open_ports)
        self.alice.allocate()

    def test_transport(self) -> None:
        """UDP or nothing."""
        self.refused(400, self.alice.ask(Method.ALLOCATE))
        for transport in (0, 1, 6, 132, 255):
            self.refused(442, self.alice.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, transport)))
        self.assertEqual(self.server.ports.open_ports, {})

    def test_lifetime(self) -> None:
        """Lifetimes are at least ten minutes and at most an hour."""
        for number, (asked, granted) in enumerate(((1, 600), (0, 600), (1000, 1000), (2**32 - 1, 3600))):
            client = self.server.client(Address(ALICE.host, number))
            answer = client.ask(Method.ALLOCATE, UDP, (Attribute.LIFETIME, asked))
            self.assertEqual(answer.get(Attribute.LIFETIME), granted)

    def test_lifetime_ends_with_the_credentials(self) -> None:
        """Nobody relays for longer than it may."""
        self.server.advance(86400 - 100)
        self.alice.nonce = self.server.core.authenticator.nonces.for_user("alice", self.server.unix)
        self.assertEqual(self.alice.ask(Method.ALLOCATE, UDP).get(Attribute.LIFETIME), 100)
        self.server.advance(101)
        self.assertEqual(self.server.ports.open_ports, {})

    def test_family(self) -> None:
        """IPv6 for those who ask; 440 where there is none."""
        family = (Attribute.REQUESTED_ADDRESS_FAMILY, IPV6)
        self.assertEqual(self.alice.allocate(family).host, HERE6.host)
        six = self.server.client(Address("2001:db8::a", 5), local=HERE6)
        self.assertEqual(six.allocate().host, HERE.host)
        self.server_with(machine=())
        self.refused(440, self.alice.ask(Method.ALLOCATE, UDP, family))
        # Whoever asks for both gets one.
        answer = self.alice.ask(Method.ALLOCATE, UDP, (Attribute.ADDITIONAL_ADDRESS_FAMILY, IPV6))
        self.assertFalse(relayed_in(answer).is_ipv6)
        refusal = answer.get(Attribute.ADDRESS_ERROR_CODE)
        assert isinstance(refusal, AddressErrorCode)
        self.assertEqual((refusal.family, refusal.code), (IPV6, 440))

    def test_behind_a_nat(self) -> None:
        """`--relay-address`: peers see the outside, the socket is inside."""
        self.server_with(shown=("192.0.2.99",), machine=("10.0.0.5",))
        client = self.server.client(local=Address("10.0.0.5", 3478))
        relayed = client.allocate()
        self.assertEqual(relayed.host, "192.0.2.99")
        self.assertEqual(list(self.server.ports.open_ports), [Address("10.0.0.5", relayed.port)])

    def test_local_clients(self) -> None:
        """A client that comes over loopback gets a relayed address that others can reach."""
        client = self.server.client(Address("127.0.0.1", 5), local=Address("127.0.0.1", 3478))
        self.assertEqual(client.allocate().host, HERE.host)

    def test_even_port(self) -> None:
        """EVEN-PORT and RESERVATION-TOKEN: RTP's pairs."""
        answer = self.alice.ask(Method.ALLOCATE, UDP, (Attribute.EVEN_PORT, True))
        relayed, token = relayed_in(answer), answer.get(Attribute.RESERVATION_TOKEN)
        self.assertEqual(relayed.port % 2, 0)
        following = Address(relayed.host, relayed.port + 1)
        self.assertIn(following, self.server.ports.open_ports)
        second = self.server.client(Address(ALICE.host, 50001))
        thief = self.server.client(BOB, "bob")
        with_token = (Attribute.RESERVATION_TOKEN, token)
        self.refused(508, thief.ask(Method.ALLOCATE, UDP, with_token))
        self.assertEqual(second.allocate(with_token), following)
        self.refused(
            508, self.server.client(Address(ALICE.host, 50002)).ask(Method.ALLOCATE, UDP, with_token)
        )
        alone = self.server.client(Address(ALICE.host, 50003)).allocate((Attribute.EVEN_PORT, False))
        self.assertEqual(alone.port % 2, 0)

    def test_reservation_that_nobody_takes(self) -> None:
        """It is over after 30 seconds."""
        answer = self.alice.ask(Method.ALLOCATE, UDP, (Attribute.EVEN_PORT, True))
        self.assertEqual(len(self.server.ports.open_ports), 2)
        self.server.advance(31)
        self.assertEqual(len(self.server.ports.open_ports), 1)
        token = (Attribute.RESERVATION_TOKEN, answer.get(Attribute.RESERVATION_TOKEN))
        self.refused(508, self.server.client(Address(ALICE.host, 2)).ask(Method.ALLOCATE, UDP, token))

    def test_invented_reservation(self) -> None:
        """508."""
        self.refused(508, self.alice.ask(Method.ALLOCATE, UDP, (Attribute.RESERVATION_TOKEN, b"invented")))

    def test_contradictions(self) -> None:
        """400."""
        token = (Attribute.RESERVATION_TOKEN, b"12345678")
        four, six = (Attribute.REQUESTED_ADDRESS_FAMILY, IPV4), (Attribute.ADDITIONAL_ADDRESS_FAMILY, IPV6)
        for attributes in (
            (token, (Attribute.EVEN_PORT, False)),
            (token, four),
            (token, six),
            (six, four),
            (six, (Attribute.EVEN_PORT, True)),
            ((Attribute.ADDITIONAL_ADDRESS_FAMILY, IPV4),),
        ):
            self.refused(400, self.alice.ask(Method.ALLOCATE, UDP, *attributes))

    def test_unknown_attributes(self) -> None:
        """420 names them; DONT-FRAGMENT is one."""
        answer = self.alice.ask(
            Method.ALLOCATE, UDP, (Attribute.DONT_FRAGMENT, True), (0x7001, b""), (0xF001, b"")
        )
        self.refused(420, answer)
        self.assertEqual(answer.get(Attribute.UNKNOWN_ATTRIBUTES), (0x7001, Attribute.DONT_FRAGMENT))

    def test_fingerprint(self) -> None:
        """An answer has a FINGERPRINT if the request has one."""
        login = parse(self.alice.request(Method.ALLOCATE, UDP))
        (answer,) = self.alice.send(encode(login, self.alice.key))
        self.assertTrue(parse(answer).has_fingerprint)


class QuotaTests(RequestCase):
    """How many, whose."""

    def test_per_peer(self) -> None:
        """486, and only for this peer."""
        self.server_with(allocations_per_user=2)
        for port in (1, 2):
            self.server.client(Address(ALICE.host, port)).allocate()
        self.refused(486, self.alice.ask(Method.ALLOCATE, UDP))
        self.server.client(BOB, "bob").allocate()
        self.server.client(Address(ALICE.host, 1)).ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        self.alice.allocate()

    def test_reservations_count(self) -> None:
        """A reserved port is one that nobody else can have."""
        self.server_with(allocations_per_user=1)
        self.refused(486, self.alice.ask(Method.ALLOCATE, UDP, (Attribute.EVEN_PORT, True)))

    def test_per_address(self) -> None:
        """486: who makes himself many identities has no more; a reservation counts for who asked for it."""
        self.server_with(allocations_per_address=3)
        even = (Attribute.EVEN_PORT, True)
        answer = self.server.client(Address(ALICE.host, 1), "one").ask(Method.ALLOCATE, UDP, even)
        self.server.client(Address(ALICE.host, 2), "two").allocate()
        third = self.server.client(Address(ALICE.host, 3), "three")
        self.refused(486, third.ask(Method.ALLOCATE, UDP))
        token = (Attribute.RESERVATION_TOKEN, answer.get(Attribute.RESERVATION_TOKEN))
        taken = self.server.client(BOB, "one")
        taken.allocate(token)
        self.refused(486, third.ask(Method.ALLOCATE, UDP))
        self.server.client(Address(BOB.host, 1), "three").allocate()
        taken.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        third.allocate()
        self.server.advance(601)
        self.assertEqual((len(self.server.core.allocations), self.server.ports.open_ports), (0, {}))
        for number in range(4):
            six = self.server.client(Address(f"2001:db8:7::{number}", 1), f"user{number}", local=HERE6)
            code = code_of(six.ask(Method.ALLOCATE, UDP))
            self.assertEqual(code, 486 if number == 3 else 0)

    def test_in_all(self) -> None:
        """508, where no other source has two more."""
        self.server_with(allocations=3)
        for number in range(3):
            self.server.client(Address(f"203.0.{number}.9", 1), f"user{number}").allocate()
        self.refused(508, self.alice.ask(Method.ALLOCATE, UDP))

    def test_making_room_is_told(self) -> None:
        """The operator learns whose allocation made room."""
        self.server_with(allocations=3)
        for number in range(3):
            self.server.client(Address(ALICE.host, number + 1), f"user{number}").allocate()
        self.server.client(Address("192.0.2.1", 1), "other").allocate()
        hits = [each for each in self.server.core.allocations.events if isinstance(each, RelayLimitHit)]
        self.assertEqual(hits, [RelayLimitHit(ALICE.host, "relay-allocations", "user2")])

    def test_allocations_that_were_there_before(self) -> None:
        """The largest source keeps what it had for a while when many other ones come at once."""
        self.server_with(allocations=10)
        for number in range(5):
            self.server.client(Address(ALICE.host, number + 1), f"user{number}").allocate()
        earlier = set(self.server.core.allocations.by_client)
        self.server.advance(PROBATION)
        for number in range(9):
            host = f"192.0.{number % 3}.1"
            self.server.client(Address(host, number), f"other{number}").ask(Method.ALLOCATE, UDP)
        self.server.client(Address("203.0.112.1", 1), "new").allocate()
        self.assertLessEqual(earlier, set(self.server.core.allocations.by_client))
        self.assertEqual(len(self.server.core.allocations), 10)

    def test_a_client_that_never_refreshes(self) -> None:
        """After its lifetime, nothing of an allocation is left."""
        self.alice.allocate()
        self.alice.permit(BOB)
        self.alice.bind(0x4000, BOB)
        self.server.advance(599)
        self.assertEqual(len(self.server.core.allocations), 1)
        self.server.advance(2)
        table = self.server.core.allocations
        self.assertEqual((len(table), table.by_relayed, self.server.ports.open_ports), (0, {}, {}))
        self.assertEqual(table.users, {})
        self.assertIsNone(self.server.core.get_timer())
        self.refused(437, self.alice.ask(Method.REFRESH))


class RefreshTests(RequestCase):
    """Section 8."""

    def test_moves_the_end(self) -> None:
        self.alice.allocate()
        self.server.advance(500)
        self.assertEqual(self.alice.ask(Method.REFRESH).get(Attribute.LIFETIME), 600)
        self.server.advance(590)
        self.assertEqual(
            self.alice.ask(Method.REFRESH, (Attribute.LIFETIME, 1200)).get(Attribute.LIFETIME), 1200
        )
        self.server.advance(1199)
        self.assertEqual(len(self.server.core.allocations), 1)
        self.server.advance(2)
        self.assertEqual(len(self.server.core.allocations), 0)

    def test_without_an_allocation(self) -> None:
        """437, whatever is asked, lifetime 0 included."""
        for answer in (
            self.alice.ask(Method.REFRESH),
            self.alice.ask(Method.REFRESH, (Attribute.LIFETIME, 0)),
            self.alice.permit(BOB),
            self.alice.bind(0x4000, BOB),
        ):
            self.refused(437, answer)

    def test_another_family(self) -> None:
        self.alice.allocate()
        self.refused(443, self.alice.ask(Method.REFRESH, (Attribute.REQUESTED_ADDRESS_FAMILY, IPV6)))
        self.alice.ask(Method.REFRESH, (Attribute.REQUESTED_ADDRESS_FAMILY, IPV4))

    def test_what_follows_the_integrity(self) -> None:
        """An appended LIFETIME of 0, which nobody signed, deletes nothing."""
        self.alice.allocate()
        request = self.alice.request(Method.REFRESH)
        appended = request + bytes.fromhex("000d000400000000")
        forged = appended[:2] + (len(appended) - 20).to_bytes(2, "big") + appended[4:]
        (answer,) = self.alice.send(forged)
        self.assertEqual(parse(answer).get(Attribute.LIFETIME), 600)
        self.assertEqual(len(self.server.core.allocations), 1)

    def test_an_attribute_that_overruns(self) -> None:
        """No success, and no harm."""
        self.alice.allocate()
        for size in (0xFFFF, 200, 5):
            request = bytearray(self.alice.request(Method.REFRESH, (Attribute.LIFETIME, 700)))
            request[22:24] = size.to_bytes(2, "big")
            for answer in self.alice.send(bytes(request)):
                self.assertNotEqual(parse(answer).message_class, MessageClass.SUCCESS)
        self.assertEqual(len(self.server.core.allocations), 1)

    def test_renewed_credentials(self) -> None:
        """New credentials of the same peer go on with its allocation; another peer's don't."""
        self.alice.allocate()
        self.server.advance(300)
        renewed = self.server.client()
        self.assertNotEqual(renewed.username, self.alice.username)
        self.assertEqual(renewed.ask(Method.REFRESH).get(Attribute.LIFETIME), 600)
        self.refused(441, self.server.client(user="mallory").ask(Method.REFRESH, (Attribute.LIFETIME, 0)))
        self.assertEqual(len(self.server.core.allocations), 1)


class PermissionTests(RequestCase):
    """Section 10."""

    def test_several(self) -> None:
        self.alice.allocate()
        self.assertEqual(code_of(self.alice.permit(BOB, Address("203.0.113.3", 1))), 0)
        self.assertEqual(code_of(self.alice.permit(BOB)), 0)
        self.refused(400, self.alice.permit())

    def test_another_family(self) -> None:
        self.alice.allocate()
        self.refused(443, self.alice.permit(Address("2001:db8::b", 1)))
        self.refused(443, self.alice.bind(0x4000, Address("2001:db8::b", 1)))

    def test_refused_destinations(self) -> None:
        """403, in one refused address among good ones too, and then none is permitted."""
        self.alice.allocate()
        for host in (
            "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1",
            "172.31.255.255", "192.168.1.2", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
            HERE.host,
        ):  # fmt: skip
            peer = Address(host, 80)
            self.refused(403, self.alice.permit(peer))
            self.refused(403, self.alice.permit(BOB, peer))
            self.refused(403, self.alice.bind(0x4000, peer))
            self.alice.indicate(peer, b"data")
            self.assertEqual(self.alice.relayed, [])
        self.alice.indicate(BOB, b"data")
        self.assertEqual(self.alice.relayed, [])

    def test_refused_destinations_of_ipv6(self) -> None:
        """The same in all the forms that end at an IPv4 address."""
        self.alice.allocate((Attribute.REQUESTED_ADDRESS_FAMILY, IPV6))
        for host in (
            "::", "::1", "fe80::1", "febf::1", "fec0::1", "fc00::1", "fdff::1", "ff02::1", HERE6.host,
            "64:ff9b::10.1.2.3", "64:ff9b::127.0.0.1", f"64:ff9b::{HERE.host}", "64:ff9b:1::1",
            "2002:7f00:1::", "2002:a01:203::1", "2002:c0a8:102::1", "2002:c633:6401::", "::127.0.0.1",
        ):  # fmt: skip
            self.refused(403, self.alice.permit(Address(host, 80)))
        for host in ("2001:db8::b", "64:ff9b::203.0.113.2", "2002:cb00:7102::1"):
            self.assertEqual(code_of(self.alice.permit(Address(host, 80))), 0)

    def test_mapped_addresses(self) -> None:
        """An IPv4-mapped address is an IPv4 address, whatever its family says it is."""
        self.alice.allocate((Attribute.REQUESTED_ADDRESS_FAMILY, IPV6))
        four = self.server.client(BOB, "bob")
        four.allocate()
        for client in (self.alice, four):
            for host in ("127.0.0.1", "10.0.0.1", HERE.host):
                request = parse(client.request(Method.CREATE_PERMISSION))
                mask = b"\x21\x12\xa4\x42" + request.transaction_id
                mapped = bytes(10) + b"\xff\xff" + bytes(map(int, host.split(".")))
                value = b"\0\x02\x21\x62" + bytes(a ^ b for a, b in zip(mapped, mask, strict=True))
                raw = StunMessage(
                    request.method,
                    MessageClass.REQUEST,
                    request.transaction_id,
                    ((0x7FFF, value), *request.attributes),
                )
                unsigned = bytearray(encode(raw, fingerprint=False))
                unsigned[20:22] = b"\x00\x12"
                signed = _sign(bytes(unsigned), client.key)
                (answer,) = client.send(signed)
                self.assertIn(code_of(parse(answer)), (403, 443))

    def test_networks_for_tests(self) -> None:
        """`--relay-allow`."""
        self.server_with(allow=[ip_network("10.0.0.0/8")])
        self.alice.allocate()
        self.assertEqual(code_of(self.alice.permit(Address("10.1.2.3", 5))), 0)
        self.refused(403, self.alice.permit(Address("192.168.1.2", 5)))

    def test_too_many(self) -> None:
        """508."""
        self.server_with(permissions=3)
        self.alice.allocate()
        for number in range(3):
            self.alice.permit(Address(f"203.0.113.{number}", 1))
        self.refused(508, self.alice.permit(BOB, Address("203.0.113.77", 1)))
        self.refused(508, self.alice.bind(0x4000, Address("203.0.113.77", 1)))
        self.assertEqual(code_of(self.alice.permit(Address("203.0.113.1", 1))), 0)
        self.server.advance(301)
        self.assertEqual(code_of(self.alice.bind(0x4000, Address("203.0.113.77", 1))), 0)

    def test_thousands_in_one_request(self) -> None:
        """Too many peer addresses are refused before any is checked, as each check costs system calls."""
        self.server_with(permissions=16)
        self.alice.allocate()
        looked_at: list[str] = []
        self.server.own_addresses = looked_at.append
        addresses = [Address(f"203.0.{number >> 8}.{number & 255}", 1) for number in range(5000)]
        self.refused(400, self.alice.permit(*addresses))
        self.refused(508, self.alice.permit(*addresses[:32]))
        self.assertEqual(looked_at, [])
        for _ in range(100):
            self.assertEqual(code_of(self.alice.permit(*addresses[:16], *addresses[:16])), 0)
        self.assertEqual(len(looked_at), 16)


class ChannelTests(RequestCase):
    """Section 12."""

    def test_numbers(self) -> None:
        """0x4000 to 0x4FFF, and nothing else."""
        self.alice.allocate()
        for number in (0, 0x3FFF, 0x5000, 0x7FFF, 0x8000, 0xFFFF):
            self.refused(400, self.alice.bind(number, BOB))
        self.assertEqual(code_of(self.alice.bind(0x4000, BOB)), 0)
        self.assertEqual(code_of(self.alice.bind(0x4FFF, Address("203.0.113.3", 1))), 0)

    def test_one_each(self) -> None:
        """A channel has one peer and a peer one channel, until it is over."""
        self.alice.allocate()
        self.alice.bind(0x4000, BOB)
        self.assertEqual(code_of(self.alice.bind(0x4000, BOB)), 0)
        self.refused(400, self.alice.bind(0x4000, Address(BOB.host, 1)))
        self.refused(400, self.alice.bind(0x4001, BOB))
        self.alice.ask(Method.REFRESH, (Attribute.LIFETIME, 3600))
        self.server.advance(601)
        self.assertEqual(code_of(self.alice.bind(0x4001, BOB)), 0)

    def test_incomplete(self) -> None:
        self.alice.allocate()
        self.refused(400, self.alice.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000)))
        self.refused(400, self.alice.ask(Method.CHANNEL_BIND, (Attribute.XOR_PEER_ADDRESS, BOB)))

    def test_too_many(self) -> None:
        """508."""
        self.server_with(channels=2)
        self.alice.allocate()
        for number in (0, 1):
            self.alice.bind(0x4000 + number, Address(BOB.host, number + 1))
        self.refused(508, self.alice.bind(0x4002, BOB))


def relayed_in(answer: StunMessage) -> Address:
    """The relayed address that an answer tells."""
    relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
    assert isinstance(relayed, Address), answer
    return relayed


def _sign(message: bytes, key: bytes) -> bytes:
    """MESSAGE-INTEGRITY at the end of a message that no encoder of ours would write."""
    covered = message[:2] + (len(message) + 4).to_bytes(2, "big") + message[4:]
    return covered + b"\x00\x08\x00\x14" + hmac.digest(key, covered, "sha1")
