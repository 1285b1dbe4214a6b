"""Links whose networks change (`tests/simulation/test_roaming.py`: that are cut for long, or asleep)."""

from __future__ import annotations

from punch.node.events import (
    Connected,
    Disconnected,
    PathChanged,
    PathLost,
)
from punch.test.internet import NAT, Filtering, Host, Lan, LinkSpec, Mapping, Ports
from punch.test.system import Peer, SystemTestCase

RETURN = 5.0
"""Seconds within which a link must work again."""


class RoamingTestCase(SystemTestCase):
    """Two peers behind NATs with a link that carries a chat."""

    link = LinkSpec(delay=0.025)

    def home(self, name: str, **options: object) -> Lan:
        """Return another network behind a NAT that filters by address and port and allocates random ports."""
        self.homes += 1
        nat = NAT(
            public=f"203.0.113.{self.homes}",
            mapping=Mapping.EIM,
            filtering=Filtering.APDF,
            ports=Ports.RANDOM,
        )
        for key, value in options.items():
            setattr(nat, key, value)
        return self.net.lan(f"home-{name}", f"192.168.{self.homes}.0/24", nat=nat, link=self.link)

    def host(self, name: str, link: LinkSpec | None = None) -> Host:
        return self.home(name).host(name)

    def start(self) -> None:
        """Connect Alice and Bob, and remember their link."""
        self.alice, self.bob = self.linked()
        self.links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        self.net.advance(3.0)

    def nat(self, peer: Peer) -> NAT:
        """Return the NAT in front of a peer."""
        lan = peer.host.interfaces[0].network
        assert isinstance(lan, Lan)
        assert lan.nat is not None
        return lan.nat

    def conversation(self, timeout: float = RETURN) -> float:
        """Send a message each way; return the seconds until both are delivered."""
        before = self.net.now
        counts = len(self.alice.delivered), len(self.bob.delivered)
        self.alice.chat.send(self.bob.id, f"from alice {counts[0]}")
        self.bob.chat.send(self.alice.id, f"from bob {counts[1]}")
        self.net.run_until(
            lambda: len(self.alice.delivered) > counts[0] and len(self.bob.delivered) > counts[1],
            timeout,
            "a message each way",
        )
        return self.net.now - before

    def assert_same_link(self) -> None:
        """Assert that the link is the same, and that no message came twice."""
        self.assertEqual((self.alice.link_to(self.bob), self.bob.link_to(self.alice)), self.links)
        for peer in (self.alice, self.bob):
            self.assertEqual(len(peer.of(Connected)), 1)
            self.assertEqual(peer.of(Disconnected), [])
            self.assertEqual(len(peer.texts()), len(set(peer.texts())))

    def assert_survived(self) -> None:
        """Assert that the link works again within `RETURN` with data pending on both sides, and later too."""
        self.conversation()
        self.assert_same_link()
        self.net.advance(40.0)
        self.assertLess(self.conversation(), 0.5)
        self.assert_same_link()


class NatTests(RoamingTestCase):
    """NATs lose their mappings or change their public address."""

    def test_new_public_address(self) -> None:
        """The public address of one side changes."""
        self.start()
        self.nat(self.bob).renumber("203.0.113.77")
        self.assert_survived()
        self.assertEqual(self.alice.last(PathChanged).path.remote.host, "203.0.113.77")


class MoveTests(RoamingTestCase):
    """Peers move to other networks."""

    def test_one_moves(self) -> None:
        """One side moves to another network."""
        self.start()
        self.alice.host.move(self.home("cafe"))
        self.assert_survived()

    def test_both_move(self) -> None:
        """Both sides move to other networks at once."""
        self.start()
        self.alice.host.move(self.home("cafe"))
        self.bob.host.move(self.home("office"))
        self.assert_survived()

    def test_to_the_same_network(self) -> None:
        """Both sides move into the same network: the path is direct afterwards."""
        self.start()
        cafe = self.home("cafe")
        self.alice.host.move(cafe)
        self.bob.host.move(cafe)
        self.assert_survived()
        self.assertEqual(self.alice.last(PathChanged).path.kind, "host")

    def test_a_better_interface_appears(self) -> None:
        """A second network appears: nothing is lost while the old path works, and the link moves."""
        self.start()
        lan = self.bob.host.interfaces[0].network
        self.alice.host.attach(lan)
        self.net.run_until(
            lambda: self.alice.of(PathChanged) and self.alice.last(PathChanged).path.kind == "host", 5.0
        )
        self.assertEqual(self.alice.of(PathLost), [])
        self.conversation()
        self.alice.host.detach(lan)
        self.conversation()
        self.assert_same_link()


class RendezvousTests(RoamingTestCase):
    """The rendezvous is not reachable when it is needed."""

    def test_it_comes_back(self) -> None:
        """A link that needs the rendezvous works again soon after that is back."""
        self.start()
        self.rendezvous.host.down()
        self.nat(self.alice).renumber("203.0.113.66")
        self.alice.chat.send(self.bob.id, "where are you?")
        self.net.advance(100.0)
        self.assertEqual(self.bob.messages, [])
        self.rendezvous.host.up()
        self.net.run_until(lambda: self.bob.messages, 2 * RETURN, "what was waiting arrives")
        self.assert_same_link()

    def test_it_is_restarted_in_mid_restart(self) -> None:
        """A rendezvous that restarted can still help a link of an earlier call."""
        self.start()
        self.nat(self.alice).renumber("203.0.113.66")
        self.alice.chat.send(self.bob.id, "where are you?")
        self.net.run_until(
            lambda: self.alice.node.status.signaling, RETURN, "a restart is signaled through the rendezvous"
        )
        self.rendezvous.stop()
        self.rendezvous.start()
        self.net.run_until(lambda: self.bob.messages, 2 * RETURN, "what was waiting arrives")
        self.assert_same_link()

    def test_it_is_not_needed(self) -> None:
        """Checks from a new address reach a peer that filters nothing, without any signaling."""
        self.start()
        self.nat(self.bob).filtering = Filtering.EIF
        self.nat(self.bob).forget()
        self.net.advance(30.0)
        self.conversation()
        self.rendezvous.host.down()
        self.alice.host.move(self.home("cafe"))
        self.conversation()
        self.assert_same_link()
