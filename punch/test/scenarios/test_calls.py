"""
Calls and links of whole peers on the simulated internet: who gets through, what is told, what nobody sees.
"""

from __future__ import annotations

from punch.identity import PeerID
from punch.node.events import (
    CallFailed,
    Calling,
    CallState,
    Checking,
    Connected,
    Disconnected,
    Event,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    Ready,
    Registered,
    Unregistered,
)
from punch.test.internet import Seen
from punch.test.system import SERVICE, Peer, SystemTestCase, connect, introduce
from punch.ui.text.causes import event_sentence
from punch.wire.control import Accept

D = 0.1


class EventTests(SystemTestCase):
    """The events that each side gets, and their times."""

    def test_stages(self) -> None:
        """Caller and callee get one event for each stage, in order."""
        alice, bob = self.linked()
        self.assertEqual(self.kinds(alice), [Ready, Registered, Calling, Introduced, Checking, Connected])
        self.assertEqual(self.kinds(bob), [Ready, Registered, IncomingCall, Introduced, Checking, Connected])
        here, there = alice.last(Connected), bob.last(Connected)
        self.assertEqual((here.peer, here.name, there.peer, there.name), (bob.id, "bob", alice.id, "alice"))
        self.assertEqual((here.path.local, here.path.remote), (there.path.remote, there.path.local))
        self.assertEqual((here.path.kind, here.path.protocol), ("srflx", "udp"))
        self.assertAlmostEqual(here.path.rtt, 2 * D)
        self.assertEqual(alice.node.link(bob.id), here.link)
        self.assertTrue(bob.last(IncomingCall).decided)

    def test_state_is_that_of_the_events(self) -> None:
        """At each event, the node says the same of its calls and links when it is asked."""
        alice, bob = self.peer("alice").register(), self.peer("bob", accept=Accept.ASK).register()
        told: list[tuple[type[Event], dict[PeerID, CallState], list[bool]]] = []

        def note(event: Event) -> None:
            links = [link.status for link in bob.node.links()]
            disconnected = [status.disconnected for status in links if status is not None]
            told.append((type(event), bob.node.calls(), disconnected))

        bob.node.subscribe(note, lambda: True)
        alice.call(bob.id)
        self.assertEqual(alice.node.calls(), {bob.id: CallState.CALLING})
        bob.wait_for(IncomingCall, 5.0)
        bob.node.accept(alice.id)
        bob.wait_for(Connected, 5.0)
        alice.host.down()
        bob.wait_for(PathLost, 60.0)
        alice.host.up()
        bob.wait_for(PathChanged, 60.0)
        alice.stop()
        bob.wait_for(Disconnected, 5.0)
        self.assertEqual(
            told,
            [
                (IncomingCall, {alice.id: CallState.RINGING}, []),
                (Introduced, {alice.id: CallState.INTRODUCED}, []),
                (Checking, {alice.id: CallState.CHECKING}, []),
                (Connected, {}, [False]),
                (PathLost, {}, [True]),
                (PathChanged, {}, [False]),
                (Disconnected, {}, []),
            ],
        )

    def test_latency(self) -> None:
        """
        The first message arrives 7 D after the call, its mark after 8 D: no later than with checks at all.
        """
        alice, bob = self.peer("alice"), self.peer("bob")
        introduce(alice, bob)
        alice.start()
        bob.start()
        self.net.run_until(lambda: alice.of(Registered) and bob.of(Registered), 5.0)
        alice.chat.send(bob.id, "hello")
        start = self.net.now
        alice.call(bob.id)
        self.net.run_until(lambda: alice.delivered, 5.0)
        self.assertLess(bob.message_times[0] - start, 7 * D + 0.001)
        self.assertLess(alice.delivered[0][0] - start, 8 * D + 0.001)

    def test_call_before_registered(self) -> None:
        """A call that is placed at once waits for the registration."""
        alice, bob = self.peer("alice"), self.peer("bob").register()
        introduce(alice, bob)
        alice.start()
        alice.call(bob.id)
        alice.call(bob.id)
        alice.wait_for(Connected, 5.0)
        self.assertEqual(len(alice.of(Calling)), 1)

    def test_both_call_at_once(self) -> None:
        """If both call at once there is one link, whose caller has the smaller key, and no user is asked."""
        alice, bob = self.pair()
        alice.call(bob.id)
        bob.call(alice.id)
        for peer in (alice, bob):
            peer.wait_for(Connected, 5.0)
        self.net.advance(5.0)
        smaller = min(alice, bob, key=lambda peer: peer.id)
        for peer in (alice, bob):
            self.assertEqual(len(peer.of(Connected)), 1)
            self.assertEqual(peer.of(IncomingCall) + peer.of(CallFailed) + peer.of(Disconnected), [])
            link = peer.last(Connected).link
            self.assertEqual(link.role.name, "CALLER" if peer is smaller else "CALLEE")

    def test_own_id(self) -> None:
        """A call to one's own ID fails with an explanation."""
        alice = self.peer("alice").register()
        alice.call(alice.id)
        self.assertEqual(alice.last(CallFailed).reason, "self")
        self.assertEqual(alice.of(Calling), [])

    def test_unknown_peer(self) -> None:
        """A call to an ID that is not registered fails."""
        alice, bob = self.peer("alice").register(), self.peer("bob")
        alice.call(bob.id)
        failed = alice.wait_for(CallFailed, 5.0)
        self.assertEqual((failed.peer, failed.reason), (bob.id, "not-registered"))
        self.assertIn("not registered", event_sentence(failed))


class PolicyTests(SystemTestCase):
    """Which callers are accepted, and what is sent before they are."""

    def watch(self) -> list[Seen]:
        """Record all packets on all links from now on."""
        trace: list[Seen] = []
        self.net.trace = trace
        return trace

    def test_stranger_is_asked_about_and_nothing_leaves_before(self) -> None:
        """Before the user accepts, no candidate of the callee is sent, and no datagram goes to the caller."""
        alice, bob = self.pair()
        self.net.advance(2.0)
        trace = self.watch()
        alice.call(bob.id)
        asked = bob.wait_for(IncomingCall, 5.0)
        self.assertEqual(
            (asked.peer, asked.name, asked.known, asked.decided), (alice.id, "alice", False, False)
        )
        self.net.advance(20.0)
        self.assertEqual(alice.of(Introduced), [])
        public = {"203.0.113.1", "203.0.113.2", *alice.host.addresses, *bob.host.addresses}
        for seen in trace:
            if seen.protocol == "udp":
                self.assertIn(SERVICE, (seen.source[0], seen.destination[0]))
            self.assertFalse({seen.source[0], seen.destination[0]} <= public, seen)
        bob.node.accept(alice.id)
        alice.wait_for(Connected, 5.0)
        bob.wait_for(Connected, 5.0)
        self.assertIn(alice.id, bob.known)
        self.assertIn(bob.id, alice.known)

    def test_refused_by_the_user(self) -> None:
        """The caller's call fails with `refused`, and the callee's question ends."""
        alice, bob = self.pair()
        alice.call(bob.id)
        bob.wait_for(IncomingCall, 5.0)
        bob.node.reject(alice.id)
        self.assertEqual(alice.wait_for(CallFailed, 5.0).reason, "refused")
        self.assertEqual(bob.last(CallFailed).reason, "cancelled")
        self.assertNotIn(alice.id, bob.known)

    def test_known_only(self) -> None:
        """A stranger is refused, and the user is not asked."""
        alice, bob = self.peer("alice").register(), self.peer("bob", Accept.KNOWN).register()
        alice.call(bob.id)
        self.assertEqual(alice.wait_for(CallFailed, 5.0).reason, "refused")
        self.assertEqual(bob.of(IncomingCall) + bob.of(CallFailed), [])
        connect(alice, bob)

    def test_blocked(self) -> None:
        """A blocked peer is refused without an event, even if it is known and all others are accepted."""
        alice, bob = self.peer("alice").register(), self.peer("bob", Accept.ANYONE).register()
        introduce(alice, bob)
        bob.chat.contacts.block(alice.id)
        alice.chat.call(bob.id)
        self.assertEqual(alice.wait_for(CallFailed, 5.0).reason, "refused")
        self.assertEqual(bob.of(IncomingCall) + bob.of(CallFailed), [])
        bob.chat.contacts.unblock(alice.id)
        alice.chat.call(bob.id)
        bob.wait_for(Connected, 5.0)
        bob.chat.contacts.block(alice.id)
        self.assertEqual(alice.wait_for(Disconnected, 5.0).reason, "bye")

    def test_renamed(self) -> None:
        """Peers that are called get the new name; their own petname stays."""
        alice, bob = self.pair()
        alice.chat.rename("Alicia")
        alice.chat.call(bob.id)
        self.assertEqual(bob.wait_for(IncomingCall, 5.0).name, "Alicia")
        bob.chat.accept(alice.id)
        bob.wait_for(Connected, 5.0)
        alice.chat.rename("Al")
        self.net.advance(1.0)
        contact = bob.chat.contacts.get("alicia")
        self.assertEqual((contact.peer, contact.name, contact.claimed), (alice.id, "Alicia", "Al"))

    def test_anyone(self) -> None:
        """A stranger is accepted, and does not become a known peer by that."""
        alice, bob = self.peer("alice").register(), self.peer("bob", Accept.ANYONE).register()
        alice.call(bob.id)
        bob.wait_for(Connected, 5.0)
        self.assertEqual([(event.known, event.decided) for event in bob.of(IncomingCall)], [(False, True)])
        self.assertNotIn(alice.id, bob.known)

    def test_a_called_peer_becomes_known(self) -> None:
        """The one that was called may call back."""
        alice, bob = self.peer("alice", Accept.KNOWN).register(), self.peer("bob").register()
        alice.call(bob.id)
        bob.wait_for(IncomingCall, 5.0)
        bob.node.reject(alice.id)
        alice.wait_for(CallFailed, 5.0)
        bob.call(alice.id)
        bob.wait_for(Connected, 5.0)

    def test_nobody_accepts(self) -> None:
        """Ringing ends after 60 s, with an event on both sides."""
        alice, bob = self.pair()
        alice.call(bob.id)
        bob.wait_for(IncomingCall, 5.0)
        start = self.net.now
        self.assertEqual(alice.wait_for(CallFailed, 70.0).reason, "timeout")
        self.assertLess(abs(self.net.now - start - 60.0), 1.0)
        self.assertEqual(bob.wait_for(CallFailed, 5.0).reason, "timeout")
        bob.node.accept(alice.id)
        self.net.advance(5.0)
        self.assertEqual(bob.of(Introduced), [])

    def test_caller_gives_up(self) -> None:
        """The callee's question is over when the caller hangs up."""
        alice, bob = self.pair()
        alice.call(bob.id)
        bob.wait_for(IncomingCall, 5.0)
        alice.node.hangup(bob.id)
        self.assertEqual(alice.last(CallFailed).reason, "cancelled")
        failed = bob.wait_for(CallFailed, 5.0)
        self.assertEqual((failed.peer, failed.reason), (alice.id, "cancelled"))

    def test_calling_a_peer_that_rings_accepts_its_call(self) -> None:
        """Calling a peer whose call rings here accepts its call."""
        alice, bob = self.pair()
        alice.call(bob.id)
        bob.wait_for(IncomingCall, 5.0)
        bob.call(alice.id)
        bob.wait_for(Connected, 5.0)
        self.assertEqual(len(alice.of(Connected)), 1)


class EndTests(SystemTestCase):
    """The ends of links."""

    def test_hangup(self) -> None:
        """Both sides get `Disconnected` with the reason `bye`."""
        alice, bob = self.linked()
        alice.node.hangup(bob.id)
        for peer, other in ((alice, bob), (bob, alice)):
            over = peer.wait_for(Disconnected, 3.0)
            self.assertEqual((over.peer, over.reason), (other.id, "bye"))
            self.assertIsNone(peer.node.link(other.id))
        self.assertIn("hung up", event_sentence(bob.last(Disconnected)))
        self.assertIn("closed here", event_sentence(alice.last(Disconnected)))

    def test_peer_that_breaks_a_rule(self) -> None:
        """The link ends at once on both sides, and the other side gets the reason."""
        alice, bob = self.linked()
        link = alice.link_to(bob)
        for _ in range(5000):
            link.send_control(0x80, b"")
        self.assertEqual(bob.wait_for(Disconnected, 1.0).reason, "protocol")
        self.assertEqual(alice.wait_for(Disconnected, 2 * D).reason, "protocol")

    def test_stop(self) -> None:
        """A peer that stops closes every link."""
        alice, bob = self.linked()
        start = self.net.now
        alice.stop()
        self.assertLess(self.net.now - start, 1.5)
        self.assertEqual(bob.wait_for(Disconnected, 3.0).reason, "bye")

    def test_call_again_after_hangup(self) -> None:
        """A second link after the first, in the other direction."""
        alice, bob = self.linked()
        alice.node.hangup(bob.id)
        bob.wait_for(Disconnected, 3.0)
        bob.call(alice.id)
        bob.wait_for(Connected, 5.0, 2)
        alice.wait_for(Connected, 5.0, 2)

    def test_peer_that_lost_its_state(self) -> None:
        """A peer that lost its state says that it has no such link, which ends it on the other side."""
        alice, bob = self.linked()
        bob.host.kill()
        alice.wait_for(PathLost, 60.0)
        again = Peer(
            self.net,
            bob.host,
            self.rendezvous.address,
            identity=bob.identity,
            accept=Accept.ANYONE,
            salt="again",
        )
        self.peers.remove(bob)
        self.peers.append(again)
        again.register()
        over = alice.wait_for(Disconnected, 40.0)
        self.assertEqual((over.peer, over.reason), (bob.id, "lost"))
        self.assertEqual(again.of(IncomingCall), [])

    def test_hanging_up_while_a_link_is_probed(self) -> None:
        """Hanging up while the link is probed prevents a new call."""
        alice, bob = self.linked()
        alice.host.kill()
        calls = len(bob.of(Calling))
        bob.call(alice.id)
        bob.node.hangup(alice.id)
        self.net.advance(10.0)
        self.assertEqual(len(bob.of(Calling)), calls)
        self.assertIsNone(bob.node.link(alice.id))
        self.peers.remove(alice)

    def test_same_identity_twice(self) -> None:
        """The newer registration replaces the older, which is told and does not register again."""
        alice = self.peer("alice").register()
        other = Peer(
            self.net, self.host("elsewhere"), self.rendezvous.address, identity=alice.identity, salt="2"
        ).register()
        self.peers.append(other)
        lost = alice.wait_for(Unregistered, 5.0)
        self.assertEqual((lost.reason, lost.retry_in), ("replaced", None))
        failed = alice.wait_for(CallFailed, 1.0)
        self.assertEqual((failed.peer, failed.reason), (None, "replaced"))
        self.net.advance(300.0)
        self.assertEqual(len(alice.of(Registered)), 1)
        self.assertEqual(other.of(Unregistered), [])
        alice.call(self.peer("nobody").id)
        self.assertEqual(alice.last(CallFailed).reason, "replaced")
