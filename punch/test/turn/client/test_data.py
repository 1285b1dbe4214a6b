"""What the TURN client carries: permissions, channels, and how it notices that the server is gone."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.test.turn.client.turn_client import CHECK, OTHER, PEER, QUIC, RELAYED, STRANGER, ScriptedServer
from punch.turn.client.core import ClientState
from punch.turn.client.requests import AllocationDenied, AllocationFailed, AllocationProblem, Data
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
)
from punch.wire.turn import encode_channel_data, parse_channel_data


def attribute_of(message: StunMessage, attribute: Attribute) -> Any:
    """Return the value of an attribute that must be there."""
    return message.get(attribute)


class DataTests(SynchronousTestCase):
    def test_a_check_costs_no_round_trip(self) -> None:
        """The datagram follows the request for its permission at once; no channel for a check."""
        server = ScriptedServer().allocated()
        server.client.send(CHECK, PEER, server.now)
        permission, indication = server.requests()
        self.assertEqual(permission.method, Method.CREATE_PERMISSION)
        self.assertEqual(attribute_of(permission, Attribute.XOR_PEER_ADDRESS).host, PEER.host)
        self.assertEqual(indication.method, Method.SEND)
        self.assertEqual(indication.get(Attribute.DATA), CHECK)
        server.answer(permission)
        self.assertEqual(server.requests(), [])
        server.client.send(CHECK, OTHER, server.now)
        self.assertEqual([request.method for request in server.requests()], [Method.SEND])

    def test_a_lost_request_for_a_permission(self) -> None:
        """Data that was sent while a permission was requested is sent again, the newest of it."""
        server = ScriptedServer().allocated()
        for number in range(9):
            server.client.send(CHECK + bytes([number]) * 4, PEER, server.now)
        server.sent()
        server.now += 0.5
        server.client.handle_timer(server.now)
        (again,) = server.requests()
        server.answer(again)
        self.assertEqual(
            [attribute_of(request, Attribute.DATA)[-1] for request in server.requests()], [5, 6, 7, 8]
        )

    def test_after_a_sleep(self) -> None:
        """What the server granted may have expired while the clock stood still: it is renewed at once."""
        server = ScriptedServer().allocated()
        server.client.permit(STRANGER, server.now)
        server.client.send(QUIC, PEER, server.now)
        for request in server.requests():
            if request.message_class is MessageClass.REQUEST:
                server.answer(request)
        server.now += 1.0
        server.client.woke(server.now)
        self.assertEqual(server.client.get_timer(), server.now)
        server.client.handle_timer(server.now)
        renewed = {
            (each.method, attribute_of(each, Attribute.XOR_PEER_ADDRESS)) for each in server.requests()
        }
        # The channel's request renews its permission, too
        self.assertIn((Method.CHANNEL_BIND, PEER), renewed)
        self.assertIn(
            (Method.CREATE_PERMISSION, STRANGER.host),
            {(method, address.host) for method, address in renewed},
        )

    def test_a_channel_for_data(self) -> None:
        """Data goes in Send indications until the server has bound the channel, then in ChannelData."""
        server = ScriptedServer().allocated()
        server.client.send(QUIC, PEER, server.now)
        permission, bind, indication = server.requests()
        self.assertEqual(bind.method, Method.CHANNEL_BIND)
        number = attribute_of(bind, Attribute.CHANNEL_NUMBER)
        self.assertEqual(number, 0x4000)
        self.assertEqual(indication.get(Attribute.DATA), QUIC)
        server.answer(permission)
        server.answer(bind)
        server.client.send(QUIC, PEER, server.now)
        (data,) = server.sent()
        self.assertEqual(parse_channel_data(data), (number, QUIC))
        back = encode_channel_data(number, b"hello", padded=True)
        self.assertEqual(server.client.receive(back, server.now), Data(b"hello", PEER))
        server.client.send(QUIC, OTHER, server.now)
        requests = server.requests()
        self.assertEqual(requests[0].get(Attribute.CHANNEL_NUMBER), number + 1)

    def test_a_channel_that_is_refused(self) -> None:
        """If a channel is refused, indications are used, and it is requested again after a minute."""
        server = ScriptedServer().allocated()
        server.client.send(QUIC, PEER, server.now)
        for request in server.requests():
            if request.method == Method.CHANNEL_BIND:
                server.refuse(request, 400)
            else:
                server.answer(request)
        for _ in range(3):
            server.now += 10
            server.client.send(QUIC, PEER, server.now)
            self.assertEqual([request.method for request in server.requests()], [Method.SEND])

    def test_data_indications(self) -> None:
        """Data indications are taken before a channel is bound, and from addresses that sent checks."""
        server = ScriptedServer().allocated()
        server.client.permit(PEER, server.now)
        attributes = ((Attribute.XOR_PEER_ADDRESS, OTHER), (Attribute.DATA, b"hello"))
        message = StunMessage(Method.DATA, MessageClass.INDICATION, bytes(12), attributes)
        self.assertEqual(server.give(message, None), Data(b"hello", OTHER))

    def test_strangers(self) -> None:
        """Data from unpermitted addresses, of unknown or invalid channels, or truncated, is dropped."""
        server = ScriptedServer().allocated()
        server.client.send(QUIC, PEER, server.now)
        for attributes in (
            ((Attribute.XOR_PEER_ADDRESS, STRANGER), (Attribute.DATA, b"hello")),
            ((Attribute.DATA, b"hello"),),
            ((Attribute.XOR_PEER_ADDRESS, PEER),),
            ((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"hello"), (0x7ABC, b"must know")),
        ):
            self.assertIsNone(
                server.give(StunMessage(Method.DATA, MessageClass.INDICATION, bytes(12), attributes), None)
            )
        for number in (0x4001, 0x4FFF):
            self.assertIsNone(
                server.client.receive(encode_channel_data(number, b"x", padded=False), server.now)
            )
        good = encode_channel_data(0x4000, b"hello", padded=False)
        for end in range(len(good)):
            self.assertIsNone(server.client.receive(good[:end], server.now))
        self.assertEqual(server.client.receive(good, server.now), Data(b"hello", PEER))

    def test_forbidden_addresses(self) -> None:
        """
        403: the event names the address, which is not requested again for a minute. Other addresses work.
        """
        server = ScriptedServer().allocated()
        server.client.send(CHECK, STRANGER, server.now)
        server.refuse(server.requests()[0], 403)
        self.assertEqual(server.events(), [AllocationDenied(STRANGER)])
        server.client.send(CHECK, STRANGER, server.now)
        self.assertEqual(server.requests(), [])
        server.client.send(CHECK, PEER, server.now)
        self.assertEqual(len(server.requests()), 2)
        self.assertEqual(server.client.state, ClientState.ALLOCATED)

    def test_another_client_of_the_same_server(self) -> None:
        """
        Two peers that see nothing but the relay meet there: a permission for each relayed address, since the
        server relays to nothing else at its own.
        """
        server = ScriptedServer().allocated()
        for port in (50002, 50004):
            server.client.permit(Address(RELAYED.host, port), server.now)
        asked = [attribute_of(request, Attribute.XOR_PEER_ADDRESS) for request in server.requests()]
        self.assertEqual(asked, [Address(RELAYED.host, 50002), Address(RELAYED.host, 50004)])

    def test_other_family(self) -> None:
        """An IPv4 relay can't reach IPv6 addresses."""
        server = ScriptedServer().allocated()
        server.client.send(CHECK, Address("2001:db8::1", 5), server.now)
        server.client.permit(Address("2001:db8::1", 5), server.now)
        self.assertEqual(server.requests(), [])

    def test_two_hundred_addresses(self) -> None:
        """However many addresses are sent to, the permissions are bounded."""
        server = ScriptedServer().allocated()
        for number in range(500):
            server.client.send(CHECK, Address(f"203.0.{number // 250}.{number % 250 + 1}", 9), server.now)
        requests = [request for request in server.requests() if request.method == Method.CREATE_PERMISSION]
        self.assertEqual(len(requests), 128)

    def test_renewal_while_used(self) -> None:
        """Permissions within 300 s, channels within 600 s, for an hour; neither when nobody uses them."""
        server = ScriptedServer().allocated()
        last: dict[int, float] = {}
        for _ in range(360):
            server.client.send(QUIC, PEER, server.now)
            server.client.send(CHECK, Address("203.0.113.9", 1), server.now)
            for request in server.run(10.0):
                if request.method in (Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
                    limit = 300.0 if request.method == Method.CREATE_PERMISSION else 600.0
                    self.assertLess(server.now - last.get(request.method, server.now), limit)
                    last[request.method] = server.now
        self.assertGreater(min(last.values()), server.now - 300.0)
        methods = {request.method for request in server.run(400.0)[60:]}
        self.assertNotIn(Method.CHANNEL_BIND, methods)
        server.client.send(QUIC, PEER, server.now)
        after = {request.method for request in server.requests()}
        self.assertEqual(after, {Method.CREATE_PERMISSION, Method.CHANNEL_BIND, Method.SEND})

    def test_a_dead_server_is_noticed(self) -> None:
        """If a request for a permission is not answered, the client probes whether the server is there."""
        server = ScriptedServer().allocated()
        server.client.permit(PEER, server.now)
        start = server.now
        while server.client.state is ClientState.ALLOCATED:
            server.now = server.client.get_timer() or 0.0
            server.client.handle_timer(server.now)
        self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.TIMEOUT)])
        self.assertLess(server.now - start, 20.0)

    def test_a_restarted_server_is_noticed(self) -> None:
        """437 to any request: the allocation is gone."""
        server = ScriptedServer().allocated()
        server.client.send(QUIC, PEER, server.now)
        server.refuse(server.requests()[1], 437)
        self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.MISMATCH, "no")])
        server.client.send(QUIC, PEER, server.now)
        self.assertEqual(server.sent(), [])

    def test_the_way_to_the_server_is_kept_open(self) -> None:
        """Over UDP, an indication every 15 s; a stream needs none."""
        server = ScriptedServer().allocated()
        self.assertEqual({request.method for request in server.run(40.0)}, {Method.BINDING})
        self.assertEqual(ScriptedServer(reliable=True).allocated().run(40.0), [])

    def test_padding(self) -> None:
        """On a stream, ChannelData is padded to a multiple of four bytes."""
        server = ScriptedServer(reliable=True).allocated()
        server.client.send(QUIC, PEER, server.now)
        for request in server.requests():
            server.answer(request)
        for size in range(1, 9):
            server.client.send(QUIC[:size], PEER, server.now)
        self.assertEqual([len(data) % 4 for data in server.sent()], [0] * 8)

    def test_whose_datagram(self) -> None:
        """Answers of a reflector at the relay's address and port are not taken for those of the relay."""
        client = ScriptedServer().client
        for message_class in MessageClass:
            self.assertFalse(client.owns(encode(StunMessage(Method.BINDING, message_class, bytes(12)))))
            self.assertTrue(client.owns(encode(StunMessage(Method.ALLOCATE, message_class, bytes(12)))))
        self.assertTrue(client.owns(encode_channel_data(0x4000, b"", padded=False)))
        for data in (b"", b"\x40", b"\xc0" * 40, b"\x50" * 40):
            self.assertFalse(client.owns(data))
