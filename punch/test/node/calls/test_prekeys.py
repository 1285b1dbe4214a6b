"""Prekeys in calls: where they are learned, when offers are sealed to them, and what a rendezvous can do."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.link.control_stream import OptionalFrameType
from punch.node.calls.prekeys import MAX_PREKEYS, PREKEY_DELAY, Prekeys
from punch.node.calls.signaling import MoreCandidates
from punch.node.events import CallFailed, Connected, Disconnected, IncomingCall
from punch.test.node.calls.call_pair import ALICE, BOB, CallPair, candidate, events
from punch.test.node.middleman import Forward, MiddlemanTestCase
from punch.test.strategies import identity
from punch.wire.control import Accept, Ended, ErrorCode, Establish, Incoming, Prekey, Reject, Reply, Trickle
from punch.wire.peers.prekey import KEY_SIZE, PREKEY_LABEL, SIGNED_SIZE, signed_prekey
from punch.wire.peers.sealed import Offer, open_offer, seal_offer


class Kept(dict[PeerID, bytes]):
    """What a disk keeps."""

    def read(self, peer: PeerID) -> bytes | None:
        return self.get(peer)

    def write(self, peer: PeerID, signed: bytes | None) -> None:
        if signed is None:
            self.pop(peer, None)
        else:
            self[peer] = signed


class PrekeysTests(SynchronousTestCase):
    """What is known of other peers."""

    def test_learn(self) -> None:
        """A prekey is known from then on, and kept for later processes if it is to be."""
        kept = Kept()
        prekeys = Prekeys(ALICE, kept)
        bob, carol = BOB.peer_id, identity(7).peer_id
        self.assertEqual(prekeys.of(bob), b"")
        prekeys.learn(bob, signed_prekey(BOB), keep=True)
        prekeys.learn(carol, signed_prekey(identity(7)), keep=False)
        self.assertEqual(prekeys.of(bob), signed_prekey(BOB)[:KEY_SIZE])
        self.assertEqual(list(kept), [bob])
        prekeys.learn(carol, signed_prekey(identity(7)), keep=True)
        later = Prekeys(ALICE, kept)
        self.assertEqual(later.of(carol), signed_prekey(identity(7))[:KEY_SIZE])

    def test_forget(self) -> None:
        """A prekey that is forgotten is not on the disk any more, and may be learned again."""
        kept = Kept()
        Prekeys(ALICE, kept).learn(BOB.peer_id, signed_prekey(BOB), keep=True)
        prekeys = Prekeys(ALICE, kept)
        prekeys.forget(BOB.peer_id)
        self.assertEqual((prekeys.of(BOB.peer_id), kept), (b"", {}))
        prekeys.learn(BOB.peer_id, signed_prekey(BOB), keep=True)
        self.assertEqual(len(prekeys.of(BOB.peer_id)), KEY_SIZE)

    def test_taken_out_of_the_address_book(self) -> None:
        """What removes the file needs to tell no node: the prekey is known no longer, until it is told."""
        kept = Kept()
        prekeys = Prekeys(ALICE, kept)
        for known_before in (False, True):
            prekeys.learn(BOB.peer_id, signed_prekey(BOB), keep=known_before)
            prekeys.learn(BOB.peer_id, signed_prekey(BOB), keep=True)
            self.assertEqual(len(prekeys.of(BOB.peer_id)), KEY_SIZE)
            kept.write(BOB.peer_id, None)
            self.assertEqual(prekeys.of(BOB.peer_id), b"")

    def test_where_nothing_can_be_kept(self) -> None:
        """The prekeys of known peers are in memory if the disk fails."""

        class Full(Kept):
            def write(self, peer: PeerID, signed: bytes | None) -> None:
                """The disk is full."""

        prekeys = Prekeys(ALICE, Full())
        prekeys.learn(BOB.peer_id, signed_prekey(BOB), keep=True)
        self.assertEqual(len(prekeys.of(BOB.peer_id)), KEY_SIZE)

    def test_where_nothing_can_be_removed(self) -> None:
        """A prekey that is forgotten is not used again because its file stays, until it is told again."""

        class ReadOnly(Kept):
            def write(self, peer: PeerID, signed: bytes | None) -> None:
                """The file system is read-only."""

        prekeys = Prekeys(ALICE, ReadOnly({BOB.peer_id: signed_prekey(BOB)}))
        self.assertEqual(len(prekeys.of(BOB.peer_id)), KEY_SIZE)
        prekeys.forget(BOB.peer_id)
        self.assertEqual([prekeys.of(BOB.peer_id) for _ in range(2)], [b"", b""])
        prekeys.told(BOB.peer_id, signed_prekey(BOB), keep=True)
        self.assertEqual(len(prekeys.of(BOB.peer_id)), KEY_SIZE)

    def test_told(self) -> None:
        """The rendezvous tells what is not known yet, and replaces nothing: each would be written."""
        kept = Kept()
        prekeys = Prekeys(ALICE, kept)
        key = MLKEM768PrivateKey.generate().public_key().public_bytes_raw()
        other = key + BOB.sign(PREKEY_LABEL, key)
        for signed in (signed_prekey(BOB), other):
            prekeys.of(BOB.peer_id)
            prekeys.told(BOB.peer_id, signed, keep=True)
            self.assertEqual(kept, {BOB.peer_id: signed_prekey(BOB)})
        prekeys.forget(BOB.peer_id)
        prekeys.told(BOB.peer_id, signed_prekey(BOB), keep=True)
        self.assertEqual(kept, {BOB.peer_id: signed_prekey(BOB)})

    def test_damaged(self) -> None:
        """A file that somebody has changed is as good as none."""
        kept = Kept({BOB.peer_id: bytes(SIGNED_SIZE)})
        self.assertEqual(Prekeys(ALICE, kept).of(BOB.peer_id), b"")

    def test_bounded(self) -> None:
        """Memory is bounded: who was called longest ago is forgotten, and read again from the disk."""
        kept = Kept({BOB.peer_id: signed_prekey(BOB)})
        prekeys = Prekeys(ALICE, kept)
        for number in range(MAX_PREKEYS + 1):
            prekeys.of(PeerID(number.to_bytes(32, "big")))
        self.assertEqual(len(prekeys.of(BOB.peer_id)), KEY_SIZE)


class SignalingTests(SynchronousTestCase):
    """One call."""

    def test_without(self) -> None:
        """Nothing is hybrid, and the rendezvous is asked for the prekey."""
        wire = CallPair()
        self.assertTrue(wire.establish.prekey)
        sent = [wire.establish.offer, wire.accept(), wire.trickle(wire.callee, candidate(3))]
        self.assertEqual([each.hybrid for each in sent], [False] * 3)
        self.assertFalse(wire.callee.post_quantum)

    def test_with(self) -> None:
        """All that both sides send is hybrid, and arrives."""
        wire = CallPair(prekey=signed_prekey(BOB)[:KEY_SIZE])
        self.assertTrue(wire.establish.prekey)
        early = wire.trickle(wire.caller, candidate(2))
        wire.callee.receive_candidates(early)
        here, there = wire.introduce()
        self.assertEqual(there.remote.candidates, (candidate(0), candidate(2)))
        self.assertEqual(here.remote.candidates, (candidate(1),))
        late = wire.trickle(wire.callee, candidate(3))
        wire.caller.receive_candidates(late)
        self.assertEqual([each.hybrid for each in (wire.establish.offer, early, late)], [True] * 3)
        self.assertEqual(events(wire.caller), [MoreCandidates((candidate(3),), False)])
        self.assertTrue(wire.caller.post_quantum)
        self.assertTrue(wire.callee.post_quantum)


class CallTests(MiddlemanTestCase):
    """Calls of whole nodes."""

    def establish(self) -> Establish:
        """The newest offer."""
        request = self.middle.requests(Establish)[-1]
        assert isinstance(request, Establish)
        return request

    def connected(self) -> None:
        """Alice calls Bob, and there is a link on both sides."""
        self.assertIsInstance(self.call(5.0), Connected)
        self.net.advance(PREKEY_DELAY + 1.0)

    def hang_up(self) -> None:
        """End the link, so that the next call is another one."""
        self.alice.node.hangup(self.bob.id)
        self.net.advance(3.0)
        self.alice.events.clear()

    def offers(self) -> list[bool]:
        """What the status of the link says, at both ends."""
        links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        return [link.status is not None and link.status.post_quantum_offers for link in links]

    def test_second_call(self) -> None:
        """The first call is not hybrid. Later ones are, also in the other direction, and links say it."""
        self.connected()
        self.assertEqual((self.establish().offer.hybrid, self.establish().prekey), (False, True))
        self.assertEqual(self.offers(), [False, False])
        self.hang_up()
        self.connected()
        self.assertEqual((self.establish().offer.hybrid, self.establish().prekey), (True, True))
        self.assertEqual(self.offers(), [True, True])
        for trickle in self.middle.requests(Trickle)[-1:]:
            assert isinstance(trickle, Trickle)
            self.assertTrue(trickle.envelope.hybrid)
        self.hang_up()
        self.bob.call(self.alice.id)
        self.alice.wait_for(Connected, 5.0)
        self.assertTrue(self.establish().offer.hybrid)

    def test_told_by_the_rendezvous(self) -> None:
        """
        A caller who is refused has the prekey all the same, for the next call. So a user's no makes no offer
        less safe: the prekey that is forgotten then is told again.
        """
        carol = self.peer("carol", Accept.ASK).register()

        def tell(to: PeerID, reply: Reply) -> Forward:
            told = Prekey(carol.id, signed_prekey(carol.identity))
            return [(to, reply), (to, told)] if isinstance(reply, Ended) else [(to, reply)]

        self.middle.meddle = tell
        for hybrid in (False, True, True):
            self.alice.call(carol.id)
            carol.wait_for(IncomingCall, 2.0)
            carol.node.reject(self.alice.id)
            self.net.advance(2.0)
            carol.events.clear()
            offer = self.establish().offer
            self.assertEqual((offer.hybrid, self.establish().prekey), (hybrid, True))
            self.assertEqual(bool(open_offer(carol.identity, self.alice.id, offer).reply_kem), hybrid)

    def test_made_up_by_the_rendezvous(self) -> None:
        """It can offer prekeys of its own, or of peers that nobody called: nobody uses them."""
        carol = self.peer("carol", Accept.ASK).register()
        self.middle.deliver(self.alice.id, Prekey(carol.id, signed_prekey(carol.identity)))
        self.alice.call(self.bob.id)
        self.middle.deliver(self.alice.id, Prekey(self.bob.id, signed_prekey(identity(9))))
        self.alice.wait_for(Connected, 5.0)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(3.0)
        for peer in (self.bob, carol):
            self.alice.call(peer.id)
            self.net.advance(1.0)
            self.assertEqual((self.establish().to, self.establish().offer.hybrid), (peer.id, False))

    def test_returned_to_an_old_release(self) -> None:
        """Who can't open a hybrid offer refuses it; the next offer is one that it opens."""
        self.connected()
        self.hang_up()

        def refuse(to: PeerID, incoming: Incoming) -> Forward:
            if not incoming.offer.hybrid:
                return [(to, incoming)]
            return [(incoming.sender, Ended(incoming.call, ErrorCode.REFUSED, "No.", sender=to))]

        self.on(Incoming, refuse)
        self.assertIsInstance(self.call(5.0), CallFailed)
        self.assertTrue(self.establish().offer.hybrid)
        self.alice.events.clear()
        self.connected()
        self.assertEqual((self.establish().offer.hybrid, self.establish().prekey), (False, True))
        self.hang_up()
        self.middle.meddle = lambda to, reply: [(to, reply)]
        self.connected()
        self.assertTrue(self.establish().offer.hybrid)

    def test_malformed_frame(self) -> None:
        """A prekey on the link that is none, or somebody else's, ends the link, as malformed frames do."""
        for payload in (b"", signed_prekey(identity(9))):
            self.assertIsInstance(self.call(5.0), Connected)
            self.net.advance(1.0)
            self.alice.link_to(self.bob).send_control(OptionalFrameType.PREKEY, payload)
            self.alice.wait_for(Disconnected, 3.0)
            self.alice.events.clear()

    def test_second_frame(self) -> None:
        """Each would cost a signature check and perhaps a write to the disk: a second one ends the link."""
        self.connected()
        self.alice.link_to(self.bob).send_control(
            OptionalFrameType.PREKEY, signed_prekey(self.alice.identity)
        )
        self.alice.wait_for(Disconnected, 3.0)

    def test_reply_kem_of_no_use(self) -> None:
        """An offer with a reply key that is no key of ML-KEM is refused."""
        key = self.alice.identity.x25519().public_key().public_bytes_raw()
        offer = Offer("alice", "ufrag", "p" * 24, (), key, reply_kem=b"\xff" * KEY_SIZE)
        sealed = seal_offer(self.alice.identity, self.bob.id, offer)
        self.middle.deliver(self.bob.id, Incoming("34" * 16, self.alice.id, "x", sealed))
        self.net.advance(2.0)
        self.assertEqual(self.bob.of(IncomingCall), [])
        self.assertEqual(len(self.middle.requests(Reject)), 1)
