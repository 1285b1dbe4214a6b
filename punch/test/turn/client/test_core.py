"""The TURN client's allocation: made, kept, refused and deleted, by honest and by hostile servers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.test.turn.client.turn_client import KEY, MAPPED, PEER, RELAYED, STRANGER, ScriptedServer
from punch.turn.client.core import ClientState
from punch.turn.client.requests import (
    Allocated,
    AllocationFailed,
    AllocationProblem,
    RateLimited,
    RelayCredentials,
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
from punch.wire.stun_attributes import RelayLimit, RelayLimitValue


class AllocationTests(SynchronousTestCase):
    def test_one_round_trip(self) -> None:
        """With realm and nonce known, the first request is authenticated."""
        server = ScriptedServer()
        server.client.allocate(server.now)
        (request,) = server.requests()
        self.assertEqual(request.method, Method.ALLOCATE)
        self.assertTrue(request.check_integrity(KEY))
        self.assertEqual(request.get(Attribute.REQUESTED_TRANSPORT), 17)
        server.answer(request)
        self.assertEqual(server.events(), [Allocated(RELAYED, MAPPED, 600.0)])
        self.assertEqual((server.client.relayed, server.client.mapped), (RELAYED, MAPPED))
        self.assertEqual(server.client.state, ClientState.ALLOCATED)

    def test_without_realm_and_nonce(self) -> None:
        """The server's 401 (RFC 8656, section 5) tells them."""
        server = ScriptedServer(RelayCredentials("1900000000:alice", "secret"))
        server.client.allocate(server.now)
        (first,) = server.requests()
        self.assertFalse(first.has_integrity())
        server.answer(first)
        (second,) = server.requests()
        self.assertTrue(second.check_integrity(KEY))
        self.assertNotEqual(second.transaction_id, first.transaction_id)
        server.answer(second)
        self.assertEqual(server.client.relayed, RELAYED)

    def test_stale_nonce(self) -> None:
        """438: each request under way is made once more with the new nonce."""
        server = ScriptedServer().allocated()
        server.nonce = "nonce-2"
        server.client.permit(PEER, server.now)
        server.client.permit(Address("203.0.113.3", 1), server.now)
        before = server.requests()
        for request in before:
            server.answer(request)
        after = server.requests()
        self.assertEqual([request.get(Attribute.NONCE) for request in after], ["nonce-2"] * 2)
        for request in after:
            server.answer(request)
        self.assertEqual(server.requests(), [])

    def test_nonces_without_end(self) -> None:
        """A server that sends a new nonce each time is not asked for ever."""
        for code in (401, 438):
            server = ScriptedServer(RelayCredentials("a", "b"))
            server.client.allocate(server.now)
            asked = 0
            while requests := server.requests():
                asked += len(requests)
                told = ((Attribute.REALM, f"realm-{asked}"), (Attribute.NONCE, f"n-{asked}"))
                server.refuse(requests[0], code, *told, signed=False)
            self.assertLessEqual(asked, 4)
            (failed,) = server.events()
            assert isinstance(failed, AllocationFailed)

    def test_distinct_outcomes(self) -> None:
        """
        Each error code is told as its `AllocationProblem`, those that mean nothing special as `REFUSED`.
        """
        outcomes = {
            401: AllocationProblem.UNAUTHORIZED,
            437: AllocationProblem.MISMATCH,
            441: AllocationProblem.WRONG_CREDENTIALS,
            442: AllocationProblem.UNSUPPORTED,
            486: AllocationProblem.QUOTA,
            508: AllocationProblem.CAPACITY,
            403: AllocationProblem.REFUSED,
            500: AllocationProblem.REFUSED,
            300: AllocationProblem.REFUSED,
        }
        for code, problem in outcomes.items():
            server = ScriptedServer()
            server.client.allocate(server.now)
            for _ in range(3):
                for request in server.requests():
                    if request.method == Method.ALLOCATE:
                        server.refuse(request, code)
            self.assertEqual(server.events(), [AllocationFailed(problem, "no")], code)
            self.assertEqual(server.client.state, ClientState.OVER)
            self.assertIsNone(server.client.get_timer())

    def test_an_allocation_of_an_earlier_process(self) -> None:
        """437 for an Allocate request: the allocation at this port is deleted, and requested once more."""
        server = ScriptedServer()
        server.client.allocate(server.now)
        server.refuse(server.requests()[0], 437)
        delete, again = server.requests()
        self.assertEqual((delete.method, delete.get(Attribute.LIFETIME)), (Method.REFRESH, 0))
        server.answer(again)
        self.assertEqual(server.client.relayed, RELAYED)

    def test_other_family(self) -> None:
        """440: a server that has no IPv4 to relay with is asked for IPv6, once."""
        server = ScriptedServer()
        server.client.allocate(server.now)
        server.refuse(server.requests()[0], 440)
        (again,) = server.requests()
        self.assertEqual(again.get(Attribute.REQUESTED_ADDRESS_FAMILY), 2)
        server.refuse(again, 440)
        self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.UNSUPPORTED, "no")])

    def test_silence(self) -> None:
        """A request is sent five times over UDP, once over a stream."""
        for reliable, count in ((False, 5), (True, 1)):
            server = ScriptedServer(reliable=reliable)
            server.client.allocate(server.now)
            asked = len(server.requests())
            while (timer := server.client.get_timer()) is not None:
                server.now = timer
                server.client.handle_timer(timer)
                asked += len(server.requests())
            self.assertEqual(asked, count)
            self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.TIMEOUT)])
            self.assertLess(server.now, 1012.0)

    def test_forged_and_damaged_answers(self) -> None:
        """
        Answers that are unsigned, wrongly signed, for another method or truncated have no effect. The real
        one counts.
        """
        server = ScriptedServer()
        server.client.allocate(server.now)
        (request,) = server.requests()
        victim = (Attribute.XOR_RELAYED_ADDRESS, STRANGER)
        good = success(request, victim, (Attribute.LIFETIME, 600))
        server.give(good, None)
        server.give(good, b"wrong")
        server.give(StunMessage(Method.REFRESH, MessageClass.SUCCESS, request.transaction_id))
        server.give(StunMessage(Method.ALLOCATE, MessageClass.SUCCESS, bytes(12), (victim,)))
        for code in (437, 441, 442, 486, 508, 403, 500):
            server.refuse(request, code, signed=False)
        honest = encode(success(request, (Attribute.XOR_RELAYED_ADDRESS, RELAYED)), KEY)
        for end in range(len(honest)):
            server.client.receive(honest[:end], server.now)
            server.client.receive(honest[:end] + b"\xff" * (len(honest) - end), server.now)
        self.assertEqual(server.events(), [])
        server.client.receive(honest, server.now)
        self.assertEqual(server.client.relayed, RELAYED)

    def test_a_success_without_an_address(self) -> None:
        """An authentic success response without a relayed address is a failure."""
        for attributes in ((), ((Attribute.XOR_RELAYED_ADDRESS, Address("198.51.100.1", 0)),)):
            server = ScriptedServer()
            server.client.allocate(server.now)
            server.give(success(server.requests()[0], *attributes))
            (failed,) = server.events()
            assert isinstance(failed, AllocationFailed)
            self.assertEqual(failed.problem, AllocationProblem.REFUSED)

    def test_renewed_before_it_expires(self) -> None:
        """An allocation is refreshed for as long as it is wanted, whatever lifetime the server gives."""
        for lifetime in (20, 600, 100_000):
            server = ScriptedServer()
            server.lifetime = lifetime
            server.client.allocate(server.now)
            start, last = server.now, server.now
            for request in server.run(4000.0):
                self.assertIn(request.method, (Method.ALLOCATE, Method.REFRESH, Method.BINDING))
            self.assertEqual(server.client.state, ClientState.ALLOCATED)
            self.assertEqual(len(server.events()), 1)
            self.assertGreater(server.now - start, 3999.0)
            self.assertEqual(last, start)

    def test_gone_while_asleep(self) -> None:
        """After an allocation has expired during sleep, the client knows that without a request."""
        server = ScriptedServer().allocated()
        server.now += 12 * 3600
        server.client.handle_timer(server.now)
        self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.MISMATCH)])
        self.assertEqual(server.requests(), [])

    def test_probe(self) -> None:
        """
        A probe finds out whether the allocation still exists: a restarted server answers 437, a dead one
        nothing.
        """
        server = ScriptedServer().allocated()
        server.client.probe(server.now)
        server.refuse(server.requests()[0], 437)
        self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.MISMATCH, "no")])
        server = ScriptedServer().allocated()
        server.client.probe(server.now)
        start = server.now
        while server.client.state is not ClientState.OVER:
            server.now = server.client.get_timer() or 0.0
            server.client.handle_timer(server.now)
        self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.TIMEOUT)])
        self.assertLess(server.now - start, 6.0)

    def test_new_credentials(self) -> None:
        """If the server no longer accepts the old credentials, the new ones are used."""
        server = ScriptedServer().allocated()
        server.client.probe(server.now)
        (request,) = server.requests()
        server.client.renew(RelayCredentials("1999999999:alice", "secret-2", "punch", "nonce-9"))
        server.refuse(request, 401, (Attribute.REALM, "punch"), (Attribute.NONCE, "x"), signed=False)
        (again,) = server.requests()
        self.assertTrue(again.check_integrity(long_term_key("1999999999:alice", "punch", "secret-2")))

    def test_credentials_that_end_the_allocation(self) -> None:
        """
        A server that gives a short lifetime, because the credentials expire, is shown the new ones; one that
        knows its clients by their user names says 441, and gets the old ones again.
        """
        fresh = RelayCredentials("1999999999:alice", "secret-2", "punch", "nonce-1")
        key = long_term_key("1999999999:alice", "punch", "secret-2")
        for objects in (False, True):
            server = ScriptedServer().allocated()
            server.client.renew(fresh)
            server.client.probe(server.now)
            server.lifetime = 60
            server.answer(server.requests()[0])
            self.assertEqual(server.client.get_timer(), server.now)
            server.client.handle_timer(server.now)
            (request,) = server.requests()
            self.assertTrue(request.check_integrity(key))
            if objects:
                server.give(error(request, 441, "Wrong Credentials"), key)
                (request,) = server.requests()
                self.assertTrue(request.check_integrity(KEY))
                server.answer(request)
            else:
                server.give(success(request, (Attribute.LIFETIME, 600)), key)
            self.assertEqual(server.client.state, ClientState.ALLOCATED)
            self.assertEqual(server.events(), [])
            self.assertGreater(server.client.get_timer() or 0.0, server.now)

    def test_giving_it_back(self) -> None:
        """`close` deletes it; a lost request is sent again, for a while."""
        server = ScriptedServer().allocated()
        server.client.close(server.now)
        (request,) = server.requests()
        self.assertEqual((request.method, request.get(Attribute.LIFETIME)), (Method.REFRESH, 0))
        self.assertIsNone(server.client.relayed)
        self.assertEqual(server.client.state, ClientState.CLOSING)
        server.answer(request)
        self.assertEqual(server.client.state, ClientState.OVER)
        self.assertEqual(server.events(), [])
        server = ScriptedServer().allocated()
        server.client.close(server.now)
        server.run(0.0)
        early = ScriptedServer()
        early.client.allocate(early.now)
        early.client.close(early.now)
        self.assertEqual(early.requests()[-1].get(Attribute.LIFETIME), 0)

    def test_a_broken_stream(self) -> None:
        """If the stream breaks, the allocation and all requests have ended."""
        server = ScriptedServer(reliable=True).allocated()
        server.client.disconnected()
        self.assertEqual(server.events(), [AllocationFailed(AllocationProblem.DISCONNECTED)])
        self.assertEqual(server.client.state, ClientState.OVER)


class RateLimitTests(SynchronousTestCase):
    """Notices of the server that it drops datagrams (docs/protocol.md, section 7.2)."""

    def notice(self, dropped: int, limit: RelayLimit = RelayLimit.PEER) -> StunMessage:
        attributes = ((Attribute.RELAY_LIMIT, RelayLimitValue(limit, dropped)),)
        return StunMessage(Method.REFRESH, MessageClass.INDICATION, bytes(12), attributes)

    def test_told(self) -> None:
        server = ScriptedServer().allocated()
        server.give(self.notice(1000))
        server.give(self.notice(2000, RelayLimit.RELAY))
        self.assertEqual(server.events(), [RateLimited(RelayLimit.PEER), RateLimited(RelayLimit.RELAY)])

    def test_copies_and_forgeries(self) -> None:
        """
        A notice that is older, unprotected, protected with another key, or without a value has no effect.
        """
        server = ScriptedServer().allocated()
        server.give(self.notice(1000))
        server.events()
        for message, key in (
            (self.notice(1000), KEY),
            (self.notice(999), KEY),
            (self.notice(2000), None),
            (self.notice(2000), KEY[::-1]),
            (StunMessage(Method.REFRESH, MessageClass.INDICATION, bytes(12)), KEY),
        ):
            server.give(message, key)
        self.assertEqual(server.events(), [])
        self.assertEqual(server.client.state, ClientState.ALLOCATED)

    def test_malformed(self) -> None:
        """Another length, or a limit that is not known: the message is dropped."""
        server = ScriptedServer().allocated()
        for value in (b"", bytes(7), bytes(9), b"\x04" + bytes(7), b"\xff" * 8):
            whole = encode(self.notice(5), KEY, fingerprint=False)
            header, protected = whole[:20], whole[32:]
            body = bytes.fromhex("c0bf") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
            size = (len(body) + len(protected)).to_bytes(2, "big")
            server.client.receive(header[:2] + size + header[4:] + body + protected, server.now)
        self.assertEqual(server.events(), [])

    def test_without_an_allocation(self) -> None:
        server = ScriptedServer().allocated()
        server.client.close(server.now)
        server.give(self.notice(1000))
        self.assertEqual(server.events(), [])

    def test_after_new_credentials(self) -> None:
        """Until the server has seen the new credentials, it protects its notices with those before."""
        server = ScriptedServer().allocated()
        fresh = RelayCredentials("1900009999:alice", "secret", "punch", "nonce-1")
        server.client.renew(fresh)
        server.lifetime = 200
        server.client.probe(server.now)
        (request,) = server.requests()
        server.answer(request)
        server.give(self.notice(1000))
        server.give(self.notice(2000), long_term_key(fresh.username, fresh.realm, fresh.password))
        self.assertEqual(server.events(), [RateLimited(RelayLimit.PEER)] * 2)
