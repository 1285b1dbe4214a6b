"""Codes in a running chat: what the views are told, and whom the address book has afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import ChatError
from punch.apps.chat.codes import ContactCodes
from punch.apps.chat.events import CodeMade, CodeUsed, CodeVoid, Event
from punch.apps.codes.client import MAX_NUMBERS
from punch.apps.codes.code import LIFE, Card, Code, CodeFailed, CodeFailure, CodePurpose
from punch.apps.codes.exchange import Issuer, Redeemer
from punch.identity import Identity, PeerID
from punch.node.causes import ControlProblem, ProblemCode
from punch.test.ui.front_ends import BOB, EVE, ME, FrontEndFixture
from punch.ui.text.chat import chat_error_sentence
from punch.wire.control import ErrorCode
from punch.wire.invitation import AdmissionRefusal
from punch.wire.rendezvous_address import RendezvousAddress

THEIRS = Code(48213, ("coyote", "tulip", "yogurt"))


class ScriptedRendezvous:
    """Stands for the exchanges: a test says what comes of each, as `ContactCodes` is told it."""

    def __init__(self) -> None:
        self.running: list[tuple[Issuer | Redeemer, Callable[[], object], Deferred[Card]]] = []
        self.keys: list[PeerID] = []

    def meet(
        self, core: Issuer | Redeemer, key: Identity, on_registered: Callable[[], object]
    ) -> Deferred[Card]:
        self.running.append((core, on_registered, Deferred()))
        self.keys.append(key.peer_id)
        return self.running[-1][2]


class CodesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.chat = FrontEndFixture().chat
        self.clock = Clock()
        self.events: list[Event] = []
        self.chat.views.attach(self)
        self.rendezvous = ScriptedRendezvous()
        self.random = (bytes([number]) * 64 for number in itertools.count())
        self.codes = ContactCodes(
            identity=Identity.generate(lambda size: bytes(size)),
            own_name=lambda: self.chat.name,
            contacts=self.chat.contacts,
            views=self.chat.views,
            meet=self.rendezvous.meet,
            where="rendezvous.example:7001",
            now=self.clock.seconds,
            random=lambda size: next(self.random)[:size],
        )

    can_answer = True

    def handle(self, event: Event) -> None:
        """A view."""
        self.events.append(event)

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def test_a_code_is_used(self) -> None:
        """All who ask for one get the same, and its time runs; then the peer is known under the last name."""
        first = self.codes.invite()
        second = self.codes.invite("carol")
        self.assertNoResult(first)
        self.assertIsNone(self.codes.made)
        ((_, registered, running),) = self.rendezvous.running
        registered()
        made = self.successResultOf(first)
        self.assertEqual(self.successResultOf(second), made)
        self.assertEqual((made.expires, self.told(CodeMade)), (LIFE, [made]))
        self.clock.advance(100.0)
        self.assertEqual(self.successResultOf(self.codes.invite()), CodeMade(made.code, LIFE - 100.0))
        running.callback(Card(BOB, "bob", CodePurpose.CONTACT))
        (used,) = self.told(CodeUsed)
        assert isinstance(used, CodeUsed)
        self.assertEqual((used.contact.peer, used.contact.name, used.contact.claimed), (BOB, "carol", "bob"))
        self.assertEqual((used.contact.known, used.problem, self.codes.made), (True, None, None))

    def test_somebody_guesses(self) -> None:
        """The view is told, and the next code is another one."""
        self.codes.invite()
        _, registered, running = self.rendezvous.running[0]
        registered()
        running.errback(CodeFailed(CodeFailure.WRONG))
        (void,) = self.told(CodeVoid)
        assert isinstance(void, CodeVoid)
        assert isinstance(void.why, CodeFailed)
        self.assertEqual(void.why.failure, CodeFailure.WRONG)
        self.assertIsNone(self.codes.made)
        self.codes.invite()
        self.assertEqual(len(self.rendezvous.running), 2)

    def test_the_key_of_a_number_is_revoked(self) -> None:
        """Anybody can have a number refused: another one is tried, a few times, as long as none was shown."""
        revoked = ControlProblem(
            ProblemCode.ERROR,
            RendezvousAddress.parse("rendezvous.example:7001"),
            ErrorCode.DENIED,
            "The owner of this peer ID has revoked it.",
            refusal=AdmissionRefusal.ID_REVOKED,
        )
        invited = self.codes.invite()
        for _ in range(MAX_NUMBERS):
            self.assertNoResult(invited)
            self.rendezvous.running[-1][2].errback(revoked)
        self.failureResultOf(invited, ControlProblem)
        self.assertEqual(len(set(self.rendezvous.keys)), MAX_NUMBERS)
        invited = self.codes.invite()
        self.rendezvous.running[-1][2].errback(revoked)
        self.rendezvous.running[-1][1]()
        shown = Code.parse(self.successResultOf(invited).code)
        self.assertEqual(shown.identity.peer_id, self.rendezvous.keys[-1])
        self.rendezvous.running[-1][2].errback(revoked)
        self.assertEqual(len(self.told(CodeVoid)), 1)
        self.assertEqual(len(set(self.rendezvous.keys)), MAX_NUMBERS + 2)

    def test_a_code_is_withdrawn(self) -> None:
        with self.assertRaises(ChatError) as caught:
            self.codes.withdraw()
        self.assertEqual(caught.exception.code, "no-code")
        invited = self.codes.invite()
        self.codes.withdraw()
        self.failureResultOf(invited, CancelledError)
        self.assertEqual(self.told(CodeVoid), [])
        self.codes.invite()
        self.rendezvous.running[1][1]()
        self.codes.stop()
        (void,) = self.told(CodeVoid)
        assert isinstance(void, CodeVoid)
        self.assertIsInstance(void.why, CancelledError)

    def test_a_code_of_theirs(self) -> None:
        """One at a time. A name that somebody else has is a problem, but they are known."""
        self.chat.contacts.name(EVE, "eve")
        joining = self.codes.join(THEIRS, "eve")
        with self.assertRaises(ChatError) as caught:
            self.codes.join(THEIRS)
        self.assertEqual(caught.exception.code, "too-many")
        self.rendezvous.running[0][2].callback(Card(BOB, "bob", CodePurpose.CONTACT))
        contact, problem = self.successResultOf(joining)
        self.assertEqual((contact.peer, contact.name, contact.known), (BOB, "bob", True))
        assert problem is not None
        self.assertIn("eve", chat_error_sentence(problem))
        failing = self.codes.join(THEIRS)
        self.rendezvous.running[1][2].errback(CodeFailed(CodeFailure.NOBODY))
        self.failureResultOf(failing, CodeFailed)
        self.codes.join(THEIRS)

    def test_what_is_refused(self) -> None:
        """A name that can't be one, one's own code, and a card of one's own."""
        with self.assertRaises(ChatError) as caught:
            self.codes.invite("x" * 100)
        self.assertEqual((caught.exception.code, self.rendezvous.running), ("bad-name", []))
        self.codes.invite()
        _, registered, running = self.rendezvous.running[0]
        registered()
        made = self.codes.made
        assert made is not None
        with self.assertRaises(ChatError) as caught:
            self.codes.join(Code.parse(made.code))
        self.assertEqual(caught.exception.code, "self")
        running.callback(Card(ME, "me", CodePurpose.CONTACT))
        (used,) = self.told(CodeUsed)
        assert isinstance(used, CodeUsed)
        self.assertFalse(used.contact.known)
        assert used.problem is not None
        self.assertEqual(used.problem.code, "self")
