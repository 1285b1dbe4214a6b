"""
The first packets of a handshake together with the first checks: what it costs when they are lost, when the
line is slow, and when there is no path.
"""

from __future__ import annotations

from collections.abc import Callable

from punch.node.calls.signaling import INTRODUCED_TIME
from punch.node.paths.path import GRACE
from punch.node.paths.restart_schedule import IMPROVE
from punch.node.policies import RelayPolicy
from punch.test.internet import LinkSpec
from punch.test.internet.packet import Packet
from punch.test.scenarios.early import HOMES, SECOND, D, EarlyTestCase, answers, is_handshake
from punch.test.system import (
    CallFailed,
    Connected,
    Disconnected,
)


class LossTests(EarlyTestCase):
    """What it costs when it is of no use: nothing, or the little that an answer is waited for."""

    def drop_handshake(self, source: str, count: int) -> Callable[[], None]:
        """Lose so many of the handshake's first packets that leave a home."""

        def impair() -> None:
            left = count

            def drop(packet: Packet) -> bool:
                nonlocal left
                if is_handshake(packet) and packet.source[0] == source and left:
                    left -= 1
                    return True
                return False

            self.net.drop = drop

        return impair

    def drop_early(self) -> None:
        """Lose all packets of a handshake until 3.5 D after now."""
        end = self.net.now + 3.5 * D
        self.net.drop = lambda packet: is_handshake(packet) and self.net.now < end

    def test_the_initial_is_lost(self) -> None:
        self.compare(self.drop_early, GRACE)

    def test_half_of_it_is_lost(self) -> None:
        self.compare(self.drop_handshake(HOMES[0], 1), GRACE)

    def test_the_answer_is_lost(self) -> None:
        self.compare(self.drop_handshake(HOMES[1], 3), GRACE)

    def test_only_the_relay_works(self) -> None:
        self.compare(self.strict, 0.0, first=True)

    def test_everything_direct_is_lost(self) -> None:
        def impair() -> None:
            self.net.drop = lambda packet: (
                packet.protocol == "udp" and packet.source[0] in HOMES and packet.destination[0] in HOMES
            )

        self.compare(impair, 0.0)

    def test_checks_arrive_later_than_the_initial(self) -> None:
        """The first checks of both are lost: what came before them is not taken."""

        def impair() -> None:
            end = self.net.now + 3.2 * D
            self.net.drop = lambda packet: (
                packet.protocol == "udp"
                and packet.payload[:2] == b"\x00\x01"
                and packet.source[0] in HOMES
                and packet.destination[0] in HOMES
                and self.net.now < end
            )

        self.compare(impair, GRACE)


class SlowTests(EarlyTestCase):
    """Lines on which the packets of a handshake take long, one after the other."""

    def test_rates(self) -> None:
        """
        The link is there sooner than without. A second handshake is begun, since the answer takes longer than
        that to a check; it is given up when the first one is answered.
        """
        for rate in (128e3, 512e3, 1e6):
            self.place(LinkSpec(delay=0.02, rate=rate))
            self.meet()
            self.start()
            early = self.connect()
            self.assertTrue(self.early_packets())
            size = self.handshake_bytes()
            self.stop()
            self.forgetful()
            self.start()
            plain = self.connect()
            self.assertLess(size, self.handshake_bytes() + SECOND, rate)
            self.stop()
            for with_early, without in zip(early, plain, strict=True):
                self.assertLess(with_early, without, rate)

    def handshake_bytes(self) -> int:
        """How many bytes of handshakes leave the two hosts, with those that come a little later."""
        self.net.advance(5.0)
        ups = [seen for seen in self.seen if seen.link in ("alice up", "bob up")]
        return sum(seen.size for seen in ups if is_handshake(seen))


class NoPathTests(EarlyTestCase):
    """The handshake is answered, which proves the link, and checks are not, so that there is no path."""

    def prove(self, *unanswered: str) -> None:
        """Alice calls. What would tell these homes that their checks have arrived is lost."""
        self.net.drop = lambda packet: (
            packet.source[0] in HOMES and packet.destination[0] in unanswered and answers(packet)
        )
        self.alice.call(self.bob.id)
        self.net.advance(1.0)
        self.assertTrue(self.early_packets())

    def fails(self, *unanswered: str) -> None:
        """Both calls end; if Alice has a path, she has a link meanwhile."""
        self.relay = RelayPolicy.NEVER
        self.meet()
        self.start()
        self.prove(*unanswered)
        self.assertEqual(len(self.alice.of(Connected)), HOMES[0] not in unanswered)
        self.net.advance(INTRODUCED_TIME)
        self.assertEqual(len(self.bob.of(CallFailed)), 1)
        self.net.advance(30.0)
        for peer in (self.alice, self.bob):
            linked = peer is self.alice and HOMES[0] not in unanswered
            self.assertEqual((len(peer.of(CallFailed)), len(peer.of(Disconnected))), (not linked, linked))
            self.assertEqual(peer.node.status.links, ())
        self.stop()

    def test_neither_has_a_path(self) -> None:
        self.fails(*HOMES)

    def test_the_caller_has_none(self) -> None:
        self.fails(HOMES[0])

    def test_the_callee_has_none(self) -> None:
        self.fails(HOMES[1])

    def gone(self, *, caller: bool) -> None:
        """One side has answered the handshake, and can't be reached by the rendezvous either after that."""
        self.relay = RelayPolicy.NEVER
        self.meet()
        left, gone = self.start()[:: -1 if caller else 1]
        self.prove(HOMES[1] if caller else HOMES[0])
        gone.host.kill()
        self.net.advance(INTRODUCED_TIME)
        self.assertEqual((len(left.of(CallFailed)), left.of(Connected)), (1, []))
        left.stop()

    def test_the_caller_is_gone(self) -> None:
        self.gone(caller=True)

    def test_the_callee_is_gone(self) -> None:
        self.gone(caller=False)

    def test_the_caller_gives_up(self) -> None:
        """Both calls end at once, as those of a link that is not proved."""
        self.relay = RelayPolicy.NEVER
        self.meet()
        self.start()
        self.prove(*HOMES)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(1.0)
        for peer in (self.alice, self.bob):
            self.assertEqual((len(peer.of(CallFailed)), peer.of(Connected)), (1, []))
        self.stop()

    def test_the_path_is_found_later(self) -> None:
        """First on one side, whose messages through the rendezvous do not end the call of the other one."""
        self.relay = RelayPolicy.NEVER
        for home in HOMES:
            self.meet()
            self.start()
            self.prove(home)
            self.net.drop = None
            for peer in (self.alice, self.bob):
                peer.wait_for(Connected, 5.0)
                self.net.advance(5.0)
                self.assertEqual((peer.of(CallFailed), peer.of(Disconnected)), ([], []))
            self.net.advance(INTRODUCED_TIME)
            self.assertEqual([len(each.node.status.links) for each in (self.alice, self.bob)], [1, 1])
            self.stop()

    def test_the_relay_is_found_later(self) -> None:
        """It is left as any other for a direct path, which a restart looks for after a while."""
        self.meet()
        self.start()
        self.prove(*HOMES)
        for peer in (self.alice, self.bob):
            self.assertEqual(peer.wait_for(Connected, 10.0).path.kind, "relay")
        self.net.drop = None
        links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        self.net.run_until(
            lambda: all(link.status and link.status.path.kind != "relay" for link in links),
            IMPROVE[0] + 5.0,
            "a direct path",
        )
        self.stop()


class TimeTests(EarlyTestCase):
    """How soon the link is there."""

    def test_another_network(self) -> None:
        """Where it is another network on either side, nothing is sent early until that is known, too."""
        self.meet()
        for number, nat in enumerate(self.nats):
            nat.renumber(f"203.0.113.{31 + number}")
            self.start()
            self.connect()
            self.assertEqual(self.early_packets(), [], number)
            self.net.advance(12.0)
            self.stop()
        self.start()
        self.connect()
        self.assertNotEqual(self.early_packets(), [])
        self.stop()
