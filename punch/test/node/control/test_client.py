"""The control connection of a peer: back-off, keepalive, nonsense from the other side, and its end."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet import error
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.node.causes import ProblemCode
from punch.node.control.attempt import problem_of_failure
from punch.node.control.client import ControlClient, backoff
from punch.node.control.core import LINE_BURST, LINE_RATE, WELCOME_TIME
from punch.test.node.control.scripted_service import ScriptedConnection, ScriptedService
from punch.test.node.control.test_tls import ControlTestCase
from punch.ui.text.causes import problem_sentence
from punch.wire.control import Cancel, Ended, Error, ErrorCode, Ping, Register, Request, Welcome
from punch.wire.control_lines import MAX_LINE, encode
from punch.wire.invitation import AdmissionRefusal
from punch.wire.rendezvous_address import RendezvousAddress, pin_of


class BackOffTests(SynchronousTestCase):
    """How long a client waits."""

    def test_back_off(self) -> None:
        """The delay grows from about 1 to about 30 s, times a random factor from 0.5 to 1.5."""
        for attempt in (1, 2, 10, 1000):
            low = backoff(attempt, lambda size: b"\0" * size)
            high = backoff(attempt, lambda size: b"\xff" * size)
            self.assertAlmostEqual(high, 3 * low, places=6)
            self.assertLessEqual(high, 45.0)
        self.assertEqual(backoff(1, lambda size: bytes(size)), 0.5)
        self.assertEqual(backoff(1000, lambda size: bytes(size)), 15.0)
        self.assertEqual(backoff(1000, lambda size: bytes(size), 4.0), 2.0)


class ProblemTests(SynchronousTestCase):
    """Why the rendezvous can't be reached."""

    def test_codes(self) -> None:
        """Each failure has its code."""
        address = RendezvousAddress("rendezvous.example.org", 7001, None)
        for each, code in (
            (error.DNSLookupError(), ProblemCode.NAME_UNKNOWN),
            (error.ConnectionRefusedError(), ProblemCode.REFUSED),
            (error.TimeoutError(), ProblemCode.TIMEOUT),
            (error.NoRouteError(), ProblemCode.UNREACHABLE),
            (error.ConnectError(), ProblemCode.UNREACHABLE),
        ):
            problem = problem_of_failure(address, Failure(each))
            self.assertEqual((problem.code, problem.proxy), (code, None))
            self.assertEqual((problem.reason, problem.fatal), ("rendezvous-unreachable", False))


class ClientCase(ControlTestCase):
    """One client, and a service that follows a script."""

    def setUp(self) -> None:
        super().setUp()
        self.key = Identity.generate(self.net.random_bytes("server key"))
        self.service = ScriptedService.with_key(self.server, self.key)

    def start(self) -> ControlClient:
        """Start the client."""
        return self.client(pin=pin_of(self.key.private_key.public_key()))

    def registered(self) -> ControlClient:
        """A client with its welcome."""
        client = self.start()
        self.assert_registered()
        return client

    def returns(self) -> None:
        """The client comes back by itself."""
        count = len(self.watcher.welcomes)
        self.net.run_until(lambda: len(self.watcher.welcomes) > count, 60.0, "the client returns")

    def delays(self, seconds: float) -> list[float]:
        """What is waited for between tries in so many seconds, while nothing listens any more."""
        self.service.stop(self.net)
        self.service.last.close()
        self.net.advance(seconds)
        return [retry for _, _, retry in self.watcher.problems if retry is not None]


class ClientTests(ClientCase):
    """What the client does when the service ends, stays silent, or is not there."""

    def test_nothing_listens(self) -> None:
        """Somebody's message may wait for an idle peer: it tries often for ten minutes, then seldom."""
        self.registered()
        self.net.advance(300.0)
        delays = self.delays(600.0)
        self.assertTrue(all(0.7 <= delay <= 2.6 for delay in delays), delays)
        # 34 a minute on average
        self.assertTrue(250 <= len(delays) <= 350, len(delays))
        self.net.advance(300.0)
        later = [retry for _, _, retry in self.watcher.problems[len(delays) + 1 :] if retry is not None]
        # They count from the beginning of an attempt, whose refusal takes a round trip.
        self.assertTrue(all(delay >= 15.0 - 0.2 for delay in later), later)

    def test_nothing_listens_where_peers_are_many(self) -> None:
        """The service says how fast it can take them back, and when that changes."""
        self.service.retry = 4
        self.registered()
        self.service.retry = 12
        self.net.advance(50.0)
        delays = self.delays(300.0)
        self.assertTrue(12.0 < max(delays) <= 18.0, delays)
        self.assertGreaterEqual(min(delays[7:]), 6.0)

    def test_dishonest_service(self) -> None:
        """None makes its peers try without a pause, or stay away for good."""
        self.service.retry = 2**31 - 1
        self.registered()
        delays = self.delays(600.0)
        self.assertTrue(15.0 < max(delays) <= 45.0, delays)

    def test_messages(self) -> None:
        """Both ways; what is sent while nobody is there is not sent."""
        client = self.start()
        cancel = Cancel("0" * 32, self.identity.peer_id)
        self.assertFalse(client.registered)
        self.assertFalse(client.send(cancel))
        self.assert_registered()
        self.assertTrue(client.registered)
        self.assertTrue(client.send(cancel))
        ended = Ended("0" * 32, ErrorCode.GONE, "Gone.")
        self.service.last.reply(ended)
        self.net.advance(1.0)
        self.assertEqual(self.watcher.replies, [ended])
        self.assertEqual(self.service.requests[1:], [cancel])

    def test_keepalive(self) -> None:
        """Pings as often as the welcome says, and no problem while pongs come."""
        self.service.keepalive = 5.0
        self.registered()
        self.net.advance(60.0)
        self.assertEqual(self.service.requests[1:], [Ping()] * 11)
        self.assertEqual(self.watcher.problems, [])

    def test_keepalive_of_a_dishonest_service(self) -> None:
        """An interval of next to nothing does not make a busy loop."""
        self.service.keepalive = 0.1
        self.registered()
        self.net.advance(10.0)
        self.assertLessEqual(len(self.service.requests), 12)

    def test_dead_connection(self) -> None:
        """No pong: the connection is given up, and made anew."""
        self.service.keepalive = 5.0
        self.registered()
        self.service.answer = lambda connection, request: None
        start = self.net.now
        self.net.run_until(lambda: self.watcher.problems, 30.0)
        self.assertLess(self.net.now - start, 11.0)
        self.assertEqual(self.watcher.last.reason, "rendezvous-unreachable")
        self.service.answer = self.service.obliging
        self.returns()

    def test_no_welcome(self) -> None:
        """A service that takes the registration and says nothing."""
        self.service.answer = lambda connection, request: None
        self.start()
        self.net.run_until(lambda: self.watcher.problems, 30.0)
        self.assertLess(self.net.now, WELCOME_TIME + 1.0)
        self.assertIn("did not greet", problem_sentence(self.watcher.last))
        self.service.answer = self.service.obliging
        self.returns()

    def test_back_off_is_reset_by_a_welcome_only(self) -> None:
        """TLS connections that end before `welcome` are failures like any other."""
        self.service.answer = lambda connection, request: connection.close()
        self.start()
        self.net.run_until(lambda: len(self.watcher.problems) == 8, 200.0)
        delays = [retry for _, _, retry in self.watcher.problems if retry is not None]
        self.assertEqual(len(delays), 8)
        self.assertLess(delays[0], 1.6)
        self.assertGreater(min(delays[6:]), 7.0)
        self.service.answer = self.service.obliging
        self.returns()
        self.service.last.close()
        self.net.run_until(lambda: len(self.watcher.problems) == 9, 5.0)
        last = self.watcher.problems[-1][2]
        assert last is not None
        self.assertLess(last, 1.6)

    def test_welcomed_and_closed(self) -> None:
        """A service that does this each time is left alone for longer and longer."""

        def answer(connection: ScriptedConnection, request: Request) -> None:
            self.service.obliging(connection, request)
            connection.close()

        self.service.answer = answer
        self.start()
        self.net.run_until(lambda: len(self.watcher.problems) == 8, 200.0)
        delays = [retry for _, _, retry in self.watcher.problems if retry is not None]
        self.assertLess(delays[0], 1.6)
        self.assertGreater(min(delays[6:]), 7.0)
        self.service.answer = self.service.obliging
        self.returns()
        self.net.advance(20.0)
        self.service.last.close()
        self.net.run_until(lambda: len(self.watcher.problems) == 9, 5.0)
        self.assertLess(self.watcher.problems[-1][2] or 0.0, 1.6)

    def test_flood_of_lines(self) -> None:
        """They are read at a bounded rate; none is lost, and the connection stays."""
        self.registered()
        line = encode(Ended("0" * 32, ErrorCode.GONE, "Gone.")) + b"\n"
        count = LINE_BURST + int(LINE_RATE * 5)
        self.service.last.raw(line * count)
        self.net.advance(1.0)
        self.assertGreaterEqual(len(self.watcher.replies), LINE_BURST)
        self.assertLessEqual(len(self.watcher.replies), LINE_BURST + LINE_RATE * 1.5)
        self.net.advance(10.0)
        self.assertEqual(len(self.watcher.replies), count)
        self.assertEqual(self.watcher.problems, [])

    def test_service_that_does_not_read(self) -> None:
        """The client reads nothing from a service that does not read, so that its answers do not pile up."""
        self.service.keepalive = 120.0
        client = self.registered()
        answer = Cancel("0" * 32, self.identity.peer_id)
        self.watcher.on_reply = lambda: client.send(answer)
        connection = self.service.last
        line = encode(Ended("0" * 32, ErrorCode.GONE, "Gone.")) + b"\n"
        count = 6000
        connection.pauseProducing()
        connection.raw(line * count)
        self.net.advance(count / LINE_RATE + 5.0)
        read = len(self.watcher.replies)
        # 64 KiB in the transport, and what the sockets of the simulation hold
        self.assertLess(read * len(encode(answer)), 64 * 1024 + 3 * 128 * 1024)
        connection.resumeProducing()
        self.net.advance(count / LINE_RATE + 5.0)
        self.assertEqual(len(self.watcher.replies), count)
        self.assertEqual(self.watcher.problems, [])

    def test_replaced(self) -> None:
        """The older of two never comes back by itself."""
        self.registered()
        self.service.last.reply(Error(ErrorCode.REPLACED, "Replaced."))
        self.service.last.close()
        self.net.advance(600.0)
        ((_, problem, retry),) = self.watcher.problems
        self.assertEqual((problem.reason, retry), ("replaced", None))
        self.assertEqual(len(self.service.connections), 1)

    def test_another_version(self) -> None:
        """With another version, the client does not try again."""
        self.registered()
        self.service.last.reply(Error(ErrorCode.VERSION, "No."))
        self.service.last.close()
        self.net.advance(600.0)
        ((_, problem, retry),) = self.watcher.problems
        self.assertEqual((problem.reason, retry), ("version", None))

    def test_not_admitted(self) -> None:
        """A peer that is not admitted does not try again; the error contains the operator's contact."""

        def refuse(connection: ScriptedConnection, request: Request) -> None:
            refusal = AdmissionRefusal.NOT_INVITED
            connection.reply(Error(ErrorCode.DENIED, "No.", refusal=refusal, contact="Ann, ann@example.org."))
            connection.close()

        self.service.answer = refuse
        self.start()
        self.assert_refused("not-invited", "ask Ann, ann@example.org for an invitation")

    def test_revoked(self) -> None:
        """A running peer ends as well."""
        self.registered()
        self.service.last.reply(Error(ErrorCode.DENIED, "No.", refusal=AdmissionRefusal.REVOKED))
        self.service.last.close()
        self.net.advance(600.0)
        ((_, problem, retry),) = self.watcher.problems
        self.assertEqual((problem.reason, retry), ("revoked", None))
        self.assertIn("whoever runs it", problem_sentence(problem))

    def test_on_the_deny_list(self) -> None:
        """A running peer ends if its ID is refused, and returns if only its network is."""
        self.registered()
        self.service.last.reply(Error(ErrorCode.DENIED, "The operator refuses this network."))
        self.service.last.close()
        self.returns()
        self.service.last.reply(Error(ErrorCode.DENIED, "No.", refusal=AdmissionRefusal.ID_DENIED))
        self.service.last.close()
        self.net.advance(3600.0)
        retries = [(problem.reason, retry is None) for _, problem, retry in self.watcher.problems]
        self.assertEqual(retries, [("denied", False), ("id-denied", True)])
        self.assertEqual(len(self.service.requests), 2)
        self.assertIn("another rendezvous", problem_sentence(self.watcher.last))

    def test_refused_for_a_reason_of_later_versions(self) -> None:
        """An unknown word is ignored: the peer was denied."""
        self.registered()
        self.service.last.raw(b'{"type":"error","code":"denied","text":"No.","refusal":"bad-weather"}\n')
        self.service.last.close()
        self.net.run_until(lambda: self.watcher.problems, 5.0)
        self.assertEqual(self.watcher.last.reason, "denied")
        self.returns()

    def test_an_invitation_is_sent_until_the_welcome(self) -> None:
        client = self.start()
        client.register = replace(client.register, invitation="token")
        self.assert_registered()
        self.service.last.close()
        self.returns()
        registrations = [request for request in self.service.requests if isinstance(request, Register)]
        self.assertEqual([each.invitation for each in registrations], ["token", ""])

    def test_errors_that_pass(self) -> None:
        """Shutting down, too busy, or an own mistake: the client returns."""
        self.registered()
        for code in (ErrorCode.SHUTDOWN, ErrorCode.TOO_MANY, ErrorCode.RATE, ErrorCode.MALFORMED):
            self.service.last.reply(Error(code, "No."))
            self.service.last.close()
            count = len(self.watcher.problems)
            self.net.run_until(lambda: len(self.watcher.problems) > count, 5.0)  # noqa: B023
            self.assertEqual(self.watcher.last.reason, code.value)
            self.returns()

    def test_our_certificate_is_no_good(self) -> None:
        """A service that reads the certificate itself says so in a line."""

        def refuse(connection: ScriptedConnection, request: Request) -> None:
            connection.reply(Error(ErrorCode.BAD_CERTIFICATE, "No."))
            connection.close()

        self.service.answer = refuse
        self.start()
        self.assert_refused("certificate", "refused this peer's certificate")

    def test_nonsense(self) -> None:
        """Whatever a service sends, the client closes the connection with a reason and tries again."""
        for line in (
            b"hello",
            b"\xff\xfe",
            b"[" * 10_000 + b"]" * 10_000,
            b'{"type": "welcome", "type": "pong"}',
            b'{"type": "welcome", "version": NaN}',
            b'{"type": "incoming", "call": "x"}',
            b'{"type": "welcome", "version": 2}',
            b"x" * (MAX_LINE + 1),
        ):
            if not self.watcher.welcomes:
                self.registered()
            count = len(self.watcher.problems)
            self.service.last.raw(line + b"\r\n" if line == b"hello" else line + b"\n")
            self.net.run_until(lambda: len(self.watcher.problems) > count, 5.0, repr(line[:40]))  # noqa: B023
            self.assertEqual(self.watcher.last.reason, "protocol", line[:40])
            self.returns()

    def test_endless_line(self) -> None:
        """A line without an end is cut off at its limit."""
        self.registered()
        self.service.last.raw(b"x" * 100_000)
        self.net.run_until(lambda: self.watcher.problems, 5.0)
        self.assertEqual(self.watcher.last.reason, "protocol")

    def test_unknown_types(self) -> None:
        """A newer service may say more."""
        self.registered()
        self.service.last.raw(b'{"type": "weather", "sun": true}\n')
        self.net.advance(5.0)
        self.assertEqual(self.watcher.problems, [])

    def test_message_before_the_welcome(self) -> None:
        """A message before the welcome ends the connection, and is not passed on."""

        def early(connection: ScriptedConnection, request: Request) -> None:
            connection.reply(Ended("0" * 32, ErrorCode.GONE, "Gone."))

        self.service.answer = early
        self.start()
        self.net.run_until(lambda: self.watcher.problems, 5.0)
        self.assertEqual((self.watcher.last.reason, self.watcher.replies), ("protocol", []))

    def test_second_welcome(self) -> None:
        """It changes nothing."""
        self.registered()
        self.service.last.reply(Welcome(self.identity.peer_id, "203.0.113.1", 0, 20.0))
        self.net.advance(1.0)
        self.assertEqual(len(self.watcher.welcomes), 1)

    def test_stop(self) -> None:
        """The client can be stopped at any moment, and twice; within half a second if the service is dead."""
        for seconds in (0.0, 0.05, 0.11, 0.16, 0.21, 5.0):
            client = self.start()
            self.net.advance(seconds)
            start = self.net.now
            self.net.wait(client.stop(), 1.0, f"stopped after {seconds} s")
            self.net.wait(client.stop(), 1.0)
            self.assertLess(self.net.now - start, 0.7)
            self.assertFalse(client.registered)
        self.assertEqual(self.watcher.problems, [])
        client = self.start()
        self.net.advance(5.0)
        self.server.down()
        start = self.net.now
        self.net.wait(client.stop(), 1.0)
        self.assertLess(self.net.now - start, 0.7)

    def test_stop_while_waiting(self) -> None:
        """Between two tries."""
        self.service.stop(self.net)
        client = self.start()
        self.net.run_until(lambda: self.watcher.problems, 5.0)
        self.net.wait(client.stop(), 1.0)
        self.net.advance(60.0)
        self.assertEqual(len(self.watcher.problems), 1)

    def test_checked_and_alive(self) -> None:
        """A sign of life is all that it takes."""
        client = self.registered()
        client.check(1.0)
        self.net.advance(60.0)
        self.assertEqual(self.watcher.problems, [])
        self.assertTrue(client.registered)

    def test_checked_and_dead(self) -> None:
        """If a check gets no answer, the connection is lost, and the next attempt begins at once."""
        client = self.registered()
        self.server.down()
        start = self.net.now
        client.check(1.0)
        self.net.run_until(lambda: self.watcher.problems, 2.0)
        self.assertAlmostEqual(self.net.now - start, 1.0, places=1)
        self.assertEqual(self.watcher.problems[-1][2], 0.0)

    def test_checked_without_the_address_it_came_from(self) -> None:
        """If the connection's local address is gone, the check does not wait for an answer."""
        client = self.registered()
        start = self.net.now
        client.check(1.0, ["192.0.2.200"])
        self.assertEqual(self.watcher.problems, [])
        client.check(1.0, self.machine.addresses)
        self.returns()
        self.assertLess(self.net.now - start, 1.0)

    def test_checked_while_waiting(self) -> None:
        """The next try comes at once, and those after it soon, but not without a pause."""
        self.server.down()
        client = self.start()
        self.net.run_until(lambda: self.watcher.problems, 15.0)
        tries = len(self.watcher.problems)
        self.server.kill()
        self.server.up()
        client.check(1.0)
        self.net.advance(20.0)
        self.assertTrue(10 <= len(self.watcher.problems) - tries <= 40, len(self.watcher.problems))
        self.net.wait(client.stop(), 1.0)
        client.check(1.0)
        self.net.advance(60.0)

    def test_name_that_is_not_known(self) -> None:
        """Told as that."""
        self.client(host="nowhere.example", pin=bytes(32))
        self.net.run_until(lambda: self.watcher.problems, 15.0)
        self.assertEqual(self.watcher.last.reason, "rendezvous-unreachable")
        self.assertIn("nowhere.example", problem_sentence(self.watcher.last))

    def test_nobody_answers(self) -> None:
        """A host that is off: given up after 10 s, tried again."""
        self.server.down()
        self.start()
        self.net.run_until(lambda: self.watcher.problems, 15.0)
        self.assertIn("Nothing answers", problem_sentence(self.watcher.last))
        self.server.up()
        self.returns()

    def test_registers_as_it_was_told(self) -> None:
        """Name and policy, anew on every connection."""
        self.registered()
        self.service.last.close()
        self.returns()
        registrations = [request for request in self.service.requests if isinstance(request, Register)]
        self.assertEqual(registrations, [self.running.register] * 2)
