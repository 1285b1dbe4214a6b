"""The core of a connection to the rendezvous: its lines, its timers, and why it ends. No sockets, no TLS."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.node.causes import ProblemCode
from punch.node.control.core import LINE_BURST, LINE_RATE, WELCOME_TIME, ControlCore
from punch.test.strategies import IDENTITIES
from punch.wire.control import Accept, Ended, Error, ErrorCode, Ping, Pong, Register, Reply, Welcome
from punch.wire.control_lines import MAX_LINE, encode
from punch.wire.rendezvous_address import RendezvousAddress

ADDRESS = RendezvousAddress("rendezvous.example.org", 7001, None)
REGISTER = Register("alice", Accept.ASK)
WELCOME = Welcome(IDENTITIES[0].peer_id, "192.0.2.1", 3478, 30.0)
ENDED = Ended("0" * 32, ErrorCode.GONE, "Gone.")


def line(*messages: Reply | Register | Ping) -> bytes:
    return b"".join(encode(message) + b"\n" for message in messages)


def events(core: ControlCore) -> list[Reply]:
    taken = []
    while (event := core.next_event()) is not None:
        taken.append(event)
    return taken


class ControlCoreTests(SynchronousTestCase):
    """One connection, made at 0 s."""

    def setUp(self) -> None:
        self.core = ControlCore(ADDRESS, REGISTER, 0.0)

    def welcomed(self) -> ControlCore:
        """A core that is registered since 1 s."""
        self.core.secured()
        self.assertEqual(self.core.data_to_send(1.0), line(REGISTER))
        self.core.receive_data(line(WELCOME), 1.0)
        self.assertEqual(events(self.core), [WELCOME])
        return self.core

    def assert_problem(self, code: ProblemCode) -> None:
        """The connection has to be aborted, and nothing more is timed."""
        problem = self.core.problem
        assert problem is not None
        self.assertEqual(problem.code, code)
        self.assertIs(self.core.cause_of_loss(tls_failed=True), problem)
        self.assertIsNone(self.core.get_timer())

    def test_no_welcome(self) -> None:
        """It has to come within a time."""
        self.assertEqual(self.core.get_timer(), WELCOME_TIME)
        self.core.handle_timer(WELCOME_TIME - 0.1)
        self.assertIsNone(self.core.problem)
        self.core.handle_timer(WELCOME_TIME)
        self.assert_problem(ProblemCode.NO_WELCOME)

    def test_keepalive(self) -> None:
        """A ping each interval, as long as something was received since the last one."""
        core = self.welcomed()
        self.assertEqual(core.get_timer(), 31.0)
        core.handle_timer(31.0)
        self.assertEqual(core.data_to_send(31.0), line(Ping()))
        core.receive_data(line(Pong(2)), 31.1)
        self.assertEqual(events(core), [Pong(2)])
        core.handle_timer(61.0)
        self.assertEqual(core.data_to_send(61.0), line(Ping()))
        core.handle_timer(91.0)
        self.assert_problem(ProblemCode.SILENT)

    def test_check(self) -> None:
        """Something has to be received within the patience of whoever checks it."""
        core = self.core
        core.check(1.2, 0.5)
        self.assertEqual((core.data_to_send(0.5), core.get_timer()), (b"", WELCOME_TIME))
        self.welcomed()
        core.check(1.2, 5.0)
        self.assertEqual(core.data_to_send(5.0), line(Ping()))
        core.receive_data(line(Pong(2)), 5.5)
        core.handle_timer(6.2)
        self.assertIsNone(core.problem)
        core.check(1.2, 7.0)
        core.handle_timer(8.2)
        self.assert_problem(ProblemCode.SILENT)

    def test_any_pieces(self) -> None:
        """Lines are the same whatever pieces they come in."""
        self.core.secured()
        for byte in line(WELCOME, ENDED, ENDED):
            self.core.receive_data(bytes([byte]), 1.0)
        self.assertEqual(events(self.core), [WELCOME, ENDED, ENDED])

    def test_long_lines(self) -> None:
        """One that is too long ends the connection, with or without its newline; what came before counts."""
        for tail in (b"x" * (MAX_LINE + 1), b"x" * (MAX_LINE + 1) + b"\n"):
            self.core = ControlCore(ADDRESS, REGISTER, 0.0)
            self.welcomed().receive_data(line(ENDED) + b"x" * MAX_LINE, 1.0)
            self.assertIsNone(self.core.problem)
            self.core = ControlCore(ADDRESS, REGISTER, 0.0)
            self.welcomed().receive_data(line(ENDED) + tail, 1.0)
            self.assertEqual(events(self.core), [ENDED])
            self.assert_problem(ProblemCode.BAD_MESSAGE)

    def test_flood(self) -> None:
        """It is read at a bounded rate, and nothing of it is lost."""
        core = self.welcomed()
        count = LINE_BURST + 10 * int(LINE_RATE)
        core.receive_data(line(ENDED) * count, 1.0)
        self.assertTrue(core.held)
        taken = len(events(core))
        self.assertLessEqual(taken, LINE_BURST + 1)
        now = 1.0
        while core.held:
            now = core.get_timer() or 0.0
            core.handle_timer(now)
            core.receive_data(line(Pong(2)) if now < 2.0 else b"", now)
            taken += sum(isinstance(event, Ended) for event in events(core))
        self.assertEqual(taken, count)
        self.assertGreater(now, 10.0)
        self.assertIsNone(core.problem)

    def test_causes(self) -> None:
        """Why a connection has ended that the other side closed."""
        for tls_failed, code in ((False, ProblemCode.CLOSED), (True, ProblemCode.NOT_A_RENDEZVOUS)):
            self.assertEqual(self.core.cause_of_loss(tls_failed=tls_failed).code, code)
        self.core.secured()
        self.assertEqual(self.core.cause_of_loss(tls_failed=True).code, ProblemCode.OUR_CERTIFICATE)
        self.core.receive_data(line(WELCOME), 1.0)
        self.assertEqual(events(self.core), [WELCOME])
        self.assertEqual(self.core.cause_of_loss(tls_failed=True).code, ProblemCode.LOST)
        self.core.receive_data(line(Error(ErrorCode.REPLACED, "Replaced.")), 2.0)
        problem = self.core.cause_of_loss(tls_failed=False)
        self.assertEqual((problem.code, problem.error), (ProblemCode.ERROR, ErrorCode.REPLACED))
        self.assertEqual(events(self.core), [])

    def test_message_before_the_welcome(self) -> None:
        """None is taken."""
        self.core.secured()
        self.core.receive_data(line(ENDED, WELCOME), 1.0)
        self.assertEqual(events(self.core), [])
        self.assert_problem(ProblemCode.BAD_MESSAGE)
