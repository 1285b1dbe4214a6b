"""Two peers behind NATs of their own, on the simulated internet, and what they try to get off the relay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.error import CannotListenError

from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import open_socket as open_best_socket
from punch.node.policies import SprayPolicy
from punch.node.punching.coordinator import PunchingStatus
from punch.test.internet import NAT, Filtering, Firewall, InternetTestCase, LinkSpec
from punch.test.system import SERVICE, Connected, Peer, Rendezvous
from punch.wire.address import Address
from punch.wire.control import Accept

HOMES: Final = "203.0.113.1", "203.0.113.2"
"""The public addresses of the two peers' NATs."""
VICTIM: Final = "198.51.100.200"
"""The address of a host that takes part in nothing."""


class PunchingTestCase(InternetTestCase):
    """Two peers behind NATs of their own."""

    _paths: tuple[tuple[object, ...], set[str]] | None = None

    def place(
        self,
        left: NAT | None,
        right: NAT | None,
        seed: int = 1,
        link: LinkSpec | None = None,
        spray: Sequence[SprayPolicy] = (SprayPolicy.AUTO, SprayPolicy.AUTO),
        hops: int = 0,
        descriptors: Callable[[], int] = lambda: 1024,
        open_socket: OpenSocket = open_best_socket,
    ) -> None:
        """
        Register two peers. None: a public address behind a firewall.

        :param hops: how many routers there are between the two access links.
        """
        self.net = self.internet(seed)
        self.net.public.hops = hops
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.net.host("victim", VICTIM)
        link = link or LinkSpec(delay=0.025)
        self.peers = []
        for number, (name, each) in enumerate((("alice", left), ("bob", right)), 1):
            if each is None:
                firewall = Firewall(filtering=Filtering.APDF)
                lan = self.net.lan(name, f"203.0.{115 + number}.0/24", firewall=firewall, link=link)
            else:
                each.public = HOMES[number - 1]
                lan = self.net.lan(name, f"192.168.{number}.0/24", nat=each, link=link)
            peer = Peer(
                self.net,
                lan.host(name),
                self.rendezvous.address,
                accept=Accept.ANYONE,
                spray=spray[number - 1],
                descriptors=descriptors,
                open_socket=open_socket,
            )
            self.peers.append(peer.register())
        self.net.advance(1.0)
        self.alice, self.bob = self.peers

    def allow_no_tcp(self) -> None:
        """Let no program listen at a TCP port of either machine, so that TCP takes no time."""

        def refuse(*arguments: object) -> None:
            raise CannotListenError("", 0, PermissionError())

        for peer in self.peers:
            self.patch(peer.host.reactor, "listenTCP", refuse)

    def lose_direct(self) -> None:
        """Let nothing through directly from now on."""
        self.net.drop = lambda packet: packet.source[0] in HOMES and packet.destination[0] in HOMES

    def call(self) -> float:
        """Have alice call bob; returns when that was."""
        began = self.net.now
        self.alice.call(self.bob.id)
        for peer in self.peers:
            peer.wait_for(Connected, 15.0)
        return began

    @property
    def ends(self) -> list[tuple[Address, Address]]:
        """The addresses of the path, as each side sees them."""
        links = self.alice.link_to(self.bob), self.bob.link_to(self.alice)
        return [(link.status.path.local, link.status.path.remote) for link in links if link.status]

    @property
    def paths(self) -> set[str]:
        """The kinds of path that the two sides use."""
        # Conditions ask after every packet, and only events change it
        known_by = (self.alice, self.bob, len(self.alice.events), len(self.bob.events))
        if self._paths is None or self._paths[0] != known_by:
            self._paths = known_by, self._ask_for_paths()
        return self._paths[1]

    def _ask_for_paths(self) -> set[str]:
        return {
            status.path.kind
            for here, there in ((self.alice, self.bob), (self.bob, self.alice))
            if (status := here.link_to(there).status) is not None
        }

    def status(self, peer: Peer) -> PunchingStatus:
        """What a peer tried on its one link."""
        (link,) = peer.node.status.links
        return link.punching

    def seconds_to_direct(self, timeout: float) -> float | None:
        """Call, and wait for a direct path; None if there is none in time."""
        began = self.call()
        while self.net.now < began + timeout:
            if "relay" not in self.paths:
                return self.net.now - began
            self.net.advance(0.1)
        return None

    def stop(self) -> None:
        """Stop the peers and check that nothing is left of them."""
        for peer in self.peers:
            peer.stop()
        self.net.advance(10.0)
        for peer in self.peers:
            self.assertEqual(peer.host.reactor.getDelayedCalls(), [], peer.name)
