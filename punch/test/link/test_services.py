"""Services on a link: which streams are answered or refused, and how long an unused link stays."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory

from punch.link.events import INITIAL_CREDIT, CloseCode, LinkError, RefusalCode, ServiceRefused
from punch.link.link import IDLE_TIME, SERVICE_WAIT
from punch.test.link.link_pair import CALLER, AioquicMixin, open_stream
from punch.test.link.twisted_links import NoProtocol, RecordingProtocol, TwistedCase, only


class ServiceTests(TwistedCase):
    def test_unknown_name_is_reset(self) -> None:
        self.secure()
        near = RecordingProtocol()
        open_stream(self.caller, "nobody/1", near)
        self.advance(0.1)
        self.assertEqual(near.calls, ["made"])
        self.advance(0.5)
        self.assertEqual(near.calls, ["made", "lost"])
        assert near.reason is not None
        near.reason.trap(ServiceRefused)
        self.open()

    def test_refused_services(self) -> None:
        """Each refusal has its own code, and comes within a round trip."""
        self.services.serve("private/1", self.accept(RecordingProtocol), lambda peer: peer != CALLER.peer_id)
        self.services.serve("closed/1", NoProtocol())
        self.secure()
        self.advance(SERVICE_WAIT)
        for name, code in (
            ("nobody/1", RefusalCode.NO_SERVICE),
            ("private/1", RefusalCode.NOT_ALLOWED),
            ("closed/1", RefusalCode.NOT_ALLOWED),
        ):
            near = RecordingProtocol()
            opening = self.caller.connect(name, only(near))
            near.transport.write(b"early")
            self.advance(2 * self.delay + 0.002)
            refused = self.failureResultOf(opening, ServiceRefused).value
            self.assertEqual((refused.service, refused.code), (name, code))
            self.assertEqual(near.calls, ["made", "lost"])
            assert near.reason is not None
            self.assertIs(near.reason.value, refused)
        self.assertEqual(self.accepted, [])
        self.assertIsNone(self.caller.closed)

    def test_a_service_accepts(self) -> None:
        """A service that says nothing is known to have accepted one round trip later."""
        self.secure()
        for link in self.links:
            near = RecordingProtocol()
            if link is self.callee:
                self.services.serve("echo/2", self.accept(RecordingProtocol))
            opening = self.caller.connect("echo/1", only(near))
            near.transport.write(b"at once")
            self.advance(self.delay + 0.002)
            self.assertEqual(self.accepted[-1].data, b"at once")
            self.assertNoResult(opening)
            self.advance(self.delay)
            self.assertIs(self.successResultOf(opening), near)

    def test_early_streams_wait_for_their_service(self) -> None:
        self.secure()
        near = RecordingProtocol()
        opening = self.caller.connect("late/1", only(near))
        near.transport.write(b"x" * 2 * INITIAL_CREDIT)
        self.advance(0.2)
        self.assertNoResult(opening)
        stop = self.services.serve("late/1", self.accept(RecordingProtocol))
        self.advance(0.1)
        self.assertIs(self.successResultOf(opening), near)
        self.assertEqual(len(self.accepted[-1].data), 2 * INITIAL_CREDIT)
        with self.assertRaises(ValueError):
            self.services.serve("late/1", self.accept(RecordingProtocol))
        stop()
        self.advance(0.5)
        again = self.caller.connect("late/1", Factory.forProtocol(RecordingProtocol))
        self.advance(0.05)
        self.failureResultOf(again, ServiceRefused)
        near.transport.write(b"goes on")
        self.advance(0.05)
        self.assertTrue(self.accepted[-1].data.endswith(b"goes on"))

    def test_opening_ends_otherwise(self) -> None:
        """The opener gives up, the link is over, or the factory has nothing to connect."""
        self.failureResultOf(self.caller.connect("echo/1", Factory.forProtocol(RecordingProtocol)), LinkError)
        self.secure()
        cancelled = self.caller.connect("late/1", Factory.forProtocol(RecordingProtocol))
        cancelled.cancel()
        self.advance(0.01)
        self.failureResultOf(cancelled)
        self.failureResultOf(self.caller.connect("echo/1", NoProtocol()), LinkError)
        cut = self.caller.connect("late/1", Factory.forProtocol(RecordingProtocol))
        self.advance(0.05)
        self.callee.close()
        self.advance(0.1)
        self.failureResultOf(cut, ConnectionLost)

    def test_an_idle_link_is_closed(self) -> None:
        self.secure()
        near, _ = self.open()
        self.pass_time(2 * IDLE_TIME)
        self.assertIsNone(self.caller.closed)
        near.transport.loseConnection()
        self.pass_time(IDLE_TIME - 1.0)
        self.assertIsNone(self.callee.closed)
        near, _ = self.open()
        near.transport.loseConnection()
        self.pass_time(IDLE_TIME - 1.0)
        self.assertIsNone(self.callee.closed)
        self.pass_time(3.0)
        for link in self.links:
            assert link.closed is not None
            self.assertIs(link.closed.code, CloseCode.OK)

    def test_leases(self) -> None:
        """A lease of either side keeps the link open for both."""
        before = self.callee.hold()
        self.secure()
        lease = self.caller.hold()
        self.pass_time(2 * IDLE_TIME)
        before.release()
        self.pass_time(2 * IDLE_TIME)
        lease.release()
        again = self.caller.hold()
        lease.release()
        self.pass_time(2 * IDLE_TIME)
        self.assertEqual([link.closed for link in self.links], [None, None])
        again.release()
        self.pass_time(IDLE_TIME - 1.0)
        self.assertEqual([link.closed for link in self.links], [None, None])
        self.pass_time(3.0)
        self.assertNotIn(None, [link.closed for link in self.links])
        self.caller.hold().release()


class AioquicServiceTests(AioquicMixin, ServiceTests):
    __test__ = True
