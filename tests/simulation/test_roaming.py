"""Links that are cut for long, machines that sleep, and ICE restarts that the other side asks for."""

from __future__ import annotations

from functools import partial

from punch.ice.budget import MAX_BYTES, MAX_PACKETS
from punch.ice.candidates import MAX_SIGNALLED
from punch.link.control_stream import ControlFrameType
from punch.node.events import (
    Disconnected,
    IncomingCall,
    PathChanged,
    PathLost,
)
from punch.node.paths.ice_restart import RESTARTS_A_MINUTE
from punch.rendezvous.config import RendezvousLimits
from punch.test.costs import calls_of
from punch.test.internet import Seen
from punch.test.scenarios.test_roaming import RETURN, RoamingTestCase
from punch.test.system import SERVICE, Peer, Rendezvous, hear_nothing
from punch.wire.address import Address
from punch.wire.control import Incoming, new_call
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.peers.link_frames import LateCandidates, Restart
from punch.wire.peers.sealed import Offer, seal_offer

CALM = "198.51.100.2"
"""The address of a rendezvous that rarely pings, so that simulated hours take less time."""
HOUR = 3600.0
CREATE_PERMISSION = b"\x00\x08"
"""The first bytes of this request (RFC 8656, section 9)."""


class DisconnectedTests(RoamingTestCase):
    """Links without any network for a while."""

    def disconnected(self, seconds: float, *peers: Peer) -> None:
        """Data that waits arrives soon after the network is back."""
        for peer in peers:
            peer.host.down()
        self.alice.chat.send(self.bob.id, "are you there?")
        self.bob.chat.send(self.alice.id, "where are you?")
        self.net.advance(seconds)
        for peer in peers:
            self.nat(peer).forget()
            peer.host.up()
        back = self.net.now
        self.net.run_until(
            lambda: self.alice.messages and self.bob.messages, RETURN, "what was waiting arrives"
        )
        self.assertLess(self.net.now - back, RETURN)
        self.assert_same_link()
        self.net.advance(30.0)
        self.assertLess(self.conversation(), 0.5)

    def test_a_minute(self) -> None:
        """The loss and the return of the path are announced, and nothing between."""
        self.start()
        self.disconnected(60.0, self.alice)
        for peer in (self.alice, self.bob):
            self.assertEqual(len(peer.of(PathLost)), 1)
            self.assertTrue(peer.of(PathChanged))

    def test_ten_minutes_on_both_sides(self) -> None:
        """No network on both sides; `tests/simulation/test_roaming_seeds.py` has an hour and twelve."""
        self.start()
        self.disconnected(600.0, self.alice, self.bob)

    def test_between_the_two(self) -> None:
        """Both sides reach the rendezvous, but not each other."""
        self.start()
        self.net.drop = lambda packet: SERVICE not in (packet.source[0], packet.destination[0])
        self.alice.chat.send(self.bob.id, "are you there?")
        self.net.advance(120.0)
        self.net.drop = None
        self.net.run_until(lambda: self.alice.delivered, RETURN, "what was waiting arrives")
        self.assert_same_link()


class SleepTests(RoamingTestCase):
    """A machine sleeps: no timer fires, and monotonic time stands still."""

    def sleep(self, seconds: float) -> None:
        """Alice sleeps while data of Bob waits."""
        self.start()
        self.alice.chat.send(self.bob.id, "good night")
        self.alice.host.sleep(seconds)
        self.bob.chat.send(self.alice.id, "are you there?")
        self.net.advance(seconds)
        self.net.run_until(
            lambda: self.alice.messages and self.alice.delivered, RETURN, "what was waiting arrives"
        )
        self.assert_same_link()

    def test_twenty_seconds(self) -> None:
        """The sleep is too short for the NAT or the rendezvous to forget anything."""
        self.sleep(20.0)

    def test_an_hour(self) -> None:
        """NATs and relays have forgotten all; `tests/simulation/test_roaming_seeds.py` has twelve hours."""
        self.rendezvous.stop()
        self.rendezvous = Rendezvous(
            self.net,
            self.net.host("calm", CALM),
            RendezvousLimits(keepalive=600.0, silence=1500.0),
            name=CALM,
        )
        self.sleep(HOUR)


class OtherSideTests(RoamingTestCase):
    """Restarts by a peer that breaks the rules."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def restart(self, generation: int) -> bytes:
        """Return a RESTART frame of an agent that does not exist."""
        return Restart(generation, "AAAAAAAA", "A" * 24, ()).encode()

    def send(self, payload: bytes, frame: ControlFrameType = ControlFrameType.RESTART) -> None:
        """Send a control frame from Alice, whose node ignores what Bob answers."""
        self.alice.hears = hear_nothing
        self.links[0].send_control(frame, payload)
        self.net.advance(1.0)

    @property
    def generation(self) -> int:
        """The number of the newest ICE generation on Bob's side of the link."""
        return self.bob.node.status.generations[self.alice.id]

    def test_nonsense_ends_the_link(self) -> None:
        """A malformed frame ends the link."""
        self.send(b"[]")
        self.assertEqual(self.bob.last(Disconnected).reason, "protocol")

    def test_a_restart_that_leads_nowhere(self) -> None:
        """A restart whose agent does not exist leaves the working path in use."""
        self.send(self.restart(1))
        self.assertEqual(self.generation, 1)
        self.net.advance(120.0)
        self.conversation()
        self.assert_same_link()

    def test_old_generations(self) -> None:
        """Older generations are ignored, and so are candidates for them."""
        self.send(self.restart(7))
        self.send(self.restart(3))
        self.send(LateCandidates(3, ()).encode(), ControlFrameType.CANDIDATES)
        self.assertEqual(self.generation, 7)
        self.conversation()

    def test_many_restarts(self) -> None:
        """At most 30 restarts a minute that the other side begins are followed."""
        for generation in range(1, 101):
            self.links[0].send_control(ControlFrameType.RESTART, self.restart(generation))
        self.alice.hears = hear_nothing
        self.net.advance(5.0)
        self.assertEqual(self.generation, RESTARTS_A_MINUTE)
        self.conversation()
        self.assert_same_link()

    def test_a_victim_in_every_restart(self) -> None:
        """
        A peer that names two thousand addresses of a stranger in a minute makes us send it 3 kB at most.
        """
        victim = self.net.host("victim")
        trace: list[Seen] = []

        def heard() -> int:
            found = sum(seen.size for seen in trace if seen.destination[0] == victim.address)
            trace.clear()
            return found

        def named(port: int) -> tuple[Candidate, ...]:
            address = victim.address
            return tuple(
                Candidate(CandidateType.HOST, Address(address, each), 2**31 - 1 - each, str(each))
                for each in range(port, port + 32)
            )

        self.alice.hears = hear_nothing
        (wire,) = victim.interfaces
        self.net.trace = trace
        for generation in range(1, 31):
            restart = Restart(generation, "AAAAAAAA", "A" * 24, named(1000 + 64 * generation))
            self.links[0].send_control(ControlFrameType.RESTART, restart.encode())
            more = LateCandidates(generation, named(1032 + 64 * generation))
            self.links[0].send_control(ControlFrameType.CANDIDATES, more.encode())
            self.net.advance(2.0)
            trace[:] = [seen for seen in trace if seen.link == wire.down.name]
        self.net.advance(120.0)
        trace[:] = [seen for seen in trace if seen.link == wire.down.name]
        self.assertLessEqual(len(trace), MAX_PACKETS)
        self.assertTrue(0 < heard() <= MAX_BYTES)
        self.conversation()
        self.assert_same_link()

    def test_thousands_of_candidates(self) -> None:
        """
        Of 3,200 addresses that a peer names for one restart, the relay is asked to let 32 send; what comes
        after these costs no more than the first ones.
        """
        self.assertTrue(self.bob.node.status.relays)
        self.send(self.restart(1))
        trace: list[Seen] = []
        self.net.trace = trace
        costs = []
        for first in range(0, 3200, 800):
            for number in range(first, first + 800, 32):
                named = (
                    Candidate(
                        CandidateType.HOST, Address(f"192.88.{each // 200}.{each % 200}", 4000), 1000, "1"
                    )
                    for each in range(number, number + 32)
                )
                late = LateCandidates(1, tuple(named))
                self.links[0].send_control(ControlFrameType.CANDIDATES, late.encode())
            costs.append(calls_of(partial(self.net.advance, 0.5)))
        asked = {seen.payload for seen in trace if seen.payload[:2] == CREATE_PERMISSION}
        self.assertLessEqual(len(asked), MAX_SIGNALLED)
        self.assertLess(costs[-1], 1.2 * costs[0])
        self.conversation()
        self.assert_same_link()

    def offer(self, generation: int, link: bytes, number: int = 0, seconds: float = 1.0) -> None:
        """Deliver a sealed offer of Alice to Bob, and wait; each number is another call."""
        offer = Offer("alice", "AAAAAAAA", "A" * 24, (), bytes([9]) + bytes(31), 50, generation, False, link)
        envelope = seal_offer(self.alice.identity, self.bob.id, offer)
        call = new_call(self.net.random_bytes(f"{generation} {link.hex()} {number}"))
        self.bob.node.control_reply(Incoming(call, self.alice.id, "alice", envelope))
        self.net.advance(seconds)

    def test_restarts_of_other_links(self) -> None:
        """Offers that restart another link are refused without asking the user, and the link stays."""
        self.offer(5, bytes(32))
        self.assertEqual(self.generation, 0)
        self.conversation()
        self.assert_same_link()
        self.assertEqual(len(self.bob.of(IncomingCall)), 1)

    def test_an_old_restart_again(self) -> None:
        """An offer of an older generation changes nothing."""
        link = self.links[1].core.offer_digest
        self.offer(2, link)
        self.assertEqual(self.generation, 2)
        self.offer(1, link)
        self.assertEqual(self.generation, 2)
        self.conversation()
        self.assert_same_link()

    def test_the_same_restart_again_and_again(self) -> None:
        """Each offer is answered, but only the newest one is kept, and told what is found later."""
        before = self.bob.node.status.signaling
        for number in range(5):
            self.offer(2, self.links[1].core.offer_digest, number, seconds=0.0)
            self.assertEqual((self.generation, self.bob.node.status.signaling), (2, before + 1))
        self.conversation()
        self.assert_same_link()


class NatTests(RoamingTestCase):
    """NATs lose their mappings or change their public address."""

    def test_flushed(self) -> None:
        """The NATs of both sides lose their mappings, so both sides have other addresses afterwards."""
        self.start()
        self.nat(self.alice).forget()
        self.assert_survived()
        self.assertTrue(self.bob.of(PathChanged))

    def test_both_flushed(self) -> None:
        """Both NATs lose their mappings at once."""
        self.start()
        self.nat(self.alice).forget()
        self.nat(self.bob).forget()
        self.assert_survived()

    def test_both_get_new_public_addresses(self) -> None:
        """The public addresses of both sides change."""
        self.start()
        self.nat(self.alice).renumber("203.0.113.66")
        self.nat(self.bob).renumber("203.0.113.77")
        self.assert_survived()
