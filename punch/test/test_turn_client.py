"""The TURN client's core against a server that is played by hand, honest and not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.traversal.turn.client import TurnClient
from punch.traversal.turn.events import Allocated, Data, Event, Failed, Refused, RelayCredentials, Trouble
from punch.traversal.turn.lifecycle import ClientState
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    Message,
    MessageClass,
    Method,
    encode,
    error,
    long_term_key,
    parse,
    success,
)
from punch.wire.turn import encode_channel_data, parse_channel_data

RELAYED = Address("198.51.100.1", 50000)
MAPPED = Address("203.0.113.1", 40000)
PEER = Address("203.0.113.2", 6000)
OTHER = Address("203.0.113.2", 6001)
STRANGER = Address("192.0.2.66", 53)
CREDENTIALS = RelayCredentials("1900000000:alice", "secret", "punch", "nonce-1")
KEY = long_term_key("1900000000:alice", "punch", "secret")
CHECK = encode(Message(Method.BINDING, MessageClass.REQUEST, bytes(12)))
QUIC = b"\x41" + bytes(99)


class Table:
    """A client, and everything that it did."""

    def __init__(self, credentials: RelayCredentials = CREDENTIALS, *, reliable: bool = False) -> None:
        self.client = TurnClient(credentials, Random(7).randbytes, reliable=reliable)
        self.now = 1000.0
        self.nonce = "nonce-1"
        self.lifetime = 600

    def events(self) -> list[Event]:
        """Those not taken yet."""
        found = []
        while (event := self.client.next_event()) is not None:
            found.append(event)
        return found

    def sent(self) -> list[bytes]:
        """What leaves now."""
        return self.client.data_to_send()

    def requests(self) -> list[Message]:
        """What leaves now, without ChannelData."""
        return [parse(data) for data in self.sent() if data[0] < 0x40]

    def give(self, message: Message, key: bytes | None = KEY) -> Data | None:
        """The server says this."""
        return self.client.receive(encode(message, key), self.now)

    def answer(self, request: Message) -> None:
        """What an honest server says."""
        attributes: dict[int, list[tuple[int, Any]]] = {
            Method.ALLOCATE: [
                (Attribute.XOR_RELAYED_ADDRESS, RELAYED),
                (Attribute.XOR_MAPPED_ADDRESS, MAPPED),
                (Attribute.LIFETIME, self.lifetime),
            ],
            Method.REFRESH: [(Attribute.LIFETIME, self.lifetime)],
        }
        if request.message_class is not MessageClass.REQUEST:
            return
        if request.get(Attribute.NONCE) != self.nonce:
            code = 438 if request.has_integrity() else 401
            told = ((Attribute.REALM, "punch"), (Attribute.NONCE, self.nonce))
            self.give(error(request, code, "no", *told), None)
        else:
            self.give(success(request, *attributes.get(request.method, [])))

    def refuse(self, request: Message, code: int, *attributes: tuple[int, Any], signed: bool = True) -> None:
        """The server says no."""
        self.give(error(request, code, "no", *attributes), KEY if signed else None)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> list[Message]:
        """An honest server, for a while; returns what it was asked, with time in between."""
        end, asked = self.now + seconds, []
        while not until():
            for request in self.requests():
                asked.append(request)
                self.answer(request)
            timer = self.client.get_timer()
            if timer is None or timer > end:
                break
            self.now = max(self.now, timer)
            self.client.handle_timer(self.now)
        self.now = end if not until() else self.now
        return asked

    def allocated(self) -> Table:
        """With its allocation."""
        self.client.allocate(self.now)
        (request,) = self.requests()
        self.answer(request)
        self.events()
        return self


def _value(message: Message, attribute: Attribute) -> Any:
    """What it has to have."""
    return message.get(attribute)


class AllocationTests(SynchronousTestCase):
    def test_one_round_trip(self) -> None:
        """With realm and nonce known, the first request is authenticated."""
        table = Table()
        table.client.allocate(table.now)
        (request,) = table.requests()
        self.assertEqual(request.method, Method.ALLOCATE)
        self.assertTrue(request.check_integrity(KEY))
        self.assertEqual(request.get(Attribute.REQUESTED_TRANSPORT), 17)
        table.answer(request)
        self.assertEqual(table.events(), [Allocated(RELAYED, MAPPED, 600.0)])
        self.assertEqual((table.client.relayed, table.client.mapped), (RELAYED, MAPPED))
        self.assertEqual(table.client.state, ClientState.ALLOCATED)

    def test_without_realm_and_nonce(self) -> None:
        """The 401 of RFC 8656, section 5 tells them."""
        table = Table(RelayCredentials("1900000000:alice", "secret"))
        table.client.allocate(table.now)
        (first,) = table.requests()
        self.assertFalse(first.has_integrity())
        table.answer(first)
        (second,) = table.requests()
        self.assertTrue(second.check_integrity(KEY))
        self.assertNotEqual(second.transaction_id, first.transaction_id)
        table.answer(second)
        self.assertEqual(table.client.relayed, RELAYED)

    def test_stale_nonce(self) -> None:
        """438: the same once more with the new nonce, for each request under way."""
        table = Table().allocated()
        table.nonce = "nonce-2"
        table.client.permit(PEER, table.now)
        table.client.permit(Address("203.0.113.3", 1), table.now)
        before = table.requests()
        for request in before:
            table.answer(request)
        after = table.requests()
        self.assertEqual([request.get(Attribute.NONCE) for request in after], ["nonce-2"] * 2)
        for request in after:
            table.answer(request)
        self.assertEqual(table.requests(), [])

    def test_nonces_without_end(self) -> None:
        """A server that always asks again is not asked for ever."""
        for code in (401, 438):
            table = Table(RelayCredentials("a", "b"))
            table.client.allocate(table.now)
            asked = 0
            while requests := table.requests():
                asked += len(requests)
                told = ((Attribute.REALM, f"realm-{asked}"), (Attribute.NONCE, f"n-{asked}"))
                table.refuse(requests[0], code, *told, signed=False)
            self.assertLessEqual(asked, 4)
            (failed,) = table.events()
            assert isinstance(failed, Failed)

    def test_distinct_outcomes(self) -> None:
        """Every code that RFC 8656 knows has its own end."""
        outcomes = {
            401: Trouble.UNAUTHORIZED, 437: Trouble.MISMATCH, 441: Trouble.WRONG_CREDENTIALS,
            442: Trouble.UNSUPPORTED, 486: Trouble.QUOTA, 508: Trouble.CAPACITY, 403: Trouble.REFUSED,
            500: Trouble.REFUSED, 300: Trouble.REFUSED,
        }  # fmt: skip
        for code, trouble in outcomes.items():
            table = Table()
            table.client.allocate(table.now)
            for _ in range(3):
                for request in table.requests():
                    if request.method == Method.ALLOCATE:
                        table.refuse(request, code)
            self.assertEqual(table.events(), [Failed(trouble, "no")], code)
            self.assertEqual(table.client.state, ClientState.OVER)
            self.assertIsNone(table.client.get_timer())

    def test_an_allocation_of_an_earlier_process(self) -> None:
        """437 when allocating: what is left at this port is deleted, and asked for once more."""
        table = Table()
        table.client.allocate(table.now)
        table.refuse(table.requests()[0], 437)
        delete, again = table.requests()
        self.assertEqual((delete.method, delete.get(Attribute.LIFETIME)), (Method.REFRESH, 0))
        table.answer(again)
        self.assertEqual(table.client.relayed, RELAYED)

    def test_other_family(self) -> None:
        """440: a server that has no IPv4 to relay with is asked for IPv6, once."""
        table = Table()
        table.client.allocate(table.now)
        table.refuse(table.requests()[0], 440)
        (again,) = table.requests()
        self.assertEqual(again.get(Attribute.REQUESTED_ADDRESS_FAMILY), 2)
        table.refuse(again, 440)
        self.assertEqual(table.events(), [Failed(Trouble.UNSUPPORTED, "no")])

    def test_silence(self) -> None:
        """Asked five times over UDP, once over a stream."""
        for reliable, count in ((False, 5), (True, 1)):
            table = Table(reliable=reliable)
            table.client.allocate(table.now)
            asked = len(table.requests())
            while (timer := table.client.get_timer()) is not None:
                table.now = timer
                table.client.handle_timer(timer)
                asked += len(table.requests())
            self.assertEqual(asked, count)
            self.assertEqual(table.events(), [Failed(Trouble.TIMEOUT)])
            self.assertLess(table.now, 1012.0)

    def test_forged_and_damaged_answers(self) -> None:
        """Unsigned, wrongly signed, for another method, truncated: no effect, and the real one counts."""
        table = Table()
        table.client.allocate(table.now)
        (request,) = table.requests()
        victim = (Attribute.XOR_RELAYED_ADDRESS, STRANGER)
        good = success(request, victim, (Attribute.LIFETIME, 600))
        table.give(good, None)
        table.give(good, b"wrong")
        table.give(Message(Method.REFRESH, MessageClass.SUCCESS, request.transaction_id))
        table.give(Message(Method.ALLOCATE, MessageClass.SUCCESS, bytes(12), (victim,)))
        for code in (437, 441, 442, 486, 508, 403, 500):
            table.refuse(request, code, signed=False)
        honest = encode(success(request, (Attribute.XOR_RELAYED_ADDRESS, RELAYED)), KEY)
        for end in range(len(honest)):
            table.client.receive(honest[:end], table.now)
            table.client.receive(honest[:end] + b"\xff" * (len(honest) - end), table.now)
        self.assertEqual(table.events(), [])
        table.client.receive(honest, table.now)
        self.assertEqual(table.client.relayed, RELAYED)

    def test_a_success_without_an_address(self) -> None:
        """An authentic server that makes no sense."""
        for attributes in ((), ((Attribute.XOR_RELAYED_ADDRESS, Address("198.51.100.1", 0)),)):
            table = Table()
            table.client.allocate(table.now)
            table.give(success(table.requests()[0], *attributes))
            (failed,) = table.events()
            assert isinstance(failed, Failed)
            self.assertEqual(failed.trouble, Trouble.REFUSED)

    def test_renewed_before_it_expires(self) -> None:
        """For as long as it is wanted, whatever lifetime the server gives."""
        for lifetime in (20, 600, 100_000):
            table = Table()
            table.lifetime = lifetime
            table.client.allocate(table.now)
            start, last = table.now, table.now
            for request in table.run(4000.0):
                self.assertIn(request.method, (Method.ALLOCATE, Method.REFRESH, Method.BINDING))
            self.assertEqual(table.client.state, ClientState.ALLOCATED)
            self.assertEqual(len(table.events()), 1)
            self.assertGreater(table.now - start, 3999.0)
            self.assertEqual(last, start)

    def test_gone_while_asleep(self) -> None:
        """After a night of darkness the client knows without asking."""
        table = Table().allocated()
        table.now += 12 * 3600
        table.client.handle_timer(table.now)
        self.assertEqual(table.events(), [Failed(Trouble.MISMATCH)])
        self.assertEqual(table.requests(), [])

    def test_probe(self) -> None:
        """Asks whether the server still knows us: a restarted one says 437, a dead one nothing."""
        table = Table().allocated()
        table.client.probe(table.now)
        table.refuse(table.requests()[0], 437)
        self.assertEqual(table.events(), [Failed(Trouble.MISMATCH, "no")])
        table = Table().allocated()
        table.client.probe(table.now)
        start = table.now
        while table.client.state is not ClientState.OVER:
            table.now = table.client.get_timer() or 0.0
            table.client.handle_timer(table.now)
        self.assertEqual(table.events(), [Failed(Trouble.TIMEOUT)])
        self.assertLess(table.now - start, 6.0)

    def test_new_credentials(self) -> None:
        """Where the server takes the old ones no longer, the new ones are tried."""
        table = Table().allocated()
        table.client.probe(table.now)
        (request,) = table.requests()
        table.client.renew(RelayCredentials("1999999999:alice", "secret-2", "punch", "nonce-9"))
        table.refuse(request, 401, (Attribute.REALM, "punch"), (Attribute.NONCE, "x"), signed=False)
        (again,) = table.requests()
        self.assertTrue(again.check_integrity(long_term_key("1999999999:alice", "punch", "secret-2")))

    def test_credentials_that_end_the_allocation(self) -> None:
        """
        A server that gives a short lifetime, because the credentials expire, is shown the new ones; one that
        knows its clients by their user names says 441, and gets the old ones again.
        """
        fresh = RelayCredentials("1999999999:alice", "secret-2", "punch", "nonce-1")
        key = long_term_key("1999999999:alice", "punch", "secret-2")
        for objects in (False, True):
            table = Table().allocated()
            table.client.renew(fresh)
            table.client.probe(table.now)
            table.lifetime = 60
            table.answer(table.requests()[0])
            self.assertEqual(table.client.get_timer(), table.now)
            table.client.handle_timer(table.now)
            (request,) = table.requests()
            self.assertTrue(request.check_integrity(key))
            if objects:
                table.give(error(request, 441, "Wrong Credentials"), key)
                (request,) = table.requests()
                self.assertTrue(request.check_integrity(KEY))
                table.answer(request)
            else:
                table.give(success(request, (Attribute.LIFETIME, 600)), key)
            self.assertEqual(table.client.state, ClientState.ALLOCATED)
            self.assertEqual(table.events(), [])
            self.assertGreater(table.client.get_timer() or 0.0, table.now)

    def test_giving_it_back(self) -> None:
        """`close` deletes it; a lost request is sent again, for a while."""
        table = Table().allocated()
        table.client.close(table.now)
        (request,) = table.requests()
        self.assertEqual((request.method, request.get(Attribute.LIFETIME)), (Method.REFRESH, 0))
        self.assertIsNone(table.client.relayed)
        self.assertEqual(table.client.state, ClientState.CLOSING)
        table.answer(request)
        self.assertEqual(table.client.state, ClientState.OVER)
        self.assertEqual(table.events(), [])
        table = Table().allocated()
        table.client.close(table.now)
        table.run(0.0)
        early = Table()
        early.client.allocate(early.now)
        early.client.close(early.now)
        self.assertEqual(early.requests()[-1].get(Attribute.LIFETIME), 0)

    def test_a_broken_stream(self) -> None:
        """Whatever was under way, it is over."""
        table = Table(reliable=True).allocated()
        table.client.disconnected()
        self.assertEqual(table.events(), [Failed(Trouble.DISCONNECTED)])
        self.assertEqual(table.client.state, ClientState.OVER)


class DataTests(SynchronousTestCase):
    def test_a_check_costs_no_round_trip(self) -> None:
        """The datagram follows the request for its permission at once; no channel for a check."""
        table = Table().allocated()
        table.client.send(CHECK, PEER, table.now)
        permission, indication = table.requests()
        self.assertEqual(permission.method, Method.CREATE_PERMISSION)
        self.assertEqual(_value(permission, Attribute.XOR_PEER_ADDRESS).host, PEER.host)
        self.assertEqual(indication.method, Method.SEND)
        self.assertEqual(indication.get(Attribute.DATA), CHECK)
        table.answer(permission)
        self.assertEqual(table.requests(), [])
        table.client.send(CHECK, OTHER, table.now)
        self.assertEqual([request.method for request in table.requests()], [Method.SEND])

    def test_a_lost_request_for_a_permission(self) -> None:
        """What was sent in the meantime is sent again, the newest of it."""
        table = Table().allocated()
        for number in range(9):
            table.client.send(CHECK + bytes([number]) * 4, PEER, table.now)
        table.sent()
        table.now += 0.5
        table.client.handle_timer(table.now)
        (again,) = table.requests()
        table.answer(again)
        self.assertEqual([_value(request, Attribute.DATA)[-1] for request in table.requests()], [5, 6, 7, 8])

    def test_a_channel_for_data(self) -> None:
        """Send indications until the server has bound it, ChannelData then, in both directions."""
        table = Table().allocated()
        table.client.send(QUIC, PEER, table.now)
        permission, bind, indication = table.requests()
        self.assertEqual(bind.method, Method.CHANNEL_BIND)
        number = _value(bind, Attribute.CHANNEL_NUMBER)
        self.assertEqual(number, 0x4000)
        self.assertEqual(indication.get(Attribute.DATA), QUIC)
        table.answer(permission)
        table.answer(bind)
        table.client.send(QUIC, PEER, table.now)
        (data,) = table.sent()
        self.assertEqual(parse_channel_data(data), (number, QUIC))
        back = encode_channel_data(number, b"hello", padded=True)
        self.assertEqual(table.client.receive(back, table.now), Data(b"hello", PEER))
        table.client.send(QUIC, OTHER, table.now)
        requests = table.requests()
        self.assertEqual(requests[0].get(Attribute.CHANNEL_NUMBER), number + 1)

    def test_a_channel_that_is_refused(self) -> None:
        """Then indications carry on, and it is asked for again only a minute later."""
        table = Table().allocated()
        table.client.send(QUIC, PEER, table.now)
        for request in table.requests():
            if request.method == Method.CHANNEL_BIND:
                table.refuse(request, 400)
            else:
                table.answer(request)
        for _ in range(3):
            table.now += 10
            table.client.send(QUIC, PEER, table.now)
            self.assertEqual([request.method for request in table.requests()], [Method.SEND])

    def test_data_indications(self) -> None:
        """Before a channel is bound, and from addresses that checks come from."""
        table = Table().allocated()
        table.client.permit(PEER, table.now)
        attributes = ((Attribute.XOR_PEER_ADDRESS, OTHER), (Attribute.DATA, b"hello"))
        message = Message(Method.DATA, MessageClass.INDICATION, bytes(12), attributes)
        self.assertEqual(table.give(message, None), Data(b"hello", OTHER))

    def test_strangers(self) -> None:
        """From unpermitted addresses, unknown or unlawful channels, cut short: nothing is relayed."""
        table = Table().allocated()
        table.client.send(QUIC, PEER, table.now)
        for attributes in (
            ((Attribute.XOR_PEER_ADDRESS, STRANGER), (Attribute.DATA, b"hello")),
            ((Attribute.DATA, b"hello"),),
            ((Attribute.XOR_PEER_ADDRESS, PEER),),
            ((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"hello"), (0x7ABC, b"must know")),
        ):
            self.assertIsNone(
                table.give(Message(Method.DATA, MessageClass.INDICATION, bytes(12), attributes), None)
            )
        for number in (0x4001, 0x4FFF):
            self.assertIsNone(
                table.client.receive(encode_channel_data(number, b"x", padded=False), table.now)
            )
        good = encode_channel_data(0x4000, b"hello", padded=False)
        for end in range(len(good)):
            self.assertIsNone(table.client.receive(good[:end], table.now))
        self.assertEqual(table.client.receive(good, table.now), Data(b"hello", PEER))

    def test_forbidden_addresses(self) -> None:
        """403: that address is told, asked for no more for a minute, and the others work."""
        table = Table().allocated()
        table.client.send(CHECK, STRANGER, table.now)
        table.refuse(table.requests()[0], 403)
        self.assertEqual(table.events(), [Refused(STRANGER)])
        table.client.send(CHECK, STRANGER, table.now)
        self.assertEqual(table.requests(), [])
        table.client.send(CHECK, PEER, table.now)
        self.assertEqual(len(table.requests()), 2)
        self.assertEqual(table.client.state, ClientState.ALLOCATED)

    def test_another_client_of_the_same_server(self) -> None:
        """
        Two peers that see nothing but the relay meet there: a permission for each relayed address, since the
        server relays to nothing else at its own.
        """
        table = Table().allocated()
        for port in (50002, 50004):
            table.client.permit(Address(RELAYED.host, port), table.now)
        asked = [_value(request, Attribute.XOR_PEER_ADDRESS) for request in table.requests()]
        self.assertEqual(asked, [Address(RELAYED.host, 50002), Address(RELAYED.host, 50004)])

    def test_other_family(self) -> None:
        """An IPv4 relay can't reach IPv6 addresses."""
        table = Table().allocated()
        table.client.send(CHECK, Address("2001:db8::1", 5), table.now)
        table.client.permit(Address("2001:db8::1", 5), table.now)
        self.assertEqual(table.requests(), [])

    def test_two_hundred_addresses(self) -> None:
        """However many addresses are sent to, the permissions are bounded."""
        table = Table().allocated()
        for number in range(500):
            table.client.send(CHECK, Address(f"203.0.{number // 250}.{number % 250 + 1}", 9), table.now)
        requests = [request for request in table.requests() if request.method == Method.CREATE_PERMISSION]
        self.assertEqual(len(requests), 128)

    def test_renewal_while_used(self) -> None:
        """Permissions within 300 s, channels within 600 s, for an hour; neither when nobody uses them."""
        table = Table().allocated()
        last: dict[int, float] = {}
        for _ in range(360):
            table.client.send(QUIC, PEER, table.now)
            table.client.send(CHECK, Address("203.0.113.9", 1), table.now)
            for request in table.run(10.0):
                if request.method in (Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
                    limit = 300.0 if request.method == Method.CREATE_PERMISSION else 600.0
                    self.assertLess(table.now - last.get(request.method, table.now), limit)
                    last[request.method] = table.now
        self.assertGreater(min(last.values()), table.now - 300.0)
        methods = {request.method for request in table.run(400.0)[60:]}
        self.assertNotIn(Method.CHANNEL_BIND, methods)
        table.client.send(QUIC, PEER, table.now)
        after = {request.method for request in table.requests()}
        self.assertEqual(after, {Method.CREATE_PERMISSION, Method.CHANNEL_BIND, Method.SEND})

    def test_a_dead_server_is_noticed(self) -> None:
        """A permission that nobody answers leads to the question whether the server is there."""
        table = Table().allocated()
        table.client.permit(PEER, table.now)
        start = table.now
        while table.client.state is ClientState.ALLOCATED:
            table.now = table.client.get_timer() or 0.0
            table.client.handle_timer(table.now)
        self.assertEqual(table.events(), [Failed(Trouble.TIMEOUT)])
        self.assertLess(table.now - start, 20.0)

    def test_a_restarted_server_is_noticed(self) -> None:
        """437 to whatever request: the allocation is gone."""
        table = Table().allocated()
        table.client.send(QUIC, PEER, table.now)
        table.refuse(table.requests()[1], 437)
        self.assertEqual(table.events(), [Failed(Trouble.MISMATCH, "no")])
        table.client.send(QUIC, PEER, table.now)
        self.assertEqual(table.sent(), [])

    def test_the_way_to_the_server_is_kept_open(self) -> None:
        """Over UDP, an indication every 15 s; a stream needs none."""
        table = Table().allocated()
        self.assertEqual({request.method for request in table.run(40.0)}, {Method.BINDING})
        self.assertEqual(Table(reliable=True).allocated().run(40.0), [])

    def test_padding(self) -> None:
        """On a stream, everything is a multiple of four bytes."""
        table = Table(reliable=True).allocated()
        table.client.send(QUIC, PEER, table.now)
        for request in table.requests():
            table.answer(request)
        for size in range(1, 9):
            table.client.send(QUIC[:size], PEER, table.now)
        self.assertEqual([len(data) % 4 for data in table.sent()], [0] * 8)

    def test_whose_datagram(self) -> None:
        """At one port there may be a reflector too: its answers are not the relay's."""
        client = Table().client
        for message_class in MessageClass:
            self.assertFalse(client.owns(encode(Message(Method.BINDING, message_class, bytes(12)))))
            self.assertTrue(client.owns(encode(Message(Method.ALLOCATE, message_class, bytes(12)))))
        self.assertTrue(client.owns(encode_channel_data(0x4000, b"", padded=False)))
        for data in (b"", b"\x40", b"\xc0" * 40, b"\x50" * 40):
            self.assertFalse(client.owns(data))
