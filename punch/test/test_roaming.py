"""Links that live on while the networks under them change, on the simulated internet."""

from __future__ import annotations

from punch.peer.events import Connected, Disconnected, PathChanged, PathLost
from punch.test.internet import NAT, Filtering, Host, Lan, LinkSpec, Mapping, Ports
from punch.test.system import SERVICE, Peer
from punch.test.test_system_calls import SystemTestCase

HOUR = 3600.0
RETURN = 5.0
"""Seconds in which a link is to work again."""


class RoamingTestCase(SystemTestCase):
    """Two peers at home with a link, and what it carries."""

    link = LinkSpec(delay=0.025)

    def home(self, name: str, **options: object) -> Lan:
        """Another home with a NAT that keeps nothing as it was."""
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
        """Link Alice and Bob, and remember the link."""
        self.alice, self.bob = self.linked()
        self.links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        self.net.advance(3.0)

    def nat(self, peer: Peer) -> NAT:
        """The NAT in front of a peer."""
        lan = peer.host.interfaces[0].network
        assert isinstance(lan, Lan)
        assert lan.nat is not None
        return lan.nat

    def talk(self, timeout: float = RETURN) -> float:
        """A message each way; returns how long it took."""
        before = self.net.now
        counts = len(self.alice.delivered), len(self.bob.delivered)
        self.alice.chats.send(self.bob.id, f"from alice at {before}")
        self.bob.chats.send(self.alice.id, f"from bob at {before}")
        self.net.run_until(
            lambda: len(self.alice.delivered) > counts[0] and len(self.bob.delivered) > counts[1],
            timeout,
            "a message each way",
        )
        return self.net.now - before

    def assert_same_link(self) -> None:
        """Nothing was connected anew, and nothing was lost or came twice."""
        self.assertEqual((self.alice.link_to(self.bob), self.bob.link_to(self.alice)), self.links)
        for peer in (self.alice, self.bob):
            self.assertEqual(len(peer.of(Connected)), 1)
            self.assertEqual(peer.of(Disconnected), [])
            self.assertEqual(len(peer.texts()), len(set(peer.texts())))

    def assert_survived(self) -> None:
        """After a change, with data pending on both sides: the link goes on in time, and stays well."""
        self.talk()
        self.assert_same_link()
        self.net.advance(40.0)
        self.assertLess(self.talk(), 0.5)
        self.assert_same_link()


class NatTests(RoamingTestCase):
    """The NAT changes its mind."""

    def test_flushed(self) -> None:
        """Random ports and filters by port: both sides have other addresses afterwards."""
        self.start()
        self.nat(self.alice).forget()
        self.assert_survived()
        self.assertTrue(self.bob.of(PathChanged))

    def test_both_flushed(self) -> None:
        """On both sides at once."""
        self.start()
        self.nat(self.alice).forget()
        self.nat(self.bob).forget()
        self.assert_survived()

    def test_new_public_address(self) -> None:
        """The provider reconnects one side."""
        self.start()
        self.nat(self.bob).renumber("203.0.113.77")
        self.assert_survived()
        self.assertEqual(self.alice.last(PathChanged).remote.host, "203.0.113.77")

    def test_both_get_new_public_addresses(self) -> None:
        """And both."""
        self.start()
        self.nat(self.alice).renumber("203.0.113.66")
        self.nat(self.bob).renumber("203.0.113.77")
        self.assert_survived()


class MoveTests(RoamingTestCase):
    """Other networks."""

    def test_one_moves(self) -> None:
        """A laptop is carried to another network."""
        self.start()
        self.alice.host.move(self.home("cafe"))
        self.assert_survived()

    def test_both_move(self) -> None:
        """Neither side is where the other one looks for it."""
        self.start()
        self.alice.host.move(self.home("cafe"))
        self.bob.host.move(self.home("office"))
        self.assert_survived()

    def test_to_the_same_network(self) -> None:
        """Then the path is a direct one."""
        self.start()
        cafe = self.home("cafe")
        self.alice.host.move(cafe)
        self.bob.host.move(cafe)
        self.assert_survived()
        self.assertEqual(self.alice.last(PathChanged).path, "host")

    def test_a_better_interface_appears(self) -> None:
        """While the old one works nothing is lost, and the link moves."""
        self.start()
        lan = self.bob.host.interfaces[0].network
        self.alice.host.attach(lan)
        self.net.run_until(
            lambda: self.alice.of(PathChanged) and self.alice.last(PathChanged).path == "host", 5.0
        )
        self.assertEqual(self.alice.of(PathLost), [])
        self.talk()
        self.alice.host.detach(lan)
        self.talk()
        self.assert_same_link()


class DarkTests(RoamingTestCase):
    """No network at all for a while."""

    def dark(self, seconds: float, *peers: Peer) -> None:
        """Cables are cut, data waits, cables are there again: how soon does it arrive?"""
        for peer in peers:
            peer.host.down()
        self.alice.chats.send(self.bob.id, "are you there?")
        self.bob.chats.send(self.alice.id, "where are you?")
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
        self.assertLess(self.talk(), 0.5)

    def test_a_minute(self) -> None:
        self.start()
        self.dark(60.0, self.alice)
        for peer in (self.alice, self.bob):
            self.assertEqual(len(peer.of(PathLost)), 1)
            self.assertTrue(peer.of(PathChanged))

    def test_an_hour(self) -> None:
        self.start()
        self.dark(HOUR, self.alice)

    def test_twelve_hours_on_both_sides(self) -> None:
        self.start()
        self.dark(12 * HOUR, self.alice, self.bob)

    def test_between_the_two(self) -> None:
        """The rendezvous is there for both, but nothing gets through between them."""
        self.start()
        self.net.drop = lambda packet: SERVICE not in (packet.source[0], packet.destination[0])
        self.alice.chats.send(self.bob.id, "are you there?")
        self.net.advance(600.0)
        self.net.drop = None
        self.net.run_until(lambda: self.alice.delivered, RETURN, "what was waiting arrives")
        self.assert_same_link()


class SleepTests(RoamingTestCase):
    """A closed lid: no timer fires, and monotonic time stands still."""

    def sleep(self, seconds: float) -> None:
        """Alice sleeps, and Bob has something to say."""
        self.start()
        self.alice.chats.send(self.bob.id, "good night")
        self.alice.host.sleep(seconds)
        self.bob.chats.send(self.alice.id, "are you there?")
        self.net.advance(seconds)
        self.net.run_until(
            lambda: self.alice.messages and self.alice.delivered, RETURN, "what was waiting arrives"
        )
        self.assert_same_link()

    def test_twenty_seconds(self) -> None:
        self.sleep(20.0)

    def test_an_hour(self) -> None:
        self.sleep(HOUR)

    def test_twelve_hours(self) -> None:
        self.sleep(12 * HOUR)
