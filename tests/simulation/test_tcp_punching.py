"""Direct paths over TCP where no UDP gets out."""

from __future__ import annotations

from typing import Any

from punch.ice.budget import MAX_CONNECTS
from punch.ice.punching.techniques import Technique
from punch.link.control_stream import OptionalFrameType
from punch.link.link import Link
from punch.node.events import Disconnected, PathChanged
from punch.node.policies import RelayPolicy
from punch.node.punching.coordinator import TIME_FOR_CHECKS
from punch.test.internet import (
    NAT,
    Filtering,
    Firewall,
    LinkSpec,
    Mapping,
    Ports,
    Unsolicited,
)
from punch.test.scenarios.tcp_punching import ALICE, BOB, WITHIN, TCPTestCase, no_udp
from punch.test.system import SERVICE
from punch.wire.proxy import ProxyAddress, ProxySettings

PREDICTED_WITHIN = 9.0
"""Seconds after the call within which a link is direct over TCP if that takes a second attempt."""


class DirectTests(TCPTestCase):
    """Partners whose NATs let TCP be punched."""

    def check(self, right: NAT | Firewall | None, caller: int = 0, **options: Any) -> None:
        """The path is direct 5 s after the call, and 25 s after it, and carries data."""
        self.place(right, **options)
        began = self.call(caller)
        self.wait(lambda: self.over_tcp, began + WITHIN - self.net.now)
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), MAX_CONNECTS)
        self.net.advance(began + 25.0 - self.net.now)
        self.assertTrue(self.over_tcp)
        self.alice.chat.send(self.bob.id, "over TCP")
        self.wait(lambda: self.bob.messages, 1.0)
        for peer in self.peers:
            self.assertEqual(self.listening(peer), [])
        # It tells nothing about UDP, by which the next call begins
        paths = [
            path for peer in self.peers for other in peer.known for path in peer.known.entry(other).paths
        ]
        self.assertEqual({path.technique for path in paths if path.direct}, {Technique.TCP.value})
        self.stop()

    def test_home(self) -> None:
        """A NAT with one port for all, whoever calls."""
        for caller in (0, 1):
            self.check(NAT(ports=Ports.RANDOM), caller)

    def test_both(self) -> None:
        """No UDP on both sides: both begin."""
        self.check(no_udp())

    def test_public(self) -> None:
        """Everybody reaches bob, who listens; alice connects."""
        self.check(None, 1)

    def test_firewall(self) -> None:
        """A public address behind a firewall."""
        self.check(Firewall(filtering=Filtering.APDF))

    def test_refusing(self) -> None:
        """NATs that answer SYNs that nobody asked for with a reset, with and without delay."""
        self.check(NAT(ports=Ports.RANDOM, unsolicited=Unsolicited.REJECT))
        self.check(
            NAT(ports=Ports.RANDOM, unsolicited=Unsolicited.REJECT),
            left=no_udp(unsolicited=Unsolicited.REJECT),
            link=LinkSpec(delay=0.001),
        )


class PredictedTests(TCPTestCase):
    """Bob's NAT gives each destination another port, which he predicts."""

    def seconds(self, nat: NAT, caller: int = 0, **options: Any) -> float:
        """How many seconds after the call both sides have a direct path."""
        self.place(nat, **options)
        began = self.call(caller)
        self.wait(lambda: self.over_tcp, PREDICTED_WITHIN)
        seconds = self.net.now - began
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), MAX_CONNECTS)
        self.alice.chat.send(self.bob.id, "over TCP")
        self.wait(lambda: self.bob.messages, 1.0)
        self.stop()
        return seconds

    def test_preserved_ports(self) -> None:
        """The first mapping of a port has this port, whatever the NAT depends on."""
        for number, mapping in enumerate((Mapping.ADM, Mapping.APDM)):
            nat = NAT(ports=Ports.PRESERVING, mapping=mapping, filtering=Filtering.APDF)
            self.assertLess(self.seconds(nat, number), PREDICTED_WITHIN)

    def test_sequences(self) -> None:
        """The next port is so many above or below that which the rendezvous has seen."""
        for step in (1, 4, -1):
            nat = NAT(ports=Ports.SEQUENTIAL, mapping=Mapping.APDM, filtering=Filtering.APDF, step=step)
            self.assertLess(self.seconds(nat), PREDICTED_WITHIN)

    def test_one_port_for_all_over_tcp(self) -> None:
        """
        Only UDP ports depend on the destination. The prediction holds all the same: the port at which bob
        listens has no mapping yet, so the NAT gives it the next port, which is then that for all.
        """
        for ports in (Ports.SEQUENTIAL, Ports.PRESERVING):
            self.place(NAT(ports=ports, mapping=Mapping.APDM, tcp_mapping=Mapping.EIM, step=4))
            self.net.drop = lambda packet: (
                packet.protocol == "tcp" and {packet.source[0], packet.destination[0]} == {ALICE, BOB}
            )
            began = self.call()
            self.wait(lambda: min(self.attempts) == 2, PREDICTED_WITHIN)
            self.net.drop = None
            self.wait(lambda: self.over_tcp, began + PREDICTED_WITHIN - self.net.now)
            self.assertEqual(self.attempts, [2, 2])
            self.stop()

    @property
    def attempts(self) -> list[int]:
        """How many attempts over TCP there were on the link of each side."""
        return [peer.node.status.links[0].tcp_punching.attempts for peer in self.peers]

    def test_refusals(self) -> None:
        """NATs that answer SYNs that nobody asked for with a reset."""
        nat = NAT(
            ports=Ports.SEQUENTIAL,
            mapping=Mapping.ADM,
            filtering=Filtering.ADF,
            unsolicited=Unsolicited.REJECT,
        )
        seconds = self.seconds(nat, left=no_udp(unsolicited=Unsolicited.REJECT))
        self.assertLess(seconds, PREDICTED_WITHIN)


class RelayTests(TCPTestCase):
    """Where nothing is direct, or nothing is tried."""

    def test_random_ports(self) -> None:
        """Bob's NAT has another port for each destination: few SYNs, and the link stays on the relay."""
        self.place(NAT(ports=Ports.RANDOM, mapping=Mapping.APDM))
        self.call()
        self.net.advance(60.0)
        self.assertEqual({self.path(peer)[0] for peer in self.peers}, {"relay"})
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), MAX_CONNECTS)
        self.stop()

    def test_udp_works(self) -> None:
        """A direct call listens nowhere and connects nowhere."""
        self.place(NAT(ports=Ports.RANDOM), left=NAT(ports=Ports.RANDOM))
        self.net.trace = []
        self.call()
        self.net.advance(20.0)
        self.assertEqual([self.path(peer)[1] for peer in self.peers], ["udp", "udp"])
        tcp = {(each.source, each.destination) for each in self.net.trace if each.protocol == "tcp"}
        # Both have their one connection to the rendezvous, seen on each side of the NAT
        self.assertLessEqual(len(tcp), 8)
        for peer in self.peers:
            (link,) = peer.node.status.links
            self.assertEqual(link.tcp_punching.attempts, 0)
        self.stop()

    def test_nothing_is_direct(self) -> None:
        """Two NATs with another port for each destination: few SYNs, after ICE has had its time."""
        bad = [NAT(mapping=Mapping.APDM, ports=Ports.RANDOM) for _ in range(2)]
        self.place(bad[0], left=bad[1])
        began = self.call()
        self.net.advance(began + TIME_FOR_CHECKS - self.net.now)
        self.assertEqual([self.syns(peer) for peer in self.peers], [0, 0])
        self.net.advance(120.0)
        self.assertEqual([self.path(peer) for peer in self.peers], [("relay", "udp")] * 2)
        for peer in self.peers:
            self.assertIn(self.syns(peer), range(1, MAX_CONNECTS + 1))
            self.assertEqual(self.listening(peer), [])
        self.stop()

    def test_hidden_addresses(self) -> None:
        """With `--relay only`, the other side never learns our addresses."""
        self.place(None, relay=RelayPolicy.ONLY)
        self.call()
        self.net.advance(10.0)
        for peer in self.peers:
            (link,) = peer.node.status.links
            self.assertEqual(link.tcp_punching.attempts, 0)
        self.stop()

    @staticmethod
    def ignore_tcp(link: Link, frame_type: int, payload: bytes) -> bool:
        """An older release ignores frames about TCP."""
        return frame_type != OptionalFrameType.TCP

    def test_an_older_release(self) -> None:
        """One that skips the frame: alice tries seldom, and sends no SYN."""
        self.place(NAT(ports=Ports.RANDOM))
        self.call()
        for peer in self.peers:
            peer.hears = self.ignore_tcp
        self.net.advance(60.0)
        self.assertEqual(self.syns(self.alice), 0)
        (summary,) = self.alice.node.status.links
        self.assertIn(summary.tcp_punching.attempts, range(3, 7))
        self.assertEqual({self.path(peer)[0] for peer in self.peers}, {"relay"})
        self.stop()


class ChangeTests(TCPTestCase):
    """A path over TCP that ends, or is no longer the best."""

    def setUp(self) -> None:
        self.place(NAT(ports=Ports.RANDOM))
        self.call()
        self.wait(lambda: self.over_tcp, WITHIN)

    def reset(self) -> None:
        """A router between the two ends their connection."""
        for peer in self.peers:
            for socket in list(peer.host.tcp.flows.values()):
                if socket.remote[0] in (ALICE, BOB):
                    socket.reset()

    def test_the_connection_ends(self) -> None:
        """A router resets it: the link goes on at once over another path, and becomes direct again."""
        self.net.advance(25.0)
        self.reset()
        changed = len(self.alice.of(PathChanged))
        self.alice.chat.send(self.bob.id, "still there?")
        self.wait(lambda: self.bob.messages, 3.0)
        self.wait(lambda: len(self.alice.of(PathChanged)) > changed + 1 and self.over_tcp, 10.0)
        self.assertEqual([*self.alice.of(Disconnected), *self.bob.of(Disconnected)], [])
        self.stop()

    def test_it_ends_again_and_again(self) -> None:
        """Attempts come more and more seldom, until a path has lasted for a minute."""
        (link,) = self.alice.node.status.links
        before = link.tcp_punching.attempts
        until = self.net.now + 60.0
        while self.net.now < until:
            if self.over_tcp:
                self.reset()
            self.net.advance(0.5)
        (link,) = self.alice.node.status.links
        # Perhaps at once, and 30 s after the second path
        self.assertIn(link.tcp_punching.attempts - before, range(1, 3))
        self.wait(lambda: self.over_tcp, 90.0)
        self.net.advance(90.0)
        self.assertTrue(self.over_tcp)
        self.reset()
        self.wait(lambda: self.relayed, 5.0)
        self.wait(lambda: self.over_tcp, 5.0)
        self.stop()

    def test_udp_works_again(self) -> None:
        """An ICE restart finds the better path, and the connection is closed."""
        self.net.advance(60.0)
        self.assertTrue(self.over_tcp)
        self.blocked.block_udp = False
        self.wait(lambda: {self.path(peer)[1] for peer in self.peers} == {"udp"}, 90.0)
        self.assertFalse(self.relayed)
        self.net.advance(25.0)
        for peer in self.peers:
            self.assertFalse(self.relayed)
            remotes = {remote[0] for _, remote in peer.host.tcp.flows}
            self.assertEqual(remotes, {SERVICE})
        self.stop()

    def test_silence(self) -> None:
        """Nothing passes between the two any more, and no reset says so: consent finds out."""
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        self.alice.chat.send(self.bob.id, "still there?")
        self.wait(lambda: self.bob.messages and self.relayed, 10.0)
        self.stop()


class MoveTests(TCPTestCase):
    """A peer moves that has been on the relay for long."""

    def setUp(self) -> None:
        """Let five minutes pass, after which attempts come seldom."""
        bad = [NAT(mapping=Mapping.APDM, ports=Ports.RANDOM) for _ in range(2)]
        self.place(bad[0], left=bad[1])
        self.call()
        self.net.advance(330.0)
        self.assertEqual([self.path(peer) for peer in self.peers], [("relay", "udp")] * 2)
        self.before = self.attempts

    @property
    def attempts(self) -> int:
        """How many alice has made."""
        (link,) = self.alice.node.status.links
        return link.tcp_punching.attempts

    def test_to_a_network_without_udp(self) -> None:
        """The next attempt comes as soon as the first one of a new link, and not after five minutes."""
        cafe = no_udp(public="203.0.113.77")
        self.alice.host.move(self.net.lan("cafe", "192.168.3.0/24", nat=cafe, link=LinkSpec(delay=0.025)))
        self.wait(lambda: self.attempts > self.before, 30.0)
        self.stop()

    def test_to_a_network_with_the_same_addresses(self) -> None:
        """Her own address is the same there: it shows when she has registered again."""
        self.blocked.renumber("203.0.113.77")
        self.wait(lambda: self.attempts > self.before, 90.0)
        self.stop()


class ProxyTests(TCPTestCase):
    """A network with a proxy."""

    def test_nothing_beside_it(self) -> None:
        """No TCP connection goes past a proxy."""
        proxy = ProxySettings(ProxyAddress.parse("http://198.51.100.9:3128"), "--proxy", required=False)
        self.place(None, proxy=proxy)
        self.call()
        self.net.advance(10.0)
        for peer in self.peers:
            (link,) = peer.node.status.links
            self.assertEqual(link.tcp_punching.attempts, 0)
        self.stop()
