"""How a peer that speaks JSON ends."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory

from punch.apps.files.events import Stage
from punch.apps.files.transfers import FIRST_RETRY, Transfers
from punch.identity import PeerID
from punch.link.events import Path as NetworkPath
from punch.local.protocol import CommandError
from punch.node.causes import OtherCause
from punch.node.events import (
    CallFailed,
    Disconnected,
    PathChanged,
    PathLost,
    Registered,
    Unregistered,
)
from punch.test.ui.front_ends import BOB, FrontEndFixture
from punch.test.ui.test_json import JSONCase
from punch.ui.command import Applications
from punch.ui.exit_policy import REGISTRATION_TIMEOUT
from punch.ui.standard_streams import InputKind
from punch.wire.address import Address


class EndTests(JSONCase):
    def test_end_of_input_waits_for_marks(self) -> None:
        chat_link = self.connect()
        self.command("send", text="x")
        self.front_end.input_over()
        self.assertEqual(self.fixture.ends, [])
        chat_link.run()
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_end_of_input_does_not_wait_for_a_lost_path_for_ever(self) -> None:
        """After a minute the link is hung up, unless the path is back; nothing else that waits ends so."""
        self.connect()
        path = NetworkPath("host", Address("192.0.2.1", 1), Address("192.0.2.2", 2), "udp", 0.1)
        back = PathChanged(BOB, path)
        self.emit(PathLost(BOB, "bob"))
        self.fixture.clock.advance(100.0)
        self.emit(back)
        self.command("send", text="x")
        self.front_end.input_over()
        self.fixture.clock.advance(100.0)
        self.assertEqual(self.fixture.node.asked, [])
        self.emit(PathLost(BOB, "bob"))
        self.fixture.clock.advance(59.0)
        self.assertEqual(self.fixture.node.asked, [])
        self.fixture.clock.advance(2.0)
        self.assertEqual(self.fixture.node.asked, [("hangup", BOB)])
        self.emit(Disconnected(BOB, OtherCause("bye", "Closed here.")))
        self.assertEqual([status for status, _ in self.fixture.ends], [1])

    def test_the_last_command_needs_no_newline(self) -> None:
        self.front_end.input_received(b'{"command":"dance"}')
        self.front_end.input_over()
        self.assertEqual(self.event()["reason"], "unknown-command")
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_end_of_input_waits_for_calls(self) -> None:
        self.command("call", peer=str(BOB))
        self.front_end.input_over()
        self.assertEqual(self.fixture.ends, [])
        self.emit(CallFailed(BOB, OtherCause("not-registered", "Not there.")))
        self.assertEqual(self.fixture.ends, [(1, None)])

    def test_end_of_input_with_a_link_that_dies(self) -> None:
        self.connect()
        self.command("send", text="x")
        self.front_end.input_over()
        self.emit(Disconnected(BOB, OtherCause("lost", "Gone.")))
        self.assertEqual(self.fixture.ends, [(1, None)])

    def test_a_service_goes_on(self) -> None:
        self.begin(InputKind.NOTHING)
        self.front_end.input_over()
        self.emit(Registered("punch://x:1"))
        self.assertEqual(self.fixture.ends, [])

    def test_the_call_of_the_command_line_must_succeed(self) -> None:
        self.begin(target=BOB)
        self.assertEqual(self.fixture.node.asked, [("call", BOB)])
        self.emit(CallFailed(BOB, OtherCause("not-registered", "Not there.")))
        self.assertEqual(self.fixture.ends, [(1, "Not there.")])

    def test_a_call_that_once_succeeded_may_fail_later(self) -> None:
        self.begin(target=BOB)
        self.connect()
        self.emit(Disconnected(BOB, OtherCause("bye", "Left.")))
        self.command("call", peer=str(BOB))
        self.emit(CallFailed(BOB, OtherCause("not-registered", "Not there.")))
        self.assertEqual(self.fixture.ends, [])

    def test_a_node_that_cannot_go_on(self) -> None:
        self.emit(Unregistered(OtherCause("bad-pin", "Wrong key."), None))
        self.assertEqual(self.event()["retry_in"], None)
        self.emit(CallFailed(None, OtherCause("bad-pin", "Wrong key.")))
        self.assertEqual(self.event()["reason"], "bad-pin")
        self.assertEqual(self.fixture.ends, [(1, "Wrong key.")])

    def test_patience_with_a_rendezvous_never_reached(self) -> None:
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 1.0))
        self.fixture.clock.advance(REGISTRATION_TIMEOUT - 1)
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "Still none."), 1.0))
        self.assertEqual(self.fixture.ends, [])
        self.events()
        self.fixture.clock.advance(1)
        self.assertEqual(self.fixture.ends, [(1, "Still none.")])
        event = self.event()
        self.assertEqual((event["event"], event["reason"]), ("failed", "rendezvous-unreachable"))

    def test_a_page_is_patient(self) -> None:
        self.fixture.chat.new_page = lambda: "http://127.0.0.1:1/"
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "It can't be reached."), 1.0))
        self.fixture.clock.advance(10 * REGISTRATION_TIMEOUT)
        self.assertEqual(self.fixture.ends, [])

    def test_patience_ends_with_registration(self) -> None:
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 1.0))
        self.emit(Registered("punch://x:1"))
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "Lost."), 1.0))
        self.fixture.clock.advance(10 * REGISTRATION_TIMEOUT)
        self.fixture.chat.stop()
        self.assertEqual((self.fixture.ends, self.fixture.clock.getDelayedCalls()), ([], []))

    def test_stopping_leaves_no_timer(self) -> None:
        self.emit(Unregistered(OtherCause("rendezvous-unreachable", "No answer."), 1.0))
        self.emit(PathLost(BOB, "bob"))
        self.front_end.view.exit.stop()
        self.fixture.chat.stop()
        self.assertEqual(self.fixture.clock.getDelayedCalls(), [])

    def test_output_without_a_reader(self) -> None:
        self.front_end.view.output_lost()
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_output_that_cannot_be_written(self) -> None:
        self.front_end.view.output_lost(failed=True)
        self.assertEqual(self.fixture.ends, [(1, "The output can't be written, as on a full disk.")])

    def test_output_lost_with_something_undelivered(self) -> None:
        self.connect()
        self.command("send", text="x")
        self.front_end.view.output_lost()
        self.assertEqual(self.fixture.ends[0][0], 1)


class CallingNode:
    """
    A node that calls whoever a stream is opened to.

    :ivar calls: one for each; they fail or succeed as a test wants.
    """

    def __init__(self) -> None:
        self.calls: list[Deferred[IProtocol]] = []

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.calls.append(Deferred())
        return self.calls[-1]


class TransferEndTests(JSONCase):
    """At the end of the input, files that are sent are waited for as messages are."""

    def setUp(self) -> None:
        super().setUp()
        self.node = CallingNode()
        self.begin(applications=self.applications)
        self.events()
        file = Path(self.mktemp())
        file.touch()
        self.command("send-files", peer=str(BOB), paths=[str(file)])
        self.front_end.input_over()
        self.assertEqual(self.fixture.ends, [])

    def applications(self, fixture: FrontEndFixture) -> Applications:
        self.transfers = Transfers(
            self.node,
            granted=lambda peer: False,
            blocked=lambda peer: False,
            opening=lambda peer: None,
            folder=Path(self.mktemp()),
            run=maybeDeferred,
            clock=fixture.clock,
            tell=fixture.chat.views.tell,
        )
        self.addCleanup(self.transfers.stop)
        return Applications(transfers=self.transfers)

    def test_it_arrives(self) -> None:
        (transfer,) = self.transfers.all
        self.transfers.accepted(transfer)
        self.assertEqual(self.fixture.ends, [])
        self.transfers.changed(transfer, Stage.DONE)
        self.assertEqual(self.fixture.ends, [(0, None)])

    def test_it_fails(self) -> None:
        self.node.calls[0].errback(CommandError("refused", "They refused."))
        self.assertEqual(self.fixture.ends, [(1, None)])

    def test_the_peer_is_away(self) -> None:
        """It was called once, as for messages; what it has is continued when the same is sent again."""
        self.node.calls[0].errback(CommandError("not-registered", "They are not there."))
        self.assertEqual(self.fixture.ends, [(1, None)])

    def test_the_link_is_lost(self) -> None:
        """It is tried again."""
        self.node.calls[0].errback(ConnectionLost())
        self.assertEqual((self.transfers.all[0].stage, self.fixture.ends), (Stage.WAITING, []))
        self.fixture.clock.advance(FIRST_RETRY)
        self.assertEqual(len(self.node.calls), 2)

    def test_it_is_stopped(self) -> None:
        """That is no failure."""
        self.transfers.cancel(1)
        self.assertEqual(self.fixture.ends, [(0, None)])
