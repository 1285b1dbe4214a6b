"""The TURN client's allocation: got, kept, refused and given back, by servers honest and not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.test.turn_lab import KEY, MAPPED, PEER, RELAYED, STRANGER, Table
from punch.turn.client import ClientState
from punch.turn.client_events import (
    Allocated,
    AllocationFailed,
    RelayCredentials,
    Trouble,
)
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    error,
    long_term_key,
    success,
)


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
            assert isinstance(failed, AllocationFailed)

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
            self.assertEqual(table.events(), [AllocationFailed(trouble, "no")], code)
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
        self.assertEqual(table.events(), [AllocationFailed(Trouble.UNSUPPORTED, "no")])

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
            self.assertEqual(table.events(), [AllocationFailed(Trouble.TIMEOUT)])
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
        table.give(StunMessage(Method.REFRESH, MessageClass.SUCCESS, request.transaction_id))
        table.give(StunMessage(Method.ALLOCATE, MessageClass.SUCCESS, bytes(12), (victim,)))
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
            assert isinstance(failed, AllocationFailed)
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
        self.assertEqual(table.events(), [AllocationFailed(Trouble.MISMATCH)])
        self.assertEqual(table.requests(), [])

    def test_probe(self) -> None:
        """Asks whether the server still knows us: a restarted one says 437, a dead one nothing."""
        table = Table().allocated()
        table.client.probe(table.now)
        table.refuse(table.requests()[0], 437)
        self.assertEqual(table.events(), [AllocationFailed(Trouble.MISMATCH, "no")])
        table = Table().allocated()
        table.client.probe(table.now)
        start = table.now
        while table.client.state is not ClientState.OVER:
            table.now = table.client.get_timer() or 0.0
            table.client.handle_timer(table.now)
        self.assertEqual(table.events(), [AllocationFailed(Trouble.TIMEOUT)])
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
        self.assertEqual(table.events(), [AllocationFailed(Trouble.DISCONNECTED)])
        self.assertEqual(table.client.state, ClientState.OVER)
