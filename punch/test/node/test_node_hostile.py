"""
A node and a rendezvous that is dishonest, or merely wrong: every call ends cleanly, and never with somebody
else.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from ipaddress import ip_address

from punch.identity import PeerID
from punch.node.events import (
    CallFailed,
    Connected,
    IncomingCall,
    Introduced,
)
from punch.test.node.calls.call_pair import changed
from punch.test.node.middleman import Forward, MiddlemanTestCase
from punch.test.system import introduce
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    ErrorCode,
    Establish,
    Incoming,
    Reply,
    Trickle,
)
from punch.wire.control_lines import encode


class DishonestRendezvousTests(MiddlemanTestCase):
    """Tampered, replayed, reordered, misdirected, withheld."""

    def test_honest(self) -> None:
        """The same service, when it meddles with nothing."""
        self.assertIsInstance(self.call(5.0), Connected)
        self.net.advance(5.0)
        self.assertEqual(len(self.middle.requests(Cancel)), 1)

    def test_what_the_rendezvous_can_read(self) -> None:
        """Not one address of either peer stands in the lines it handles, in any common encoding."""
        self.assertIsInstance(self.call(5.0), Connected)
        self.net.advance(5.0)
        kinds = {type(request) for request in self.middle.service.requests}
        self.assertLessEqual({Establish, Answer, Trickle}, kinds)
        lines = b"\n".join(encode(request) for request in self.middle.service.requests)
        for peer in (self.alice, self.bob):
            for host in peer.host.addresses:
                packed = ip_address(host).packed
                for form in (host.encode(), packed, packed.hex().encode()):
                    self.assertNotIn(form, lines)
                for encoding in (b64encode, urlsafe_b64encode):
                    # The middle of the text, so that its place in what was encoded makes no difference
                    for start in range(3):
                        self.assertNotIn(encoding(host.encode()[start:][: len(host) // 3 * 3 - 3]), lines)

    def test_changed_offer(self) -> None:
        """The callee refuses, silently for its user."""
        self.on(Incoming, lambda to, reply: [(to, replace(reply, offer=changed(reply.offer)))])
        self.assert_failed("refused")
        self.assertEqual(self.bob.of(IncomingCall) + self.bob.of(CallFailed), [])

    def test_offer_in_anothers_name(self) -> None:
        """The caller is the peer that sealed and signed the offer, whatever the service says."""
        carol = self.peer("carol")
        introduce(carol, self.bob)
        self.on(Incoming, lambda to, reply: [(to, replace(reply, sender=carol.id))])
        self.alice.call(self.bob.id)
        self.net.advance(2.0)
        self.assertEqual(self.bob.of(IncomingCall), [])

    def test_offer_to_somebody_else(self) -> None:
        """It opens nowhere but at the one it is for."""
        carol = self.peer("carol", Accept.ANYONE).register()
        self.on(Incoming, lambda to, reply: [(carol.id, reply)])
        self.alice.call(self.bob.id)
        self.net.advance(2.0)
        self.assertEqual(carol.of(IncomingCall) + carol.of(Introduced), [])

    def test_own_offer_comes_back(self) -> None:
        """A call from oneself is none."""
        self.on(Incoming, lambda to, reply: [(self.alice.id, reply), (to, reply)])
        self.assertIsInstance(self.call(5.0), Connected)

    def test_offer_replayed(self) -> None:
        """
        A recorded offer does not ring again, and gets no second answer: not at once, not after the link.
        """
        offers: list[Incoming] = []

        def keep(to: PeerID, reply: Incoming) -> Forward:
            offers.append(reply)
            return [(to, reply), (to, reply), (to, replace(reply, call="f" * 32))]

        self.on(Incoming, keep)
        self.assertIsInstance(self.call(5.0), Connected)
        self.bob.wait_for(Connected, 5.0)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(5.0)
        self.middle.deliver(self.bob.id, replace(offers[0], call="e" * 32))
        self.net.advance(5.0)
        self.assertEqual(len(self.bob.of(IncomingCall)), 1)
        answers = {request.answer for request in self.middle.requests(Answer) if isinstance(request, Answer)}
        self.assertEqual(len(answers), 1)

    def test_changed_answer(self) -> None:
        """The caller ends the call, and looks for no path."""
        self.on(Answered, lambda to, reply: [(to, replace(reply, answer=changed(reply.answer)))])
        self.assert_failed("protocol")
        self.assertEqual(self.alice.of(Introduced), [])

    def test_answer_of_somebody_else(self) -> None:
        """Another peer's answer, in its own name or in the callee's, is not the callee's."""
        mallory = self.peer("mallory", Accept.ANYONE).register()
        answers: list[Answered] = []

        def keep(to: PeerID, reply: Answered) -> Forward:
            answers.append(reply)
            return []

        self.on(Answered, keep)
        self.alice.call(mallory.id)
        self.net.advance(1.0)
        self.alice.node.hangup(mallory.id)
        self.net.advance(1.0)
        self.alice.events.clear()
        (stolen,) = answers
        self.on(
            Answered,
            lambda to, reply: [
                (to, replace(reply, sender=mallory.id)),
                (to, replace(reply, answer=stolen.answer)),
            ],
        )
        self.assert_failed("protocol")

    def test_answer_withheld(self) -> None:
        """Ringing ends."""
        self.on(Answered, lambda to, reply: [])
        self.assert_failed("timeout")

    def test_answer_twice(self) -> None:
        """The second changes nothing."""
        self.on(Answered, lambda to, reply: [(to, reply)] * 3)
        self.assertIsInstance(self.call(5.0), Connected)

    def test_changed_candidates(self) -> None:
        """A trickled message that was changed ends the call, on the side that receives it."""
        self.on(Candidates, lambda to, reply: [(to, replace(reply, envelope=changed(reply.envelope)))])
        self.alice.call(self.bob.id)
        outcome = self.alice.wait_for_end(130.0)
        self.assertGreater(len(self.middle.requests(Trickle)), 0)
        if isinstance(outcome, CallFailed):
            self.assertIn(outcome.reason, ("protocol", "cancelled"))

    def test_candidates_of_nobody(self) -> None:
        """Messages about calls that don't exist, or from somebody else, change nothing."""
        self.assertIsInstance(self.call(5.0), Connected)
        self.bob.wait_for(Connected, 5.0)
        (establish,) = self.middle.requests(Establish)
        assert isinstance(establish, Establish)
        for call in ("0" * 32, establish.call):
            for reply in (
                Answered(call, self.bob.id, establish.offer),
                Candidates(call, self.bob.id, establish.offer),
                Candidates(call, self.alice.id, establish.offer),
                Ended(call, ErrorCode.CANCELLED, "Over."),
                Ended(call, ErrorCode.GONE, "Gone.", sender=self.bob.id),
            ):
                for peer in (self.alice, self.bob):
                    self.middle.deliver(peer.id, reply)
        self.net.advance(5.0)
        for peer in (self.alice, self.bob):
            self.assertEqual(peer.of(CallFailed), [])
        self.alice.chat.send(self.bob.id, "still private")
        self.net.run_until(lambda: self.alice.delivered, 5.0)

    def test_everything_late(self) -> None:
        """What is delivered in another order than sent: a link, or a clean end."""
        kept: Forward = []

        def hold(to: PeerID, reply: Reply) -> Forward:
            kept.append((to, reply))
            if len(kept) < 3:
                return []
            out = kept[::-1]
            kept.clear()
            return out

        self.middle.meddle = hold
        outcome = self.call()
        if isinstance(outcome, CallFailed):
            self.assertIn(outcome.reason, ("protocol", "timeout", "unreachable", "cancelled"))

    def test_end_of_a_call_that_was_introduced(self) -> None:
        """The service's word that it is over does not end it, once both know each other's candidates."""
        self.on(
            Answered,
            lambda to, reply: [
                (to, reply),
                (to, Ended(reply.call, ErrorCode.GONE, "Gone.", sender=self.bob.id)),
            ],
        )
        self.assertIsInstance(self.call(5.0), Connected)
